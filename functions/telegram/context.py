"""What the agent reads of a message: the text, and in brackets what Telegram shows around it. Pure."""

from __future__ import annotations

import mimetypes
import re

from functions.common.envelope import Attachment
from functions.telegram.update import File, Message

QUOTED_CHARACTERS = 1500
"""Of a message that is replied to."""

NAME_CHARACTERS, NAME_BYTES = 80, 200
"""Of a file's name; file systems take 255 bytes."""

MIME = {
    "photo": "image/jpeg",
    "voice": "audio/ogg",
    "audio": "audio/mpeg",
    "video": "video/mp4",
    "video_note": "video/mp4",
    "animation": "video/mp4",
    "sticker": "image/webp",
}
"""What Telegram makes of these kinds; a document says it itself."""

SUFFIXES = {"audio/ogg": ".ogg", "image/jpeg": ".jpg"}


def readable(message: Message) -> str:
    """The message as one text: what it refers to, what it is, and what was written."""
    written = message.text or message.caption or ""
    return "\n\n".join(part for part in (_reply(message), _forward(message), *_content(message), written) if part)


def _reply(message: Message) -> str:
    replied = message.reply_to_message
    quoted = message.quote.text if message.quote else ((replied.text or replied.caption) if replied else None)
    if not quoted:
        return ""
    who = replied.from_user if replied else None
    name = "you" if who and who.is_bot else who.first_name if who else "somebody"
    lines = quoted[:QUOTED_CHARACTERS].splitlines()
    return f"[In reply to {name}:]\n" + "\n".join(f"> {line}" for line in lines)


def _forward(message: Message) -> str:
    return f"[Forwarded, first written by {message.forward_origin.name}:]" if message.forward_origin else ""


def _content(message: Message) -> list[str]:
    parts = []
    if message.venue is not None:
        place = message.venue.location
        parts.append(f"[Venue: {message.venue.title}, {message.venue.address} ({place.latitude}, {place.longitude})]")
    elif message.location is not None:
        parts.append(f"[Location: {message.location.latitude}, {message.location.longitude}]")
    if message.contact is not None:
        name = " ".join(part for part in (message.contact.first_name, message.contact.last_name) if part)
        parts.append(f"[Contact: {name}, {message.contact.phone_number}]")
    if message.poll is not None:
        options = "; ".join(option.text for option in message.poll.options)
        parts.append(f"[Poll: {message.poll.question} - {options}]")
    if message.dice is not None:
        parts.append(f"[{message.dice.emoji} {message.dice.value}]")
    if message.sticker is not None:
        parts.append(f"[Sticker {message.sticker.emoji or ''}]")
    return parts


def attachments(message: Message) -> tuple[Attachment, ...]:
    """The file of the message, if it has one."""
    found = message.file
    if found is None:
        return ()
    kind, file = found
    mime = file.mime_type or MIME.get(kind, "application/octet-stream")
    name = _name(kind, file, mime, message.message_id)
    return (Attachment(kind=kind, file_id=file.file_id, name=name, mime=mime, size=file.file_size),)


def _name(kind: str, file: File, mime: str, message_id: int) -> str:
    """The file's own name made harmless, or its kind and message; one path component, at most 80 characters."""
    own = re.sub(r"[\x00-\x1f/\\\\:]", "_", (file.file_name or "").strip()).strip(". ")
    if own:
        stem, dot, suffix = own.rpartition(".")
        stem, suffix = (stem[: NAME_CHARACTERS - 12], f".{suffix[:11]}") if dot else (own[:NAME_CHARACTERS], "")
        room = NAME_BYTES - len(suffix.encode())
        return stem.encode()[:room].decode("utf-8", "ignore") + suffix
    return f"{kind}-{message_id}{SUFFIXES.get(mime) or mimetypes.guess_extension(mime) or ''}"


def mentions(message: Message, username: str) -> bool:
    """Whether the message names the bot. Without a username: any name that ends in `bot`, as bots' names must."""
    text = message.text or message.caption or ""
    units = text.encode("utf-16-le")
    for entity in (*message.entities, *message.caption_entities):
        if entity.type == "mention":
            name = units[2 * entity.offset + 2 : 2 * (entity.offset + entity.length)].decode("utf-16-le", "replace")
            if name.lower() == username.lower() or (not username and name.lower().endswith("bot")):
                return True
    return False


def without_mention(text: str, username: str) -> str:
    """The text without the bot's name at its beginning."""
    name = re.escape(username) if username else r"\w*bot"
    return re.sub(rf"^@{name}\b[\s,:]*", "", text, flags=re.IGNORECASE)
