"""Time travel: a session's versions, and what can be made of one. Snapshots are immutable, so an old one is whole."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import BaseModel, ValidationError

from functions.common.beliefs import UNSEEN
from functions.common.errors import ResultRefused, SnapshotMissing
from functions.conversation.files.documents import Manifest, Segment, session_prefix, turn_prefix
from functions.conversation.files.snapshots import PARALLEL, Snapshots
from functions.conversation.files.trees import contents, read_tree
from functions.conversation.sessions import Pointer

MAIN = ""
DEBUG = "debug.txt"
WORKSPACE = "workspace.zip"

TRANSCRIPT_BYTES = 256 * 1024 * 1024
"""Bytes of a transcript that is read as a whole."""

DEBUG_BYTES = 16 * 1024 * 1024
"""Bytes of a turn's debug log that is shown; the agent keeps far less."""


def newest(snapshots: Snapshots, pointer: Pointer) -> Manifest | None:
    """The version a conversation is at; None for a new one. Raises SnapshotMissing, ResultRefused."""
    return None if pointer.manifest is None else at(pointer, snapshots.manifest(pointer.manifest))


def at(pointer: Pointer, manifest: Manifest) -> Manifest:
    """The manifest, when it is that of the pointer. Raises ResultRefused."""
    if (manifest.session_id, manifest.version) != (pointer.session_id, pointer.version):
        found = f"version {manifest.version} of session {manifest.session_id}"
        raise ResultRefused(f"{pointer.manifest} is {found}, not {pointer.version} of {pointer.session_id}")
    return manifest


def _parent(pointer: Pointer, manifest: Manifest) -> Pointer:
    """The version before: it is one less, so that no chain of parents is longer than the session has versions."""
    version = 0 if manifest.parent is None else pointer.version - 1
    return pointer.model_copy(update={"version": version, "manifest": manifest.parent})


def history(snapshots: Snapshots, pointer: Pointer) -> Iterator[tuple[str, Manifest]]:
    """The versions from the newest back, with their manifests' keys, as far as they still exist."""
    while pointer.manifest is not None:
        try:
            manifest = at(pointer, snapshots.manifest(pointer.manifest))
        except SnapshotMissing:
            return
        yield pointer.manifest, manifest
        pointer = _parent(pointer, manifest)


def at_version(snapshots: Snapshots, pointer: Pointer, version: int | None) -> tuple[str, Manifest]:
    """The manifest of a version (None: the newest). Raises SnapshotMissing."""
    for key, manifest in history(snapshots, pointer):
        if version in (None, manifest.version):
            return key, manifest
    raise SnapshotMissing(f"session {pointer.session_id} has no version {version or pointer.version} (any more)")


def before_last_turn(snapshots: Snapshots, pointer: Pointer) -> Pointer | None:
    """Where the conversation stood before its last turn; None when there is none.

    Raises SnapshotMissing, ResultRefused.
    """
    last = newest(snapshots, pointer)
    if last is None:
        return None
    before = _parent(pointer, last)
    cost = 0.0 if before.manifest is None else at(before, snapshots.check(before.manifest)).cost_usd
    return before.model_copy(update={"cost_usd": cost, "turns": max(0, pointer.turns - 1)})


def fork(snapshots: Snapshots, manifest: Manifest, session_id: str) -> Pointer:
    """Copy a version into a session of its own; both go on apart. Making the same fork again changes nothing.

    The session's id stands in every line of a transcript and in paths, so it is replaced there; files are copied in S3.
    """
    old, new = session_prefix(manifest.session_id), session_prefix(session_id)
    segments = []
    for subpath in sorted({segment.subpath for segment in manifest.segments}):
        body = transcript(snapshots, manifest, subpath).replace(manifest.session_id.encode(), session_id.encode())
        key = f"{new}transcript/{manifest.version}-fork/{subpath or 'main'}.jsonl"
        snapshots.put(key, body, "application/x-ndjson")
        segments.append(Segment(key=key, subpath=subpath, size=len(body)))
    tree = manifest.tree
    if tree is not None:
        with ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(lambda key: snapshots.copy(key, new + key.removeprefix(old)), (tree.key, *tree.objects)))
        moved = {
            "key": new + tree.key.removeprefix(old),
            "objects": [new + key.removeprefix(old) for key in tree.objects],
        }
        tree = tree.model_copy(update={**moved, "objects": tuple(moved["objects"])})
    key = f"{new}manifests/{manifest.version}-fork.json"
    copied = {"session_id": session_id, "parent": None, "segments": tuple(segments), "tree": tree}
    snapshots.write(key, manifest.model_copy(update=copied))
    return Pointer(
        session_id=session_id,
        version=manifest.version,
        manifest=key,
        cost_usd=manifest.cost_usd,
        turns=manifest.version,
    )


def transcript(snapshots: Snapshots, manifest: Manifest, subpath: str = MAIN) -> bytes:
    """One transcript of a version, as the CLI writes it: one JSON document a line.

    Raises SnapshotMissing, ResultRefused for what nobody holds in memory.
    """
    segments = [segment for segment in manifest.segments if segment.subpath == subpath]
    if sum(segment.size for segment in segments) > TRANSCRIPT_BYTES:
        raise ResultRefused(f"the transcript {subpath or 'main'} has more than {TRANSCRIPT_BYTES:,} bytes")
    return b"".join(snapshots.get_all(segments))


def export(snapshots: Snapshots, manifest: Manifest, workspace: bool = True) -> Iterator[tuple[str, bytes]]:
    """The files of a version: `conversation.jsonl`, `debug.txt`, `todos.json`, `workspace.zip`, subagents' transcripts.

    `conversation.jsonl` is the CLI's own format: as `projects/<any>/<session_id>.jsonl` the SDK reads it.
    """
    conversation = transcript(snapshots, manifest)
    yield "conversation.jsonl", conversation
    yield DEBUG, _debug(snapshots, manifest)
    yield "todos.json", json.dumps(todos(conversation), ensure_ascii=False, indent=2).encode("utf-8", "replace")
    if workspace:
        yield WORKSPACE, archive(snapshots, manifest)
    for subpath in sorted({segment.subpath for segment in manifest.segments} - {MAIN}):
        yield f"{subpath}.jsonl", transcript(snapshots, manifest, subpath)


def debug_key(session_id: str, turn_id: str) -> str:
    """Where the CLI's debug log of a turn is kept."""
    return turn_prefix(session_id, turn_id) + DEBUG


def _debug(snapshots: Snapshots, manifest: Manifest) -> bytes:
    try:
        return snapshots.get(debug_key(manifest.session_id, manifest.turn_id), DEBUG_BYTES)
    except SnapshotMissing:
        return b""


class _Block(BaseModel):
    name: str = ""
    input: dict[str, Any] = {}


class _Message(BaseModel):
    content: list[_Block] | str = ""


class _Line(BaseModel):
    """One line of a transcript, as far as it uses a tool."""

    message: _Message = _Message()


def todos(conversation: bytes) -> list[dict[str, Any]]:
    """The agent's list of tasks as its tools TaskCreate and TaskUpdate (or TodoWrite) left it.

    Tasks are numbered from 1 as they are created; a deleted one is left out, and so is a line that is none.
    """
    found: dict[str, dict[str, Any]] = {}
    for line in conversation.split(b"\n"):
        for block in _blocks(line) if b'"tool_use"' in line else ():
            given, task = block.input, str(block.input.get("taskId"))
            if block.name == "TaskCreate":
                number = str(len(found) + 1)
                found[number] = {"id": number, "content": given.get("subject", ""), "status": "pending"}
            elif block.name == "TaskUpdate" and task in found:
                found[task] |= {"status": given.get("status", found[task]["status"])}
            elif block.name == "TodoWrite" and isinstance(given.get("todos"), list):
                listed = [todo for todo in given["todos"] if isinstance(todo, dict)]
                found = {str(number): todo for number, todo in enumerate(listed, 1)}
    return [todo for todo in found.values() if todo.get("status") != "deleted"]


def _blocks(line: bytes) -> list[_Block]:
    try:
        content = _Line.model_validate_json(line).message.content
    except ValidationError:
        return []
    return content if isinstance(content, list) else []


def archive(snapshots: Snapshots, manifest: Manifest) -> bytes:
    """The workspace as a ZIP archive; modes are kept, and links as such."""
    tree = read_tree(snapshots, manifest.tree)
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in tree.entries:
            if entry.kind == "folder":
                archive.writestr(_info(f"{entry.path}/", 0o040000 | entry.mode), b"")
            elif entry.kind == "link":
                archive.writestr(_info(entry.path, 0o120777), entry.target)
        for entry, content in contents(snapshots, manifest.session_id, tree):
            archive.writestr(_info(entry.path, 0o100000 | entry.mode), content)
    return body.getvalue()


def _info(path: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(UNSEEN.sub("_", path).replace("\\", "_"))  # which some programs take for a slash
    info.external_attr = mode << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    return info
