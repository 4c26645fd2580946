"""AcquireLock: own the conversation's lock, or leave the task token in its queue and sleep at no cost."""

from __future__ import annotations

import time
from typing import Any

from pydantic import BaseModel, Field

from functions.common import aws
from functions.common.envelope import Place
from functions.common.execution import Entry, redrive_count, seconds_since
from functions.common.observability import StepRequest, measure, step
from functions.common.settings import TableSettings, TicketSettings
from functions.conversation.lock import Claim
from functions.conversation.lock_table import LockTable
from functions.conversation.progress import TICKET_SECONDS, Report, Ticket, issue, tell


class AcquireLockSettings(TableSettings, TicketSettings):
    """What this state reads from its environment: it also tells the chat that the message is taken up."""

    callback_function: str = Field(alias="CALLBACK_FUNCTION", description="The callback's name or ARN")


class Request(StepRequest):
    """The turn, its place in the order, and the token that wakes it."""

    message_id: int
    update_id: int
    token: str
    execution: dict[str, Any]
    entry: Entry
    chat: Place
    language: str


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
    settings = AcquireLockSettings.load()
    lock = LockTable(settings.table, aws.dynamodb(), aws.step_functions()).acquire(request.session_key, claim)
    if request.entry.RetryCount == 0:
        taken_up(request, settings, lock.before(request.turn_id))
    elif lock.owner is not None and lock.owner.turn_id != request.turn_id:
        measure(WaitingSeconds=seconds_since(request.execution["StartTime"]))
    return Result(owner=lock.owner.turn_id if lock.owner else None, waiting=len(lock.waiters))


def taken_up(request: Request, settings: AcquireLockSettings, waiting: int) -> None:
    """Let the chat see that the message is taken up, or how many are before it."""
    ticket = Ticket(
        chat=request.chat,
        message_id=request.message_id,
        language=request.language,
        until=int(time.time()) + TICKET_SECONDS,
        attempt=redrive_count(request.execution),
        started=request.execution["StartTime"],
    )
    sealed = issue(settings.session_key_arn, request.turn_id, request.session_key, ticket)
    keys = {"turn_id": request.turn_id, "session_key": request.session_key, "state": request.state}
    report = Report(**keys, ticket=sealed, time=time.time_ns() // 1_000_000, waiting=waiting)
    tell(settings.callback_function, report)
