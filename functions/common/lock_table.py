"""The lock's I/O: one DynamoDB item per conversation, written by compare-and-set; tokens answered afterwards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from functions.common.errors import LockContended
from functions.common.lock import Acquire, Claim, Effect, Event, Grant, Lock, Release, Remind, transition
from functions.common.observability import logger

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_stepfunctions import SFNClient

ATTEMPTS = 50
"""Compare-and-set attempts before giving up: far more than turns that can collide in one conversation."""

SETTLED = timedelta(seconds=5)
"""DescribeExecution is eventually consistent: an owner that ended more recently is left to its own release."""

DEAD_TOKEN = ("TaskDoesNotExist", "TaskTimedOut", "InvalidToken")
"""Errors of SendTaskSuccess that mean: nobody waits for this token (Step Functions API, SendTaskSuccess)."""


class LockTable:
    """The locks of all conversations, in the table's `sk = "lock"` items."""

    def __init__(self, table: str, dynamodb: DynamoDBClient, step_functions: SFNClient) -> None:
        self._table = table
        self._dynamodb = dynamodb
        self._step_functions = step_functions

    def acquire(self, session_key: str, claim: Claim) -> Lock:
        """Own the lock or wait for it; the turn hears by its task token either way."""
        lock, _ = self.read(session_key)
        ended = lock.owner.turn_id if self._has_ended(lock.owner, claim.turn_id) and lock.owner else None
        return self._apply(session_key, Acquire(claim=claim, ended_owner=ended))

    def release(self, session_key: str, turn_id: str) -> Lock:
        """Give the lock (or the place in its queue) back and tell the next turn."""
        return self._apply(session_key, Release(turn_id=turn_id))

    def read(self, session_key: str) -> tuple[Lock, int]:
        """The lock and the item's version (0: no item yet)."""
        found = self._dynamodb.get_item(TableName=self._table, Key=_key(session_key), ConsistentRead=True)
        item = found.get("Item")
        if item is None:
            return Lock(), 0
        return Lock.model_validate_json(item["lock"]["S"]), int(item["version"]["N"])

    def _apply(self, session_key: str, event: Event) -> Lock:
        for _ in range(ATTEMPTS):
            before, version = self.read(session_key)
            after, effects = transition(before, event)
            if after == before or self._write(session_key, after, version):
                return self._tell(session_key, after, effects)
        raise LockContended(f"{session_key}: the lock changed {ATTEMPTS} times while {event!r} was tried")

    def _write(self, session_key: str, lock: Lock, version: int) -> bool:
        owner = {"owner": {"S": lock.owner.turn_id}} if lock.owner else {}
        try:
            self._dynamodb.put_item(
                TableName=self._table,
                Item={
                    **_key(session_key),
                    **owner,
                    "fence": {"N": str(lock.fence)},
                    "lock": {"S": lock.model_dump_json()},
                    "version": {"N": str(version + 1)},
                },
                ConditionExpression="attribute_not_exists(pk) OR version = :version",
                ExpressionAttributeValues={":version": {"N": str(version)}},
            )
        except ClientError as error:
            if error.response["Error"]["Code"] == "ConditionalCheckFailedException":
                return False
            raise
        return True

    def _tell(self, session_key: str, lock: Lock, effects: Sequence[Effect]) -> Lock:
        for effect in effects:
            heard = self._send(effect)
            if not heard and isinstance(effect, Grant):
                logger.warning("a waiter is gone, the lock goes on", waiter=effect.turn_id)
                return self.release(session_key, effect.turn_id)
        return lock

    def _send(self, effect: Grant | Remind) -> bool:
        output = json.dumps({"fence": effect.fence, "granted_at": datetime.now(UTC).isoformat(timespec="seconds")})
        try:
            self._step_functions.send_task_success(taskToken=effect.token, output=output)
        except ClientError as error:
            if error.response["Error"]["Code"] in DEAD_TOKEN:
                return False
            raise
        return True

    def _has_ended(self, owner: Claim | None, asking: str) -> bool:
        if owner is None or owner.turn_id == asking:
            return False
        try:
            execution = self._step_functions.describe_execution(executionArn=owner.execution_arn)
        except ClientError as error:
            if error.response["Error"]["Code"] == "ExecutionDoesNotExist":
                return True
            raise
        stopped = execution.get("stopDate")
        return execution["status"] != "RUNNING" and stopped is not None and datetime.now(UTC) - stopped > SETTLED


def _key(session_key: str) -> dict[str, dict[str, str]]:
    return {"pk": {"S": session_key}, "sk": {"S": "lock"}}
