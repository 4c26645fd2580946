"""What the Intake's states are given and return, and how they talk to the chat."""

from __future__ import annotations

from pydantic import BaseModel

from functions.common import aws
from functions.common.envelope import Chat, Envelope
from functions.common.errors import BadInput
from functions.common.observability import StepRequest
from functions.common.settings import IntakeSettings
from functions.conversation.sessions import SessionTable
from functions.conversation.texts import say
from functions.telegram.bot_api import bot_api
from functions.telegram.delivery import Delivery


class Request(StepRequest):
    """The envelope."""

    envelope: Envelope

    @property
    def language(self) -> str:
        """The user's language."""
        return self.envelope.user.language if self.envelope.user else "en"

    def say(self, text: str, /, **values: object) -> str:
        """A text of the catalogue in the user's language."""
        return say(text, self.language, **values)


class Outcome(BaseModel):
    """What became of the update; the webhook tells Telegram and the log."""

    outcome: str


def tell(request: Request, text: str, /, **values: object) -> None:
    """Say a text of the catalogue in the chat, once for this update."""
    if request.envelope.chat is None:
        raise BadInput("envelope.chat: nowhere to answer")
    delivery(request, request.envelope.chat).text(text, request.say(text, **values))


def delivery(request: Request, chat: Chat) -> Delivery:
    """What this update sends into a chat, with the update's ledger."""
    settings = IntakeSettings.load()
    table = SessionTable(settings.table, aws.dynamodb(), settings.session_ttl_days)
    reply_to = request.envelope.message.id if request.envelope.message and chat == request.envelope.chat else None
    return Delivery(bot_api(settings), table, request.session_key, request.turn_id, chat, reply_to)
