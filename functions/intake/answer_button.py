"""AnswerButton: a pressed inline button. No message of this version carries one, so an old one is told to be dead."""

from __future__ import annotations

from functions.common.errors import BadInput, TelegramRefused
from functions.common.observability import logger
from functions.common.settings import IntakeSettings
from functions.common.telegram import bot_api
from functions.common.texts import say
from functions.intake.request import Outcome, Request


def run(request: Request) -> Outcome:
    """Answer the callback query, so that the client stops its spinner."""
    button = request.envelope.button
    if button is None:
        raise BadInput("envelope.button: missing")
    try:
        bot_api(IntakeSettings.load()).call(
            "answerCallbackQuery",
            {"callback_query_id": button.id, "text": say("button_gone", request.language)},
        )
    except TelegramRefused as error:
        logger.warning("the callback query is too old to answer", cause=str(error))
    return Outcome(outcome="button")
