"""The web as a channel: what the workflow has to say becomes events, which whoever looks reads (`events.py`)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from functions.channel import Answer, Channel, Rerun
from functions.common import aws
from functions.common.envelope import NAME_LIMIT, Attachment, Button, Message, WebChat, conversation_of
from functions.common.errors import AwsUnavailable, BadInput, ChannelError, ChannelRefused, SnapshotMissing, WebRefused
from functions.common.observability import StepRequest, logger
from functions.common.settings import BucketSettings, TableSettings
from functions.conversation.approvals import Question
from functions.conversation.files.snapshots import Snapshots
from functions.conversation.progress import SHOWN_CHARACTERS, ProgressTable, Report, Shown, Ticket
from functions.conversation.sessions import NOTICE, QUESTION, SessionTable
from functions.web.delivery import SENT_BYTES, WebDelivery
from functions.web.events import Decided, EventTable, Withdrawn, Working

PAUSE = 0.25
"""Seconds between two signs of life."""


class Press(BaseModel):
    """What a button of the web carries: a turn to run again, or what is decided of its part `number`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    turn_id: str = Field(max_length=NAME_LIMIT)
    choice: Literal["allow", "always", "deny"] | None = None
    number: int | None = Field(None, ge=0, le=1000)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.choice is None) != (self.number is None):
            raise ValueError("a choice needs the number of its question, and a number a choice")
        return self


class Web:
    """Conversations in a browser, or in whatever else reads their events."""

    sent_bytes = SENT_BYTES

    def delivery(
        self, turn: StepRequest, place: WebChat, reply_to: int | None, shown: Shown | None = None
    ) -> WebDelivery:
        """What a turn says in a conversation."""
        table = SessionTable(TableSettings.load().table, aws.dynamodb())
        said = shown.delivered if shown else table.turn(turn.session_key, turn.turn_id).delivered
        return WebDelivery(events(), snapshots(), turn, said)

    def sign(self, ticket: Ticket, report: Report, table: ProgressTable) -> WebSign:
        """An event that the next one outdates."""
        return WebSign(ticket, report)

    def pause(self, place: WebChat) -> float:
        """Seconds between two signs."""
        return PAUSE

    def verdict(self, question: Question, message_id: int, text: str) -> None:
        """An event that closes the question."""
        decided = Decided(number=question.number, text=text)
        try:
            events().append(question.session_key, question.turn_id, decided, f"{QUESTION}{question.number}.decided")
        except (ChannelError, AwsUnavailable) as error:
            logger.info("the question does not show the decision", cause=str(error))

    def press(self, button: Button, place: WebChat) -> Rerun | Answer | None:
        """What its data says, when its turn is one of this conversation."""
        try:
            wanted = Press.model_validate_json(button.data)
            if conversation_of(wanted.turn_id) != place.session_key:
                return None
        except (ValidationError, BadInput):
            return None
        if wanted.choice is None or wanted.number is None:
            return Rerun(wanted.turn_id)
        return Answer(wanted.choice, wanted.turn_id, wanted.number)

    def acknowledge(self, button: Button, text: str, alert: bool) -> None:
        """Whoever pressed it hears the Intake's answer."""

    def withdraw(self, button: Button, place: WebChat) -> None:
        """An event that says so."""
        wanted, part = self.press(button, place), f"{NOTICE}.withdrawn{button.message_id}"
        if wanted is None:
            return
        try:
            events().append(place.session_key, wanted.turn_id, Withdrawn(event=button.message_id), part)
        except ChannelRefused as error:
            logger.info("the button is gone already", cause=str(error))

    def messages(self, session_key: str, turn_id: str, message: Message) -> tuple[Message, ...]:
        """Each message carries all that belongs to it."""
        return (message,)

    def joins(self, session_key: str, turn_id: str, message: Message) -> bool:
        """Each message has a turn of its own."""
        return True

    def fetch(self, session_key: str, attachment: Attachment) -> bytes:
        """A file that was uploaded in this conversation, from where the API put it."""
        try:
            return snapshots().get(received_key(session_key, attachment.file_id), SENT_BYTES)
        except SnapshotMissing as error:
            raise WebRefused("the uploaded file is gone") from error

    def leave(self, place: WebChat) -> None:
        """Nobody can add the bot to a conversation of the web."""


class WebSign:
    """One sign of life, as an event."""

    def __init__(self, ticket: Ticket, report: Report) -> None:
        self._ticket = ticket
        self._report = report

    def show(self, shown: Shown) -> int | None:
        """Write the event; there is no message to take away. Raises ChannelError."""
        report, tool = self._report, self._report.tool
        working = Working(
            text=report.text[-SHOWN_CHARACTERS:],
            tool=tool.name if tool else "",
            detail=(tool.detail or tool.brief) if tool and self._ticket.verbose else "",
            busy=report.busy,
            waiting=report.waiting,
        )
        try:
            events().append(report.session_key, report.turn_id, working)
        except AwsUnavailable as error:
            raise ChannelError(str(error)) from error
        return None

    def delete(self, message_id: int) -> None:
        """What comes next outdates it."""


def received_key(session_key: str, upload: str) -> str:
    """Where an upload is kept; its id is a name of its own, and leads nowhere else."""
    return f"sessions/web/{session_key}/received/{upload.replace('/', '_')}"


def events() -> EventTable:
    """The events of this stack."""
    return EventTable(TableSettings.load().table, aws.dynamodb())


def snapshots() -> Snapshots:
    """The bucket of this stack."""
    return Snapshots(BucketSettings.load().bucket, aws.s3())


CHANNEL: Channel[WebChat] = Web()
