"""The lock's I/O: one DynamoDB item per conversation, written by compare-and-set; tokens answered afterwards.

    pk = session_key, sk = "lock"     owner, fence (what Persist checks), lock (owner and waiters, JSON), version
    approval                          the question of the owner that is open, JSON (`approvals.py`)
    "announced <turn_id>"             [message_id, update_id], one attribute each, written by the Intake

The Intake adds its attribute and 1 to `version` in one update, so a compare-and-set that read before it fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from functions.common import aws
from functions.common.errors import LockContended
from functions.common.observability import logger
from functions.conversation.lock import (
    Acquire,
    Announce,
    Announcement,
    Approval,
    Claim,
    Effect,
    Ended,
    Event,
    Grant,
    Lock,
    Release,
    in_the_way,
    transition,
)

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_stepfunctions import SFNClient

ATTEMPTS = 100
"""Compare-and-set attempts before giving up: more than turns that can collide in one conversation."""

DEAD_TOKEN = ("TaskDoesNotExist", "TaskTimedOut", "InvalidToken")
"""Errors of SendTaskSuccess that mean: nobody waits for this token (Step Functions API, SendTaskSuccess)."""

ANNOUNCED = "announced "
NEVER_STARTED = 2**31
"""A redrive count no execution reaches: everything of a turn without an execution is forgotten."""


class LockTable:
    """The locks of all conversations."""

    def __init__(self, table: str, dynamodb: DynamoDBClient, step_functions: SFNClient) -> None:
        self._table = table
        self._dynamodb = dynamodb
        self._step_functions = step_functions

    def acquire(self, session_key: str, claim: Claim) -> Lock:
        """Own the lock or wait for it; the turn hears by its task token either way. Raises TooManyWaiting."""
        lock, version = self.read(session_key)
        ended = self._ended(in_the_way(lock, claim), claim.execution_arn)
        return self._apply(session_key, Acquire(claim=claim, ended=ended), (lock, version))

    def announce(self, session_key: str, announcement: Announcement) -> None:
        """Give a turn its place in the queue; the Intake writes this itself unless a question is open."""
        self._apply(session_key, Announce(announcement=announcement), self.read(session_key))

    def release(self, session_key: str, turn_id: str, redrive_count: int) -> Lock:
        """Give the lock (or the place in its queue) back and tell the next turn."""
        lock, version = self.read(session_key)
        ended = self._ended(in_the_way(lock) - {turn_id}, lock.waiters[0].execution_arn) if lock.waiters else ()
        event = Release(turn_id=turn_id, redrive_count=redrive_count, ended=ended)
        return self._apply(session_key, event, (lock, version))

    def read(self, session_key: str) -> tuple[Lock, int]:
        """The lock and the item's version (0: no item yet)."""
        found = self._dynamodb.get_item(TableName=self._table, Key=_key(session_key), ConsistentRead=True)
        item = found.get("Item", {})
        announced = tuple(
            Announcement(turn_id=name.removeprefix(ANNOUNCED), order=(int(value["L"][0]["N"]), int(value["L"][1]["N"])))
            for name, value in sorted(item.items())
            if name.startswith(ANNOUNCED)
        )
        lock = Lock.model_validate_json(item["lock"]["S"]) if "lock" in item else Lock()
        approval = Approval.model_validate_json(item["approval"]["S"]) if "approval" in item else None
        return lock.model_copy(update={"announced": announced, "approval": approval}), int(
            item.get("version", {"N": "0"})["N"]
        )

    def _apply(self, session_key: str, event: Event, read: tuple[Lock, int]) -> Lock:
        """Write what the event makes of the lock: of what was `read`, or of what it is by then."""
        before, version = read
        for _ in range(ATTEMPTS):
            after, effects = transition(before, event)
            if after == before or self._write(session_key, after, version):
                return self._tell(session_key, after, effects)
            before, version = self.read(session_key)
        raise LockContended(f"{session_key}: the lock changed {ATTEMPTS} times while {event!r} was tried")

    def _write(self, session_key: str, lock: Lock, version: int) -> bool:
        item: dict[str, Any] = {
            **_key(session_key),
            "fence": {"N": str(lock.fence)},
            "lock": {"S": lock.model_dump_json(exclude={"announced", "approval"})},
            "version": {"N": str(version + 1)},
            **{f"{ANNOUNCED}{one.turn_id}": {"L": [{"N": str(n)} for n in one.order]} for one in lock.announced},
        }
        if lock.owner is not None:
            item["owner"] = {"S": lock.owner.turn_id}
            if lock.approval is not None and lock.approval.turn_id == lock.owner.turn_id:
                item["approval"] = {"S": lock.approval.model_dump_json()}
        try:
            self._dynamodb.put_item(
                TableName=self._table,
                Item=item,
                ConditionExpression="version = :version" if version else "attribute_not_exists(pk)",
                **({"ExpressionAttributeValues": {":version": {"N": str(version)}}} if version else {}),  # type: ignore[arg-type]
            )
        except ClientError as error:
            aws.refused_item(error)
            return False
        return True

    def _tell(self, session_key: str, lock: Lock, effects: Sequence[Effect]) -> Lock:
        for effect in effects:
            if self._heard(effect) or not isinstance(effect, Grant) or lock.owner is None:
                continue
            gone = self._end(effect.turn_id, lock.owner.execution_arn)
            if gone is not None:
                logger.warning("a waiter is gone, the lock goes on", waiter=effect.turn_id)
                return self.release(session_key, effect.turn_id, gone.redrive_count)
        return lock

    def _heard(self, effect: Effect) -> bool:
        """Answer the token; False when nobody waits for it (any more)."""
        held = effect.held.model_copy(update={"granted_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"})
        try:
            self._step_functions.send_task_success(taskToken=effect.token, output=held.model_dump_json())
        except ClientError as error:
            if error.response["Error"]["Code"] in DEAD_TOKEN:
                return False
            raise
        return True

    def _ended(self, turns: set[str], execution_arn: str) -> tuple[Ended, ...]:
        """Which of the turns that stand in somebody's way have ended; `execution_arn` is any turn's."""
        machine = execution_arn.rpartition(":")[0]
        known = [self._end(turn_id, f"{machine}:{turn_id}") for turn_id in sorted(turns)]
        return tuple(ended for ended in known if ended is not None)

    def _end(self, turn_id: str, execution_arn: str) -> Ended | None:
        try:
            execution = self._step_functions.describe_execution(executionArn=execution_arn)
        except ClientError as error:
            if error.response["Error"]["Code"] == "ExecutionDoesNotExist":
                return Ended(turn_id=turn_id, redrive_count=NEVER_STARTED)
            raise
        if execution["status"] == "RUNNING":
            return None
        return Ended(turn_id=turn_id, redrive_count=execution.get("redriveCount", 0))


def _key(session_key: str) -> dict[str, Any]:
    return {"pk": {"S": session_key}, "sk": {"S": "lock"}}
