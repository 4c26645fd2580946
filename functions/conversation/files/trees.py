"""The list of a version's files: where the content of each is. The agent wrote it, so it is read with bounds.

`workspace.py` fills folders from it and makes it of them.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from functions.common.beliefs import DOCUMENT_BYTES, Count, RelativePath, Sha256, decompressed, parsed
from functions.common.errors import ResultRefused
from functions.conversation.files.documents import TreeReference, session_prefix
from functions.conversation.files.snapshots import Snapshots

PACKED_BELOW = 256 * 1024
"""Bytes: a smaller file shares a pack with others."""

PACK_BYTES = 8 * 1024 * 1024

TREE_BYTES = 64 * 1024 * 1024
"""Bytes a list of files may have."""

ENTRIES = 200_000
"""Files, links, folders and objects it may have, by its braces: the parser needs up to 1.3 KB of memory for each."""

ITEMS = 12 * ENTRIES
"""Values it may have, by its commas."""


class Entry(BaseModel):
    """One file, link or folder. A file's content is `size` bytes at `offset` of the tree's object number `object`."""

    model_config = ConfigDict(frozen=True)

    path: RelativePath
    kind: Literal["file", "link", "folder"] = "file"
    mode: Annotated[int, Field(ge=0, le=0o777)] = 0
    size: Count = 0
    sha256: Sha256 | Literal[""] = ""
    object: Count = 0
    offset: Count = 0
    target: str = ""


class Stored(BaseModel):
    """An object in the bucket: `name` is its hash, `size` in bytes."""

    model_config = ConfigDict(frozen=True)

    name: Sha256
    size: Count


class Tree(BaseModel):
    """The workspace of one version; entries are sorted by path."""

    model_config = ConfigDict(frozen=True)

    objects: tuple[Stored, ...] = ()
    entries: tuple[Entry, ...] = ()


def read_tree(snapshots: Snapshots, reference: TreeReference | None) -> Tree:
    """The list of a version's files; an empty one when there is none. Raises SnapshotMissing, ResultRefused."""
    if reference is None:
        return Tree()
    what = snapshots.uri(reference.key)
    body = decompressed(snapshots.get(reference.key, DOCUMENT_BYTES), what, TREE_BYTES)
    if body.count(b"{") > ENTRIES or body.count(b",") > ITEMS:
        raise ResultRefused(f"{what} lists more than {ENTRIES:,} files, links and folders")
    tree = parsed(body, Tree, what, at_most=TREE_BYTES)
    problem = _problem(tree, reference)
    if problem is not None:
        raise ResultRefused(f"{what} cannot be: {problem}")
    return tree


def _problem(tree: Tree, reference: TreeReference) -> str | None:
    """Why the list does not hold together, or is not what its manifest says; None when it does."""
    blobs = f"{reference.key.rpartition('/')[0].rpartition('/')[0]}/blobs/"
    if tuple(f"{blobs}{stored.name}" for stored in tree.objects) != reference.objects:
        return "its objects are not those of the manifest"
    files = [entry for entry in tree.entries if entry.kind == "file"]
    if (len(files), sum(entry.size for entry in tree.entries)) != (reference.files, reference.bytes):
        return "it has another number of files or bytes than the manifest says"
    folders, before = {""}, ""
    for entry in tree.entries:
        if entry.path <= before:
            return f"{entry.path!r} comes twice or in the wrong place"
        before = entry.path
        if entry.path.rpartition("/")[0] not in folders:
            return f"{entry.path!r} is in no folder"
        if entry.kind == "folder":
            folders.add(entry.path)
        if entry.kind == "link" and leads_outside(entry.path, entry.target):
            return f"the link {entry.path!r} leads out of the workspace"
        if entry.kind == "file" and not _lies_in(tree, entry):
            return f"{entry.path!r} does not lie in its object"
    if {entry.object for entry in files} != set(range(len(tree.objects))):
        return "it names an object that no file lies in"
    return None


def leads_outside(path: str, target: str) -> bool:
    """Whether a link at `path`, followed by its words alone, leads out of the workspace."""
    led = os.path.normpath(os.path.join(os.path.dirname(path), target))
    return not target or "\0" in target or os.path.isabs(target) or led == ".." or led.startswith("../")


def _lies_in(tree: Tree, entry: Entry) -> bool:
    """Whether a file is a part of a pack, or the whole of a large object: so nobody reads more than a version has."""
    if not entry.sha256 or entry.object >= len(tree.objects):
        return False
    size = tree.objects[entry.object].size
    if size >= PACKED_BELOW + PACK_BYTES:
        return (entry.offset, entry.size) == (0, size)
    return entry.offset + entry.size <= size


def write_tree(snapshots: Snapshots, prefix: str, tree: Tree) -> TreeReference:
    """Store the list of files; the reference also names the objects, so that a manifest tells whether all is there."""
    body = gzip.compress(tree.model_dump_json(exclude_defaults=True).encode(), mtime=0)
    key = f"{prefix}trees/{hashlib.sha256(body).hexdigest()}.json.gz"
    snapshots.put(key, body, "application/gzip")
    return TreeReference(
        key=key,
        files=sum(entry.kind == "file" for entry in tree.entries),
        bytes=sum(entry.size for entry in tree.entries),
        objects=tuple(f"{prefix}blobs/{stored.name}" for stored in tree.objects),
    )


def by_object(tree: Tree) -> list[list[Entry]]:
    """The files of a tree, grouped by the object that holds them, in the order of `tree.objects`."""
    groups: list[list[Entry]] = [[] for _ in tree.objects]
    for entry in tree.entries:
        if entry.kind == "file":
            groups[entry.object].append(entry)
    return groups


def contents(snapshots: Snapshots, session_id: str, tree: Tree) -> Iterator[tuple[Entry, bytes]]:
    """Every file of a tree with its content, one object in memory at a time. Raises SnapshotMissing, ResultRefused."""
    for stored, entries in zip(tree.objects, by_object(tree), strict=True):
        body = snapshots.get(f"{session_prefix(session_id)}blobs/{stored.name}", stored.size)
        for entry in entries:
            yield entry, body[entry.offset : entry.offset + entry.size]


def content_of(snapshots: Snapshots, session_id: str, tree: Tree, entry: Entry) -> bytes:
    """The content of one file of a tree. Raises SnapshotMissing, ResultRefused."""
    stored = tree.objects[entry.object]
    body = snapshots.get(f"{session_prefix(session_id)}blobs/{stored.name}", stored.size)
    return body[entry.offset : entry.offset + entry.size]
