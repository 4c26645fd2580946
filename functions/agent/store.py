"""The Agent SDK's `SessionStore` over one session's snapshots.

Protocol: `claude_agent_sdk.SessionStore` (0.2.186). The transcript of the version the turn goes on from is read from
S3; what the turn appends stays in memory until `stage` writes it as this turn's segments with a candidate manifest.
Nothing of it is visible before Persist moves the pointer, so a run that dies leaves nothing behind.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from functions.common.snapshots import Manifest, Segment, Snapshots, session_prefix

Entry = dict[str, Any]
FileKey = tuple[str, str, str]
"""(project key, session id, subpath): the subpath is empty for the main transcript, `subagents/agent-<id>` for a
subagent's. The project key comes from the workspace's path, which is the same in every container."""


class SnapshotStore:
    """The transcripts of one session, going on from `base` (None: a new session)."""

    def __init__(self, snapshots: Snapshots, session_id: str, base: Manifest | None = None) -> None:
        self._snapshots = snapshots
        self._session_id = session_id
        self._base = base
        self._loaded: dict[FileKey, list[Entry]] = {}
        self._appended: dict[FileKey, list[Entry]] = defaultdict(list)
        self._seen: dict[FileKey, set[str]] = defaultdict(set)

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

    async def load(self, key: Any) -> list[Any] | None:
        """All entries of a transcript, or None when there is none."""
        file = _file(key)
        entries = [*self._from_base(file), *self._appended.get(file, [])]
        return json.loads(json.dumps(entries)) if entries else None

    async def list_subkeys(self, key: Any) -> list[str]:
        """The subpaths of a session's subagents."""
        session_id = key["session_id"]
        stored = [segment.subpath for segment in self._segments() if session_id == self._session_id]
        here = (key["project_key"], session_id)
        appended = [subpath for project, owner, subpath in self._appended if (project, owner) == here]
        return sorted({subpath for subpath in (*stored, *appended) if subpath})

    def stage(self, turn_id: str, run_id: str, parent: str | None, cost_usd: float) -> str:
        """Write what was appended and a candidate manifest; returns the manifest's key."""
        version = (self._base.version if self._base else 0) + 1
        prefix = session_prefix(self._session_id)
        segments = list(self._segments())
        for (_, session_id, subpath), entries in self._appended.items():
            if session_id != self._session_id:
                continue
            body = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
            data = body.encode("utf-8", "surrogatepass")
            key = f"{prefix}transcript/{version}-{run_id}/{subpath or 'main'}.jsonl"
            self._snapshots.put(key, data, "application/x-ndjson")
            segments.append(Segment(key=key, subpath=subpath, size=len(data)))
        manifest = f"{prefix}manifests/{version}-{run_id}.json"
        self._snapshots.write(
            manifest,
            Manifest(
                session_id=self._session_id,
                version=version,
                turn_id=turn_id,
                parent=parent,
                cost_usd=cost_usd,
                segments=tuple(segments),
            ),
        )
        return manifest

    def _segments(self) -> tuple[Segment, ...]:
        return self._base.segments if self._base else ()

    def _from_base(self, file: FileKey) -> list[Entry]:
        if file not in self._loaded:
            _, session_id, subpath = file
            own = session_id == self._session_id
            keys = [segment.key for segment in self._segments() if own and segment.subpath == subpath]
            bodies = self._snapshots.get_all(keys)
            self._loaded[file] = [
                json.loads(line)
                for body in bodies
                for line in body.decode("utf-8", "surrogatepass").split("\n")
                if line
            ]
            self._seen[file].update(entry["uuid"] for entry in self._loaded[file] if entry.get("uuid"))
        return self._loaded[file]


def _file(key: Any) -> FileKey:
    return str(key["project_key"]), str(key["session_id"]), str(key.get("subpath") or "")
