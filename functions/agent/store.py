"""The Agent SDK's `SessionStore` over one session's snapshots.

Protocol: `claude_agent_sdk.SessionStore` (0.2.186), all methods. The transcript of the version the turn goes on from is
read from S3; what the turn appends stays in memory until `stage` writes it as this turn's segments. Nothing of it is
visible before Persist moves the pointer, so a run that dies leaves nothing behind.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

from claude_agent_sdk import fold_session_summary

from functions.common.errors import SnapshotMissing
from functions.conversation.files.documents import Manifest, Segment, session_prefix
from functions.conversation.files.snapshots import Snapshots

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
        self._appended: dict[FileKey, list[Entry]] = defaultdict(list)
        self._seen: dict[FileKey, set[str]] = defaultdict(set)
        self._changed: dict[tuple[str, str], int] = {}

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
        if entries:
            self._changed[file[:2]] = time.time_ns() // 1_000_000

    def ends_with(self, call_id: str) -> None:
        """Put what is noted of a call that waits behind the results of the calls beside it.

        The CLI goes on from a transcript's end. When that is another call's result, the model never sees that of the
        one that waited (seen with CLI 2.1.329).
        """
        for entries in self._appended.values():
            entries.sort(key=lambda entry: (entry.get("attachment") or {}).get("toolUseID") == call_id)

    async def load(self, key: Any) -> list[Any] | None:
        """All entries of a transcript, or None when there is none."""
        file = _file(key)
        segments = [segment for segment in self._base(file[1]) if segment.subpath == file[2]]
        entries = [entry for body in self._snapshots.get_all(segments) for entry in _entries(body)]
        self._seen[file].update(entry["uuid"] for entry in entries if entry.get("uuid"))
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
            body = b"".join([*self._snapshots.get_all(before[len(kept) :]), body])
        self._snapshots.put(key, body, "application/x-ndjson")
        return [*kept, Segment(key=key, subpath=subpath, size=len(body))]

    def _base(self, session_id: str) -> tuple[Segment, ...]:
        return self._segments if session_id == self._session_id else ()


class RestoredStore(SnapshotStore):
    """A store whose transcripts are written as the CLI's own files, so the SDK is told that there is none to load.

    The SDK takes a transcript as objects, which means that each line is parsed and dumped again, some 5 ms a megabyte;
    told None, it lets the CLI resume from its folder (`claude_agent_sdk/_internal/session_resume.py`, 0.2.186).
    """

    def restore(self, config: Path, project: str) -> None:
        """Download all transcripts to where the CLI looks for those of `project` in its configuration folder.

        Raises SnapshotMissing.
        """
        files: dict[str, list[Segment]] = defaultdict(list)
        for segment in self._segments:
            files[segment.subpath].append(segment)
        for subpath, segments in files.items():
            path = _transcript_file(config / "projects" / project, self._session_id, subpath)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._snapshots.join([(segment.key, segment.size) for segment in segments], path)
            if subpath:
                _split_metadata(path)

    async def load(self, key: Any) -> list[Any] | None:
        """None: what there is lies on the disk."""
        return None


def _transcript_file(folder: Path, session_id: str, subpath: str) -> Path:
    if subpath and (subpath.startswith("/") or ".." in PurePosixPath(subpath).parts):
        raise SnapshotMissing(f"a transcript is named {subpath!r}, which is outside its session's folder")
    return folder / session_id / f"{subpath}.jsonl" if subpath else folder / f"{session_id}.jsonl"


def _split_metadata(path: Path) -> None:
    """Move a subagent's `agent_metadata` entries out of its transcript; the last is the CLI's file beside it."""
    entries = _entries(path.read_bytes())
    metadata = [entry for entry in entries if entry.get("type") == "agent_metadata"]
    if metadata:
        path.write_bytes(_lines([entry for entry in entries if entry.get("type") != "agent_metadata"]))
        last = {name: value for name, value in metadata[-1].items() if name != "type"}
        path.with_suffix(".meta.json").write_text(json.dumps(last))


def _lines(entries: list[Entry]) -> bytes:
    return b"".join(_line(entry) for entry in entries)


def _line(entry: Entry) -> bytes:
    """One line as the CLI writes it; half a surrogate pair has no UTF-8, so such a line is written in ASCII."""
    try:
        return (json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(entry, separators=(",", ":")) + "\n").encode()


def _entries(body: bytes) -> list[Entry]:
    return [json.loads(line) for line in body.split(b"\n") if line]


def _file(key: Any) -> FileKey:
    return str(key["project_key"]), str(key["session_id"]), str(key.get("subpath") or "")
