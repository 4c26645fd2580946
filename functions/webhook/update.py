"""The part of Telegram's Update that the bot reads. Source: Bot API 10.3, https://core.telegram.org/bots/api#update."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

KINDS = ("message", "edited_message", "callback_query", "my_chat_member", "stopped_message_generation")
"""The kinds of updates Telegram is asked for (`allowed_updates`); every other kind costs nothing."""

MAX_ID = 2**53
"""Telegram's ids have at most 52 significant bits."""


class Received(BaseModel):
    """A frozen object from Telegram; fields we do not know are ignored, since Telegram adds new ones."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class User(Received):
    """https://core.telegram.org/bots/api#user"""

    id: int = Field(gt=0, lt=MAX_ID)
    first_name: str
    username: str | None = None
    language_code: str | None = None
    is_bot: bool = False


class Chat(Received):
    """https://core.telegram.org/bots/api#chat"""

    id: int = Field(gt=-MAX_ID, lt=MAX_ID)
    type: Literal["private", "group", "supergroup", "channel"]
    is_forum: bool = False


class Entity(Received):
    """https://core.telegram.org/bots/api#messageentity; offset and length in UTF-16 units."""

    type: str
    offset: int
    length: int


class Message(Received):
    """https://core.telegram.org/bots/api#message"""

    message_id: int = Field(ge=0)
    date: int = Field(ge=0)
    chat: Chat
    message_thread_id: int | None = Field(None, gt=0)
    is_topic_message: bool = False
    from_user: User | None = Field(None, alias="from")
    text: str | None = None
    entities: tuple[Entity, ...] = ()
    caption: str | None = None
    photo: tuple[Any, ...] | None = None
    document: Any = None
    voice: Any = None
    audio: Any = None
    video: Any = None
    video_note: Any = None
    animation: Any = None
    sticker: Any = None
    location: Any = None
    contact: Any = None
    poll: Any = None
    venue: Any = None
    dice: Any = None

    @property
    def has_content(self) -> bool:
        """Whether a person sent something besides text: a file, a place, a poll. Service messages have none."""
        kinds = ("photo", "document", "voice", "audio", "video", "video_note", "animation", "sticker")
        return any(getattr(self, kind) for kind in (*kinds, "location", "contact", "poll", "venue", "dice"))


class CallbackQuery(Received):
    """https://core.telegram.org/bots/api#callbackquery"""

    id: str
    from_user: User = Field(alias="from")
    message: Message | None = None
    data: str | None = Field(None, max_length=64)


class StoppedMessageGeneration(Received):
    """The user pressed Stop under a streamed draft (Bot API 10.3)."""

    chat: Chat
    draft_id: int
    message_thread_id: int | None = None


class Update(Received):
    """https://core.telegram.org/bots/api#update"""

    update_id: int = Field(ge=0, lt=MAX_ID)
    message: Message | None = None
    callback_query: CallbackQuery | None = None
    stopped_message_generation: StoppedMessageGeneration | None = None
