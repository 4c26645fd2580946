"""AcquireLock: own the conversation's lock, or leave the task token in its queue and sleep at no cost."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from functions.common import aws
from functions.common.execution import redrive_count
from functions.common.lock import Claim
from functions.common.lock_table import LockTable
from functions.common.observability import StepRequest, step
from functions.common.settings import LockSettings


class Entry(BaseModel):
    """This visit of the state (`$$.State`): when it was entered, and how often it was retried since."""

    EnteredTime: str
    RetryCount: int = 0


class Request(StepRequest):
    """The turn, its place in the order, and the token that wakes it."""

    message_id: int
    update_id: int
    token: str
    execution: dict[str, Any]
    entry: Entry


class Result(BaseModel):
    """What the console shows of the submitted task; the turn goes on when its token is answered."""

    owner: str | None
    waiting: int


@step(Request)
def handler(request: Request) -> Result:
    """Queue the turn; whoever owns the lock in the end is told by its token."""
    claim = Claim(
        turn_id=request.turn_id,
        order=(request.message_id, request.update_id),
        sequence=(redrive_count(request.execution), request.entry.EnteredTime, request.entry.RetryCount),
        token=request.token,
        execution_arn=request.execution["Id"],
    )
    locks = LockTable(LockSettings.load().table, aws.dynamodb(), aws.step_functions())
    lock = locks.acquire(request.session_key, claim)
    return Result(owner=lock.owner.turn_id if lock.owner else None, waiting=len(lock.waiters))
