"""ReleaseLock and ReleaseFailedLock: hand the lock to the next waiting turn, or leave it free."""

from __future__ import annotations

from pydantic import BaseModel

from functions.common import aws
from functions.common.lock_table import LockTable
from functions.common.observability import StepRequest, step
from functions.common.settings import LockSettings


class Result(BaseModel):
    """Who owns the lock now, and how many wait."""

    owner: str | None
    waiting: int


@step(StepRequest)
def handler(request: StepRequest) -> Result:
    """Release; a turn that neither owns nor waits changes nothing."""
    return release(request.session_key, request.turn_id)


def release(session_key: str, turn_id: str) -> Result:
    """Release the lock of `session_key` on behalf of `turn_id`."""
    locks = LockTable(LockSettings.load().table, aws.dynamodb(), aws.step_functions())
    lock = locks.release(session_key, turn_id)
    return Result(owner=lock.owner.turn_id if lock.owner else None, waiting=len(lock.waiters))
