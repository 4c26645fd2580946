"""The entrance: what fails is told and not delivered again; what takes long does not keep Telegram waiting."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from functions.common.errors import AwsUnavailable
from functions.conversation.admission import Admission
from functions.conversation.approvals import Decision
from functions.conversation.progress import ProgressTable
from functions.conversation.texts import say
from functions.intake import answer_question, stop_turn, time_travel
from functions.telegram.webhook import SECRET_HEADER
from stepgram.embedded.answers import Answer, failure
from stepgram.embedded.client import client
from stepgram.embedded.stack import EmbeddedStack
from stepgram.embedded.telegram import BotApiError
from tests.conftest import ROOT, Faults, Person, until
from tests.workflow.test_approval import GLOB, question
from tests.workflow.test_files import PNG, send

Call = Callable[[str, dict[str, Any]], Answer]

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
    assert "Retry" not in states["TellFailure"]
    for name, state in states.items():
        if state["Type"] == "Task" and name not in MESSAGES:
            tries = 1 + sum(rule["MaxAttempts"] for rule in state["Retry"])
            pauses = sum(
                rule["IntervalSeconds"] * rule["BackoffRate"] ** n
                for rule in state["Retry"]
                for n in range(rule["MaxAttempts"])
            )
            longest = tries * state["TimeoutSeconds"] + pauses + states["TellFailure"]["TimeoutSeconds"]
            assert longest < INTAKE["TimeoutSeconds"], f"{name} may take {longest} seconds"


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
    faults.fail("RunCommand", chat, "AwsUnavailable", times=1)

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


def once(function: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    """The function, whose first call fails after nothing was done."""
    failures = [error]

    def failing(*arguments: Any, **more: Any) -> Any:
        if failures:
            raise failures.pop()
        return function(*arguments, **more)

    return failing


def test_a_message_that_answers_a_question_is_not_lost_when_aws_is_busy_once(
    person: Person, chat: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = person.say(chat, GLOB)
    question(person, chat)
    monkeypatch.setattr(answer_question, "settle", once(answer_question.settle, AwsUnavailable("busy once")))

    answer = person.command(chat, "No, look elsewhere")

    assert answer["outcome"] == f"answered {name}"
    assert person.wait(name).output["outcome"] == "DELIVERED"
    assert "No, look elsewhere" in person.texts(chat)[-1]


def test_a_message_that_comes_when_somebody_decided_already_becomes_a_turn(
    person: Person, chat: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A button is pressed between the look at the question and the answer to it: the words are not lost."""
    name = person.say(chat, GLOB)
    question(person, chat)
    settle = answer_question.settle

    def pressed_first(approvals: Any, table: Any, bot: Any, asked: Any, decision: Any, language: str) -> Any:
        settle(approvals, table, bot, asked, Decision(choice="allow", by="You"), language)
        return settle(approvals, table, bot, asked, decision, language)

    monkeypatch.setattr(answer_question, "settle", pressed_first)
    sent = person.stack.telegram.say(chat, "hello")

    assert person.wait(name).output["outcome"] == "DELIVERED"
    assert person.wait(f"c{chat}-t0-u{sent['update_id']}").output["outcome"] == "DELIVERED"
    assert person.texts(chat)[-1].startswith("You said: hello")


def test_a_stop_is_heard_although_aws_is_busy_once(person: Person, chat: int, monkeypatch: pytest.MonkeyPatch) -> None:
    name = person.say(chat, "!slow 60")
    person.wait_for_state(name, "RunAgent")
    monkeypatch.setattr(ProgressTable, "stop", once(ProgressTable.stop, AwsUnavailable("busy once")))

    assert person.command(chat, "/stop")["outcome"] == f"stopping {name}"
    assert person.wait(name).output["outcome"] == "STOPPED"


def test_a_stop_at_a_question_is_heard_although_aws_is_busy_once(
    person: Person, chat: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = person.say(chat, GLOB)
    question(person, chat)
    monkeypatch.setattr(stop_turn, "settle", once(stop_turn.settle, AwsUnavailable("busy once")))

    person.command(chat, "/stop")

    assert person.wait(name).output["outcome"] == "STOPPED"


def test_a_bug_in_a_long_command_is_told_too(person: Person, chat: int, monkeypatch: pytest.MonkeyPatch) -> None:
    person.ask(chat, "hello")

    def broken(*arguments: Any, **more: Any) -> Any:
        raise KeyError("a bug")

    monkeypatch.setattr(time_travel, "export", broken)
    person.command(chat, "/debug")

    assert person.texts(chat)[-1] == say("not_carried_out", "en", error="KeyError")


def test_a_message_delivered_again_counts_once_against_the_senders_pace(stack: EmbeddedStack, chat: int) -> None:
    admission = Admission(stack.deployment.outputs["SessionTable"], client("dynamodb", stack.addresses.aws))

    counted = [admission.count(chat, update) for update in (7, 7, 7, 8, 7)]

    assert counted in ([1, 1, 1, 2, 2], [1, 1, 1, 1, 1], [1, 1, 1, 2, 1], [1, 1, 1, 1, 2])  # a minute may begin


@pytest.mark.parametrize(
    "event",
    [
        {"headers": None, "body": "{}"},
        {"body": "{}"},
        {"headers": {SECRET_HEADER: "\ud800"}, "body": "{}"},
    ],
)
def test_a_call_without_readable_headers_is_refused(call: Call, event: dict[str, Any]) -> None:
    assert json.loads(call("WebhookFunction", event).payload)["statusCode"] == 401


@pytest.mark.parametrize(
    "body",
    [
        {"body": "\ud800"},
        {"body": "é", "isBase64Encoded": True},
        {"body": "A", "isBase64Encoded": True},
        {"body": None},
        {"body": json.dumps({"update_id": 5, "message": {
            "message_id": 1, "date": 1, "chat": {"id": 5, "type": "private"}, "from": {"id": 5, "is_bot": False,
            "first_name": "x"}, "text": "x" * 300_000}})},
    ],
)  # fmt: skip
def test_a_body_that_cannot_become_a_turn_is_acknowledged_and_counted(
    stack: EmbeddedStack, call: Call, body: dict[str, Any]
) -> None:
    secrets = client("secretsmanager", stack.addresses.aws)
    secret = secrets.get_secret_value(SecretId=stack.deployment.outputs["WebhookSecretId"])["SecretString"]

    answer = json.loads(call("WebhookFunction", {"headers": {SECRET_HEADER: secret}, **body}).payload)

    assert (answer["statusCode"], json.loads(answer["body"])["outcome"]) == (200, "not understood")


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
