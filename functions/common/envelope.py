"""The envelope: what is left of a Telegram update when it enters the workflow.

It is the input of the Intake and, without its route, of the Turn, so an operator reads it first.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from functions.common.errors import BadInput
from functions.common.execution import Failure

Route = Literal["message", "album", "command", "background", "button", "stop", "membership", "refused", "ignored"]
Reason = Literal[
    "not_allowed", "unsupported", "file_too_large", "too_fast", "general_topic", "not_for_us", "nothing_to_do"
]

TURN_NAME = re.compile(
    r"(?:c(?P<chat>-?\d+)-t(?P<thread>\d+)-u\d+|(?P<web>w[0-9a-f]{32})-m[0-9A-Za-z]{1,40})(?:-r\d+)?"
)
"""Of an execution, also of one that was run again from its start."""

NAME_LIMIT = 80
"""Characters an execution's name may have (Step Functions API, StartExecution)."""


class Part(BaseModel):
    """A frozen piece of the envelope; unknown fields are refused, so that a typing error is found."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Chat(Part):
    """A place in Telegram. `thread_id` is 0 outside a forum topic; `forum`: the group has topics."""

    channel: Literal["telegram"] = "telegram"
    id: int
    thread_id: int = 0
    type: Literal["private", "group", "supergroup", "channel"]
    forum: bool = False

    @property
    def session_key(self) -> str:
        """The key of the conversation here."""
        return session_key(self.id, self.thread_id)

    def turn_id(self, update: int | str) -> str:
        """The name of the turn that an update makes here."""
        return turn_id(self.id, self.thread_id, update)


class WebChat(Part):
    """A conversation of the web, by its id; messages in it have ids of their own, made by the client."""

    channel: Literal["web"]
    id: str = Field(pattern=r"^[0-9a-f]{32}$")

    @property
    def session_key(self) -> str:
        """The key of the conversation."""
        return f"w{self.id}"

    @property
    def thread_id(self) -> int:
        """It has no topics."""
        return 0

    @property
    def forum(self) -> bool:
        """It has no topics: a new conversation begins in its own place."""
        return False

    def turn_id(self, message: int | str) -> str:
        """The name of the turn that a message makes here."""
        return f"w{self.id}-m{message}"


def _channel(place: Any) -> str:
    return str(place.get("channel", FIRST) if isinstance(place, dict) else place.channel)


FIRST: Final = "telegram"
"""The channel of places that do not name theirs, from before there were two."""

Place: TypeAlias = Annotated[Annotated[Chat, Tag("telegram")] | Annotated[WebChat, Tag("web")], Discriminator(_channel)]
"""Where a message was written and its answer goes, told apart by `channel`."""


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

    turn_id: str = Field(max_length=NAME_LIMIT, pattern=r"^(c-?\d+-t\d+-u\d+|w[0-9a-f]{32}-m[0-9A-Za-z]{1,40})$")
    session_key: str = Field(pattern=r"^(-?\d+:\d+|w[0-9a-f]{32})$")
    route: Route
    reason: Reason | None = None
    chat: Place | None = None
    user: User | None = None
    message: Message | None = None
    command: Command | None = None
    button: Button | None = None
    draft: int | None = None
    membership: Membership | None = None
    album: dict[str, str] | None = None
    error: Failure | None = None
    ttl: int = 0


def turn_id(chat_id: int, thread_id: int, update_id: int | str) -> str:
    """The turn's name: the same update always gets the same one."""
    return f"c{chat_id}-t{thread_id}-u{update_id}"


def session_key(chat_id: int, thread_id: int) -> str:
    """The conversation's key: one for each chat and topic."""
    return f"{chat_id}:{thread_id}"


def conversation_of(turn: str) -> str:
    """The key of the conversation a turn belongs to, read from its name. Raises BadInput for any other name."""
    match = TURN_NAME.fullmatch(turn)
    if match is None:
        raise BadInput(f"detail.name: {turn!r} is not a turn's name")
    return match["web"] or session_key(int(match["chat"]), int(match["thread"]))
