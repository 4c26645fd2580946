"""Conversations as an operator sees them: where each stands, its versions, and its files."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from functions.conversation.files.snapshots import Snapshots
from functions.conversation.files.versions import at_version, export, fork, history
from functions.conversation.sessions import Pointer, SessionTable
from stepgram.operators.stack import Stack, StackError


@dataclass(frozen=True)
class Conversation:
    """One conversation: its key `<chat>:<thread>` and where it stands. `expires` is an ISO date and time, UTC."""

    key: str
    session_id: str
    version: int
    turns: int
    cost_usd: float
    expires: str


@dataclass(frozen=True)
class Version:
    """One version of a session, by the turn that made it. Sizes in bytes; `cost_usd` of the session so far."""

    version: int
    turn: str
    transcript_bytes: int
    segments: int
    files: int
    workspace_bytes: int
    cost_usd: float


class Sessions:
    """The conversations of a stack."""

    def __init__(self, stack: Stack) -> None:
        self._dynamodb = stack.client("dynamodb")
        self._name = stack.outputs["SessionTable"]
        self._table = SessionTable(self._name, self._dynamodb)
        self._snapshots = Snapshots(stack.outputs["SessionBucket"], stack.client("s3"))

    def all(self) -> list[Conversation]:
        """All conversations, the one that expires last first."""
        found = sorted(self._keys(), key=lambda found: -found[1].ttl)
        return [_conversation(key, pointer) for key, pointer in found]

    def show(self, key: str) -> dict[str, Any]:
        """One conversation and its versions, newest first. Raises StackError."""
        pointer = self._pointer(key)
        versions = [
            Version(
                version=manifest.version,
                turn=manifest.turn_id,
                transcript_bytes=sum(segment.size for segment in manifest.segments),
                segments=len(manifest.segments),
                files=manifest.tree.files if manifest.tree else 0,
                workspace_bytes=manifest.tree.bytes if manifest.tree else 0,
                cost_usd=manifest.cost_usd,
            )
            for _, manifest in history(self._snapshots, pointer)
        ]
        return {**asdict(_conversation(key, pointer)), "versions": [asdict(version) for version in versions]}

    def export(self, key: str, version: int | None, folder: Path) -> list[Path]:
        """Write a version's files into a folder. Raises SnapshotMissing, StackError."""
        _, manifest = at_version(self._snapshots, self._pointer(key), version)
        written = []
        for name, content in export(self._snapshots, manifest):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            written.append(path)
        return written

    def reset(self, key: str) -> None:
        """Give a conversation a fresh, empty session."""
        self._move(key, self._pointer(key), Pointer(session_id=str(uuid.uuid4())))

    def fork(self, key: str, version: int | None, to: str) -> Conversation:
        """Point conversation `to` at a copy of a version of `key`. Raises SnapshotMissing, StackError."""
        _, manifest = at_version(self._snapshots, self._pointer(key), version)
        before = self._table.pointer(to)
        copy = fork(self._snapshots, manifest, str(uuid.uuid4()))
        self._move(to, before, copy)
        return _conversation(to, self._pointer(to))

    def _move(self, key: str, before: Pointer | None, after: Pointer) -> None:
        if not self._table.move(key, f"operator-{uuid.uuid4()}", before, after):
            raise StackError(f"conversation {key} changed meanwhile; try again")

    def _pointer(self, key: str) -> Pointer:
        pointer = self._table.pointer(session_key(key))
        if pointer is None:
            raise StackError(f"there is no conversation {key}; `stepgram sessions` lists them")
        return pointer

    def _keys(self) -> Iterator[tuple[str, Pointer]]:
        pages = self._dynamodb.get_paginator("scan").paginate(
            TableName=self._name,
            FilterExpression="sk = :session",
            ExpressionAttributeValues={":session": {"S": "session"}},
            ProjectionExpression="pk",
        )
        for page in pages:
            for item in page["Items"]:
                pointer = self._table.pointer(item["pk"]["S"])
                if pointer is not None:
                    yield item["pk"]["S"], pointer


def session_key(key: str) -> str:
    """`<chat>:<thread>`; a chat's id alone means its main thread. Raises StackError."""
    if not re.fullmatch(r"-?\d+(:\d+)?", key):
        raise StackError(f"{key!r} is not a conversation: write CHAT or CHAT:THREAD")
    return key if ":" in key else f"{key}:0"


def _conversation(key: str, pointer: Pointer) -> Conversation:
    return Conversation(
        key=session_key(key),
        session_id=pointer.session_id,
        version=pointer.version,
        turns=pointer.turns,
        cost_usd=pointer.cost_usd,
        expires=f"{datetime.fromtimestamp(pointer.ttl, UTC):%Y-%m-%dT%H:%M:%SZ}",
    )
