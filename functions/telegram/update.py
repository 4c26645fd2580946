"""The part of Telegram's Update that the bot reads. Source: Bot API 10.3, https://core.telegram.org/bots/api#update."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

KINDS = ("message", "edited_message", "callback_query", "my_chat_member", "stopped_message_generation")
"""The kinds of updates Telegram is asked for (`allowed_updates`); every other kind costs nothing."""

MAX_ID = 2**53
"""Telegram's ids have at most 52 significant bits."""

MAX_TIME = 253_402_300_800
"""The year 10000, in seconds since 1970: dates end before."""

MAX_ALBUM = 64
"""Characters of a `media_group_id`, which is in a key of the table; Telegram's have 20."""


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
    title: str | None = None


class Entity(Received):
    """https://core.telegram.org/bots/api#messageentity; offset and length in UTF-16 units."""

    type: str
    offset: int
    length: int


class File(Received):
    """What a document, a voice, a video ... have in common; `file_size` in bytes."""

    file_id: str
    file_unique_id: str = ""
    file_name: str | None = None
    mime_type: str | None = None
    file_size: int = Field(0, ge=0, lt=MAX_ID)
    emoji: str | None = None


class Origin(Received):
    """https://core.telegram.org/bots/api#messageorigin: a user, a hidden user, a chat or a channel."""

    sender_user: User | None = None
    sender_user_name: str | None = None
    sender_chat: Chat | None = None
    chat: Chat | None = None

    @property
    def name(self) -> str:
        """Who wrote it first, as far as Telegram tells."""
        user, chat = self.sender_user, self.sender_chat or self.chat
        return (user.first_name if user else self.sender_user_name) or (chat.title if chat else None) or "somebody"


class Quote(Received):
    """https://core.telegram.org/bots/api#textquote"""

    text: str


class Location(Received):
    """https://core.telegram.org/bots/api#location"""

    latitude: float
    longitude: float


class Venue(Received):
    """https://core.telegram.org/bots/api#venue"""

    location: Location
    title: str
    address: str


class Contact(Received):
    """https://core.telegram.org/bots/api#contact"""

    phone_number: str
    first_name: str
    last_name: str | None = None


class PollOption(Received):
    """https://core.telegram.org/bots/api#polloption"""

    text: str


class Poll(Received):
    """https://core.telegram.org/bots/api#poll"""

    question: str
    options: tuple[PollOption, ...] = ()


class Dice(Received):
    """https://core.telegram.org/bots/api#dice"""

    emoji: str
    value: int


class Replied(Received):
    """The message that is replied to, as far as the bot reads it; the title of a topic has neither text nor caption."""

    message_id: int
    from_user: User | None = Field(None, alias="from")
    text: str | None = None
    caption: str | None = None


FILE_KINDS = ("document", "voice", "audio", "video", "video_note", "animation", "sticker")
OTHER_KINDS = ("story", "game", "paid_media", "checklist", "invoice")


class Message(Received):
    """https://core.telegram.org/bots/api#message"""

    message_id: int = Field(ge=0, lt=MAX_ID)
    date: int = Field(ge=0, lt=MAX_TIME)
    chat: Chat
    message_thread_id: int | None = Field(None, gt=0, lt=MAX_ID)
    is_topic_message: bool = False
    from_user: User | None = Field(None, alias="from")
    text: str | None = None
    entities: tuple[Entity, ...] = ()
    caption: str | None = None
    caption_entities: tuple[Entity, ...] = ()
    media_group_id: str | None = Field(None, max_length=MAX_ALBUM)
    reply_to_message: Replied | None = None
    quote: Quote | None = None
    forward_origin: Origin | None = None
    photo: tuple[File, ...] | None = None
    document: File | None = None
    voice: File | None = None
    audio: File | None = None
    video: File | None = None
    video_note: File | None = None
    animation: File | None = None
    sticker: File | None = None
    location: Location | None = None
    venue: Venue | None = None
    contact: Contact | None = None
    poll: Poll | None = None
    dice: Dice | None = None
    story: Any = None
    game: Any = None
    paid_media: Any = None
    checklist: Any = None
    invoice: Any = None

    @property
    def file(self) -> tuple[str, File] | None:
        """The file a person sent, and its kind; the largest size of a photo. An animation is a document too."""
        if self.photo:
            return "photo", max(self.photo, key=lambda size: size.file_size)
        kinds = ("animation", *(kind for kind in FILE_KINDS if kind != "animation"))
        return next(((kind, getattr(self, kind)) for kind in kinds if getattr(self, kind) is not None), None)

    @property
    def has_content(self) -> bool:
        """Whether a person sent something besides text: a file, a place, a poll. Service messages have none."""
        kinds = ("location", "contact", "poll", "venue", "dice", *OTHER_KINDS)
        return self.file is not None or any(getattr(self, kind) is not None for kind in kinds)


class CallbackQuery(Received):
    """https://core.telegram.org/bots/api#callbackquery"""

    id: str
    from_user: User = Field(alias="from")
    message: Message | None = None
    data: str | None = Field(None, max_length=64)


class StoppedMessageGeneration(Received):
    """The user pressed Stop under a streamed draft (Bot API 10.3)."""

    chat: Chat
    draft_id: int = Field(gt=-MAX_ID, lt=MAX_ID)
    message_thread_id: int | None = Field(None, gt=0, lt=MAX_ID)


class ChatMember(Received):
    """https://core.telegram.org/bots/api#chatmember"""

    status: str
    can_manage_topics: bool = False


class MyChatMember(Received):
    """https://core.telegram.org/bots/api#chatmemberupdated, of the bot itself."""

    chat: Chat
    from_user: User = Field(alias="from")
    old_chat_member: ChatMember
    new_chat_member: ChatMember


class Update(Received):
    """https://core.telegram.org/bots/api#update"""

    update_id: int = Field(ge=0, lt=MAX_ID)
    message: Message | None = None
    callback_query: CallbackQuery | None = None
    stopped_message_generation: StoppedMessageGeneration | None = None
    my_chat_member: MyChatMember | None = None
