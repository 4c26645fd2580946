"""Long random runs of the lock on DynamoDB (moto), a second writer between any two calls of the first.

Only Step Functions is played. A second writer comes before a chosen call of the first one, so a failing run can be
repeated and shortened; real threads collide in the last test.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, ClassVar, cast

from botocore.exceptions import ClientError
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from functions.conversation.lock import Claim, claim_of
from functions.conversation.lock_table import LockTable
from stepgram.embedded.client import client
from stepgram.embedded.stack import EmbeddedStack

ARN = "arn:aws:states:us-east-1:123456789012:execution:stepgram-turn:"
_keys = itertools.count()


class Executions:
    """Step Functions as the lock sees it: which tokens are waited for, which executions run. Checks every grant."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.status: dict[str, str] = {}
        self.redrives: dict[str, int] = {}
        self.retries: dict[str, int] = {}
        self.tokens: dict[str, str] = {}
        self.inside: dict[str, int] = {}
        self.fences: list[int] = []

    def ask(self, turn: str) -> Claim:
        """The turn enters AcquireLock (again): it waits for a new token, its earlier ones are dead."""
        with self._changed:
            self.tokens = {token: owner for token, owner in self.tokens.items() if owner != turn}
            self.retries[turn] += 1
            sequence = (self.redrives[turn], "", self.retries[turn])
            token = f"{turn} {sequence}"
            self.tokens[token] = turn
        number = int(turn[4:])
        return Claim(turn_id=turn, order=(number, number), sequence=sequence, token=token, execution_arn=ARN + turn)

    def wait(self, turn: str) -> None:
        """Until the turn is let in."""
        with self._changed:
            assert self._changed.wait_for(lambda: turn in self.inside, timeout=60)

    def redrive(self, turn: str) -> None:
        """The turn's ended execution runs again."""
        self.status[turn], self.retries[turn] = "RUNNING", 0
        self.redrives[turn] += 1

    def leave(self, turn: str, status: str) -> None:
        """The turn's execution ends."""
        with self._changed:
            self.status[turn] = status
            self.inside.pop(turn, None)
            self.tokens = {token: owner for token, owner in self.tokens.items() if owner != turn}

    def send_task_success(self, taskToken: str, output: str) -> None:
        with self._changed:
            turn = self.tokens.pop(taskToken, None)
            if turn is None:
                raise ClientError({"Error": {"Code": "TaskTimedOut", "Message": "dead"}}, "SendTaskSuccess")
            fence = json.loads(output)["fence"]
            assert not self.inside, f"{turn} was let in while {self.inside} is inside"
            assert not self.fences or fence > self.fences[-1], f"fence {fence} after {self.fences[-1]}"
            self.inside[turn] = fence
            self.fences.append(fence)
            self._changed.notify_all()

    def describe_execution(self, executionArn: str) -> dict[str, Any]:
        turn = executionArn.rpartition(":")[2]
        with self._changed:
            if turn not in self.status:
                raise ClientError({"Error": {"Code": "ExecutionDoesNotExist", "Message": "none"}}, "DescribeExecution")
            return {"status": self.status[turn], "redriveCount": self.redrives[turn]}


def start(executions: Executions, dynamodb: Any, table: str, key: str) -> str:
    """A message comes: its turn is announced as by the Intake, then its execution runs."""
    turn = f"turn{len(executions.retries):03}"
    executions.retries[turn], executions.redrives[turn] = 0, 0
    dynamodb.update_item(
        TableName=table,
        Key={"pk": {"S": key}, "sk": {"S": "lock"}},
        UpdateExpression="SET #turn = :order ADD version :one",
        ExpressionAttributeNames={"#turn": f"announced {turn}"},
        ExpressionAttributeValues={":order": {"L": [{"N": turn[4:]}] * 2}, ":one": {"N": "1"}},
    )
    executions.status[turn] = "RUNNING"
    return turn


class Calls:
    """A client whose next calls can be counted: before the chosen one, something else happens."""

    def __init__(self, dynamodb: Any, executions: Executions) -> None:
        self._clients = (executions, dynamodb)
        self.until: int | None = None
        self.then: Callable[[], None] = lambda: None

    def __getattr__(self, operation: str) -> Any:
        if self.until is not None:
            self.until -= 1
            if self.until < 0:
                self.until = None
                self.then()
        return getattr(self._clients[not hasattr(self._clients[0], operation)], operation)


class Conversation(RuleBasedStateMachine):
    """One conversation: messages arrive, turns work, die, are redriven, and two things happen at once."""

    table: ClassVar[str] = ""
    dynamodb: ClassVar[Any] = None

    def __init__(self) -> None:
        super().__init__()
        self.executions = Executions()
        self.key = f"random{next(_keys)}:0"
        self.calls = cast(Any, Calls(self.dynamodb, self.executions))
        self.locks = LockTable(self.table, dynamodb=self.calls, step_functions=self.calls)
        self.releasing: list[tuple[str, int]] = []

    def _acquire(self, turn: str) -> None:
        self.locks.acquire(self.key, self.executions.ask(turn))

    def _release(self, turn: str, redrive: int) -> None:
        self.locks.release(self.key, turn, redrive)

    def _one(self, turns: list[str], choice: int) -> str | None:
        return turns[choice % len(turns)] if turns else None

    def _living(self, inside: bool) -> list[str]:
        found = self.executions
        return [t for t, status in found.status.items() if status == "RUNNING" and (t in found.inside) is inside]

    def _happens(self, kind: str, choice: int) -> None:
        found = self.executions
        if kind == "message":
            self._acquire(start(found, self.calls, self.table, self.key))
        elif kind == "try again" and (turn := self._one(self._living(inside=False), choice)):
            self._acquire(turn)
        elif kind == "finish" and (turn := self._one(self._living(inside=True), choice)):
            found.leave(turn, "SUCCEEDED")
            self.releasing.append((turn, found.redrives[turn]))
            self._release(turn, found.redrives[turn])
        elif kind == "die" and (turn := self._one(self._living(inside=choice % 2 == 0), choice)):
            found.leave(turn, "ABORTED")
            self.releasing.append((turn, found.redrives[turn]))
        elif kind == "event" and self.releasing:
            self._release(*self.releasing[choice % len(self.releasing)])
        elif kind == "redrive":
            dead = [t for t, status in found.status.items() if status == "ABORTED"]
            if turn := self._one(dead, choice):
                found.redrive(turn)
                self._acquire(turn)

    KINDS = st.sampled_from(["message", "message", "try again", "finish", "finish", "die", "event", "redrive"])

    @rule(kind=KINDS, choice=st.integers(0, 7))
    def one_thing_happens(self, kind: str, choice: int) -> None:
        self._happens(kind, choice)

    @rule(kinds=st.tuples(KINDS, KINDS), choices=st.tuples(st.integers(0, 7), st.integers(0, 7)), at=st.integers(0, 7))
    def two_things_happen_at_once(self, kinds: tuple[str, str], choices: tuple[int, int], at: int) -> None:
        self.calls.until, self.calls.then = at, lambda: self._happens(kinds[1], choices[1])
        self._happens(kinds[0], choices[0])
        self.calls.until = None

    @invariant()
    def at_most_one_is_inside_and_the_item_says_who(self) -> None:
        lock, _ = self.locks.read(self.key)
        assert len(self.executions.inside) <= 1
        for turn, fence in self.executions.inside.items():
            assert lock.owner is not None
            assert (lock.owner.turn_id, lock.fence) == (turn, fence)

    @invariant()
    def the_lock_knows_every_token_that_is_waited_for(self) -> None:
        lock, _ = self.locks.read(self.key)
        for token, turn in self.executions.tokens.items():
            claim = claim_of(lock, turn)
            assert claim is not None
            assert claim.token == token

    def teardown(self) -> None:
        """Everybody looks again, finishes and is done: nobody is left, and the lock is free."""
        for _ in range(2 * len(self.executions.status) + 2):
            if not self._living(inside=True):
                for turn in self._living(inside=False):
                    if turn not in self.executions.inside:
                        self._acquire(turn)
            self._happens("finish", 0)
        for turn, redrive in self.releasing:
            self._release(turn, redrive)
        lock, _ = self.locks.read(self.key)
        assert self._living(inside=False) == self._living(inside=True) == []
        assert (lock.owner, lock.waiters) == (None, ())


def test_long_random_runs_keep_the_lock(stack: EmbeddedStack) -> None:
    Conversation.table = stack.deployment.outputs["SessionTable"]
    Conversation.dynamodb = client("dynamodb", stack.addresses.aws)

    run_state_machine_as_test(
        Conversation,
        settings=settings(
            max_examples=30,
            stateful_step_count=20,
            deadline=timedelta(seconds=60),
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def test_turns_of_many_threads_are_let_in_one_by_one_in_order(stack: EmbeddedStack) -> None:
    table, dynamodb = stack.deployment.outputs["SessionTable"], client("dynamodb", stack.addresses.aws)
    executions = Executions()
    locks = LockTable(table, dynamodb, executions)  # type: ignore[arg-type]
    key = f"random{next(_keys)}:0"
    turns = [start(executions, dynamodb, table, key) for _ in range(12)]
    order = []

    def run(turn: str) -> None:
        locks.acquire(key, executions.ask(turn))
        executions.wait(turn)
        order.append(turn)
        executions.leave(turn, "SUCCEEDED")
        locks.release(key, turn, 0)

    with ThreadPoolExecutor(len(turns)) as pool:
        for future in [pool.submit(run, turn) for turn in reversed(turns)]:
            future.result()

    lock, _ = locks.read(key)
    assert order == turns
    assert (lock.owner, lock.waiters, lock.announced) == (None, (), ())
