"""What the Intake's states are given and return, and how they talk to the chat."""

from __future__ import annotations

from pydantic import BaseModel, Field

from functions.channel import Delivery, channel
from functions.common.envelope import Envelope, Place
from functions.common.errors import BadInput
from functions.common.observability import StepRequest
from functions.common.settings import ApprovalSettings, BudgetSettings
from functions.conversation.texts import say


class IntakeSettings(ApprovalSettings, BudgetSettings):
    """What the Intake's function reads from its environment."""

    turn_arn: str = Field(alias="TURN_ARN", description="ARN of the Turn state machine")
    console_url: str = Field(
        "stepgram show {name}",
        alias="CONSOLE_URL",
        description="Where an operator sees an execution: an address with {arn} or {name}",
    )


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


def delivery(request: Request, place: Place) -> Delivery:
    """What this update sends into a place, with the update's ledger."""
    message, here = request.envelope.message, place == request.envelope.chat
    return channel(place).delivery(request, place, message.id if message and here else None)
