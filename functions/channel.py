"""What the workflow needs of a channel: the way in which people are told, asked and heard.

The states know this module alone. A channel is a room of its own (`functions/telegram/`) whose `channel.py` does what
stands here; `tests/channel_contract.py` is what each must pass. Where people are names their channel
(`envelope.Place`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, TypeVar, cast

from functions.common import aws
from functions.common.envelope import FIRST, Attachment, Button, Message, Place
from functions.common.observability import StepRequest
from functions.common.settings import TableSettings
from functions.conversation.approvals import Choice, Question
from functions.conversation.progress import ProgressTable, Report, Shown, Ticket
from functions.conversation.sessions import SessionTable

ROOMS = {"telegram": "functions.telegram.channel", "web": "functions.web.channel"}
"""Where each channel is; one that a function never meets is not imported there."""


P = TypeVar("P", contravariant=True)
"""The places of a channel."""


@dataclass(frozen=True)
class SentFile:
    """A file for a person; `content` fetches it when its turn comes. `size` in bytes; `key` is where it is in S3."""

    name: str
    size: int
    content: Callable[[], bytes]
    key: str = ""


@dataclass(frozen=True)
class Asking:
    """Whether a tool call may run, asked for part `number` of a turn: `call` is all of it, as a person reads it.

    `who` may decide, within `hours`; `language` is an IETF tag.
    """

    number: int
    tool: str
    call: str
    who: str
    hours: float
    language: str


@dataclass(frozen=True)
class Rerun:
    """Somebody wants a turn to run again."""

    turn_id: str


@dataclass(frozen=True)
class Answer:
    """Somebody decides on the tool call that part `number` of a turn waits with."""

    choice: Choice
    turn_id: str
    number: int


class Delivery(Protocol):
    """Says what one turn (or command) has to say, each part once, however often a step runs.

    A part is known by its name in the turn's ledger (`SessionTable.delivered`). Every method raises a ChannelRefused
    when the place takes nothing at all, and another error when a later try may succeed: it goes on where this one
    stopped. The definition knows errors by their exact names, and reads how long a ChannelLimited waits between two
    `#` of its message.
    """

    @property
    def message_ids(self) -> list[int]:
        """The messages of the answer."""

    def text(self, part: str, text: str) -> None:
        """A plain text."""

    def answer(self, markdown: str, caption: str) -> str:
        """What the agent said, in the best form the place takes, which is returned.

        What is too long for it goes along whole as a file, with the caption.
        """

    def document(self, part: str, name: str, content: bytes, caption: str | None = None) -> bool:
        """A file; False when it is too large."""

    def files(self, part: str, files: Sequence[SentFile]) -> list[SentFile]:
        """Files, each by its kind; returns those that are too large."""

    def question(self, asking: Asking) -> None:
        """A question with its choices, which shows the whole call."""

    def notice(self, number: int, text: str, again: str) -> int:
        """The turn's failure notice, the `number`th, in the place of the one before; `again` is the label of what runs
        the turn again. Returns the message."""

    def topic(self, part: str, name: str) -> int:
        """A place of its own for a new conversation; returns its thread."""

    def complete(self) -> None:
        """Note that nothing of the answer is missing: from now on no failure of the turn is worth a notice."""


class Sign(Protocol):
    """One sign of life of a turn."""

    def show(self, shown: Shown) -> int | None:
        """Show it; returns the message that shows it, when it is one. Raises ChannelError."""

    def delete(self, message_id: int) -> None:
        """Take a message that showed progress away again; one that is gone is fine."""


class Channel(Protocol[P]):
    """One way to reach people."""

    sent_bytes: int
    """Bytes of a file that goes to a person, at most."""

    def delivery(self, turn: StepRequest, place: P, reply_to: int | None, shown: Shown | None = None) -> Delivery:
        """What a turn says in a place, beside the message `reply_to`; what showed its progress makes room for it."""

    def sign(self, ticket: Ticket, report: Report, table: ProgressTable) -> Sign:
        """How a report is shown."""

    def pause(self, place: P) -> float:
        """Seconds between two signs of life there."""

    def verdict(self, question: Question, message_id: int, text: str) -> None:
        """Let a question show what was decided, and no choices any more. How it looks is worth no failed turn."""

    def press(self, button: Button, place: P) -> Rerun | Answer | None:
        """What somebody wants who pressed a button; None: nothing (any more)."""

    def acknowledge(self, button: Button, text: str, alert: bool) -> None:
        """Tell who pressed a button what became of it; one that hears nothing any more is left."""

    def withdraw(self, button: Button, place: P) -> None:
        """Take a button away that has served; one that only shows something stays."""

    def messages(self, session_key: str, turn_id: str, message: Message) -> tuple[Message, ...]:
        """A turn's message, with what else was sent as one with it. Raises AlbumIncomplete while more may come."""

    def joins(self, session_key: str, turn_id: str, message: Message) -> bool:
        """Add a message to those it was sent with; False when another's turn takes it along."""

    def fetch(self, session_key: str, attachment: Attachment) -> bytes:
        """A file that a person sent in this conversation. Raises ChannelRefused when it is not given, with the reason,
        and another error when a later try may succeed."""

    def leave(self, place: P) -> None:
        """Leave a place where the bot may not be; one that is left already is fine."""


def channel(place: Place | None) -> Channel[Place]:
    """The channel of a place; None: of an execution from before there were two."""
    room = import_module(ROOMS[place.channel if place else FIRST])
    return cast(Channel[Place], room.CHANNEL)


def closing(turn: StepRequest, place: Place, reply_to: int, attempt: int) -> Delivery:
    """How a turn says its last words: no progress is shown any more, and they take the place of what showed it.

    `attempt` is the execution's redrive count.
    """
    settings = TableSettings.load()
    table = SessionTable(settings.table, aws.dynamodb())
    progress = ProgressTable(settings.table, aws.dynamodb(), table.expiry())
    closed = progress.close(turn.session_key, turn.turn_id, attempt)
    return channel(place).delivery(turn, place, reply_to, closed)
