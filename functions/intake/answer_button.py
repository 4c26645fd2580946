"""AnswerButton: a pressed inline button. "Run again" under a failure notice redrives the turn that failed."""

from __future__ import annotations

from botocore.exceptions import ClientError

from functions.common import aws
from functions.common.envelope import Button, Chat, rerun_turn
from functions.common.errors import BadInput, TelegramRefused
from functions.common.observability import logger
from functions.common.sessions import SessionTable
from functions.common.settings import IntakeSettings
from functions.common.telegram import BotApi, bot_api
from functions.common.texts import say
from functions.intake.request import Outcome, Request

PART = "rerun"
"""The ledger's name for a press that was carried out; Telegram may deliver it again."""


def run(request: Request) -> Outcome:
    """Carry the button out and say what became of it, so that the client stops its spinner."""
    button, chat = request.envelope.button, request.envelope.chat
    if button is None or chat is None:
        raise BadInput("envelope: a button needs button and chat")
    settings = IntakeSettings.load()
    turn = rerun_turn(button.data, chat)
    text = "button_gone" if turn is None else _run_again(request, settings, turn, button)
    bot = bot_api(settings)
    if text in ("running_again", "already_answered"):
        _take_away(bot, chat, button)
    parameters = {"callback_query_id": button.id, "text": say(text, request.language), "show_alert": text == "too_old"}
    try:
        bot.call("answerCallbackQuery", parameters)
    except TelegramRefused as error:
        logger.warning("the callback query is too old to answer", cause=str(error))
    return Outcome(outcome=f"button {text}")


def _run_again(request: Request, settings: IntakeSettings, turn: str, button: Button) -> str:
    """Redrive the turn, once for this press; returns the text that says what became of it."""
    table = SessionTable(settings.table, aws.dynamodb())
    if PART in table.turn(request.session_key, request.turn_id).delivered:
        return "running_again"
    arn = f"{settings.turn_arn.replace(':stateMachine:', ':execution:')}:{turn}"
    step_functions = aws.step_functions()
    try:
        step_functions.redrive_execution(executionArn=arn)
    except ClientError as error:
        if error.response["Error"]["Code"] == "ExecutionDoesNotExist":
            return "too_old"
        if error.response["Error"]["Code"] != "ExecutionNotRedrivable":
            raise
        status = step_functions.describe_execution(executionArn=arn)["status"]
        return {"RUNNING": "already_running", "SUCCEEDED": "already_answered"}.get(status, "too_old")
    table.delivered(request.session_key, request.turn_id, PART, button.message_id)
    return "running_again"


def _take_away(bot: BotApi, chat: Chat, button: Button) -> None:
    """Remove the button. The text is left alone: the turn's answer may stand there already."""
    try:
        bot.call("editMessageReplyMarkup", {"chat_id": chat.id, "message_id": button.message_id})
    except TelegramRefused as error:
        logger.info("the button is gone already", cause=str(error))
