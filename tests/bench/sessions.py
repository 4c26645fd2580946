"""Carrying a session: time, bytes and requests, cold and warm, against copying all files both ways.

Both sides work on the same stack's S3 in one run: snapshots as the agent's function uses them, and the design most
peers have, which downloads every file before the turn and uploads every file after it (8 at a time, as ours).
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from functions.agent.store import RestoredStore, SnapshotStore
from functions.conversation.files.documents import Manifest, session_prefix
from functions.conversation.files.snapshots import PARALLEL, Snapshots
from functions.conversation.files.workspace import Workspace
from stepgram.embedded.client import client
from stepgram.embedded.stack import EmbeddedStack
from tests.bench.figures import Figure

TRANSCRIPTS = (0.1, 1.0, 10.0, 50.0)
"""MB of a conversation so far."""

WORKSPACES = (10, 1_000, 10_000)
"""Files of 1 KB in a workspace."""

TURN_BYTES = 13_000
"""What a turn adds to its transcript."""

ENTRY_BYTES = 2_000
MOST_RUNS = 3


@dataclass
class Traffic:
    """What went over the wire."""

    requests: int = 0
    up: int = 0
    down: int = 0


class Wire:
    """Counts the S3 requests and bytes of everything that happens inside `measure`."""

    def __init__(self, stack: EmbeddedStack) -> None:
        self.s3 = client("s3", stack.addresses.aws)
        self.bucket = stack.deployment.outputs["SessionBucket"]
        self.snapshots = Snapshots(self.bucket, self.s3)
        self._now = Traffic()
        self.s3.meta.events.register("before-send.s3.*", self._sent)
        self.s3.meta.events.register("after-call.s3.*", self._answered)

    def _sent(self, request: Any, **_: Any) -> None:
        self._now.requests += 1
        self._now.up += int(request.headers.get("Content-Length") or 0)

    def _answered(self, parsed: Any, model: Any, **_: Any) -> None:
        if model.name == "GetObject":
            self._now.down += int(parsed.get("ContentLength", 0))

    def measure(self, work: Callable[[], None]) -> tuple[float, Traffic]:
        """Milliseconds and traffic."""
        self._now = Traffic()
        started = time.monotonic()
        work()
        return (time.monotonic() - started) * 1000, self._now


def entries(count: int) -> list[dict[str, Any]]:
    """Transcript entries of some 2 KB each."""
    text = "A line of a conversation, which is about as long as people and models write. " * 24
    return [{"type": "user", "uuid": str(uuid.uuid4()), "message": {"content": text}} for _ in range(count)]


class Session:
    """A session with a transcript and a workspace, carried as we do."""

    def __init__(self, wire: Wire, transcript_bytes: int, files: int, folder: Path) -> None:
        self.id, self.wire, self.folder = str(uuid.uuid4()), wire, folder
        self.key = {"project_key": "bench", "session_id": self.id}
        self.manifest: str | None = None
        self.version = 0
        self.store, self.workspace = RestoredStore(wire.snapshots, self.id), self._fresh()
        for number in range(files):
            path = folder / f"{number % 100}" / f"{number}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(os.urandom(1000))
        left = transcript_bytes
        while left > 0:  # in turns of up to 4 MB, as a long conversation has them
            part = min(left, 4_000_000)
            asyncio.run(self.store.append(self.key, entries(max(1, part // ENTRY_BYTES))))
            self.stage()
            left -= part

    def _fresh(self) -> Workspace:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        return Workspace(self.folder, self.wire.snapshots, self.id)

    def load(self, manifest: Manifest) -> None:
        """The transcript where the CLI reads it."""
        self.store = RestoredStore(self.wire.snapshots, self.id, manifest)
        with tempfile.TemporaryDirectory() as config:
            self.store.restore(Path(config), "bench")

    def cold(self) -> None:
        """Hydrate's check, the transcript where the CLI reads it, the workspace on disk."""
        manifest = self.wire.snapshots.renew(str(self.manifest), timedelta(days=4))
        self.load(manifest)
        self.workspace = self._fresh()
        self.workspace.restore(manifest.tree)

    def change(self) -> None:
        """What a turn does: some entries, one file."""
        asyncio.run(self.store.append(self.key, entries(TURN_BYTES // ENTRY_BYTES)))
        (self.folder / "changed").write_bytes(os.urandom(1000))

    def stage(self) -> None:
        """Upload what changed, and the manifest."""
        self.version += 1
        name = f"{self.version}-bench"
        manifest = Manifest(
            session_id=self.id,
            version=self.version,
            turn_id="bench",
            parent=self.manifest,
            segments=self.store.stage(name),
            tree=self.workspace.capture().tree,
        )
        self.manifest = f"{session_prefix(self.id)}manifests/{name}.json"
        self.wire.snapshots.write(self.manifest, manifest)

    def transcript(self) -> bytes:
        loaded = asyncio.run(SnapshotStore(self.wire.snapshots, self.id, self.newest()).load(self.key)) or []
        return b"".join(json.dumps(entry).encode() + b"\n" for entry in loaded)

    def newest(self) -> Manifest:
        return self.wire.snapshots.read(str(self.manifest), Manifest)


class Copies:
    """The same files, every one copied both ways."""

    def __init__(self, session: Session) -> None:
        self.wire, self.prefix = session.wire, f"copies/{session.id}/"
        body = session.transcript()
        self.files = {"transcript.jsonl": body}
        self.files |= {str(p.relative_to(session.folder)): p.read_bytes() for p in _files(session.folder)}
        self.upload()

    def download(self) -> None:
        with ThreadPoolExecutor(PARALLEL) as pool, tempfile.TemporaryDirectory() as folder:
            fetched = pool.map(lambda name: (name, self.wire.snapshots.get(self.prefix + name)), self.files)
            for name, body in fetched:
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(body)

    def upload(self) -> None:
        with ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(lambda name: self.wire.snapshots.put(self.prefix + name, self.files[name]), self.files))


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def sessions(stack: EmbeddedStack, runs: int) -> list[Figure]:
    """A row of figures for each size."""
    wire = Wire(stack)
    found: list[Figure] = []
    with tempfile.TemporaryDirectory() as home:
        for megabytes in TRANSCRIPTS:
            folder = Path(home) / f"t{megabytes}"
            session = Session(wire, int(megabytes * 1_000_000), 0, folder)
            found += compare(f"{megabytes:g} MB transcript", session, min(runs, MOST_RUNS))
            found += plain(f"{megabytes:g} MB transcript", wire, session, min(runs, MOST_RUNS))
        for files in WORKSPACES:
            folder = Path(home) / f"w{files}"
            session = Session(wire, 100_000, files, folder)
            found += compare(f"{files:,} files", session, min(runs, MOST_RUNS))
    return found


def compare(name: str, session: Session, runs: int) -> list[Figure]:
    """Ours and the copy's, side by side."""
    copies = Copies(session)
    cold: list[tuple[float, Traffic]] = []
    warm: list[tuple[float, Traffic]] = []
    down: list[tuple[float, Traffic]] = []
    up: list[tuple[float, Traffic]] = []
    for _ in range(runs):
        cold.append(session.wire.measure(session.cold))
        session.change()
        warm.append(session.wire.measure(session.stage))
        down.append(session.wire.measure(copies.download))
        up.append(session.wire.measure(copies.upload))
    return [
        _times(f"{name}: load, cold", cold),
        _times(f"{name}: the same by copying", down),
        _times(f"{name}: store a turn", warm),
        _times(f"{name}: the same by copying", up),
        _traffic(
            f"{name}: a cold turn", "requests", [c[1].requests + w[1].requests for c, w in zip(cold, warm, strict=True)]
        ),
        _traffic(
            f"{name}: by copying", "requests", [d[1].requests + u[1].requests for d, u in zip(down, up, strict=True)]
        ),
        _traffic(f"{name}: a warm turn moves", "KB", [(w[1].up + w[1].down) / 1000 for w in warm]),
        _traffic(f"{name}: by copying", "KB", [(d[1].down + u[1].up) / 1000 for d, u in zip(down, up, strict=True)]),
        _ratio(f"{name}: copying / ours, bytes of a warm turn", down, up, warm),
    ]


def plain(name: str, wire: Wire, session: Session, runs: int) -> list[Figure]:
    """The transcript alone, on disk, next to one plain download of the same bytes, in turns."""
    key, manifest = f"copies/{session.id}/transcript.jsonl", session.newest()
    ours: list[tuple[float, Traffic]] = []
    one: list[tuple[float, Traffic]] = []
    for _ in range(runs):
        ours.append(wire.measure(lambda: session.load(manifest)))
        one.append(wire.measure(lambda: _download(wire, key)))
    return [
        _times(f"{name}: the transcript alone, cold", ours),
        _times(f"{name}: one plain download", one),
        Figure(f"{name}: ours / one plain download", "x", tuple(o[0] / p[0] for o, p in zip(ours, one, strict=True))),
    ]


def _download(wire: Wire, key: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        wire.snapshots.download(key, Path(folder) / "transcript.jsonl")


def _times(name: str, measured: list[tuple[float, Traffic]]) -> Figure:
    return Figure(name, "ms", tuple(took for took, _ in measured))


def _traffic(name: str, unit: str, samples: list[float]) -> Figure:
    return Figure(name, unit, tuple(samples))


def _ratio(name: str, down: Any, up: Any, warm: Any) -> Figure:
    pairs = zip(down, up, warm, strict=True)
    return Figure(name, "x", tuple((d[1].down + u[1].up) / (w[1].up + w[1].down) for d, u, w in pairs))
