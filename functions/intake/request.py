"""What the Intake's states are given and return, and how they talk to the chat."""

from __future__ import annotations

from pydantic import BaseModel

from functions.common import aws
from functions.common.delivery import Delivery
from functions.common.envelope import Envelope
from functions.common.errors import BadInput
from functions.common.observability import StepRequest
from functions.common.sessions import SessionTable
from functions.common.settings import IntakeSettings
from functions.common.telegram import bot_api
from functions.common.texts import say


class Request(StepRequest):
    """The envelope."""

    envelope: Envelope

    @property
    def language(self) -> str:
        """The user's language."""
        return self.envelope.user.language if self.envelope.user else "en"


class Outcome(BaseModel):
    """What became of the update; the webhook tells Telegram and the log."""

    outcome: str


def tell(request: Request, text: str, /, **values: object) -> None:
    """Say a text of the catalogue in the chat, once for this update."""
    settings = IntakeSettings.load()
    envelope = request.envelope
    if envelope.chat is None:
        raise BadInput("envelope.chat: nowhere to answer")
    reply_to = envelope.message.id if envelope.message else None
    table = SessionTable(settings.table, aws.dynamodb())
    delivery = Delivery(bot_api(settings), table, request.session_key, request.turn_id, envelope.chat, reply_to)
    delivery.text(text, say(text, request.language, **values))
