"""Money is counted when it is spent: failed, repeated and stopped runs, each once, however many count at once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError

from functions.agent.model.metering import Spent
from functions.agent.model.spending import Spending
from functions.common.errors import AwsUnavailable, TelegramUnavailable
from functions.common.settings import LedgerSettings
from functions.conversation import budget
from functions.conversation.budget import ALL, periods, sums
from functions.conversation.files.documents import RunCost, cost_key, turn_prefix
from functions.conversation.files.snapshots import Snapshots
from functions.conversation.ledger import RESERVED, Ledger, settle
from functions.conversation.runs import RunTable
from functions.conversation.sessions import SessionTable
from functions.turn import hydrate, report_failure
from stepgram.embedded.client import client
from stepgram.embedded.stack import EmbeddedStack
from stepgram.operators.executions import detail
from tests.conftest import Faults, Person, until
from tests.workflow.fast_agent import ASKS, COST_USD, fast_agent

SPENDS_THEN_FAILS = "!bash true\n!error 400 1"
"""A tool call, which costs a request; the request after it is refused for good."""


@pytest.fixture
def quick(stack: EmbeddedStack) -> Iterator[None]:
    with fast_agent(stack):
        yield


def total(stack: EmbeddedStack, partition: str) -> float:
    """What is counted today, in US dollars."""
    key = (partition, periods(datetime.now(UTC))["day"])
    return sums(stack.deployment.outputs["SessionTable"], client("dynamodb", stack.addresses.aws), [key])[key]


def ledger(stack: EmbeddedStack) -> Ledger:
    outputs, endpoint = stack.deployment.outputs, stack.addresses.aws
    snapshots = Snapshots(outputs["SessionBucket"], client("s3", endpoint))
    return Ledger(outputs["SessionTable"], client("dynamodb", endpoint), snapshots)


def records(stack: EmbeddedStack, session_id: str, turn: str) -> list[RunCost]:
    """What the turn's runs say they have cost."""
    snapshots = Snapshots(stack.deployment.outputs["SessionBucket"], client("s3", stack.addresses.aws))
    found = client("s3", stack.addresses.aws).list_objects_v2(
        Bucket=snapshots.bucket, Prefix=f"{turn_prefix(session_id, turn)}costs/"
    )
    keys = [item["Key"] for item in found.get("Contents", [])]
    assert keys == [cost_key(session_id, turn, run) for run in range(1, len(keys) + 1)]
    return [snapshots.read(key, RunCost) for key in keys]


def begin_run(stack: EmbeddedStack, key: str, turn: str) -> int:
    """A run of the turn begins, without limits; returns its number."""
    runs = RunTable(stack.deployment.outputs["SessionTable"], client("dynamodb", stack.addresses.aws))
    return runs.begin(key, turn, 0, f"{time.monotonic_ns():020d}", "token", 5.0).number


def session_of(stack: EmbeddedStack, chat: int) -> str:
    table = SessionTable(stack.deployment.outputs["SessionTable"], client("dynamodb", stack.addresses.aws))
    pointer = table.pointer(f"{chat}:0")
    assert pointer is not None
    return pointer.session_id


def test_a_failed_run_counts_and_its_rerun_does_too_each_once(stack: EmbeddedStack, person: Person, chat: int) -> None:
    failed = person.ask(chat, SPENDS_THEN_FAILS)
    assert failed.error == "ModelRejected"
    until(lambda: total(stack, f"{chat}:0") > 0)
    first = total(stack, f"{chat}:0")

    done = person.redrive(failed.name)
    found = records(stack, session_of(stack, chat), failed.name)

    assert done.status == "SUCCEEDED"
    assert len(found) == 2
    assert total(stack, f"{chat}:0") == pytest.approx(sum(one.cost_usd for one in found), abs=1e-6)
    assert total(stack, f"{chat}:0") > first
    person.command(chat, "/cost")
    assert f"{total(stack, f'{chat}:0'):.4f}" in person.texts(chat)[-1].splitlines()[0]


def test_a_run_whose_answer_was_lost_counts_once(
    stack: EmbeddedStack, person: Person, chat: int, faults: Faults
) -> None:
    faults.fail("end", chat, "Lambda.ServiceException", after=True)

    turn = person.ask(chat, "hello")

    assert turn.status == "SUCCEEDED"
    assert total(stack, f"{chat}:0") == pytest.approx(turn.output["cost_usd"], abs=1e-6)


def test_a_stopped_run_counts(stack: EmbeddedStack, person: Person, chat: int) -> None:
    name = person.say(chat, "!slow 20")
    until(lambda: any(r["session"] and r["ended"] is None for r in stack.bedrock.requests))
    person.wait_for_state(name, "RunAgent")
    person.command(chat, "/stop")

    turn = person.wait(name)

    assert turn.output["outcome"] == "STOPPED"
    found = records(stack, session_of(stack, chat), name)
    assert total(stack, f"{chat}:0") == pytest.approx(sum(one.cost_usd for one in found), abs=1e-6)


def test_a_crashed_run_counts_what_its_requests_cost(stack: EmbeddedStack, person: Person, chat: int) -> None:
    turn = person.ask(chat, "!crash")

    assert turn.error == "AgentCrashed"
    until(lambda: total(stack, f"{chat}:0") > 0)
    found = records(stack, session_of(stack, chat), turn.name)
    assert [one.cost_usd > 0 for one in found] == [True, True], "it ran twice, and each run asked the model"
    until(lambda: abs(total(stack, f"{chat}:0") - sum(one.cost_usd for one in found)) < 1e-6)


def reserved(stack: EmbeddedStack) -> dict[str, float]:
    """What the runs of turns may spend now, in US dollars."""
    found = client("dynamodb", stack.addresses.aws).query(
        TableName=stack.deployment.outputs["SessionTable"],
        KeyConditionExpression="pk = :all AND begins_with(sk, :reserved)",
        ExpressionAttributeValues={":all": {"S": ALL}, ":reserved": {"S": RESERVED}},
    )
    return {item["turn"]["S"]: float(item["usd"]["N"]) for item in found["Items"]}


def test_a_turn_has_something_reserved_while_it_works_and_nothing_while_it_waits(
    stack: EmbeddedStack, person: Person, chat: int, quick: None
) -> None:
    held: list[dict[str, float]] = []

    def around(spec: Any, event: dict[str, Any], run: Any) -> Any:
        if spec.logical_id == "AgentFunction":
            held.append(reserved(stack))
        return run(spec, event)

    stack.functions.around = around
    try:
        name = person.say(chat, ASKS)
        person.wait_for_state(name, "AskApproval")
        until(lambda: name not in reserved(stack))
        person.command(chat, "No, leave it")
        turn = person.wait(name)
    finally:
        stack.functions.around = None

    assert turn.status == "SUCCEEDED"
    assert [name in one for one in held] == [True, True]
    assert name not in reserved(stack)


def test_turns_wait_for_what_others_leave_of_a_budget(stack: EmbeddedStack, person: Person, quick: None) -> None:
    """A dollar for all, 40 cents for a turn: two work at a time, and in the end all are answered."""
    name = "stepgram-TurnFunction"
    original = stack.functions.specs[name]
    limits = {"DAILY_BUDGET_USD": f"{total(stack, ALL) + 1:.6f}", "MAX_BUDGET_USD": "0.4"}
    stack.functions.specs[name] = replace(original, environment={**original.environment, **limits})
    at_once: list[int] = []

    def around(spec: Any, event: dict[str, Any], run: Any) -> Any:
        if spec.logical_id == "AgentFunction":
            at_once.append(len(reserved(stack)))
        return run(spec, event)

    stack.functions.around = around
    chats = range(951_001, 951_007)
    try:
        with ThreadPoolExecutor(len(chats)) as pool:
            turns = list(pool.map(lambda chat: person.ask(chat, "!slow"), chats))
    finally:
        stack.functions.around = None
        stack.functions.specs[name] = original

    assert [turn.status for turn in turns] == ["SUCCEEDED"] * len(chats)
    assert 0 < max(at_once) <= 2
    assert sum(state.tries for turn in turns for state in turn.states if state.name == "RunAgent") > len(chats)
    assert not {turn.name for turn in turns} & set(reserved(stack))


def test_a_turn_that_waits_for_its_budget_hears_a_stop(stack: EmbeddedStack, person: Person, quick: None) -> None:
    name = "stepgram-TurnFunction"
    original = stack.functions.specs[name]
    limits = {"DAILY_BUDGET_USD": f"{total(stack, ALL) + 0.5:.6f}", "MAX_BUDGET_USD": "0.4"}
    stack.functions.specs[name] = replace(original, environment={**original.environment, **limits})
    release = threading.Event()

    def around(spec: Any, event: dict[str, Any], run: Any) -> Any:
        if spec.logical_id == "AgentFunction" and event["session_key"] == "951101:0":
            release.wait(60)
        return run(spec, event)

    stack.functions.around = around
    try:
        first = person.say(951_101, "I have it all")
        until(lambda: first in reserved(stack))
        second = person.say(951_102, "!slow")
        person.wait_for_state(second, "RunAgent")
        until(lambda: any(s.tries > 1 for s in detail(person.step_functions, person.arn(second)).states))
        person.command(951_102, "/stop")
        assert person.wait(second).output["outcome"] == "STOPPED"
        assert person.status(first) == "RUNNING"
    finally:
        release.set()
        stack.functions.around = None
        stack.functions.specs[name] = original
    assert person.wait(first).status == "SUCCEEDED"


def test_a_turn_that_was_killed_leaves_nothing_reserved(stack: EmbeddedStack, person: Person, chat: int) -> None:
    turn = person.say(chat, "!slow 60")
    person.wait_for_state(turn, "RunAgent")
    session = session_of(stack, chat)
    until(lambda: turn in reserved(stack) and bool(records(stack, session, turn)))

    person.step_functions.stop_execution(executionArn=person.arn(turn), error="StoppedByOperator")

    until(lambda: turn not in reserved(stack))
    until(lambda: total(stack, f"{chat}:0") > 0)


def test_twenty_conversations_that_count_at_once_lose_and_double_nothing(
    stack: EmbeddedStack, person: Person, quick: None
) -> None:
    chats = range(950_001, 950_021)
    before = total(stack, ALL)

    with ThreadPoolExecutor(len(chats)) as pool:
        turns = list(pool.map(lambda chat: person.ask(chat, "hello"), chats))

    assert [turn.status for turn in turns] == ["SUCCEEDED"] * len(chats)
    # Who gave up on a busy machine is made good by the rule on ended Turns.
    until(lambda: [round(total(stack, f"{chat}:0"), 6) for chat in chats] == [COST_USD] * len(chats))
    settled = [ledger(stack).settle(turn.output["session_key"], turn.name) for turn in turns]
    assert [round(cost, 6) for cost in settled] == [COST_USD] * len(chats)
    assert [round(total(stack, f"{chat}:0"), 6) for chat in chats] == [COST_USD] * len(chats)
    assert round(total(stack, ALL) - before, 6) == round(len(chats) * COST_USD, 6)


def test_steps_that_count_the_same_turn_at_once_count_it_once(stack: EmbeddedStack, chat: int) -> None:
    """Persist and the rule on ended Turns, or a step and its retry; the sums of all are written meanwhile."""
    outputs, endpoint = stack.deployment.outputs, stack.addresses.aws
    sessions = SessionTable(outputs["SessionTable"], client("dynamodb", endpoint))
    snapshots = Snapshots(outputs["SessionBucket"], client("s3", endpoint))
    turns = [(f"{chat}:{thread}", f"c{chat}-t{thread}-u1", f"session-{chat}-{thread}") for thread in range(4)]
    for key, turn, session in turns:
        sessions.works_in(key, turn, session, False)
        for _ in range(3):
            run = begin_run(stack, key, turn)
            snapshots.write(cost_key(session, turn, run), RunCost(model="m", cost_usd=0.01))

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda one: ledger(stack).settle(one[0], one[1]), turns * 3))
    counted = [ledger(stack).settle(key, turn) for key, turn, _ in turns]  # whoever gave up on a busy machine

    assert [round(cost, 6) for cost in counted] == [0.03] * 4
    assert [round(total(stack, key), 6) for key, _, _ in turns] == [0.03] * 4


def test_what_a_run_spends_after_it_was_counted_is_counted_later(stack: EmbeddedStack, chat: int) -> None:
    """A run that was thought dead and goes on; its record grows."""
    outputs, endpoint, key = stack.deployment.outputs, stack.addresses.aws, f"{chat}:0"
    SessionTable(outputs["SessionTable"], client("dynamodb", endpoint)).works_in(key, "t", f"session-{chat}", False)
    snapshots = Snapshots(outputs["SessionBucket"], client("s3", endpoint))
    spending = Spending(snapshots, f"session-{chat}", "t", begin_run(stack, key, "t"), "m")
    for cost in (0.01, 0.05, 0.05):
        spending.told("request", Spent(cost))
        spending.keep()
        ledger(stack).settle(key, "t")

    assert total(stack, key) == pytest.approx(0.05)


@pytest.mark.parametrize("record", ["{}", "nonsense", '{"model": "m", "cost_usd": "much"}',
                                    '{"model": "m", "cost_usd": -5}', '{"model": "m", "cost_usd": NaN}',
                                    '{"model": "m", "cost_usd": 1e200}',
                                    json.dumps({"model": "m" * 9999, "cost_usd": 1})])  # fmt: skip
def test_a_record_that_is_none_counts_nothing_and_fails_nothing(stack: EmbeddedStack, chat: int, record: str) -> None:
    outputs, endpoint, key = stack.deployment.outputs, stack.addresses.aws, f"{chat}:0"
    SessionTable(outputs["SessionTable"], client("dynamodb", endpoint)).works_in(key, "t", f"session-{chat}", False)
    snapshots = Snapshots(outputs["SessionBucket"], client("s3", endpoint))
    snapshots.put(cost_key(f"session-{chat}", "t", begin_run(stack, key, "t")), record.encode())

    assert ledger(stack).settle(key, "t") == 0
    assert total(stack, key) == 0


@pytest.mark.parametrize("broken", ["telegram does not answer", "the sums are busy"])
def test_what_an_ended_turn_cost_is_counted_whatever_fails_beside_it(
    stack: EmbeddedStack, person: Person, chat: int, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Nobody comes after the rule on ended Turns: it counts before it gives up, or is run again."""
    failures = [1]

    def fails_once(*arguments: Any, **more: Any) -> Any:
        if failures:
            failures.pop()
            raise TelegramUnavailable("down") if broken.startswith("telegram") else AwsUnavailable("busy")
        return original(*arguments, **more)

    where, name = (report_failure, "tell") if broken.startswith("telegram") else (Ledger, "_count")
    turn = person.say(chat, "!slow 60")
    person.wait_for_state(turn, "RunAgent")
    session = session_of(stack, chat)
    until(lambda: bool(records(stack, session, turn)))
    original = getattr(where, name)
    monkeypatch.setattr(where, name, fails_once)

    person.step_functions.stop_execution(executionArn=person.arn(turn), error="StoppedByOperator")

    until(lambda: total(stack, f"{chat}:0") > 0)
    assert failures == []


def test_sums_that_cannot_be_read_after_the_commit_cost_a_warning_and_not_the_answer(
    person: Person, chat: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*arguments: Any) -> Any:
        raise AwsUnavailable("BatchGetItem left out some")

    limited = budget.limited
    calls: list[str] = []

    def after_the_commit(*arguments: Any) -> Any:
        calls.append("read")
        return limited(*arguments) if len(calls) == 1 else busy()  # Hydrate reads them, too

    monkeypatch.setattr(budget, "limited", after_the_commit)
    monkeypatch.setattr(hydrate, "limited", after_the_commit)

    assert person.ask(chat, "hello").output["outcome"] == "DELIVERED"
    assert len(calls) == 2


def test_a_sum_that_dynamodb_refuses_fails_no_step(stack: EmbeddedStack, chat: int) -> None:
    class Refusing:
        def batch_get_item(self, **given: Any) -> Any:
            raise ClientError({"Error": {"Code": "ValidationException", "Message": "Number overflow"}}, "BatchGetItem")

    outputs = stack.deployment.outputs
    settings = LedgerSettings(table=outputs["SessionTable"], bucket=outputs["SessionBucket"])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Ledger, "of", lambda _: Ledger("t", Refusing(), None))  # type: ignore[arg-type]
        assert settle(settings, f"{chat}:0", "t") == 0.0
