"""What was said in a conversation, from the transcript of its version: the newest entries first, page by page.

The transcript is the CLI's, one JSON document a line; the agent wrote it, so what is no entry is left out, and what is
long is cut.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from functions.common.errors import SnapshotMissing
from functions.conversation.files.documents import Manifest
from functions.conversation.files.snapshots import Snapshots
from functions.conversation.files.versions import MAIN

SHOWN_CHARACTERS = 20_000
"""Of one text, or of what a tool was given or answered."""

LINE_BYTES = 4 * 1024 * 1024
"""A longer line is left out."""


class Piece(BaseModel):
    """A piece of an entry: a text, the call of a tool, or what it answered."""

    kind: Literal["text", "tool", "result"]
    text: str
    name: str = ""
    call: str = ""
    failed: bool = False


class Entry(BaseModel):
    """What one side said at once. `at` is an ISO 8601 time; `cursor` is where the entries before it go on."""

    role: Literal["user", "assistant"]
    at: str
    pieces: list[Piece]
    cursor: str


class Page(BaseModel):
    """Entries, oldest first; `before` is the cursor of the page before, if there is one."""

    entries: list[Entry]
    before: str | None


class _Block(BaseModel):
    type: str = ""
    text: str = ""
    id: str = ""
    name: str = ""
    input: dict[str, Any] = {}
    tool_use_id: str = ""
    content: Any = ""
    is_error: bool | None = None


class _Message(BaseModel):
    content: list[_Block] | str


class _Line(BaseModel):
    model_config = ConfigDict(extra="ignore")

    type: Literal["user", "assistant"]
    timestamp: str = ""
    message: _Message
    isMeta: bool = False
    isSidechain: bool = False


def page(snapshots: Snapshots, manifest: Manifest, before: str | None, limit: int) -> Page:
    """The `limit` entries before a cursor (None: the newest). Raises SnapshotMissing."""
    found: list[Entry] = []
    for entry in _backwards(snapshots, manifest, before):
        if len(found) == limit:
            return Page(entries=found[::-1], before=found[-1].cursor)
        found.append(entry)
    return Page(entries=found[::-1], before=None)


def _backwards(snapshots: Snapshots, manifest: Manifest, before: str | None) -> Iterator[Entry]:
    segments = [segment for segment in manifest.segments if segment.subpath == MAIN]
    last, until = _place(before) if before else (len(segments) - 1, None)
    for number in range(min(last, len(segments) - 1), -1, -1):
        lines = snapshots.get(segments[number].key, segments[number].size).split(b"\n")
        end = len(lines) if until is None or number != last else min(until, len(lines))
        for at in range(end - 1, -1, -1):
            entry = _entry(lines[at], f"{number}.{at}")
            if entry is not None:
                yield entry


def _place(cursor: str) -> tuple[int, int]:
    """Raises SnapshotMissing for what is no cursor."""
    segment, dot, line = cursor.partition(".")
    if not (dot and segment.isdecimal() and line.isdecimal() and len(cursor) < 40):
        raise SnapshotMissing(f"{cursor[:40]!r} is no place in this conversation")
    return int(segment), int(line)


def _entry(line: bytes, cursor: str) -> Entry | None:
    if not line or len(line) > LINE_BYTES:
        return None
    try:
        read = _Line.model_validate_json(line)
    except ValidationError:
        return None
    content = read.message.content
    blocks = [_Block(type="text", text=content)] if isinstance(content, str) else content
    pieces = [piece for piece in map(_piece, blocks) if piece is not None]
    if read.isMeta or read.isSidechain or not pieces:
        return None
    return Entry(role=read.type, at=read.timestamp[:40], pieces=pieces, cursor=cursor)


def _piece(block: _Block) -> Piece | None:
    if block.type == "text" and block.text:
        return Piece(kind="text", text=_cut(block.text))
    if block.type == "tool_use":
        shown = block.input.get("command") if set(block.input) <= {"command", "description"} else None
        text = shown if isinstance(shown, str) else json.dumps(block.input, ensure_ascii=False, indent=2)
        return Piece(kind="tool", text=_cut(text), name=block.name[:100], call=block.id[:100])
    if block.type == "tool_result":
        return Piece(
            kind="result", text=_cut(_said(block.content)), call=block.tool_use_id[:100], failed=bool(block.is_error)
        )
    return None


def _said(content: Any) -> str:
    """The texts of a tool's answer; a picture is no text."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))


def _cut(text: str) -> str:
    whole = text.encode("utf-8", "replace").decode()
    return whole if len(whole) <= SHOWN_CHARACTERS else whole[:SHOWN_CHARACTERS] + " …"
