"""Signs of life, streaming and Stop, on the whole stack with the real CLI."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import pytest

from functions.common.envelope import Chat
from functions.common.settings import use_environment
from functions.conversation.progress import ProgressTable, Ticket, draft_id, issue
from functions.conversation.texts import say
from stepgram.embedded.client import client
from stepgram.embedded.stack import EmbeddedStack
from tests.conftest import Faults, Person, until


def calls(stack: EmbeddedStack, chat: int, *methods: str) -> list[tuple[str, dict[str, Any]]]:
    """What the bot called for a chat."""
    return [(m, p) for m, p in stack.telegram.calls if p.get("chat_id") == chat and m in methods]


def test_an_answer_streams_as_a_draft_and_ends_in_one_message(stack: EmbeddedStack, person: Person, chat: int) -> None:
    name = person.say(chat, "!slow 4")
    until(lambda: bool(stack.telegram.signs(chat)["draft"]))
    first = stack.telegram.signs(chat)["draft"]
    until(lambda: "word3" in (stack.telegram.signs(chat)["draft"] or {}).get("_page", {}).get("markdown", ""))
    turn = person.wait(name)

    assert first["text"] == ""
    assert first["can_stop"]
    shown = [p["rich_message"]["markdown"] for _, p in calls(stack, chat, "sendRichMessageDraft")]
    assert len(shown) >= 2
    assert shown == sorted(shown, key=len)
    drafts = calls(stack, chat, "sendMessageDraft", "sendRichMessageDraft")
    assert {p["draft_id"] for _, p in drafts} == {draft_id(name)}
    assert stack.telegram.signs(chat)["draft"] is None
    assert len(person.replies(chat)) == 1
    assert person.texts(chat)[0].endswith("word40 and done.")
    assert turn.output["outcome"] == "DELIVERED"


def test_a_group_sees_typing_then_one_message_that_becomes_the_answer(
    stack: EmbeddedStack, person: Person, group: int
) -> None:
    name = person.say(group, "!slow 7")
    until(lambda: bool(person.replies(group)))
    growing = person.replies(group)[0]["message_id"]
    assert "word" in person.texts(group)[0]
    turn = person.wait(name)

    assert [m["message_id"] for m in person.replies(group)] == [growing]
    assert person.texts(group)[0].endswith("word40 and done.")
    assert turn.output["message_ids"] == [growing]
    assert calls(stack, group, "sendChatAction")


def test_a_tool_shows_as_one_line_and_as_none_when_nobody_wants_it(
    stack: EmbeddedStack, person: Person, chat: int
) -> None:
    person.ask(chat, "!bash sleep 5")
    shown = [p["rich_message"]["markdown"] for _, p in calls(stack, chat, "sendRichMessageDraft")]

    assert any("🔧 Bash `Run the user's command`" in text for text in shown)


def test_a_message_that_waits_shows_its_place_and_that_message_goes(
    stack: EmbeddedStack, person: Person, chat: int
) -> None:
    first = person.say(chat, "!slow 10")
    person.wait_for_state(first, "RunAgent")
    second, third = person.say(chat, "two", language="zh"), person.say(chat, "three")
    until(lambda: say("waiting", "en", count=2) in person.texts(chat))
    assert say("waiting", "zh", count=1) in person.texts(chat)
    for name in (first, second, third):
        assert person.wait(name).status == "SUCCEEDED"

    assert len(person.replies(chat)) == 3
    assert [text.split("\n")[0] for text in person.texts(chat)[1:]] == ["You said: two", "You said: three"]


def test_the_stop_button_ends_the_turn_and_delivers_what_was_said(
    stack: EmbeddedStack, person: Person, chat: int
) -> None:
    name = person.say(chat, "!slow 60")
    until(lambda: "word2" in (stack.telegram.signs(chat)["draft"] or {}).get("_page", {}).get("markdown", ""))
    stack.telegram.press_stop(chat)
    turn = person.wait(name)

    assert turn.status == "SUCCEEDED"
    assert turn.output["outcome"] == "STOPPED"
    text = person.texts(chat)[0]
    assert text.startswith("word1 word2")
    assert text.endswith(say("stopped", "en"))
    assert "word40" not in text
    assert person.ask(chat, "and now").status == "SUCCEEDED"
    assert "This is message 2 of this conversation." in person.texts(chat)[1]


def test_a_command_stops_a_tool_that_runs_and_the_next_message_goes_on(
    stack: EmbeddedStack, person: Person, group: int
) -> None:
    name = person.say(group, "!bash sleep 300")
    person.wait_for_state(name, "RunAgent")
    until(lambda: any("sleep" in str(p) or "🔧" in str(p) for _, p in calls(stack, group, "sendMessage")))
    assert person.command(group, "/stop")["outcome"] == f"stopping {name}"
    turn = person.wait(name)

    assert turn.output["outcome"] == "STOPPED"
    assert person.ask(group, "still here?").status == "SUCCEEDED"


def test_a_turn_stopped_before_the_agent_began_says_so(
    stack: EmbeddedStack, person: Person, chat: int, faults: Faults
) -> None:
    """The agent fails once and is tried again; Stop comes in between."""
    faults.fail("Agent", chat, "Runtime.ExitError")
    table = ProgressTable(stack.deployment.outputs["SessionTable"], client("dynamodb", stack.addresses.aws), 0)
    name = person.say(chat, "!slow 30")
    until(lambda: person.status(name) != "NONE")
    assert table.stop(f"{chat}:0", name, 0)
    turn = person.wait(name)

    assert turn.status == "SUCCEEDED", turn.cause
    assert turn.output["outcome"] == "STOPPED"
    assert person.texts(chat) == [say("stopped", "en")]
    assert person.ask(chat, "again").output["version"] == 2
    assert person.texts(chat)[1].startswith("You said: again")


def test_a_cli_that_the_agent_made_hang_is_stopped(person: Person, chat: int) -> None:
    name = person.say(chat, "!bash touch began; kill -STOP $CLAUDE_PID; sleep 200")
    person.wait_for_state(name, "RunAgent")
    until(lambda: "!bash" in str(person.stack.bedrock.requests) and bool(_stopped_clis()), 30)
    assert person.command(chat, "/stop")["outcome"] == f"stopping {name}"

    turn = person.wait(name)

    assert turn.output["outcome"] == "STOPPED"
    assert person.ask(chat, "still here?").status == "SUCCEEDED"


def _stopped_clis() -> list[str]:
    """Processes named `claude` that were stopped by a signal."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            text = status.read_text()
            found += [text] if "Name:\tclaude\n" in text and "\nState:\tT" in text else []
    return found


def test_a_turn_that_does_not_hear_is_stopped_by_force_the_second_time(
    stack: EmbeddedStack, person: Person, chat: int, faults: Faults
) -> None:
    faults.fail("listen", chat, "Broken", times=100)
    faults.fail("show", chat, "Broken", times=100)
    name = person.say(chat, "!slow 20")
    person.wait_for_state(name, "RunAgent")
    assert person.command(chat, "/stop")["outcome"] == f"stopping {name}"
    assert person.command(chat, "/stop")["outcome"] == f"stopped {name}"

    assert person.wait(name).status == "ABORTED"
    until(lambda: person.texts(chat) == [say("stopped", "en")])
    person.stack.functions.around = None
    assert person.redrive(name).output["outcome"] == "DELIVERED"


def test_a_late_press_of_stop_does_not_stop_the_turn_after_it(stack: EmbeddedStack, person: Person, chat: int) -> None:
    first = person.ask(chat, "one").name
    second = person.say(chat, "!slow 5")
    person.wait_for_state(second, "RunAgent")
    late = {"chat": {"id": chat, "type": "private"}, "draft_id": draft_id(first)}
    stack.telegram.queue({"stopped_message_generation": late}, chat)

    assert person.wait(second).output["outcome"] == "DELIVERED"


def test_without_progress_a_turn_is_answered_all_the_same(person: Person, chat: int, faults: Faults) -> None:
    faults.fail("show", chat, "Broken", times=100)

    assert person.ask(chat, "hello").output["outcome"] == "DELIVERED"
    assert len(person.replies(chat)) == 1


@pytest.fixture
def ticket(stack: EmbeddedStack, chat: int) -> str:
    """Leave to speak in a chat, for one turn there."""
    environment = next(s for s in stack.functions.specs.values() if s.logical_id == "TurnFunction").environment
    use_environment(stack.functions.environment(stack.functions.specs["stepgram-TurnFunction"]))
    until = int(time.time()) + 60
    where = Ticket(chat=Chat(id=chat, type="private"), message_id=1, language="en", until=until)
    sealed = issue(environment["SESSION_KEY_ARN"], f"c{chat}-t0-u1", f"{chat}:0", where)
    use_environment(None)
    return sealed


def test_a_ticket_speaks_for_its_own_turn_only(stack: EmbeddedStack, call: Any, chat: int, ticket: str) -> None:
    stack.telegram.say(chat, "/whoami")
    keys = {"turn_id": f"c{chat}-t0-u1", "session_key": f"{chat}:0", "state": "RunAgent", "ticket": ticket}
    report = {**keys, "what": "show", "time": 1}

    assert call("CallbackFunction", report).function_error is None
    for change in ({"turn_id": f"c{chat}-t0-u2"}, {"session_key": "1:0"}, {"ticket": "bm8="}, {"ticket": "?"}):
        answer = call("CallbackFunction", {**report, **change})
        assert b"BadInput" in answer.payload


def test_a_report_after_the_answer_shows_nothing(
    stack: EmbeddedStack, call: Any, person: Person, chat: int, ticket: str
) -> None:
    stack.telegram.say(chat, "/whoami")
    until(lambda: bool(person.replies(chat)))
    table = ProgressTable(stack.deployment.outputs["SessionTable"], client("dynamodb", stack.addresses.aws), 2**31)
    turn = f"c{chat}-t0-u1"
    keys = {"turn_id": turn, "session_key": f"{chat}:0", "state": "RunAgent", "ticket": ticket}
    report = {**keys, "what": "show", "text": "late"}
    assert call("CallbackFunction", {**report, "time": 5}).function_error is None
    assert (stack.telegram.signs(chat)["draft"] or {})["_page"]["markdown"] == "late"
    before = len(calls(stack, chat, "sendRichMessageDraft"))
    table.close(f"{chat}:0", turn, 0)

    call("CallbackFunction", {**report, "time": time.time_ns() // 1_000_000})

    assert len(calls(stack, chat, "sendRichMessageDraft")) == before
