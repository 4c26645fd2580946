"""The bot as a person sees it, played on the chat page in a real browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from functions.conversation.texts import say
from stepgram.embedded.stack import EmbeddedStack
from tests.conftest import Person
from tests.workflow.test_files import PNG, outbox

GLOB = '!tool Glob {"pattern": "*"}'


def write(page: Page, chat: int, text: str, thread: int = 0) -> None:
    """Write a message, as this person in this chat."""
    for name, value in (("chat", chat), ("thread", thread)):
        page.locator(f"#{name}").fill(str(value))
        page.locator(f"#{name}").dispatch_event("change")
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send", exact=True).click()


def bot(page: Page) -> Locator:
    """The bot's messages."""
    return page.locator(".m:not(.mine):not(.draft)")


def test_an_answer_streams_and_ends_in_one_message(page: Page, chat: int) -> None:
    write(page, chat, "!slow 4")
    expect(page.locator(".draft")).to_contain_text("Thinking…")
    expect(page.locator(".draft")).to_contain_text("word5")
    expect(bot(page)).to_have_text(re.compile("word40 and done."))
    expect(page.locator(".draft")).to_have_count(0)


def test_the_stop_button_stops(page: Page, chat: int) -> None:
    write(page, chat, "!slow 60")
    expect(page.locator(".draft")).to_contain_text("word2")
    page.get_by_role("button", name="Stop").click()

    expect(bot(page)).to_contain_text(say("stopped", "en"))
    expect(bot(page)).to_contain_text("word1")


@pytest.mark.parametrize(
    ("button", "verdict"), [("Allow once", "✅ Allowed once by You."), ("Deny", "❌ Denied by You.")]
)
def test_a_question_is_answered_by_a_button(page: Page, chat: int, button: str, verdict: str) -> None:
    write(page, chat, GLOB)
    expect(bot(page)).to_contain_text("May I run Glob?")
    page.get_by_role("button", name=button).click()

    expect(page.get_by_role("button", name=verdict)).to_be_visible()
    expect(bot(page).last).to_contain_text("The tool answered")


def test_a_photo_goes_in_and_one_comes_out(page: Page, chat: int, tmp_path: Path) -> None:
    picture = tmp_path / "dot.png"
    picture.write_bytes(PNG)
    write(page, chat, "hello")
    expect(bot(page)).to_have_count(1)
    page.get_by_label("Message", exact=True).fill("what is this?")
    page.get_by_label("Send files").set_input_files(picture)
    expect(bot(page).last).to_contain_text("I see: image/png")
    expect(page.locator(".mine img")).to_be_visible()

    write(page, chat, outbox("a.png"))
    expect(page.locator(".m:not(.mine) img")).to_be_visible()


def test_an_album_is_one_message_to_the_bot(page: Page, chat: int, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(PNG)
    write(page, chat, "hello")
    expect(bot(page)).to_have_count(1)
    page.get_by_label("Send files").set_input_files([tmp_path / "a.png", tmp_path / "b.png"])

    expect(bot(page)).to_have_count(2)
    expect(bot(page).last).to_contain_text(re.compile("I see: image/png.*I see: image/png", re.DOTALL))


def test_topics_are_conversations_of_their_own(page: Page, group: int) -> None:
    write(page, group, "one", thread=5)
    expect(bot(page)).to_contain_text("This is message 1 of this conversation.")
    write(page, group, "two", thread=6)
    expect(bot(page)).to_contain_text("This is message 1 of this conversation.")
    write(page, group, "three", thread=5)
    expect(bot(page).last).to_contain_text("This is message 2 of this conversation.")


def test_a_message_behind_another_shows_its_place(page: Page, chat: int) -> None:
    write(page, chat, "!slow 10")
    expect(page.locator(".draft")).to_contain_text("word")
    write(page, chat, "second")

    expect(bot(page).first).to_have_text(re.compile(re.escape(say("waiting", "en", count=1))))
    expect(bot(page).last).to_contain_text("You said: second")
    expect(bot(page)).to_have_count(2)


def test_a_failure_can_be_run_again(page: Page, chat: int) -> None:
    write(page, chat, "!error 403 1")
    expect(bot(page)).to_contain_text("Something went wrong")
    page.get_by_role("button", name="Run again").click()

    expect(bot(page)).to_contain_text("The endpoint failed 1 times first, then it answered.")
    expect(bot(page)).to_have_count(1)
    expect(page.locator(".draft")).to_have_count(0)


def test_the_bot_speaks_chinese(page: Page, chat: int) -> None:
    page.locator("#language").select_option("zh")
    write(page, chat, "/help")
    expect(bot(page)).to_contain_text("发送任何内容")
    write(page, chat, GLOB)
    page.get_by_role("button", name="拒绝").click()
    expect(page.get_by_role("button", name="❌ You 已拒绝。")).to_be_visible()


def test_reactions_and_dark_mode(page: Page, stack: EmbeddedStack, person: Person, chat: int) -> None:
    page.emulate_media(color_scheme="dark")
    write(page, chat, "!markdown")
    expect(page.locator(".m table")).to_be_visible()
    message = next(m for m in stack.telegram.state["chats"][str(chat)]["messages"] if not m["from"]["is_bot"])
    with stack.telegram._lock:
        stack.telegram._set_message_reaction(
            {"chat_id": chat, "message_id": message["message_id"], "reaction": [{"type": "emoji", "emoji": "👀"}]}
        )
    expect(page.locator(".react")).to_have_text("👀")
