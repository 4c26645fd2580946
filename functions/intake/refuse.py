"""Refuse: say why the bot does not take this message."""

from __future__ import annotations

from functions.common.errors import BadInput, TelegramRefused
from functions.common.observability import logger
from functions.intake.request import Outcome, Request, tell


def run(request: Request) -> Outcome:
    """Tell the reason; a chat that refuses to hear it is left alone."""
    envelope = request.envelope
    if envelope.reason is None or envelope.chat is None or envelope.user is None:
        raise BadInput("envelope: a refusal needs reason, chat and user")
    try:
        tell(request, envelope.reason, user=envelope.user.id, chat=envelope.chat.id)
    except TelegramRefused as error:
        logger.warning("the refusal cannot be told", cause=str(error))
    return Outcome(outcome=f"refused {envelope.reason}")
