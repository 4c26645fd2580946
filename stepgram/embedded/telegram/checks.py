"""What Telegram checks of a message's content, with its limits and error texts."""

from __future__ import annotations

from typing import Any

from telegramify_markdown import richify, utf16_len

TEXT_LIMIT = 4096
CAPTION_LIMIT = 1024
RICH_LIMIT = 32_768
UPLOAD_LIMIT = 50 * 1024 * 1024
PHOTO_LIMIT = 10 * 1024 * 1024
DOWNLOAD_LIMIT = 20 * 1024 * 1024
IMAGES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}
"""How files begin that are images; WebP is known by two places."""


class BotApiError(Exception):
    """An answer with `ok: false`."""

    def __init__(self, status: int, description: str, parameters: dict[str, Any] | None = None) -> None:
        super().__init__(description)
        self.status = status
        self.parameters = parameters


def text_content(parameters: dict[str, Any]) -> dict[str, Any]:
    """The content of a classic message, after Telegram's checks."""
    text = str(parameters["text"])
    entities = parameters.get("entities") or []
    units = utf16_len(text)
    for entity in entities:
        start, end = entity["offset"], entity["offset"] + entity["length"]
        if start < 0 or entity["length"] <= 0 or start > units:
            raise BotApiError(400, f"Bad Request: entity begins after the end of the text at UTF-16 offset {start}")
        if end > units:
            raise BotApiError(
                400,
                f"Bad Request: entity beginning at UTF-16 offset {start} ends after the end of the text at "
                f"UTF-16 offset {end}",
            )
        if not (_is_boundary(text, start) and _is_boundary(text, end)):
            raise BotApiError(400, f"Bad Request: entity beginning at UTF-16 offset {start} splits a symbol")
    if not text.strip():
        raise BotApiError(400, "Bad Request: message text is empty")
    if units > TEXT_LIMIT:
        raise BotApiError(400, "Bad Request: message is too long")
    return {"text": text, "entities": entities}


def rich_content(rich: dict[str, Any]) -> dict[str, Any]:
    """The content of a rich message, after Telegram's checks."""
    given = [name for name in ("markdown", "html", "blocks") if rich.get(name)]
    if len(given) != 1:
        raise BotApiError(400, "Bad Request: exactly one of the fields html, markdown or blocks must be used")
    if given[0] != "markdown":
        raise BotApiError(400, f"Bad Request: {given[0]} is not supported here")
    markdown = rich["markdown"]
    if not markdown.strip():
        raise BotApiError(400, "Bad Request: message text is empty")
    if len(markdown) > RICH_LIMIT:
        raise BotApiError(400, "Bad Request: rich message is too long")
    blocks = [{"type": "paragraph", "text": markdown}]
    return {"rich_message": {"blocks": blocks}, "_page": {"markdown": markdown, "html": richify(markdown).html}}


def caption_of(parameters: dict[str, Any]) -> dict[str, Any]:
    """The content's caption, after Telegram's check."""
    caption = str(parameters.get("caption") or "")
    if utf16_len(caption) > CAPTION_LIMIT:
        raise BotApiError(400, "Bad Request: message caption is too long")
    return {"caption": caption} if caption else {}


def image_type(content: bytes) -> str | None:
    """The media type of a PNG, JPEG, GIF or WebP by its first bytes; None when it is none of these."""
    if (content[:4], content[8:12]) == (b"RIFF", b"WEBP"):
        return "image/webp"
    return next((kind for start, kind in IMAGES.items() if content.startswith(start)), None)


def image_size(content: bytes) -> tuple[int, int] | None:
    """Width and height of a PNG, 1 and 1 of another image; None when it is no image."""
    kind = image_type(content)
    if kind == "image/png":
        return int.from_bytes(content[16:20]), int.from_bytes(content[20:24])
    return (1, 1) if kind else None


def _is_boundary(text: str, offset: int) -> bool:
    units = text.encode("utf-16-le", "surrogatepass")
    unit = units[offset * 2 : offset * 2 + 2]
    return len(unit) < 2 or not 0xDC00 <= int.from_bytes(unit, "little") <= 0xDFFF
