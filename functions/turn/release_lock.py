"""ReleaseLock and ReleaseFailedLock: hand the lock to the next waiting turn, or leave it free."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from functions.common import aws
from functions.common.execution import redrive_count
from functions.common.observability import StepRequest, step
from functions.common.settings import TableSettings
from functions.conversation.lock_table import LockTable


class Request(StepRequest):
    """The turn and its execution (`$$.Execution`): only a lock of this redrive, or an earlier one, is released."""

    execution: dict[str, Any]


class Result(BaseModel):
    """Who owns the lock now, and how many wait."""

    owner: str | None
    waiting: int


@step(Request)
def handler(request: Request) -> Result:
    """Release; a turn that neither owns nor waits changes nothing."""
    locks = LockTable(TableSettings.load().table, aws.dynamodb(), aws.step_functions())
    lock = locks.release(request.session_key, request.turn_id, redrive_count(request.execution))
    return Result(owner=lock.owner.turn_id if lock.owner else None, waiting=len(lock.waiters))
