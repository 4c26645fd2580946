"""AnswerButton: a pressed inline button.

"Run again" under a failure notice redrives the turn that failed. The buttons under a question decide on a tool call.
"""

from __future__ import annotations

from functools import partial

from botocore.exceptions import ClientError

from functions.common import aws
from functions.common.envelope import Button, Chat, User, rerun_turn
from functions.common.errors import BadInput, TelegramRefused
from functions.common.observability import logger
from functions.common.settings import IntakeSettings
from functions.conversation.approvals import (
    ApprovalTable,
    Choice,
    Decision,
    Question,
    button_question,
    may_decide,
)
from functions.conversation.sessions import SessionTable
from functions.conversation.verdict import settle
from functions.intake.request import Outcome, Request
from functions.telegram.bot_api import BotApi, bot_api
from functions.telegram.delivery import DONE, show_verdict

PART = "rerun"
"""The ledger's name for a press that was carried out; Telegram may deliver it again."""


def run(request: Request) -> Outcome:
    """Carry the button out and say what became of it, so that the client stops its spinner."""
    button, chat, user = request.envelope.button, request.envelope.chat, request.envelope.user
    if button is None or chat is None or user is None:
        raise BadInput("envelope: a button needs button, chat and user")
    settings = IntakeSettings.load()
    bot = bot_api(settings)
    turn, asked = rerun_turn(button.data, chat), button_question(button.data, chat)
    if asked is not None:
        text, values = _decide(request, settings, bot, chat, user, asked)
    else:
        text, values = "button_gone" if turn is None else _run_again(request, settings, turn, button), {}
    if text in ("running_again", "already_answered") or (text == "button_gone" and button.data != DONE):
        _take_away(bot, chat, button)
    alert = text in ("too_old", "not_yours")
    parameters = {"callback_query_id": button.id, "text": request.say(text, **values), "show_alert": alert}
    try:
        bot.call("answerCallbackQuery", parameters)
    except TelegramRefused as error:
        logger.warning("the callback query is too old to answer", cause=str(error))
    return Outcome(outcome=f"button {text}")


def _decide(
    request: Request, settings: IntakeSettings, bot: BotApi, chat: Chat, user: User, asked: tuple[Choice, str, int]
) -> tuple[str, dict[str, object]]:
    """Decide on the tool call that waits; returns the text that says what holds, and its values."""
    choice, turn, number = asked
    approvals = ApprovalTable(settings.table, aws.dynamodb(), aws.step_functions())
    waits = approvals.opened(request.session_key, turn, number)
    if waits is None and approvals.decided(request.session_key, turn, number) is None:
        return "button_gone", {}
    if waits is not None and not may_decide(settings.approvers, user.id, waits):
        return "not_yours", {}
    table = SessionTable(settings.table, aws.dynamodb(), settings.session_ttl_days)
    question = Question(request.session_key, turn, number, chat)
    decision = Decision(choice=choice, by=user.name, tool=waits.tool if waits else "")
    held = settle(approvals, table, partial(show_verdict, bot), question, decision, request.language)
    return f"approved_{held.choice}", {"by": held.by}


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
