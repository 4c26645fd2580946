"""A run of the agent as trusted code sees it: started once, claimed once, ended once, and believed within bounds."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from functions.common.progress import ATTEMPT, ProgressTable, Ticket, issue
from functions.common.runs import RunTable, Seat, running
from functions.common.settings import use_environment
from stepgram.embedded.answers import Answer
from stepgram.embedded.client import client
from stepgram.embedded.functions import Invoker
from stepgram.embedded.stack import EmbeddedStack
from stepgram.embedded.template import FunctionSpec
from tests.conftest import Faults, Person, until
from tests.workflow.fast_agent import answer_to, fast_agent

AGENT = "stepgram-AgentFunction"
Call = Callable[[str, dict[str, Any]], Answer]


class Watch:
    """Sees the events of the agent's function, and may keep one from its function."""

    def __init__(self, swallow: int = 0) -> None:
        self.events: list[dict[str, Any]] = []
        self.ended: list[dict[str, Any]] = []
        self.swallow = swallow

    def around(self, spec: FunctionSpec, event: dict[str, Any], run: Invoker) -> Answer:
        if event.get("what") == "end":
            self.ended.append(event)
        if spec.name != AGENT:
            return run(spec, event)
        self.events.append(event)
        return Answer(b"{}") if len(self.events) <= self.swallow else run(spec, event)


@pytest.fixture
def watch(stack: EmbeddedStack) -> Iterator[Watch]:
    with fast_agent(stack):
        watching = Watch()
        stack.functions.around = watching.around
        yield watching
        stack.functions.around = None


def item(stack: EmbeddedStack, chat: int, turn: str) -> dict[str, Any]:
    key = {"pk": {"S": f"{chat}:0"}, "sk": {"S": f"turn#{turn}"}}
    table = client("dynamodb", stack.addresses.aws)
    return dict(table.get_item(TableName=stack.deployment.outputs["SessionTable"], Key=key)["Item"])


def deliver(stack: EmbeddedStack, event: dict[str, Any]) -> dict[str, Any]:
    """Deliver an event to the agent once more."""
    answer = stack.functions.invoke(AGENT, json.dumps(event).encode(), event["session_key"])
    document: dict[str, Any] = json.loads(answer.payload)
    return document


def call_of(event: dict[str, Any], what: str, **given: Any) -> dict[str, Any]:
    """A call of the callback with an event's own ticket."""
    return {**{name: event[name] for name in ("turn_id", "session_key", "state", "ticket")}, "what": what, **given}


def answered(call: Call, event: dict[str, Any], what: str, **given: Any) -> dict[str, Any]:
    answer = call("CallbackFunction", call_of(event, what, **given))
    assert answer.function_error is None, answer.payload
    document: dict[str, Any] = json.loads(answer.payload)
    return document


def test_an_event_that_is_delivered_again_does_nothing(
    stack: EmbeddedStack, person: Person, chat: int, watch: Watch
) -> None:
    found = person.ask(chat, "hello")
    (event,) = watch.events

    again = deliver(stack, event)

    assert again == {"outcome": "not wanted"}
    assert found.output["outcome"] == "DELIVERED"
    assert person.texts(chat) == [answer_to("hello")]
    assert len(watch.ended) == 1


def test_two_deliveries_at_once_are_one_run(stack: EmbeddedStack, person: Person, chat: int, watch: Watch) -> None:
    seen = watch.around

    def twice(spec: FunctionSpec, event: dict[str, Any], run: Invoker) -> Answer:
        if spec.name == AGENT:
            other = threading.Thread(target=seen, args=(spec, event, run))
            other.start()
            answer = seen(spec, event, run)
            other.join()
            return answer
        return seen(spec, event, run)

    stack.functions.around = twice

    assert person.ask(chat, "hello").status == "SUCCEEDED"
    assert len(watch.events) == 2
    assert len(watch.ended) == 1


@pytest.mark.timeout(400)
def test_a_run_that_says_nothing_is_given_up_by_its_heartbeat_and_refused_when_it_comes_late(
    stack: EmbeddedStack, person: Person, chat: int, watch: Watch
) -> None:
    watch.swallow = 1

    found = person.ask(chat, "hello")
    late = deliver(stack, watch.events[0])

    assert found.status == "SUCCEEDED"
    assert next(state for state in found.states if state.name == "RunAgent").tries == 2
    assert late == {"outcome": "not wanted"}
    assert person.texts(chat) == [answer_to("hello")]


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
        ("States.Runtime", ("AgentCrashed", "States.Runtime: said so")),
        ("no name\nat all", ("AgentCrashed", "an error without a name: said so")),
    ],
)
def test_a_run_ends_by_an_error_that_leads_nowhere_else(
    stack: EmbeddedStack, person: Person, chat: int, watch: Watch, call: Call, claimed: str, expected: tuple[str, str]
) -> None:
    """A name that Catch would follow (LockLost: back to the queue, for ever) is not the agent's to say."""

    def lying(spec: FunctionSpec, event: dict[str, Any], run: Invoker) -> Answer:
        if spec.name != AGENT:
            return run(spec, event)
        answered(call, event, "end", failure={"Error": claimed, "Cause": "said so"})
        return Answer(b"{}")

    stack.functions.around = lying

    found = person.ask(chat, "hello")

    assert found.status == "FAILED"
    assert found.error == expected[0]
    assert expected[1] in str(found.cause)
    assert "LockLost" not in [state.error for state in found.states]


def test_a_function_that_dies_is_told_by_its_destination(person: Person, chat: int, faults: Faults) -> None:
    faults.fail("Agent", chat, "Runtime.OutOfMemory", times=2)

    found = person.ask(chat, "hello")

    assert (found.status, found.error) == ("FAILED", "Runtime.OutOfMemory")
    assert "raise it (AgentMemory)" in str(found.cause)


def test_the_agent_cannot_be_invoked_without_a_tenant(stack: EmbeddedStack) -> None:
    lambda_ = client("lambda", stack.addresses.aws)

    for kind in ("RequestResponse", "Event"):
        with pytest.raises(ClientError, match="InvalidParameterValueException"):
            lambda_.invoke(FunctionName=AGENT, InvocationType=kind, Payload=b"{}")
        with pytest.raises(ClientError, match="InvalidParameterValueException"):
            lambda_.invoke(FunctionName="stepgram-TurnFunction", InvocationType=kind, TenantId="1:0", Payload=b"{}")


@pytest.fixture
def ticket(stack: EmbeddedStack, chat: int) -> Iterator[Callable[..., dict[str, Any]]]:
    """Makes an event of a run of this chat's first turn, with a ticket of its own."""
    environment = next(s for s in stack.functions._specs.values() if s.logical_id == "TurnFunction").environment
    turn, key = f"c{chat}-t0-u1", f"{chat}:0"

    def make(number: int | None = 1, until: int = 2**31) -> dict[str, Any]:
        use_environment({**stack.functions._base, **environment})
        seat = {"session_id": "s", "part": 0, "version": 0, "manifest": None, "going_on": None, "budget_usd": 1}
        run = None if number is None else Seat.model_validate({"number": number, **seat})
        chat_of = {"id": chat, "type": "private"}
        holder = Ticket.model_validate({"chat": chat_of, "message_id": 1, "language": "en", "until": until, "run": run})
        sealed = issue(environment["SESSION_KEY_ARN"], turn, key, holder)
        use_environment(None)
        return {"turn_id": turn, "session_key": key, "state": "RunAgent", "ticket": sealed}

    yield make


def test_nothing_shows_after_the_run_ended_with_any_number(
    stack: EmbeddedStack, person: Person, chat: int, call: Call, ticket: Callable[..., dict[str, Any]]
) -> None:
    person.say(chat, "/whoami")
    table, outputs = client("dynamodb", stack.addresses.aws), stack.deployment.outputs
    runs, turn, key = RunTable(outputs["SessionTable"], table), f"c{chat}-t0-u1", f"{chat}:0"
    assert runs.begin(key, turn, 0, "first", "no token") == 1
    event = ticket()
    assert not answered(call, event, "show", time=1, text="shown")["gone"]
    ProgressTable(outputs["SessionTable"], table, 2**31).close(key, turn, 0)
    runs.void(key, turn, 0)
    drafts = len(stack.telegram.calls)

    for time in (2, 10**12, ATTEMPT - 2):
        assert answered(call, event, "show", time=time, text="late")["gone"]
    for time in (-1, ATTEMPT - 1, 10**15):
        answer = call("CallbackFunction", call_of(event, "show", time=time, text="late"))
        assert b"Report: time" in answer.payload

    assert len(stack.telegram.calls) == drafts


def test_a_ticket_ends_and_one_without_a_run_ends_no_run(call: Call, ticket: Callable[..., dict[str, Any]]) -> None:
    old, waiting = ticket(until=1), ticket(number=None)

    for what, given in (("begin", {"delivery": "0" * 32}), ("listen", {}), ("show", {"time": 1}), ("end", {})):
        assert b"it held until 1" in call("CallbackFunction", call_of(old, what, **given)).payload
    for what, given in (("begin", {"delivery": "0" * 32}), ("listen", {}), ("end", {})):
        assert b"it was issued for no run" in call("CallbackFunction", call_of(waiting, what, **given)).payload


def test_a_later_try_of_the_state_has_the_run(stack: EmbeddedStack, chat: int) -> None:
    runs = RunTable(stack.deployment.outputs["SessionTable"], client("dynamodb", stack.addresses.aws))
    key, turn = f"{chat}:0", f"c{chat}-t0-u1"

    assert runs.begin(key, turn, 0, "000000 b 000001", "later") == 1
    assert runs.begin(key, turn, 0, "000000 b 000000", "slow") is None
    assert runs.claim(key, turn, 1, "a" * 32).token == "later"
    assert runs.claim(key, turn, 1, "a" * 32).number == 1, "the same delivery asks again"
    assert runs.claim(key, turn, 1, "b" * 32).number == 0
    assert runs.begin(key, turn, 1, "000001 a 000000", "redriven") == 2
    runs.void(key, turn, 0)
    assert not running(item(stack, chat, turn)).ended, "a late event of the first attempt"
    runs.void(key, turn, 1)
    assert running(item(stack, chat, turn)).ended
    assert runs.claim(key, turn, 2, "c" * 32).number == 0


def test_a_warm_worker_is_its_tenants_alone(stack: EmbeddedStack, person: Person, chat: int) -> None:
    stack.functions.cool_down()
    person.ask(chat, "one")
    workers = stack.functions._workers
    until(lambda: [worker.tenant for worker in workers._idle] == [f"{chat}:0"])
    (first,) = workers._idle

    person.ask(chat + 1_000_000, "two")
    until(lambda: len(workers._idle) == 2)
    assert {worker.tenant for worker in workers._idle} == {f"{chat}:0", f"{chat + 1_000_000}:0"}
    person.ask(chat, "three")
    until(lambda: len(workers._idle) == 2)
    assert first in workers._idle
