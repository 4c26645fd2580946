"""Long random runs of the lock on DynamoDB (moto), two writers at a time; only Step Functions is played."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from functions.common.lock import Claim
from functions.common.lock_table import LockTable
from stepgram.embedded.client import client
from stepgram.embedded.stack import EmbeddedStack

ARN = "arn:aws:states:us-east-1:123456789012:execution:stepgram-turn:"
_keys = itertools.count()


class Executions:
    """Step Functions as the lock sees it: which tokens are waited for, which executions run. Checks every grant."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.status: dict[str, str] = {}
        self.redrives: dict[str, int] = {}
        self.tokens: dict[str, str] = {}
        self.inside: dict[str, int] = {}
        self.fences: list[int] = []

    def ask(self, turn: str, retry: int) -> str:
        """The turn waits for a new token; earlier ones are dead."""
        with self._lock:
            self.tokens = {token: owner for token, owner in self.tokens.items() if owner != turn}
            token = f"{turn}/{self.redrives[turn]}/{retry}"
            self.tokens[token] = turn
            return token

    def leave(self, turn: str, status: str) -> None:
        """The turn's execution ends."""
        with self._lock:
            self.status[turn] = status
            self.inside.pop(turn, None)
            self.tokens = {token: owner for token, owner in self.tokens.items() if owner != turn}

    def send_task_success(self, taskToken: str, output: str) -> None:
        with self._lock:
            turn = self.tokens.pop(taskToken, None)
            if turn is None:
                raise ClientError({"Error": {"Code": "TaskTimedOut", "Message": "dead"}}, "SendTaskSuccess")
            fence = json.loads(output)["fence"]
            assert not self.inside, f"{turn} was let in while {self.inside} is inside"
            assert not self.fences or fence > self.fences[-1], f"fence {fence} after {self.fences[-1]}"
            self.inside[turn] = fence
            self.fences.append(fence)

    def describe_execution(self, executionArn: str) -> dict[str, Any]:
        turn = executionArn.rpartition(":")[2]
        with self._lock:
            if turn not in self.status:
                raise ClientError({"Error": {"Code": "ExecutionDoesNotExist", "Message": "none"}}, "DescribeExecution")
            return {"status": self.status[turn], "redriveCount": self.redrives[turn]}


class Conversation(RuleBasedStateMachine):
    """One conversation: messages arrive, turns work, die, are redriven, and two things happen at once."""

    table: ClassVar[str] = ""
    dynamodb: ClassVar[Any] = None

    def __init__(self) -> None:
        super().__init__()
        self.executions = Executions()
        self.key = f"random{next(_keys)}:0"
        self.locks = LockTable(self.table, self.dynamodb, self.executions)  # type: ignore[arg-type]
        self.retries: dict[str, int] = {}
        self.releasing: list[tuple[str, int]] = []

    def _start(self) -> str:
        number = len(self.retries)
        turn = f"turn{number:03}"
        self.dynamodb.update_item(
            TableName=self.table,
            Key={"pk": {"S": self.key}, "sk": {"S": "lock"}},
            UpdateExpression="SET #turn = :order ADD version :one",
            ExpressionAttributeNames={"#turn": f"announced {turn}"},
            ExpressionAttributeValues={":order": {"L": [{"N": str(number)}] * 2}, ":one": {"N": "1"}},
        )
        self.executions.status[turn], self.executions.redrives[turn], self.retries[turn] = "RUNNING", 0, 0
        return turn

    def _acquire(self, turn: str) -> None:
        retry = self.retries[turn] = self.retries[turn] + 1
        token, redrive, number = self.executions.ask(turn, retry), self.executions.redrives[turn], int(turn[4:])
        self.locks.acquire(
            self.key,
            Claim(
                turn_id=turn,
                order=(number, number),
                sequence=(redrive, "", retry),
                token=token,
                execution_arn=ARN + turn,
            ),
        )

    def _release(self, turn: str, redrive: int) -> None:
        self.locks.release(self.key, turn, redrive)

    def _one(self, turns: list[str], choice: int) -> str | None:
        return turns[choice % len(turns)] if turns else None

    def _living(self, inside: bool) -> list[str]:
        found = self.executions
        return [t for t, status in found.status.items() if status == "RUNNING" and (t in found.inside) is inside]

    def _step(self, kind: str, choice: int) -> Callable[[], None]:
        """One thing that happens; what it changes besides the lock happens now, its writes when it is called."""
        found = self.executions
        if kind == "message":
            turn = self._start()
            return lambda: self._acquire(turn)
        if kind == "try again" and (turn := self._one(self._living(inside=False), choice)):
            return lambda: self._acquire(turn)
        if kind == "finish" and (turn := self._one(self._living(inside=True), choice)):
            redrive = found.redrives[turn]
            found.leave(turn, "SUCCEEDED")
            self.releasing.append((turn, redrive))
            return lambda: self._release(turn, redrive)
        if kind == "die" and (turn := self._one(self._living(inside=choice % 2 == 0), choice)):
            found.leave(turn, "ABORTED")
            self.releasing.append((turn, found.redrives[turn]))
        if kind == "event" and self.releasing:
            turn, redrive = self.releasing[choice % len(self.releasing)]
            return lambda: self._release(turn, redrive)
        dead = [t for t, status in found.status.items() if status == "ABORTED"]
        if kind == "redrive" and (turn := self._one(dead, choice)):
            found.status[turn] = "RUNNING"
            found.redrives[turn] += 1
            self.retries[turn] = 0
            return lambda: self._acquire(turn)
        return lambda: None

    KINDS = st.sampled_from(["message", "message", "try again", "finish", "finish", "die", "event", "redrive"])

    @rule(kind=KINDS, choice=st.integers(0, 7))
    def one_thing_happens(self, kind: str, choice: int) -> None:
        self._step(kind, choice)()

    @rule(kinds=st.tuples(KINDS, KINDS), choices=st.tuples(st.integers(0, 7), st.integers(0, 7)))
    def two_things_happen_at_once(self, kinds: tuple[str, str], choices: tuple[int, int]) -> None:
        steps = [self._step(kind, choice) for kind, choice in zip(kinds, choices, strict=True)]
        with ThreadPoolExecutor(2) as pool:
            for future in [pool.submit(step) for step in steps]:
                future.result()

    @invariant()
    def at_most_one_is_inside_and_the_item_says_who(self) -> None:
        lock, _ = self.locks.read(self.key)
        assert len(self.executions.inside) <= 1
        for turn, fence in self.executions.inside.items():
            assert lock.owner is not None
            assert (lock.owner.turn_id, lock.fence) == (turn, fence)

    def teardown(self) -> None:
        """Everybody looks again, finishes and is done: nobody is left, and the lock is free."""
        for _ in range(2 * len(self.retries) + 2):
            if not self._living(inside=True):
                for turn in self._living(inside=False):
                    self._acquire(turn)
            self._step("finish", 0)()
        for turn, redrive in self.releasing:
            self._release(turn, redrive)
        lock, _ = self.locks.read(self.key)
        assert self._living(inside=False) == self._living(inside=True) == []
        assert (lock.owner, lock.waiters) == (None, ())


@pytest.mark.timeout(300)
def test_long_random_runs_keep_the_lock(stack: EmbeddedStack) -> None:
    Conversation.table = stack.deployment.outputs["SessionTable"]
    Conversation.dynamodb = client("dynamodb", stack.addresses.aws)

    run_state_machine_as_test(
        Conversation,
        settings=settings(
            max_examples=10,
            stateful_step_count=20,
            deadline=timedelta(seconds=60),
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
