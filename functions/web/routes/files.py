"""What a conversation holds: what was said, its versions, its files."""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Query, Response
from pydantic import BaseModel

from functions.common import aws
from functions.conversation.files.documents import Manifest
from functions.conversation.files.trees import content_of, read_tree
from functions.conversation.files.versions import archive, at_version
from functions.conversation.files.versions import history as back_from
from functions.conversation.sessions import Pointer
from functions.web.asking import Mine, session_table
from functions.web.channel import snapshots
from functions.web.conversations import Conversation
from functions.web.history import Page, page

router = APIRouter(tags=["files"])

ARCHIVE_BYTES = 200 * 1024 * 1024
"""Bytes of files that are packed into one archive, in memory."""

AtVersion = Annotated[int | None, Query(ge=1)]


class Version(BaseModel):
    """One version of a conversation: the turn that made it, what the conversation had cost, and its files."""

    version: int
    turn_id: str
    cost_usd: float
    files: int
    bytes: int


class Listed(BaseModel):
    """A file, link or folder of a workspace; `size` in bytes."""

    path: str
    kind: Literal["file", "link", "folder"]
    size: int
    target: str = ""


def pointer_of(one: Conversation) -> Pointer | None:
    """Where a conversation stands; None before its first turn."""
    return session_table().pointer(one.place.session_key)


def manifest_of(one: Conversation, version: int | None) -> Manifest | None:
    """The manifest of a version (None: the newest); None before the first. Raises SnapshotMissing."""
    pointer = pointer_of(one)
    if pointer is None or pointer.manifest is None:
        return None
    return at_version(snapshots(), pointer, version)[1]


@router.get("/sessions/{session_id}/history")
def history(
    one: Mine,
    before: Annotated[str | None, Query(max_length=40)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    version: AtVersion = None,
) -> Page:
    """What was said: the newest entries, or those before a cursor."""
    with aws.translated():
        manifest = manifest_of(one, version)
        return page(snapshots(), manifest, before, limit) if manifest else Page(entries=[], before=None)


@router.get("/sessions/{session_id}/versions")
def versions(one: Mine, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> list[Version]:
    """The versions, the newest first."""
    with aws.translated():
        pointer = pointer_of(one)
        found = islice(back_from(snapshots(), pointer), limit) if pointer else ()
        return [
            Version(
                version=manifest.version,
                turn_id=manifest.turn_id,
                cost_usd=manifest.cost_usd,
                files=manifest.tree.files if manifest.tree else 0,
                bytes=manifest.tree.bytes if manifest.tree else 0,
            )
            for _, manifest in found
        ]


@router.get("/sessions/{session_id}/files")
def files(one: Mine, version: AtVersion = None) -> list[Listed]:
    """The files of the workspace."""
    with aws.translated():
        manifest = manifest_of(one, version)
        entries = read_tree(snapshots(), manifest.tree).entries if manifest else ()
    return [Listed(path=e.path, kind=e.kind, size=e.size, target=e.target) for e in entries]


@router.get("/sessions/{session_id}/files/{path:path}", response_class=Response)
def read_file(one: Mine, path: str, version: AtVersion = None) -> Response:
    """One file's content, to be saved: never a page of ours, whatever is in it."""
    with aws.translated():
        manifest = manifest_of(one, version)
        tree = read_tree(snapshots(), manifest.tree) if manifest else None
        found = next((e for e in tree.entries if e.path == path and e.kind == "file"), None) if tree else None
        if manifest is None or tree is None or found is None:
            raise HTTPException(404, "there is no such file")
        return _attachment(path.rpartition("/")[2], content_of(snapshots(), manifest.session_id, tree, found))


@router.get("/sessions/{session_id}/archive", response_class=Response)
def download(one: Mine, version: AtVersion = None) -> Response:
    """All files, as a ZIP archive."""
    with aws.translated():
        manifest = manifest_of(one, version)
        if manifest is None:
            raise HTTPException(404, "there are no files yet")
        if manifest.tree and manifest.tree.bytes > ARCHIVE_BYTES:
            raise HTTPException(409, f"the files have more than {ARCHIVE_BYTES:,} bytes: fetch them one by one")
        return _attachment("workspace.zip", archive(snapshots(), manifest))


def _attachment(name: str, content: bytes) -> Response:
    headers = {
        "content-disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
        "content-security-policy": "sandbox; default-src 'none'",
    }
    return Response(content, 200, headers, "application/octet-stream")
