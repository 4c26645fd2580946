"""ContinueAgent: Lambda's time was up before the agent was done; the turn goes on from what it staged.

Nothing is visible before Persist: the next part starts from this part's candidate snapshot, with fresh credentials.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from functions.common.access import seal
from functions.common.execution import redrive_count
from functions.common.lock import Held
from functions.common.observability import StepRequest, logger, step
from functions.common.settings import AccessSettings


class SessionState(BaseModel):
    """`$.session` as Hydrate made it."""

    model_config = ConfigDict(frozen=True)

    session_id: str
    version: int
    manifest: str | None
    segments: int
    files: int
    committed: bool
    notice: Literal["session_lost"] | None
    part: int
    progress: str


class Request(StepRequest):
    """The session, and the snapshot the last part staged."""

    session: SessionState
    staged: str
    lock: Held
    execution: dict[str, Any]


class Result(SessionState):
    """`$.session` for the next part."""

    going_on: str
    access: str


@step(Request)
def handler(request: Request) -> Result:
    """The session for the next part. Raises LockLost when the execution was redriven since it got the lock."""
    request.lock.check(redrive_count(request.execution))
    session = request.session
    logger.info("the agent goes on", part=session.part + 1)
    return Result(
        **session.model_dump(exclude={"part"}),
        part=session.part + 1,
        going_on=request.staged,
        access=seal(AccessSettings.load(), session.session_id, request.turn_id),
    )
