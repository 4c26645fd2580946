"""Persist: make the turn's snapshot visible, in one conditional write, once."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from functions.common import aws
from functions.common.observability import StepRequest, step
from functions.common.sessions import Commit, Pointer, SessionTable
from functions.common.settings import SessionSettings


class SessionState(BaseModel):
    """The session as Hydrate found it."""

    session_id: str
    version: int
    manifest: str | None


class Request(StepRequest):
    """What to make visible, and the fence under which it was made."""

    execution_arn: str
    fence: int
    session: SessionState
    manifest: str
    session_cost_usd: float


class Result(BaseModel):
    """The version the conversation is at now; `superseded` when it was reset while the turn ran."""

    status: Literal["committed", "superseded"]
    version: int


@step(Request)
def handler(request: Request) -> Result:
    """Commit. Raises LockLost when another turn owns the lock; then nothing is written."""
    settings = SessionSettings.load()
    table = SessionTable(settings.table, aws.dynamodb(), settings.session_ttl_days)
    base = Pointer.model_validate(request.session.model_dump())
    status = table.commit(
        request.session_key,
        Commit(
            turn_id=request.turn_id,
            fence=request.fence,
            base=base,
            manifest=request.manifest,
            cost_usd=request.session_cost_usd,
            execution_arn=request.execution_arn,
        ),
    )
    return Result(status=status, version=base.version + 1 if status == "committed" else base.version)
