"""Refuse: say why the bot does not take this message. Somebody who may not talk gets a pairing code, once an hour."""

from __future__ import annotations

from functions.common import aws
from functions.common.errors import BadInput, ChannelRefused
from functions.common.observability import logger
from functions.conversation.admission import Admission
from functions.intake.request import IntakeSettings, Outcome, Request, tell


def run(request: Request) -> Outcome:
    """Tell the reason; a chat that refuses to hear it is left alone."""
    envelope = request.envelope
    if envelope.reason is None or envelope.chat is None or envelope.user is None:
        raise BadInput("envelope: a refusal needs reason, chat and user")
    code: str | None = ""
    if envelope.reason == "not_allowed":
        code = Admission(IntakeSettings.load().table, aws.dynamodb()).pair(envelope.user.id, envelope.user.name)
    if code is None:
        return Outcome(outcome=f"refused {envelope.reason} before")
    try:
        tell(request, envelope.reason, user=envelope.user.id, chat=envelope.chat.id, code=code)
    except ChannelRefused as error:
        logger.warning("the refusal cannot be told", cause=str(error))
    return Outcome(outcome=f"refused {envelope.reason}")
