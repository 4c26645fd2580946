"""From an update to an envelope: who, where, what, and which way it goes. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from functions.common import envelope
from functions.common.envelope import Button, Command, Envelope, Membership, Reason, Route
from functions.conversation.commands import IN_BACKGROUND, configured
from functions.telegram.context import attachments, mentions, readable, without_mention
from functions.telegram.settings import WebhookSettings
from functions.telegram.update import CallbackQuery, Chat, Message, MyChatMember, StoppedMessageGeneration, Update, User

DAY_SECONDS = 86_400
EVERYONE = "*"

COMMAND = re.compile(r"/([A-Za-z0-9_]{1,32})(@\w+)?")
"""A bot command (Bot API, BotCommand; MessageEntity `bot_command`)."""

LANGUAGE = re.compile(r"[A-Za-z0-9-]{1,35}")
"""An IETF tag (RFC 5646, section 4.4.1: 35 characters)."""

NAME_CHARACTERS = 256
"""Of a person's name; Telegram's have 64."""

DOWNLOAD_BYTES = 20 * 1024 * 1024
"""Bytes of a file a bot may download (Bot API, getFile)."""


@dataclass(frozen=True)
class Rules:
    """Who may talk to the bot, and when it is talked to. Two empty lists allow nobody."""

    users: tuple[str, ...] = ()
    chats: tuple[str, ...] = ()
    ttl_days: int = 25
    all_of_groups: bool = False
    bot_username: str = ""

    @classmethod
    def of(cls, settings: WebhookSettings) -> Rules:
        """The rules of the webhook's settings."""
        return cls(
            settings.allowed_users,
            settings.allowed_chats,
            settings.session_ttl_days,
            settings.group_messages == "all",
            settings.bot_username,
        )

    def allowing(self, user: int) -> Rules:
        """The same, with one more user."""
        return replace(self, users=(*self.users, str(user)))

    def allow(self, user: User | None, chat: Chat) -> bool:
        """Whether this person in this chat may talk to the bot."""
        if EVERYONE in self.users or str(chat.id) in self.chats:
            return True
        return user is not None and str(user.id) in self.users


def normalise(update: Update, rules: Rules) -> Envelope:
    """The envelope of an update."""
    if update.message is not None:
        return _message(update.update_id, update.message, rules)
    if update.callback_query is not None and update.callback_query.message is not None:
        return _button(update.update_id, update.callback_query, update.callback_query.message, rules)
    if update.stopped_message_generation is not None:
        return _stopped(update.update_id, update.stopped_message_generation, rules)
    if update.my_chat_member is not None:
        return _membership(update.update_id, update.my_chat_member, rules)
    name = envelope.turn_id(0, 0, update.update_id)
    return Envelope(turn_id=name, session_key=envelope.session_key(0, 0), route="ignored", reason="nothing_to_do")


def _thread(message: Message) -> int:
    return message.message_thread_id or 0 if message.is_topic_message else 0


def _command(message: Message) -> Command | None:
    text = message.text or ""
    first = next((entity for entity in message.entities if entity.type == "bot_command" and entity.offset == 0), None)
    if first is None:
        return None
    command = COMMAND.fullmatch(text[: max(first.length, 0)])
    return Command(name=command[1].lower(), argument=text[first.length :].strip()) if command else None


def _for_us(message: Message, command: Command | None, rules: Rules) -> bool:
    """Whether a message of a group is for the bot: a command, a mention, a reply to it, or written in a topic."""
    if message.chat.type == "private" or rules.all_of_groups or command is not None or _thread(message):
        return True
    replied = message.reply_to_message.from_user if message.reply_to_message else None
    answers = replied is not None and replied.is_bot and _is_us(replied, rules)
    return answers or mentions(message, rules.bot_username)


def _is_us(bot: User, rules: Rules) -> bool:
    return not rules.bot_username or (bot.username or "").lower() == rules.bot_username.lower()


def _route(message: Message, command: Command | None, rules: Rules) -> tuple[Route, Reason | None]:
    if message.from_user is None or message.from_user.is_bot or not (message.text or message.has_content):
        return "ignored", "nothing_to_do"
    if not _for_us(message, command, rules):
        return "ignored", "not_for_us"
    if not rules.allow(message.from_user, message.chat):
        return ("refused" if message.chat.type == "private" else "ignored"), "not_allowed"
    if command is not None and command.name not in configured().agent:
        return "stop" if command.name == "stop" else "background" if command.name in IN_BACKGROUND else "command", None
    if message.chat.is_forum and not _thread(message):
        return "refused", "general_topic"
    if message.file is not None and message.file[1].file_size > DOWNLOAD_BYTES:
        return "refused", "file_too_large"
    if not readable(message) and message.file is None:
        return "refused", "unsupported"
    return ("album" if message.media_group_id else "message"), None


def _message(update_id: int, message: Message, rules: Rules) -> Envelope:
    thread_id = _thread(message)
    command = _command(message)
    route, reason = _route(message, command, rules)
    text = (
        without_mention(readable(message), rules.bot_username) if message.chat.type != "private" else readable(message)
    )
    if command is not None and command.name in configured().agent:
        text = configured().agent[command.name].prompt.replace("{argument}", command.argument).strip()
    return Envelope(
        turn_id=envelope.turn_id(message.chat.id, thread_id, update_id),
        session_key=envelope.session_key(message.chat.id, thread_id),
        route=route,
        reason=reason,
        chat=_chat(message.chat, thread_id),
        user=_user(message.from_user),
        message=envelope.Message(
            id=message.message_id,
            update_id=update_id,
            date=message.date,
            text=text,
            attachments=attachments(message),
            album=message.media_group_id,
        ),
        command=command,
        ttl=message.date + rules.ttl_days * DAY_SECONDS,
    )


def _chat(chat: Chat, thread_id: int) -> envelope.Chat:
    return envelope.Chat(id=chat.id, thread_id=thread_id, type=chat.type, forum=chat.is_forum)


def _user(user: User | None) -> envelope.User | None:
    if user is None:
        return None
    language = user.language_code if LANGUAGE.fullmatch(user.language_code or "") else None
    return envelope.User(id=user.id, name=user.first_name[:NAME_CHARACTERS], language=language or "en")


def _button(update_id: int, query: CallbackQuery, message: Message, rules: Rules) -> Envelope:
    thread_id = _thread(message)
    may = rules.allow(query.from_user, message.chat)
    return Envelope(
        turn_id=envelope.turn_id(message.chat.id, thread_id, update_id),
        session_key=envelope.session_key(message.chat.id, thread_id),
        route="button" if may else "ignored",
        reason=None if may else "not_allowed",
        chat=_chat(message.chat, thread_id),
        user=_user(query.from_user),
        button=Button(id=query.id, data=query.data or "", message_id=message.message_id),
    )


def _stopped(update_id: int, stopped: StoppedMessageGeneration, rules: Rules) -> Envelope:
    """Drafts are shown in private chats only, whose id is the user's."""
    thread_id, chat = stopped.message_thread_id or 0, stopped.chat
    may = rules.allow(None, chat) or str(chat.id) in rules.users
    return Envelope(
        turn_id=envelope.turn_id(chat.id, thread_id, update_id),
        session_key=envelope.session_key(chat.id, thread_id),
        route="stop" if may else "ignored",
        reason=None if may else "not_allowed",
        chat=_chat(chat, thread_id),
        draft=stopped.draft_id,
    )


def _membership(update_id: int, change: MyChatMember, rules: Rules) -> Envelope:
    """The bot was added to a group, made its admin, or lost that; what happens in private chats needs nothing."""
    new = change.new_chat_member
    if change.chat.type not in ("group", "supergroup") or new.status in ("left", "kicked"):
        route: Route = "ignored"
    else:
        route = "membership"
    return Envelope(
        turn_id=envelope.turn_id(change.chat.id, 0, update_id),
        session_key=envelope.session_key(change.chat.id, 0),
        route=route,
        reason=None if rules.allow(change.from_user, change.chat) else "not_allowed",
        chat=_chat(change.chat, 0),
        user=_user(change.from_user),
        membership=Membership(
            joined=change.old_chat_member.status in ("left", "kicked"),
            admin=new.status == "administrator",
            topics=new.can_manage_topics,
        ),
    )
