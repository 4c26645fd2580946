"""The entrance: what fails is told and not delivered again; what takes long does not keep Telegram waiting."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from functions.common.texts import say
from functions.intake import time_travel
from stepgram.embedded.functions import Answer, failure
from stepgram.embedded.telegram import BotApiError
from tests.conftest import ROOT, Faults, Person, until
from tests.workflow.test_files import PNG, send

INTAKE = json.loads((ROOT / "statemachine" / "intake.asl.json").read_text())
MESSAGES = {"JoinAlbum", "Announce", "AnswerQuestion", "StartTurn", "TellFailure"}
"""The states of a message's way: a failure there is a 5xx, so that Telegram delivers it again; and who tells."""


def test_every_other_way_through_the_intake_ends_in_words() -> None:
    tasks = {name: state for name, state in INTAKE["States"].items() if state["Type"] == "Task"}
    caught = {
        name
        for name, state in tasks.items()
        if {"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": "TellFailure"} in state.get("Catch", [])
    }

    assert set(tasks) - MESSAGES == caught


def test_all_of_the_intake_fits_into_the_webhooks_time() -> None:
    states = INTAKE["States"]

    assert INTAKE["TimeoutSeconds"] < 27
    for name, state in states.items():
        if state["Type"] == "Task" and name not in MESSAGES:
            assert state["TimeoutSeconds"] + states["TellFailure"]["TimeoutSeconds"] < INTAKE["TimeoutSeconds"]


@pytest.mark.parametrize(
    ("text", "state"), [("/status", "RunCommand"), ("/stop", "StopTurn"), ("/debug", "RunInBackground")]
)
def test_a_command_that_fails_is_told_and_not_delivered_again(
    person: Person, chat: int, faults: Faults, text: str, state: str
) -> None:
    faults.fail(state, chat, "Broken", times=3)

    sent = person.stack.telegram.say(chat, text)
    record = person.stack.telegram.state["updates"][str(sent["update_id"])]
    until(lambda: record["status"] is not None)

    assert record["status"] == 200
    if state != "RunInBackground":
        assert json.loads(record["body"])["outcome"] == "failed"
        assert person.texts(chat) == [say("not_carried_out", "en", error="Broken")]


def test_a_failure_that_cannot_even_be_told_ends_quietly(person: Person, chat: int, faults: Faults) -> None:
    faults.fail("RunCommand", chat, "Broken", times=9)
    faults.fail("TellFailure", chat, "Broken", times=9)

    assert person.command(chat, "/status")["outcome"] == "failed"


def test_aws_that_is_busy_for_a_moment_costs_no_command(person: Person, chat: int, faults: Faults) -> None:
    faults.fail("RunCommand", chat, "AwsUnavailable", times=2)

    assert person.command(chat, "/whoami")["outcome"] == "command whoami"


def test_a_long_command_runs_after_telegram_has_its_answer(
    person: Person, chat: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    person.ask(chat, "hello")
    go_on, export = threading.Event(), time_travel.export

    def slowly(*arguments: Any, **more: Any) -> Any:
        assert go_on.wait(60)
        return export(*arguments, **more)

    monkeypatch.setattr(time_travel, "export", slowly)

    assert person.command(chat, "/debug", carried_out=False)["outcome"] == "in the background"
    assert not [m for m in person.replies(chat) if "document" in m]

    go_on.set()
    until(lambda: any("document" in m for m in person.replies(chat)))


def test_a_long_command_that_fails_is_told_in_the_chat(
    person: Person, chat: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    person.ask(chat, "hello")
    person.stack.telegram.fail_next(BotApiError(502, "Bad Gateway"))

    person.command(chat, "/debug")

    until(lambda: say("not_carried_out", "en", error="TelegramUnavailable") in person.texts(chat))


def test_a_long_command_delivered_twice_answers_once(person: Person, chat: int) -> None:
    person.ask(chat, "hello")
    around: list[Answer] = []

    def twice(spec: Any, event: dict[str, Any], run: Any) -> Answer:
        answer = run(spec, event)
        if event.get("state") == "RunInBackground":
            around.append(run(spec, event))
        return answer

    person.stack.functions.around = twice
    try:
        person.command(chat, "/debug")
        until(lambda: len(around) == 1)
    finally:
        person.stack.functions.around = None

    names = [m["document"]["file_name"] for m in person.replies(chat) if "document" in m]
    assert len(names) == len(set(names)) > 0


def test_a_message_whose_way_fails_is_delivered_again_and_not_lost(person: Person, chat: int) -> None:
    """Telegram gets a 5xx and comes again; it is one turn in the end."""
    struck: list[str] = []

    def around(spec: Any, event: dict[str, Any], run: Any) -> Answer:
        if event.get("state") == "JoinAlbum" and event["session_key"] == f"{chat}:0" and len(struck) < 2:
            struck.append("x")
            return failure("Broken", "injected")
        return run(spec, event)

    person.stack.functions.around = around
    try:
        found = person.wait(send(person, chat, "photo", "a.png", PNG, more={"media_group_id": "again"}))
    finally:
        person.stack.functions.around = None

    assert struck
    assert found.status == "SUCCEEDED"
