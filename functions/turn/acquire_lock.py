"""AcquireLock: own the conversation's lock, or leave the task token in its queue and sleep at no cost."""

from __future__ import annotations

from pydantic import BaseModel

from functions.common import aws
from functions.common.lock import Claim
from functions.common.lock_table import LockTable
from functions.common.observability import StepRequest, step
from functions.common.settings import LockSettings


class Request(StepRequest):
    """The turn, its place in the order, and the token that wakes it."""

    message_id: int
    update_id: int
    token: str
    execution_arn: str


class Result(BaseModel):
    """What the console shows of the submitted task; the turn goes on when its token is answered."""

    owner: str | None
    waiting: int


@step(Request)
def handler(request: Request) -> Result:
    """Queue the turn; whoever owns the lock in the end is told by its token."""
    settings = LockSettings.load()
    claim = Claim(
        turn_id=request.turn_id,
        order=(request.message_id, request.update_id),
        token=request.token,
        execution_arn=request.execution_arn,
    )
    locks = LockTable(settings.table, aws.dynamodb(), aws.step_functions())
    lock = locks.acquire(request.session_key, claim)
    return Result(owner=lock.owner.turn_id if lock.owner else None, waiting=len(lock.waiters))
