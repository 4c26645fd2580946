"""A run of the agent as trusted code sees it: started once, claimed once, ended once, and believed within bounds."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from functions.conversation.runs import RunTable, running
from stepgram.embedded.answers import Answer
from stepgram.embedded.client import client
from stepgram.embedded.functions import Invoker
from stepgram.embedded.stack import EmbeddedStack
from stepgram.embedded.template import FunctionSpec
from tests.conftest import Faults, Person, until
from tests.workflow.fast_agent import answer_to, fast_agent
from tests.workflow.test_access import spend

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


def test_a_function_that_dies_is_told_by_its_destination(person: Person, chat: int, faults: Faults) -> None:
    faults.fail("Agent", chat, "Runtime.OutOfMemory", times=2)

    found = person.ask(chat, "hello")

    assert (found.status, found.error) == ("FAILED", "Runtime.OutOfMemory")
    assert "raise it (AgentMemory)" in str(found.cause)


def test_a_later_try_of_the_state_has_the_run(stack: EmbeddedStack, chat: int) -> None:
    runs = RunTable(stack.deployment.outputs["SessionTable"], client("dynamodb", stack.addresses.aws))
    key, turn = f"{chat}:0", f"c{chat}-t0-u1"

    assert runs.begin(key, turn, 0, "000000 b 000001", "later").number == 1
    assert runs.begin(key, turn, 0, "000000 b 000000", "slow").number == 0
    assert runs.claim(key, turn, 1, "a" * 32).token == "later"
    assert runs.claim(key, turn, 1, "a" * 32).number == 1, "the same delivery asks again"
    assert runs.claim(key, turn, 1, "b" * 32).number == 0
    assert runs.begin(key, turn, 1, "000001 a 000000", "redriven").number == 2
    runs.void(key, turn, 0)
    assert not running(item(stack, chat, turn)).ended, "a late event of the first attempt"
    runs.void(key, turn, 1)
    assert running(item(stack, chat, turn)).ended
    assert runs.claim(key, turn, 2, "c" * 32).number == 0


def restarted(stack: EmbeddedStack, arn: str) -> None:
    """One execution as a stack that was killed finds it again: from what is kept, with its last state to enter."""
    known = stack.step_functions
    execution = known._execution(arn)
    with known._ending:
        execution.left_behind = True
        document = json.loads(json.dumps(known.dump(execution)))
        execution.stop(datetime.now(UTC), None, None)
        for machine in known._backend.state_machines:
            machine.executions[:] = [other for other in machine.executions if other is not execution]
        again = known.restore(document)
    known.go_on(again)


def test_a_state_that_is_entered_again_after_a_kill_begins_a_run_of_its_own(
    stack: EmbeddedStack, person: Person, chat: int, watch: Watch
) -> None:
    watch.swallow = 1
    turn = person.say(chat, "hello")
    until(lambda: len(watch.events) == 1)

    restarted(stack, person.arn(turn))

    assert person.wait(turn).status == "SUCCEEDED"
    assert item(stack, chat, turn)["runs"] == {"N": "2"}
    assert deliver(stack, watch.events[0]) == {"outcome": "not wanted"}, "the first run's event comes late"
    assert person.texts(chat) == [answer_to("hello")]


@pytest.mark.parametrize("case", ["it is there", "what it cost is all there was", "it is a lie"])
def test_a_result_that_was_stored_before_a_kill_is_taken_and_not_made_again_if_it_can_be(
    stack: EmbeddedStack, person: Person, chat: int, watch: Watch, case: str
) -> None:
    seen, handed_in = watch.around, threading.Event()

    def unheard(spec: FunctionSpec, event: dict[str, Any], run: Invoker) -> Answer:
        if event.get("what") != "end":
            return seen(spec, event, run)
        summaries.append(event["summary"])
        handed_in.set()
        return Answer(b'{"gone": true}')

    summaries: list[dict[str, Any]] = []
    stack.functions.around = unheard
    turn = person.say(chat, "hello")
    assert handed_in.wait(60)
    if case == "what it cost is all there was":
        spend(stack, f"{chat}:0", 10.0)
    if case == "it is a lie":
        stack.functions.around = seen
        s3, key = client("s3", stack.addresses.aws), summaries[0]["result"]
        bucket = stack.deployment.outputs["SessionBucket"]
        stored = json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
        stored["summary"]["cost_usd"] = 9_999
        s3.put_object(Bucket=bucket, Key=key, Body=json.dumps(stored))

    restarted(stack, person.arn(turn))

    assert person.wait(turn).status == "SUCCEEDED"
    assert len(watch.events) == (2 if case == "it is a lie" else 1)
    assert person.texts(chat) == [answer_to("hello")]


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
