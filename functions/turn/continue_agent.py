"""ContinueAgent: the agent goes on, since its time was up before it was done, or since a tool call was decided.

Nothing is visible before Persist: the next part starts from this part's candidate snapshot.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from functions.common import aws
from functions.common.execution import redrive_count
from functions.common.observability import StepRequest, logger, step
from functions.common.settings import LedgerSettings, SessionSettings
from functions.conversation.approvals import ApprovalTable, Decision
from functions.conversation.files.documents import InboxFile
from functions.conversation.ledger import settle
from functions.conversation.lock import Held
from functions.conversation.sessions import SessionTable
from functions.conversation.verdict import remember


class ContinueSettings(LedgerSettings, SessionSettings):
    """What this state reads from its environment."""


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
    approval_seconds: int
    inbox: list[InboxFile]
    captions: list[str]
    model: str | None
    verbose: int


class Run(BaseModel):
    """`$.run`: how the last part ended, and the snapshot it staged."""

    status: Literal["continue", "approval"]
    manifest: str


class Turn(BaseModel):
    """The state of the turn."""

    session: SessionState
    run: Run


class Request(StepRequest):
    """The turn and its lock."""

    turn: Turn
    lock: Held
    execution: dict[str, Any]


class Result(SessionState):
    """`$.session` for the next part."""

    going_on: str
    allowed: tuple[str, ...]
    decision: Decision | None


@step(Request)
def handler(request: Request) -> Result:
    """The session for the next part. Raises LockLost when the execution was redriven since it got the lock."""
    request.lock.check(redrive_count(request.execution))
    settings, turn = ContinueSettings.load(), request.turn
    session = turn.session
    settle(settings, request.session_key, request.turn_id, answered=True)
    table = SessionTable(settings.table, aws.dynamodb(), settings.session_ttl_days)
    decision = _decision(request, settings) if turn.run.status == "approval" else None
    if decision is not None:
        remember(table, request.session_key, session.session_id, decision)
    preferences = table.preferences(request.session_key)
    logger.info("the agent goes on", part=session.part + 1)
    return Result(
        **session.model_dump(exclude={"part"}),
        part=session.part + 1,
        going_on=turn.run.manifest,
        allowed=preferences.allowed_tools(session.session_id),
        decision=decision,
    )


def _decision(request: Request, settings: ContinueSettings) -> Decision:
    """What was decided first, as the table has it: whoever wakes the turn wrote it there before."""
    approvals = ApprovalTable(settings.table, aws.dynamodb(), aws.step_functions())
    return approvals.decide(request.session_key, request.turn_id, request.turn.session.part, Decision(choice="timeout"))
