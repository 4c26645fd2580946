"""The Agent SDK's `SessionStore` over one session's snapshots.

Protocol: `claude_agent_sdk.SessionStore` (0.2.186), all methods. The transcript of the version the turn goes on from is
read from S3; what the turn appends stays in memory until `stage` writes it as this turn's segments. Nothing of it is
visible before Persist moves the pointer, so a run that dies leaves nothing behind.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from typing import Any

from claude_agent_sdk import fold_session_summary

from functions.common.snapshots import Manifest, Segment, Snapshots, session_prefix

Entry = dict[str, Any]
FileKey = tuple[str, str, str]
"""(project key, session id, subpath): the subpath is empty for the main transcript, `subagents/agent-<id>` for a
subagent's. The project key comes from the workspace's path, which is the same in every container."""

MAX_SEGMENTS = 16
"""Segments of one transcript; with more, the newest that are small are written again as one."""

SMALL_BYTES = 4 * 1024 * 1024


class SnapshotStore:
    """The transcripts of one session, going on from `base` (None: a new session)."""

    def __init__(self, snapshots: Snapshots, session_id: str, base: Manifest | None = None) -> None:
        self._snapshots = snapshots
        self._session_id = session_id
        self._segments = base.segments if base else ()
        self._bodies: dict[str, bytes] = {}
        self._appended: dict[FileKey, list[Entry]] = defaultdict(list)
        self._seen: dict[FileKey, set[str]] = defaultdict(set)
        self._changed: dict[tuple[str, str], int] = {}
        self.recorded_cost_usd = 0.0
        """What the session has cost by the CLI's last note in its transcript; a resumed CLI counts on from it."""

    async def append(self, key: Any, entries: list[Any]) -> None:
        """Keep entries in order; one whose `uuid` was kept before is a repetition and left out."""
        file = _file(key)
        for entry in entries:
            identity = entry.get("uuid")
            if identity is not None and identity in self._seen[file]:
                continue
            if identity is not None:
                self._seen[file].add(identity)
            self._appended[file].append(entry)
        self._note_cost(entries)
        if entries:
            self._changed[file[:2]] = time.time_ns() // 1_000_000

    async def load(self, key: Any) -> list[Any] | None:
        """All entries of a transcript, or None when there is none."""
        file = _file(key)
        entries = [entry for body in self._take(file) for entry in _entries(body)]
        self._seen[file].update(entry["uuid"] for entry in entries if entry.get("uuid"))
        self._note_cost(entries)
        entries += _entries(_lines(self._appended.get(file, [])))
        return entries or None

    async def list_subkeys(self, key: Any) -> list[str]:
        """The subpaths of a session's subagents."""
        project, session_id = str(key["project_key"]), str(key["session_id"])
        stored = [segment.subpath for segment in self._base(session_id)]
        appended = [
            file[2] for file, entries in self._appended.items() if file[:2] == (project, session_id) and entries
        ]
        return sorted({subpath for subpath in (*stored, *appended) if subpath})

    async def list_sessions(self, project_key: str) -> list[Any]:
        """The sessions of a project; `mtime` in milliseconds since 1970."""
        appended = {
            file[1] for file, entries in self._appended.items() if file[0] == project_key and not file[2] and entries
        }
        stored = {self._session_id} if any(not segment.subpath for segment in self._base(self._session_id)) else set()
        return [
            {
                "session_id": session_id,
                "mtime": self._changed.get((project_key, session_id), time.time_ns() // 1_000_000),
            }
            for session_id in sorted(appended | stored)
        ]

    async def list_session_summaries(self, project_key: str) -> list[Any]:
        """A summary of each session, folded by the SDK's own function from the whole transcript."""
        summaries = []
        for session in await self.list_sessions(project_key):
            key: Any = {"project_key": project_key, "session_id": session["session_id"]}
            summary = fold_session_summary(None, key, await self.load(key) or [])
            summaries.append({**summary, "mtime": session["mtime"]})
        return summaries

    async def delete(self, key: Any) -> None:
        """Forget a transcript, the main one with its subagents'. In S3 it is only left out of the next version."""
        project, session_id, subpath = _file(key)
        gone = [f for f in self._appended if f[:2] == (project, session_id) and (not subpath or f[2] == subpath)]
        for file in gone:
            del self._appended[file]
        if session_id == self._session_id:
            self._segments = tuple(s for s in self._segments if subpath and s.subpath != subpath)

    def stage(self, folder: str) -> tuple[Segment, ...]:
        """Write what was appended since the last time below `folder`; the segments of the version that makes."""
        segments: dict[str, list[Segment]] = defaultdict(list)
        for segment in self._segments:
            segments[segment.subpath].append(segment)
        for (_, session_id, subpath), entries in self._appended.items():
            if session_id == self._session_id and entries:
                key = f"{session_prefix(session_id)}transcript/{folder}/{subpath or 'main'}.jsonl"
                segments[subpath] = self._written(key, subpath, segments[subpath], _lines(entries))
        self._appended.clear()
        self._segments = tuple(segment for of_one in segments.values() for segment in of_one)
        return self._segments

    def _written(self, key: str, subpath: str, before: list[Segment], body: bytes) -> list[Segment]:
        """The segments with `body` as the newest; too many small ones become one with it."""
        kept = list(before)
        if len(before) >= MAX_SEGMENTS:
            while kept and kept[-1].size < SMALL_BYTES:
                kept.pop()
            body = b"".join([*self._snapshots.get_all(segment.key for segment in before[len(kept) :]), body])
        self._snapshots.put(key, body, "application/x-ndjson")
        return [*kept, Segment(key=key, subpath=subpath, size=len(body))]

    def _base(self, session_id: str) -> tuple[Segment, ...]:
        return self._segments if session_id == self._session_id else ()

    def _take(self, file: FileKey) -> list[bytes]:
        """The stored bodies of one transcript. The first call fetches all transcripts' at once, in parallel."""
        keys = [segment.key for segment in self._base(file[1]) if segment.subpath == file[2]]
        if not all(key in self._bodies for key in keys):
            wanted = [segment.key for segment in self._segments]
            self._bodies = dict(zip(wanted, self._snapshots.get_all(wanted), strict=True))
        return [self._bodies.pop(key) for key in keys]

    def _note_cost(self, entries: list[Entry]) -> None:
        for entry in entries:
            if entry.get("type") == "cost-state":
                self.recorded_cost_usd = float(entry["totalCostUSD"])


def _lines(entries: list[Entry]) -> bytes:
    text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    return text.encode("utf-8", "surrogatepass")


def _entries(body: bytes) -> list[Entry]:
    return [json.loads(line.decode("utf-8", "surrogatepass")) for line in body.split(b"\n") if line]


def _file(key: Any) -> FileKey:
    return str(key["project_key"]), str(key["session_id"]), str(key.get("subpath") or "")
