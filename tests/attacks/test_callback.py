"""Lies to the callback: a run ends once, as what it can have been, and shows nothing but its own progress."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from functions.common.settings import use_environment
from functions.conversation.progress import ATTEMPT, ProgressTable, Ticket, issue
from functions.conversation.runs import RunTable, Seat
from stepgram.embedded.answers import Answer
from stepgram.embedded.client import client
from stepgram.embedded.functions import Invoker
from stepgram.embedded.stack import EmbeddedStack
from stepgram.embedded.template import FunctionSpec
from tests.conftest import Person
from tests.workflow.fast_agent import answer_to
from tests.workflow.test_runs import AGENT, Call, Watch, answered, call_of, watch

__all__ = ["watch"]

STOPPED_BY = (
    "The ticket is sealed for one run of one turn and ends with it; the callback checks every field of what is handed "
    "in, and errors by names that could lead the turn elsewhere are not the agent's to say."
)

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def ticket(stack: EmbeddedStack, chat: int) -> Iterator[Make]:
    """Makes an event of a run of this chat's first turn, with a ticket of its own."""
    environment = next(s for s in stack.functions.specs.values() if s.logical_id == "TurnFunction").environment
    turn, key = f"c{chat}-t0-u1", f"{chat}:0"

    def make(number: int | None = 1, until: int = 2**31) -> dict[str, Any]:
        spec = stack.functions.specs["stepgram-TurnFunction"]
        use_environment({**stack.functions.environment(spec), **environment})
        seat = {
            "session_id": "s",
            "part": 0,
            "version": 0,
            "manifest": None,
            "going_on": None,
            "budget_usd": 1,
            "models": [],
        }
        run = None if number is None else Seat.model_validate({"number": number, **seat})
        holder = {"chat": {"id": chat, "type": "private"}, "message_id": 1, "language": "en", "until": until}
        sealed = issue(environment["SESSION_KEY_ARN"], turn, key, Ticket.model_validate({**holder, "run": run}))
        use_environment(None)
        return {"turn_id": turn, "session_key": key, "state": "RunAgent", "ticket": sealed}

    yield make


def lying(stack: EmbeddedStack, lie: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The agent hands in what `lie` makes of what it made."""
    seen = stack.functions.around

    def around(spec: FunctionSpec, event: dict[str, Any], run: Invoker) -> Answer:
        if event.get("what") == "end" and event.get("summary"):
            event = {**event, "summary": lie(event["summary"])}
        assert seen is not None
        return seen(spec, event, run)

    stack.functions.around = around


LIES: dict[str, tuple[str, Any]] = {
    "another turn's result": ("result", "sessions/{session}/turns/c1-t0-u1/result.json"),
    "another session's result": ("result", "sessions/11111111-1111-4111-8111-111111111111/turns/{turn}/result.json"),
    "another session's version": ("manifest", "sessions/11111111-1111-4111-8111-111111111111/manifests/1-0.json"),
    "a path": ("manifest", "sessions/{session}/manifests/../../x/manifests/1-0.json"),
    "a model nobody configured": ("model", "somebody-elses-model"),
    "a cost below nothing": ("cost_usd", -1),
    "a cost beyond its budget": ("cost_usd", 9_999),
    "no number": ("session_cost_usd", float("nan")),
    "tokens that are none": ("input_tokens", -5),
    "a part it is not": ("part", 3),
    "a status it has not": ("status", "approval"),
    "tokens that would spoil a sum": ("output_tokens", 10**9 + 1),
    "a preview of a megabyte": ("preview", "x" * 1_000_000),
}


@pytest.mark.parametrize(("field", "value"), LIES.values(), ids=LIES)
def test_a_summary_that_cannot_be_ends_the_turn_by_name_and_a_rerun_answers(
    stack: EmbeddedStack, person: Person, chat: int, watch: Watch, field: str, value: Any
) -> None:
    def lie(summary: dict[str, Any]) -> dict[str, Any]:
        session, turn = summary["result"].split("/")[1], summary["result"].split("/")[3]
        told = value.format(session=session, turn=turn) if isinstance(value, str) else value
        return {**summary, field: told}

    lying(stack, lie)
    found = person.ask(chat, "hello")
    stack.functions.around = watch.around

    assert (found.status, found.error) == ("FAILED", "ResultRefused")
    assert ("only with `approval` a call waits" if field == "status" else field) in str(found.cause)
    assert "was not answered" in person.texts(chat)[-1]
    assert person.redrive(found.name).status == "SUCCEEDED"
    assert person.texts(chat)[-1] == answer_to("hello")


def test_an_end_after_the_end_changes_nothing(
    stack: EmbeddedStack, person: Person, chat: int, watch: Watch, call: Call
) -> None:
    found = person.ask(chat, "hello")
    (event,), (end,) = watch.events, watch.ended

    lie = {**end["summary"], "preview": "something else", "cost_usd": 0.5}
    assert answered(call, event, "end", summary=lie)["gone"]
    assert answered(call, event, "end", failure={"Error": "ModelRejected", "Cause": ""})["gone"]
    assert answered(call, event, "listen", beat=True)["gone"]
    assert person.wait(found.name).output == found.output


@pytest.mark.parametrize(
    ("claimed", "expected"),
    [
        ("ModelRejected", ("ModelRejected", "said so")),
        ("LockLost", ("AgentCrashed", "LockLost: said so")),
        ("BudgetReserved", ("AgentCrashed", "BudgetReserved: said so")),
        ("States.Runtime", ("AgentCrashed", "States.Runtime: said so")),
        ("no name\nat all", ("AgentCrashed", "an error without a name: said so")),
    ],
)
def test_a_run_ends_by_an_error_that_leads_nowhere_else(
    stack: EmbeddedStack, person: Person, chat: int, watch: Watch, call: Call, claimed: str, expected: tuple[str, str]
) -> None:
    """A name that Catch would follow (LockLost: back to the queue, for ever) is not the agent's to say."""

    def around(spec: FunctionSpec, event: dict[str, Any], run: Invoker) -> Answer:
        if spec.name != AGENT:
            return run(spec, event)
        answered(call, event, "end", failure={"Error": claimed, "Cause": "said so"})
        return Answer(b"{}")

    stack.functions.around = around

    found = person.ask(chat, "hello")

    assert found.status == "FAILED"
    assert found.error == expected[0]
    assert expected[1] in str(found.cause)
    assert "LockLost" not in [state.error for state in found.states]


@pytest.mark.parametrize("condition", ["RetriesExhausted", "EventAgeExceeded"])
def test_a_forged_record_of_a_destination_ends_the_run_of_its_ticket_alone(
    stack: EmbeddedStack, person: Person, chat: int, watch: Watch, call: Call, condition: str
) -> None:
    """The agent's role may call the destination, so its words are the agent's."""
    found = person.ask(chat, "hello")
    (event,) = watch.events
    other = {**event, "turn_id": f"c{chat}-t0-u999999"}

    record = {"requestContext": {"condition": condition}, "requestPayload": event}
    assert json.loads(call("CallbackFunction", record).payload)["gone"]
    assert b"not issued for turn" in call("CallbackFunction", {**record, "requestPayload": other}).payload
    assert b"BadInput" in call("CallbackFunction", {**record, "requestPayload": {}}).payload
    assert person.wait(found.name).output == found.output


def test_nothing_shows_after_the_run_ended_with_any_number(
    stack: EmbeddedStack, person: Person, chat: int, call: Call, ticket: Make
) -> None:
    person.command(chat, "/whoami")
    table, outputs = client("dynamodb", stack.addresses.aws), stack.deployment.outputs
    runs, turn, key = RunTable(outputs["SessionTable"], table), f"c{chat}-t0-u1", f"{chat}:0"
    assert runs.begin(key, turn, 0, "first", "no token").number == 1
    event = ticket()
    assert not answered(call, event, "show", time=1, text="shown")["gone"]
    ProgressTable(outputs["SessionTable"], table, 2**31).close(key, turn, 0)
    runs.void(key, turn, 0)

    def shown() -> int:
        return sum(p.get("chat_id") == chat for _, p in stack.telegram.calls)

    before = shown()
    for number in (2, 10**12, ATTEMPT - 2):
        assert answered(call, event, "show", time=number, text="late")["gone"]
    for number in (-1, ATTEMPT - 1, 10**15):
        answer = call("CallbackFunction", call_of(event, "show", time=number, text="late"))
        assert b"Report: time" in answer.payload

    assert shown() == before


def test_who_reports_without_a_pause_does_not_use_up_telegrams_patience(
    stack: EmbeddedStack, person: Person, chat: int, call: Call, ticket: Make
) -> None:
    """Telegram's limits are the bot's: a flood in one chat would silence the others."""
    person.command(chat, "/whoami")
    runs = RunTable(stack.deployment.outputs["SessionTable"], client("dynamodb", stack.addresses.aws))
    assert runs.begin(f"{chat}:0", f"c{chat}-t0-u1", 0, "first", "no token").number == 1
    event, began = ticket(), time.monotonic()

    for number in range(1, 60):
        answered(call, event, "show", time=number, text=f"flood {number}")
    seconds = time.monotonic() - began

    drafts = [p for m, p in stack.telegram.calls if p.get("chat_id") == chat and m.endswith("Draft")]
    assert 1 <= len(drafts) <= 2 + seconds / 0.8


@pytest.mark.parametrize("field", ["text", "tool"])
def test_what_is_too_long_to_be_shown_is_refused_by_name(call: Call, ticket: Make, field: str) -> None:
    long: Any = "x" * 100_000 if field == "text" else {"name": "x" * 100_000}

    answer = call("CallbackFunction", call_of(ticket(), "show", time=1, **{field: long}))

    assert f"Report: {field}".encode() in answer.payload


def test_a_ticket_ends_and_one_without_a_run_ends_no_run(call: Call, ticket: Make) -> None:
    old, waiting = ticket(until=1), ticket(number=None)
    calls: list[tuple[str, dict[str, Any]]] = [("begin", {"delivery": "0" * 32}), ("listen", {}), ("end", {})]

    for what, given in [*calls, ("show", {"time": 1})]:
        assert b"it held until 1" in call("CallbackFunction", call_of(old, what, **given)).payload
    for what, given in calls:
        assert b"it was issued for no run" in call("CallbackFunction", call_of(waiting, what, **given)).payload


def test_a_ticket_opens_its_own_turn_only(call: Call, ticket: Make, chat: int) -> None:
    event = ticket()

    for change in ({"turn_id": f"c{chat}-t0-u2"}, {"session_key": "1:0"}, {"ticket": "bm8="}, {"ticket": "?"}):
        for what, given in (("show", {"time": 1}), ("end", {}), ("begin", {"delivery": "0" * 32})):
            assert b"BadInput" in call("CallbackFunction", {**call_of(event, what, **given), **change}).payload
    for garbage in ([], "end", None, 5):
        assert b"BadInput" in call("CallbackFunction", garbage).payload
    assert b"what: 'answer' is none of" in call("CallbackFunction", {**event, "what": "answer"}).payload


def test_the_agents_function_cannot_be_invoked_without_a_tenant(stack: EmbeddedStack) -> None:
    lambda_ = client("lambda", stack.addresses.aws)

    for kind in ("RequestResponse", "Event"):
        with pytest.raises(ClientError, match="InvalidParameterValueException"):
            lambda_.invoke(FunctionName=AGENT, InvocationType=kind, Payload=b"{}")
        with pytest.raises(ClientError, match="InvalidParameterValueException"):
            lambda_.invoke(FunctionName="stepgram-TurnFunction", InvocationType=kind, TenantId="1:0", Payload=b"{}")
