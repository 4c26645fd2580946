"""The envelope: what is left of a Telegram update when it enters the workflow.

It is the input of the Intake and, without its route, of the Turn, so an operator reads it first.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from functions.common.execution import Failure

Route = Literal["message", "album", "command", "background", "button", "stop", "membership", "refused", "ignored"]
Reason = Literal[
    "not_allowed", "unsupported", "file_too_large", "too_fast", "general_topic", "not_for_us", "nothing_to_do"
]

NAME_LIMIT = 80
"""Characters an execution's name may have (Step Functions API, StartExecution)."""


class Part(BaseModel):
    """A frozen piece of the envelope; unknown fields are refused, so that a typing error is found."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Chat(Part):
    """Where the message was written. `thread_id` is 0 outside a forum topic; `forum`: the group has topics."""

    id: int
    thread_id: int = 0
    type: Literal["private", "group", "supergroup", "channel"]
    forum: bool = False


class User(Part):
    """Who wrote it. `language` is Telegram's `language_code`, an IETF tag."""

    id: int
    name: str
    language: str = "en"


class Attachment(Part):
    """A file a person sent: `kind` as Telegram calls it, `mime` type, `size` in bytes (0: unknown)."""

    kind: str
    file_id: str
    name: str
    mime: str
    size: int = 0


class Message(Part):
    """The message: `id` in its chat, `update_id` of the update, `date` in seconds since 1970 UTC.

    `text` is what the agent reads: what was written, and what it refers to. `album` is shared by messages that were
    sent as one.
    """

    id: int
    update_id: int
    date: int
    text: str
    attachments: tuple[Attachment, ...] = ()
    album: str | None = None


class Command(Part):
    """A bot command: `/name argument`."""

    name: str
    argument: str = ""


class Button(Part):
    """A pressed inline button: the callback query's id, its data (at most 64 bytes) and the message it stands under."""

    id: str
    data: str
    message_id: int


class Membership(Part):
    """The bot's place in a group: whether it `joined` just now, is an `admin`, and may manage `topics`."""

    joined: bool
    admin: bool
    topics: bool


class Envelope(Part):
    """One update, normalised. `turn_id` is the execution's name and the idempotency key everywhere.

    `draft` is the draft whose Stop button was pressed, `album` what the state JoinAlbum said, `error` what a state of
    the Intake failed with.
    """

    turn_id: str = Field(max_length=NAME_LIMIT, pattern=r"^c-?\d+-t\d+-u\d+$")
    session_key: str = Field(pattern=r"^-?\d+:\d+$")
    route: Route
    reason: Reason | None = None
    chat: Chat | None = None
    user: User | None = None
    message: Message | None = None
    command: Command | None = None
    button: Button | None = None
    draft: int | None = None
    membership: Membership | None = None
    album: dict[str, str] | None = None
    error: Failure | None = None
    ttl: int = 0


def turn_id(chat_id: int, thread_id: int, update_id: int) -> str:
    """The turn's name: the same update always gets the same one."""
    return f"c{chat_id}-t{thread_id}-u{update_id}"


def session_key(chat_id: int, thread_id: int) -> str:
    """The conversation's key: one for each chat and topic."""
    return f"{chat_id}:{thread_id}"


RERUN = "rerun:"


def rerun_data(turn: str) -> str:
    """The callback data of a turn's "Run again" button: 64 bytes hold no chat, but the button's message is in it."""
    return RERUN + turn.split("-u", 1)[1]


def rerun_turn(data: str, chat: Chat) -> str | None:
    """The turn that a button of this chat runs again; None for other buttons."""
    match = re.fullmatch(RERUN + r"(\d+(?:-r\d+)?)", data)
    return f"c{chat.id}-t{chat.thread_id}-u{match[1]}" if match else None
