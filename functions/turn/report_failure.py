"""ReportFailure: tell the chat that its message was not answered, and note where the turn stands for a redrive."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from functions.common import aws
from functions.common.delivery import Delivery
from functions.common.envelope import Chat, rerun_data
from functions.common.errors import TelegramRefused
from functions.common.execution import Failure, readable_cause, redrive_count
from functions.common.observability import StepRequest, logger, step
from functions.common.sessions import SessionTable
from functions.common.settings import NoticeSettings
from functions.common.telegram import bot_api
from functions.common.texts import say

TEXTS = {"TooManyWaiting": "too_many_waiting"}
"""Errors with a notice of their own."""


class Request(StepRequest):
    """The failure and the execution as Step Functions knows it (`$$.Execution`)."""

    chat: Chat
    message_id: int
    language: str
    error: Failure
    execution: dict[str, Any]


class Result(BaseModel):
    """`redrive_count` at the time of the failure: TurnFailed lets the turn pass only when it has grown."""

    error: str
    cause: str
    redrive_count: int
    message_ids: list[int]


@step(Request)
def handler(request: Request) -> Result:
    """Send the notice once for each failure. A chat that refuses it does not stop the release of the lock."""
    settings = NoticeSettings.load()
    redrives = redrive_count(request.execution)
    table = SessionTable(settings.table, aws.dynamodb())
    delivery = Delivery(
        bot_api(settings), table, request.session_key, request.turn_id, request.chat, request.message_id
    )
    text = say(
        TEXTS.get(request.error.Error, "failed"), request.language, error=request.error.Error, turn=request.turn_id
    )
    button = {"text": say("run_again", request.language), "callback_data": rerun_data(request.turn_id)}
    sent = []
    try:
        sent.append(delivery.notice(redrives, text, {"inline_keyboard": [[button]]}))
    except TelegramRefused as error:
        logger.warning("the chat refuses the failure notice", cause=str(error))
    return Result(
        error=request.error.Error,
        cause=readable_cause(request.error.Cause),
        redrive_count=redrives,
        message_ids=sent,
    )
