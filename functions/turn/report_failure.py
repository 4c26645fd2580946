"""ReportFailure: tell the chat that its message was not answered, and note where the turn stands for a redrive."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from functions.channel import closing
from functions.common import aws
from functions.common.envelope import Place
from functions.common.errors import ChannelRefused
from functions.common.execution import Failure, readable_cause, redrive_count
from functions.common.links import Links, links
from functions.common.observability import StepRequest, logger, step
from functions.common.settings import LedgerSettings, TableSettings
from functions.conversation.ledger import settle
from functions.conversation.lock import Held
from functions.conversation.sessions import SessionTable
from functions.conversation.texts import say

TEXTS = {"TooManyWaiting": "too_many_waiting", "BudgetSpent": "budget_spent", "BudgetReserved": "budget_reserved"}
"""Errors with a notice of their own."""


class FailedTurn(StepRequest):
    """A turn and whom to tell, in whose language."""

    chat: Place
    message_id: int
    language: str


class Session(BaseModel):
    """The session, when the turn got so far."""

    session_id: str = ""


class Turn(BaseModel):
    """The state of the turn; `lock` is absent when it failed before it owned one."""

    lock: Held | None = None
    session: Session = Session()


class Request(FailedTurn):
    """The failure, the turn, and the execution as Step Functions knows it (`$$.Execution`)."""

    turn: Turn
    error: Failure
    execution: dict[str, Any]


class Result(BaseModel):
    """`redrive_count` at the time of the failure: TurnFailed lets the turn pass only when it has grown.

    `links` are where an operator looks.
    """

    error: str
    cause: str
    redrive_count: int
    message_ids: list[int]
    links: Links


@step(Request)
def handler(request: Request) -> Result:
    """Send the notice once for each failure. A chat that refuses it does not stop the release of the lock.

    An execution that was stopped here and redriven is not a new failure: nothing is said, and TurnFailed lets it pass.
    """
    redrives = redrive_count(request.execution)
    settle(LedgerSettings.load(), request.session_key, request.turn_id)
    failed = request.turn.lock.redrive_count if request.turn.lock else redrives
    return Result(
        error=request.error.Error,
        cause=readable_cause(request.error.Cause),
        redrive_count=failed,
        message_ids=tell(request, request.error.Error, redrives) if failed == redrives else [],
        links=links(request.turn_id, request.session_key, request.turn.session.session_id),
    )


def tell(turn: FailedTurn, error: str, redrives: int) -> list[int]:
    """Tell the chat, once for each redrive, unless it has its answer; returns the notice's message id, if any."""
    settings = TableSettings.load()
    table = SessionTable(settings.table, aws.dynamodb())
    if table.turn(turn.session_key, turn.turn_id).answered:
        return []
    delivery = closing(turn, turn.chat, turn.message_id, redrives)
    text = say(TEXTS.get(error, "failed"), turn.language, error=error, turn=turn.turn_id)
    try:
        return [delivery.notice(redrives, text, say("run_again", turn.language))]
    except ChannelRefused as refusal:
        logger.warning("the chat refuses the failure notice", cause=str(refusal))
        return []


def stopped(turn: FailedTurn, redrives: int) -> None:
    """Say under the message that its turn was stopped, unless its answer is there."""
    settings = TableSettings.load()
    if SessionTable(settings.table, aws.dynamodb()).turn(turn.session_key, turn.turn_id).answered:
        return
    try:
        closing(turn, turn.chat, turn.message_id, redrives).text("stopped", say("stopped", turn.language))
    except ChannelRefused as error:
        logger.warning("the stop cannot be told", cause=str(error))
