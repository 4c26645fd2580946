"""From an update to an envelope: who, where, what, and which way it goes. Pure."""

from __future__ import annotations

from collections.abc import Collection

from functions.common import envelope
from functions.common.envelope import Button, Command, Envelope, Reason, Route
from functions.webhook.context import attachments, readable
from functions.webhook.update import CallbackQuery, Chat, Message, StoppedMessageGeneration, Update, User

DAY_SECONDS = 86_400
EVERYONE = "*"

DOWNLOAD_BYTES = 20 * 1024 * 1024
"""Bytes of a file a bot may download (Bot API, getFile)."""


def allowed(user: User | None, chat: Chat, users: Collection[str], chats: Collection[str]) -> bool:
    """Whether this person in this chat may talk to the bot. The default, two empty lists, is nobody."""
    if EVERYONE in users or str(chat.id) in chats:
        return True
    return user is not None and str(user.id) in users


def normalise(update: Update, users: Collection[str], chats: Collection[str], ttl_days: int) -> Envelope:
    """The envelope of an update. `users` and `chats` are the allowlist; the session's ttl slides `ttl_days` on."""
    if update.message is not None:
        return _message(update.update_id, update.message, users, chats, ttl_days)
    if update.callback_query is not None and update.callback_query.message is not None:
        return _button(update.update_id, update.callback_query, update.callback_query.message, users, chats)
    if update.stopped_message_generation is not None:
        return _stopped(update.update_id, update.stopped_message_generation, users, chats)
    name = envelope.turn_id(0, 0, update.update_id)
    return Envelope(turn_id=name, session_key=envelope.session_key(0, 0), route="ignored", reason="nothing_to_do")


def _thread(message: Message) -> int:
    return message.message_thread_id or 0 if message.is_topic_message else 0


def _command(message: Message) -> Command | None:
    text = message.text or ""
    first = next((entity for entity in message.entities if entity.type == "bot_command" and entity.offset == 0), None)
    if first is None or not text.startswith("/"):
        return None
    name, argument = text[1 : first.length].partition("@")[0].lower(), text[first.length :].strip()
    return Command(name=name, argument=argument)


def _route(message: Message, command: Command | None, may: bool) -> tuple[Route, Reason | None]:
    if message.from_user is None or message.from_user.is_bot:
        return "ignored", "nothing_to_do"
    if not message.text and not message.has_content:
        return "ignored", "nothing_to_do"
    if not may:
        return "refused", "not_allowed"
    if command is not None:
        return ("stop" if command.name == "stop" else "command"), None
    if message.file is not None and message.file[1].file_size > DOWNLOAD_BYTES:
        return "refused", "file_too_large"
    if not readable(message) and message.file is None:
        return "refused", "unsupported"
    return ("album" if message.media_group_id else "message"), None


def _message(
    update_id: int, message: Message, users: Collection[str], chats: Collection[str], ttl_days: int
) -> Envelope:
    thread_id = _thread(message)
    command = _command(message)
    route, reason = _route(message, command, allowed(message.from_user, message.chat, users, chats))
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
            text=readable(message),
            attachments=attachments(message),
            album=message.media_group_id,
        ),
        command=command,
        ttl=message.date + ttl_days * DAY_SECONDS,
    )


def _chat(chat: Chat, thread_id: int) -> envelope.Chat:
    return envelope.Chat(id=chat.id, thread_id=thread_id, type=chat.type, forum=chat.is_forum)


def _user(user: User | None) -> envelope.User | None:
    if user is None:
        return None
    return envelope.User(id=user.id, name=user.first_name, language=user.language_code or "en")


def _button(
    update_id: int, query: CallbackQuery, message: Message, users: Collection[str], chats: Collection[str]
) -> Envelope:
    thread_id = _thread(message)
    may = allowed(query.from_user, message.chat, users, chats)
    return Envelope(
        turn_id=envelope.turn_id(message.chat.id, thread_id, update_id),
        session_key=envelope.session_key(message.chat.id, thread_id),
        route="button" if may else "ignored",
        reason=None if may else "not_allowed",
        chat=_chat(message.chat, thread_id),
        user=_user(query.from_user),
        button=Button(id=query.id, data=query.data or "", message_id=message.message_id),
    )


def _stopped(
    update_id: int, stopped: StoppedMessageGeneration, users: Collection[str], chats: Collection[str]
) -> Envelope:
    """Drafts are shown in private chats only, whose id is the user's."""
    thread_id, chat = stopped.message_thread_id or 0, stopped.chat
    may = EVERYONE in users or str(chat.id) in (*users, *chats)
    return Envelope(
        turn_id=envelope.turn_id(chat.id, thread_id, update_id),
        session_key=envelope.session_key(chat.id, thread_id),
        route="stop" if may else "ignored",
        reason=None if may else "not_allowed",
        chat=_chat(chat, thread_id),
        draft=stopped.draft_id,
    )
