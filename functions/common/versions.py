"""Time travel: a session's versions, and what can be made of one. Snapshots are immutable, so an old one is whole."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from functions.common.errors import SnapshotMissing
from functions.common.sessions import Pointer
from functions.common.snapshots import PARALLEL, Manifest, Segment, Snapshots, session_prefix, turn_prefix
from functions.common.workspace import contents, read_tree

MAIN = ""
DEBUG = "debug.txt"
WORKSPACE = "workspace.zip"


def history(snapshots: Snapshots, pointer: Pointer) -> Iterator[tuple[str, Manifest]]:
    """The versions from the newest back, with their manifests' keys, as far as they still exist."""
    key = pointer.manifest
    while key is not None:
        try:
            manifest = snapshots.read(key, Manifest)
        except SnapshotMissing:
            return
        yield key, manifest
        key = manifest.parent


def at_version(snapshots: Snapshots, pointer: Pointer, version: int | None) -> tuple[str, Manifest]:
    """The manifest of a version (None: the newest). Raises SnapshotMissing."""
    for key, manifest in history(snapshots, pointer):
        if version in (None, manifest.version):
            return key, manifest
    raise SnapshotMissing(f"session {pointer.session_id} has no version {version or pointer.version} (any more)")


def before_last_turn(snapshots: Snapshots, pointer: Pointer) -> Pointer | None:
    """Where the conversation stood before its last turn; None when there is none. Raises SnapshotMissing."""
    if pointer.manifest is None:
        return None
    parent = snapshots.read(pointer.manifest, Manifest).parent
    version, cost = (0, 0.0) if parent is None else _stand(snapshots.check(parent))
    return pointer.model_copy(
        update={"version": version, "manifest": parent, "cost_usd": cost, "turns": max(0, pointer.turns - 1)}
    )


def _stand(manifest: Manifest) -> tuple[int, float]:
    return manifest.version, manifest.cost_usd


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
    """One transcript of a version, as the CLI writes it: one JSON document a line."""
    return b"".join(snapshots.get_all(s.key for s in manifest.segments if s.subpath == subpath))


def export(snapshots: Snapshots, manifest: Manifest, workspace: bool = True) -> Iterator[tuple[str, bytes]]:
    """The files of a version: `conversation.jsonl`, subagents' transcripts, `debug.txt`, `todos.json`, `workspace.zip`.

    `conversation.jsonl` is the CLI's own format: as `projects/<any>/<session_id>.jsonl` the SDK reads it.
    """
    conversation = transcript(snapshots, manifest)
    yield "conversation.jsonl", conversation
    for subpath in sorted({segment.subpath for segment in manifest.segments} - {MAIN}):
        yield f"{subpath}.jsonl", transcript(snapshots, manifest, subpath)
    yield DEBUG, _debug(snapshots, manifest)
    yield "todos.json", json.dumps(todos(conversation), ensure_ascii=False, indent=2).encode()
    if workspace:
        yield WORKSPACE, _workspace(snapshots, manifest)


def debug_key(session_id: str, turn_id: str) -> str:
    """Where the CLI's debug log of a turn is kept."""
    return turn_prefix(session_id, turn_id) + DEBUG


def _debug(snapshots: Snapshots, manifest: Manifest) -> bytes:
    try:
        return snapshots.get(debug_key(manifest.session_id, manifest.turn_id))
    except SnapshotMissing:
        return b""


def todos(conversation: bytes) -> list[dict[str, Any]]:
    """The agent's list of tasks as its tools TaskCreate and TaskUpdate (or TodoWrite) left it.

    Tasks are numbered from 1 as they are created; a deleted one is left out.
    """
    found: dict[str, dict[str, Any]] = {}
    for line in conversation.split(b"\n"):
        content = json.loads(line).get("message", {}).get("content") if b'"tool_use"' in line else None
        for block in content if isinstance(content, list) else []:
            given = block.get("input", {})
            if block.get("name") == "TaskCreate":
                number = str(len(found) + 1)
                found[number] = {"id": number, "content": given.get("subject", ""), "status": "pending"}
            elif block.get("name") == "TaskUpdate" and given.get("taskId") in found:
                found[given["taskId"]] |= {"status": given.get("status", found[given["taskId"]]["status"])}
            elif block.get("name") == "TodoWrite":
                found = {str(number): todo for number, todo in enumerate(given.get("todos", []), 1)}
    return [todo for todo in found.values() if todo.get("status") != "deleted"]


def _workspace(snapshots: Snapshots, manifest: Manifest) -> bytes:
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
    info = zipfile.ZipInfo(path)
    info.external_attr = mode << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    return info
