"""Persist: make the turn's snapshot visible, in one conditional write, once."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from functions.common import aws
from functions.common.links import Links, links
from functions.common.observability import StepRequest, step
from functions.common.settings import BudgetSettings, LedgerSettings, SessionSettings
from functions.conversation.budget import crossed
from functions.conversation.files.snapshots import Snapshots
from functions.conversation.ledger import settle
from functions.conversation.sessions import Commit, Pointer, SessionTable


class PersistSettings(SessionSettings, BudgetSettings, LedgerSettings):
    """What this state reads from its environment."""


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


class Budget(BaseModel):
    """A budget that is nearly spent, by its name in the catalogue."""

    name: str
    spent_usd: float
    limit_usd: float


class Result(BaseModel):
    """The version the conversation is at now; `superseded` when it was reset while the turn ran.

    `budgets` are those that this turn took over the line where people are warned, `links` where an operator looks.
    """

    status: Literal["committed", "superseded"]
    version: int
    budgets: list[Budget]
    links: Links


@step(Request)
def handler(request: Request) -> Result:
    """Commit what this turn made of the version it was given.

    Raises ResultRefused, SnapshotMissing when that is not what the manifest says, and LockLost when another turn owns
    the lock; then nothing is written.
    """
    settings, given = PersistSettings.load(), request.session
    manifest = Snapshots(settings.bucket, aws.s3()).manifest(request.manifest)
    manifest.follows(given.session_id, given.version, given.manifest, request.turn_id)
    table = SessionTable(settings.table, aws.dynamodb(), settings.session_ttl_days)
    base = Pointer.model_validate(given.model_dump())
    status = table.commit(
        request.session_key,
        Commit(
            turn_id=request.turn_id,
            fence=request.fence,
            base=base,
            manifest=request.manifest,
            cost_usd=manifest.cost_usd,
            execution_arn=request.execution_arn,
        ),
    )
    cost = settle(settings, request.session_key, request.turn_id, answered=True)
    return Result(
        status=status,
        version=base.version + 1 if status == "committed" else base.version,
        budgets=[
            Budget(name=budget.name, spent_usd=round(budget.spent, 2), limit_usd=budget.limit)
            for budget in crossed(settings, request.session_key, cost)
        ],
        links=links(request.turn_id, request.session_key, base.session_id),
    )
