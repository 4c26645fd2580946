"""From the model's Markdown to messages Telegram accepts. Pure.

A classic message (text and entities) is shown by every client but holds 4,096 UTF-16 units and knows no tables; a
rich message holds 32,768 characters and shows them, but clients older than Bot API 10.1 show a placeholder.
Sources: sendMessage, sendRichMessage, MessageEntity in https://core.telegram.org/bots/api (10.3).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from telegramify_markdown import MessageEntity, convert, utf16_len

from functions.telegram.settings import RichSetting

CLASSIC_LIMIT = 4096
"""UTF-16 units of one classic message."""

RICH_LIMIT = 32_768
"""Characters of one rich message; kept in UTF-8 bytes, the stricter reading."""

MAX_MESSAGES = 10
"""Messages one answer may take; a longer one goes along as a document. A group allows 20 messages a minute."""

KEPT_WHOLE = frozenset({"text_link", "url", "email", "mention", "text_mention", "code", "custom_emoji"})
"""Entities that are never cut; `pre` is cut only when it is longer than a message."""

FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})(.*)$")
TABLE_RULE = re.compile(r"^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)+\|?\s*$|^\s*\|\s*:?-+:?\s*\|\s*$")
TASK = re.compile(r"^\s*[-*+] \[[ xX]\] ")
FORMULA = re.compile(r"\$\$.+?\$\$|\\\[.+?\\\]|\\\(.+?\\\)", re.DOTALL)
INLINE_CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)", re.DOTALL)


@dataclass(frozen=True)
class Classic:
    """A classic message: text and its entities, as sendMessage takes them."""

    text: str
    entities: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Plan:
    """How an answer travels: parts of Markdown, each rich or classic, and whether the whole goes as a document."""

    form: Literal["rich", "classic"]
    parts: tuple[str, ...]
    as_document: bool


def plan(markdown: str, rich: RichSetting) -> Plan:
    """Decide the form and the parts of an answer."""
    if rich == "always" or (rich == "auto" and (needs_rich(markdown) or not _fits_classic(markdown))):
        parts = split_markdown(markdown, RICH_LIMIT)
        fits = len(parts) <= MAX_MESSAGES
        return Plan("rich", tuple(parts if fits else parts[:1]), not fits)
    fits = len(classic_parts(markdown)) <= MAX_MESSAGES
    return Plan("classic", (markdown if fits else split_markdown(markdown, CLASSIC_LIMIT // 2)[0],), not fits)


def needs_rich(markdown: str) -> bool:
    """Whether the text has what only a rich message can show: a table, a task list, a formula."""
    prose = [line for line, code in _lines(markdown) if not code]
    tables = any(TABLE_RULE.match(line) and "|" in before for before, line in pairwise(prose))
    formula = FORMULA.search(INLINE_CODE.sub("", "\n".join(prose)))
    return tables or any(TASK.match(line) for line in prose) or formula is not None


def classic_parts(markdown: str) -> list[Classic]:
    """The text as classic messages, none longer than 4,096 UTF-16 units, each standing on its own."""
    text, entities = convert(markdown)
    return [Classic(part, tuple(e.to_dict() for e in kept)) for part, kept in split_classic(text, entities)]


def plain_parts(text: str) -> list[str]:
    """The text as it stands, cut to message length."""
    return [part for part, _ in split_classic(text, [])]


def _fits_classic(markdown: str) -> bool:
    return utf16_len(convert(markdown)[0]) <= CLASSIC_LIMIT


def split_classic(
    text: str, entities: list[MessageEntity], limit: int = CLASSIC_LIMIT
) -> list[tuple[str, list[MessageEntity]]]:
    """Cut text and entities into parts of at most `limit` UTF-16 units.

    A cut falls between paragraphs, else lines, else words; never inside a link or a surrogate pair, and inside code
    only when the code alone is longer than a part: it then goes on as code in the next. Blank parts are left out.
    """
    offsets = _utf16_offsets(text)
    parts = []
    start = 0
    while start < len(text):
        end = _cut(text, entities, offsets, start, limit)
        piece = text[start:end]
        if piece.strip():
            parts.append((piece, _clip(entities, offsets[start], offsets[end])))
        start = end
    return parts


def _utf16_offsets(text: str) -> list[int]:
    offsets = [0]
    for character in text:
        offsets.append(offsets[-1] + (2 if ord(character) > 0xFFFF else 1))
    return offsets


def _cut(text: str, entities: list[MessageEntity], offsets: list[int], start: int, limit: int) -> int:
    budget = offsets[start] + limit
    if offsets[-1] <= budget:
        return len(text)
    end = start
    while end < len(text) and offsets[end + 1] <= budget:
        end += 1
    whole = [e for e in entities if e.type in KEPT_WHOLE and e.length <= limit]
    code = [e for e in entities if e.type == "pre" and e.length <= limit]
    for kept in (whole + code, whole):
        for separator in ("\n\n", "\n", " "):
            after = _last_break(text, separator, start, end, kept, offsets)
            if after is not None:
                return after
    while end > start + 1 and _inside(whole, offsets[end]):
        end -= 1
    return max(end, start + 1)


def _last_break(
    text: str, separator: str, start: int, end: int, kept: list[MessageEntity], offsets: list[int]
) -> int | None:
    at = text.rfind(separator, start, end)
    while at > start:
        after = at + len(separator)
        if not _inside(kept, offsets[after]):
            return after
        at = text.rfind(separator, start, after - 1)
    return None


def _inside(entities: list[MessageEntity], offset: int) -> bool:
    return any(e.offset < offset < e.offset + e.length for e in entities)


def _clip(entities: list[MessageEntity], start: int, end: int) -> list[MessageEntity]:
    kept = []
    for entity in entities:
        first, last = max(entity.offset, start), min(entity.offset + entity.length, end)
        if first < last:
            kept.append(entity.copy_with(offset=first - start, length=last - first))
    return kept


def _lines(markdown: str) -> Iterator[tuple[str, bool]]:
    """Every line with whether it belongs to a fenced code block."""
    fence = ""
    for line in markdown.split("\n"):
        match = FENCE.match(line)
        if fence:
            yield line, True
            if match and match[1].startswith(fence) and not match[2].strip():
                fence = ""
        elif match:
            fence = match[1]
            yield line, True
        else:
            yield line, False


def split_markdown(markdown: str, limit: int) -> list[str]:
    """Cut Markdown into parts of at most `limit` UTF-8 bytes, between blocks wherever it can.

    A code block longer than a part is closed and opened again; a table longer than a part repeats its head.
    """
    parts: list[str] = []
    current = ""
    for block in _blocks(markdown):
        joined = f"{current}\n{block}" if current else block
        if _size(joined) <= limit:
            current = joined
            continue
        if current.strip():
            parts.append(current)
        *full, current = _split_block(block, limit)
        parts.extend(full)
    return [part for part in [*parts, current] if part.strip()] or [""]


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _blocks(markdown: str) -> list[str]:
    """The text's blocks: runs of lines up to a blank line, a code block whole."""
    blocks: list[list[str]] = [[]]
    was_code = False
    for line, code in _lines(markdown):
        if code != was_code and blocks[-1]:
            blocks.append([])
        blocks[-1].append(line)
        if not code and not line.strip():
            blocks.append([])
        was_code = code
    return ["\n".join(block) for block in blocks if block]


def _split_block(block: str, limit: int) -> list[str]:
    if _size(block) <= limit:
        return [block]
    lines = block.split("\n")
    head, foot = "", ""
    fence = FENCE.match(lines[0])
    if fence:
        head, foot = lines[0] + "\n", "\n" + fence[1]
        lines = lines[1:]
        if lines and lines[-1].strip() == fence[1]:
            lines = lines[:-1]
    elif len(lines) > 2 and TABLE_RULE.match(lines[1]):
        head = "\n".join(lines[:2]) + "\n"
        lines = lines[2:]
    room = limit - _size(head) - _size(foot)
    if room < 16:
        head, foot, room, lines = "", "", limit, block.split("\n")
    parts, current = [], ""
    for piece in (piece for line in lines for piece in _split_line(line, room)):
        joined = f"{current}\n{piece}" if current else piece
        if _size(joined) > room:
            parts.append(head + current + foot)
            current = piece
        else:
            current = joined
    parts.append(head + current + foot)
    return parts


def _split_line(line: str, room: int) -> Iterator[str]:
    while _size(line) > room:
        end = len(line.encode("utf-8", "surrogatepass")[:room].decode("utf-8", "ignore"))
        space = line.rfind(" ", 1, end)
        end = space + 1 if space > 0 else max(1, end)
        yield line[:end]
        line = line[end:]
    yield line
