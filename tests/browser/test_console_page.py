"""The console page as an operator uses it, in a real browser."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Locator, Page, expect

from docs import pictures
from tests.browser.conftest import SCREENSHOTS, Open
from tests.conftest import ORDER, ROOT, Faults, Person


def turn(page: Page) -> Locator:
    return page.get_by_role("region", name="Turn", exact=True)


def state(page: Page, name: str) -> Locator:
    """A state's box in the graph."""
    return page.locator(f'[data-state="{name}"]')


def confirm(page: Page) -> None:
    """Answer the question that comes before anything is done."""
    page.get_by_role("dialog").get_by_role("button", name="Yes").click()


def test_a_failed_turn_is_found_by_its_error_understood_and_rerun(
    open_page: Open, console: str, person: Person, chat: int, faults: Faults
) -> None:
    person.ask(chat, "hello")
    faults.fail("Persist", chat, f"Broken{chat}", times=1)
    name = person.ask(chat, "why do you not answer?").name
    page = open_page(console)
    page.get_by_label("Text in the error").fill(f"broken{chat}")
    page.get_by_role("link", name=name).click()

    why = page.get_by_role("region", name="Why it failed")
    expect(why).to_contain_text(f"Persist failed: Broken{chat}")
    expect(why).to_contain_text("no: the conversation is as before")
    expect(why).to_contain_text("nothing of the answer")
    expect(why).to_contain_text("It goes on at AcquireLock. The agent's answer is stored")
    expect(turn(page)).to_contain_text("why do you not answer?")
    expect(state(page, "Persist")).to_have_class(re.compile("failed"))
    expect(state(page, "RunAgent")).to_have_class("succeeded")
    expect(state(page, "Undeliverable")).to_have_class("unreached")
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS) / "console-failed.png")

    page.get_by_role("button", name="Rerun", exact=True).click()
    expect(page.get_by_role("dialog")).to_contain_text(f"Rerun {name}?")
    confirm(page)
    expect(page.locator("#status-now")).to_have_text(re.compile("SUCCEEDED"))
    expect(page.get_by_text("Attempt 1")).to_be_visible()
    expect(page.get_by_text("Attempt 2")).to_be_visible()
    for shown in ORDER[1:]:
        expect(state(page, shown)).to_have_class(re.compile("succeeded"))
    assert len(person.texts(chat)) == 2


def test_a_running_turn_is_seen_moving_and_stopped(open_page: Open, console: str, person: Person, chat: int) -> None:
    page = open_page(console)
    name = person.say(chat, "!slow 60")
    page.get_by_label("Chat id").fill(str(chat))
    page.get_by_role("link", name=name).click()
    expect(state(page, "RunAgent")).to_have_class(re.compile("running"))
    page.get_by_role("button", name="Stop").click()
    confirm(page)

    expect(page.locator("#status-now")).to_have_text(re.compile("ABORTED"))
    expect(page.get_by_role("region", name="Why it failed")).to_contain_text("RunAgent failed: StoppedByOperator")
    page.get_by_label("Status").select_option("SUCCEEDED")
    expect(page.get_by_role("link", name=name)).to_have_count(0)


def test_a_turn_that_waits_is_seen_waiting_and_nothing_is_done_without_a_yes(
    open_page: Open, console: str, person: Person, chat: int
) -> None:
    first = person.say(chat, "!slow 3")
    person.wait_for_state(first, "RunAgent")
    second = person.say(chat, "me too")
    page = open_page(f"{console}#{second}")
    expect(state(page, "AcquireLock")).to_have_class(re.compile("waiting"))
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()

    expect(page.locator("#status-now")).to_have_text(re.compile("SUCCEEDED"))


def test_data_events_and_the_conversation_are_at_hand(open_page: Open, console: str, person: Person, chat: int) -> None:
    person.ask(chat, "one")
    name = person.ask(chat, "two").name
    page = open_page(f"{console}#{name}", permissions=["clipboard-read", "clipboard-write"])
    state(page, "TurnDone").click()
    expect(turn(page)).to_contain_text('"outcome": "DELIVERED"')
    page.get_by_role("button", name="Copy").first.click()
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    page.get_by_text("Event history").click()
    page.get_by_text("Conversation", exact=True).click()

    assert copied["links"]["logs"] == f"stepgram logs {name}"
    expect(page.locator("#events")).to_contain_text("ExecutionSucceeded")
    expect(page.locator("#conversation")).to_contain_text("2 (now)")
    page.locator("#conversation").get_by_role("link").last.click()
    expect(turn(page).get_by_role("heading", level=2)).not_to_have_text(name)


def test_everything_can_be_done_by_keyboard(open_page: Open, console: str, person: Person, chat: int) -> None:
    name = person.ask(chat, "!error 403 1").name
    page = open_page(console)
    page.keyboard.press("/")
    page.keyboard.type(name)
    page.keyboard.press("Escape")
    expect(page.locator("#rows .row")).to_have_count(1)
    page.keyboard.press("j")
    expect(turn(page)).to_contain_text("RunAgent failed: ModelAccessDenied")
    state(page, "Hydrate").focus()
    page.keyboard.press("Enter")
    expect(turn(page).get_by_role("heading", name="Hydrate · succeeded")).to_be_visible()
    expect(state(page, "Hydrate")).to_be_focused()
    page.keyboard.press("r")
    page.keyboard.press("Enter")
    expect(page.locator("#status-now")).to_have_text(re.compile("SUCCEEDED"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(open_page: Open, console: str, person: Person, chat: int, scheme: str) -> None:
    name = person.ask(chat, "!error 403 1").name
    page = open_page(console, width=390, height=844, color_scheme=scheme)
    page.get_by_label("Chat id").fill(str(chat))
    page.get_by_role("link", name=name).click()
    expect(page.get_by_role("region", name="Why it failed")).to_be_visible()
    expect(page.get_by_role("region", name="Turns")).to_be_hidden()

    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_role("link", name="Turns").click()
    expect(page.get_by_role("region", name="Turns")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("region", name="Why it failed")).to_be_visible()


def test_it_is_dark_where_people_want_it_dark(open_page: Open, console: str, person: Person, chat: int) -> None:
    name = person.ask(chat, "hello").name
    page = open_page(f"{console}#{name}", color_scheme="dark")
    expect(state(page, "TurnDone")).to_have_class(re.compile("succeeded"))

    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 21, 27)"


def test_without_the_token_nothing_is_told_or_done(console: str, person: Person, chat: int) -> None:
    name = person.ask(chat, "hello").name
    origin, token = console.rstrip("/").rsplit("/", 1)
    asked = [
        requests.get(f"{origin}/", timeout=10),
        requests.get(f"{origin}/{token[:-1]}x/api/turns", timeout=10),
        requests.post(f"{origin}/x/api/turns/{name}/stop", timeout=10),
    ]

    assert [answer.status_code for answer in asked] == [403] * 3
    assert all("token" in answer.text and name not in answer.text for answer in asked)
    assert len(token) >= 20


def test_what_cannot_be_done_is_said(console: str, person: Person, chat: int) -> None:
    name = person.ask(chat, "hello").name
    refused = requests.post(f"{console}api/turns/{name}/rerun", timeout=10)
    ended = requests.post(f"{console}api/turns/{name}/stop", timeout=10)
    unknown = requests.get(f"{console}api/turns/c1-t0-u999999", timeout=10)
    bad = requests.get(f"{console}api/turns?chat=abc", timeout=10)

    assert (refused.status_code, "cannot be redriven" in refused.json()["error"]) == (400, True)
    assert (ended.status_code, "does not run" in ended.json()["error"]) == (400, True)
    assert (unknown.status_code, "ExecutionDoesNotExist" in unknown.json()["error"]) == (502, True)
    assert bad.status_code == 400


@pytest.mark.parametrize("machine", ["turn", "intake"])
def test_the_pictures_of_the_documentation_are_drawn_from_the_definitions(
    open_page: Open, console: str, machine: str
) -> None:
    assert pictures.drawn(open_page(console), machine) == (ROOT / "docs" / f"{machine}.svg").read_text()


def test_the_graph_follows_the_definition(open_page: Open, console: str) -> None:
    definition = (ROOT / "statemachine" / "turn.asl.json").read_text().replace("AcquireLock", "TakeTheLock")
    svg = pictures.draw(open_page(console), definition)

    assert 'data-state="TakeTheLock"' in svg
    assert "AcquireLock" not in re.sub(r"<title>.*?</title>", "", svg)
    assert svg.count("data-state=") == len(json.loads(definition)["States"])
