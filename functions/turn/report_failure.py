"""ReportFailure: tell the chat that its message was not answered, and note where the turn stands for a redrive."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from functions.common import aws
from functions.common.delivery import Delivery
from functions.common.envelope import Chat
from functions.common.errors import TelegramRefused
from functions.common.observability import StepRequest, logger, step
from functions.common.sessions import SessionTable
from functions.common.settings import NoticeSettings
from functions.common.telegram import bot_api
from functions.common.texts import say


class Failure(BaseModel):
    """What a Catch puts into the state: Step Functions' own names."""

    Error: str
    Cause: str = ""


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
    notice = f"failure{redrives}"
    text = say("failed", request.language, error=request.error.Error, turn=request.turn_id)
    try:
        delivery.text(notice, text)
    except TelegramRefused as error:
        logger.warning("the chat refuses the failure notice", cause=str(error))
    sent = [message_id for part, message_id in delivery.sent.items() if part.startswith(f"{notice}.")]
    return Result(
        error=request.error.Error,
        cause=readable_cause(request.error.Cause),
        redrive_count=redrives,
        message_ids=sent,
    )


def redrive_count(execution: dict[str, Any]) -> int:
    """How often the execution was redriven; the field is absent before the first time."""
    return int(execution.get("RedriveCount", 0))


def readable_cause(cause: str) -> str:
    """The message inside a Lambda function's error document, or the cause as it is."""
    try:
        document = json.loads(cause)
    except ValueError:
        return cause
    return str(document.get("errorMessage", cause)) if isinstance(document, dict) else cause
