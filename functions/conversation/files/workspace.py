"""The workspace's snapshot: every file by its content, only new content uploaded.

    sessions/<session_id>/blobs/<sha256>         a large file, or a pack: many small files one after another
    sessions/<session_id>/trees/<sha256>.json.gz the list of all files, links and folders of one version

Objects are named by the hash of what they hold, so the same content is never uploaded twice and never overwritten. A
file is found by (object, offset, size). Small new files of a turn share one pack: a workspace of 10,000 files is some
dozens of requests, not 10,000.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pathspec import GitIgnoreSpec

from functions.common.folders import open_file, opened
from functions.conversation.files.documents import LeftOut, Reason, TreeReference, session_prefix
from functions.conversation.files.snapshots import PARALLEL, Snapshots
from functions.conversation.files.trees import (
    PACK_BYTES,
    PACKED_BELOW,
    Entry,
    Stored,
    Tree,
    by_object,
    leads_outside,
    read_tree,
    write_tree,
)

MAX_PACKS = 16
"""Packs of a version; with more, the small ones are written again as few."""

IGNORED = ("__pycache__/", "*.pyc", ".cache/", ".pytest_cache/", ".mypy_cache/", ".ruff_cache/", ".npm/")
IGNORE_FILE = ".stepgramignore"
"""Patterns of the agent's or user's own, in the form of `.gitignore`."""


IGNORE_BYTES = 64 * 1024

LEVELS, PATH_BYTES = 100, 1024
"""How deep a path may lie in folders, and how long it may be: far below what systems take, wherever a folder is."""

SEEN = 10
"""So many times as many things as there may be files are looked at; what comes after them is left out unseen."""


@dataclass(frozen=True)
class Limits:
    """What a workspace may hold: files (and as many folders and links), and bytes of one and of all."""

    files: int = 20_000
    file_bytes: int = 100 * 1024 * 1024
    total_bytes: int = 1024 * 1024 * 1024


Place = tuple[str, int, int]
"""(object's name, offset, the object's size)."""

Signature = tuple[int, int, int, int]
"""(inode, size, mtime, ctime) of a file: while it stays, so does the content."""


@dataclass
class Captured:
    """What `Workspace.capture` found: the tree's reference (None: nothing), and what was left out."""

    tree: TreeReference | None
    left_out: tuple[LeftOut, ...]
    changed: frozenset[str] = frozenset()
    """Paths of files that are new or have other content than before."""


@dataclass
class _Scan:
    entries: list[Entry] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    others: int = 0
    """Folders and links."""
    seen: int = 0


class Workspace:
    """A folder and the session whose snapshots it has."""

    def __init__(self, folder: Path, snapshots: Snapshots, session_id: str, limits: Limits = Limits()) -> None:
        self.folder = folder
        self._place = folder.resolve()
        self._snapshots = snapshots
        self._prefix = session_prefix(session_id)
        self._limits = limits
        self._tree = Tree()
        self._reference: TreeReference | None = None
        self._known: dict[str, tuple[Signature, str]] = {}

    def restore(self, reference: TreeReference | None) -> None:
        """Fill the empty folder with a version's files. Raises SnapshotMissing."""
        self._reference = reference
        self._tree = read_tree(self._snapshots, reference)
        folders = [entry for entry in self._tree.entries if entry.kind == "folder"]
        for entry in folders:
            (self.folder / entry.path).mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(self._fetch, self._tree.objects, by_object(self._tree)))
        for entry in self._tree.entries:
            if entry.kind == "link":
                (self.folder / entry.path).symlink_to(entry.target)
        for entry in reversed(folders):
            (self.folder / entry.path).chmod(entry.mode)
        for entry in self._tree.entries:
            if entry.kind == "file":
                self._known[entry.path] = (_signature((self.folder / entry.path).lstat()), entry.sha256)

    def _fetch(self, stored: Stored, entries: list[Entry]) -> None:
        key = f"{self._prefix}blobs/{stored.name}"
        pack = self._snapshots.get(key) if stored.size < PACKED_BELOW + PACK_BYTES else None
        for entry in entries:
            path = self.folder / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            if pack is None:
                self._snapshots.download(key, path)
            else:
                path.write_bytes(pack[entry.offset : entry.offset + entry.size])
            path.chmod(entry.mode)

    def capture(self) -> Captured:
        """Upload what is new and the tree that names everything; what breaks a limit or points outside is left out."""
        before = {entry.path: entry.sha256 for entry in self._tree.entries if entry.kind == "file"}
        scan = self._scan()
        tree = self._store(scan.entries)
        changed = frozenset(e.path for e in tree.entries if e.kind == "file" and before.get(e.path) != e.sha256)
        if tree != self._tree:
            self._reference = write_tree(self._snapshots, self._prefix, tree) if tree.entries else None
        self._tree = tree
        return Captured(self._reference, tuple(scan.left_out), changed)

    def open(self, path: str) -> BinaryIO:
        """A file of the workspace, to be read; no link is followed on the way. Raises OSError."""
        folder, _, name = path.rpartition("/")
        with opened(self._place, folder) as here:
            return os.fdopen(open_file(name, here), "rb")

    def _scan(self) -> _Scan:
        scan = _Scan()
        ignored = GitIgnoreSpec.from_lines([*IGNORED, *self._own_patterns()])
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            try:
                with opened(self._place, folder) as here:
                    waiting += reversed(self._visit(here, f"{folder}/" if folder else "", ignored, scan))
            except OSError:
                scan.left_out.append(LeftOut(path=folder or ".", reason="unreadable"))
        scan.entries.sort(key=lambda entry: entry.path)
        return scan

    def _own_patterns(self) -> list[str]:
        try:
            with self.open(IGNORE_FILE) as file:
                return file.read(IGNORE_BYTES).decode("utf-8", "replace").splitlines()
        except OSError:
            return []

    def _visit(self, here: int, prefix: str, ignored: GitIgnoreSpec, scan: _Scan) -> list[str]:
        """What is in one folder; returns the paths of the folders in it that are to be visited."""
        with os.scandir(here) as found:
            children = sorted(found, key=lambda child: child.name)
        folders: list[str] = []
        for child in children:
            path = prefix + child.name
            scan.seen += 1
            if scan.seen > SEEN * max(1, self._limits.files):
                scan.left_out.append(LeftOut(path=prefix or ".", reason="too_many"))
                return []
            if not _is_utf8(path):
                scan.left_out.append(LeftOut(path=ascii(path), reason="bad_name"))
                continue
            is_folder = child.is_dir(follow_symlinks=False)
            if ignored.match_file(path + "/" if is_folder else path):
                continue
            status = child.stat(follow_symlinks=False)
            mode = stat.S_IMODE(status.st_mode) & 0o777
            ordinary = child.is_file(follow_symlinks=False)
            if path.count("/") >= LEVELS or len(path.encode()) > PATH_BYTES:
                scan.left_out.append(LeftOut(path=path, reason="too_deep"))
            elif ordinary:
                self._file(path, here, status, mode, scan)
            elif not is_folder and not child.is_symlink():
                scan.left_out.append(LeftOut(path=path, reason="not_a_file"))
            elif scan.others >= self._limits.files:
                scan.left_out.append(LeftOut(path=path, reason="too_many"))
            elif is_folder:
                scan.others += 1
                scan.entries.append(Entry(path=path, kind="folder", mode=mode))
                folders.append(path)
            else:
                self._link(path, here, scan)
        return folders

    def _link(self, path: str, here: int, scan: _Scan) -> None:
        name, place = os.path.basename(path), self.folder / path
        target = os.readlink(name, dir_fd=here)
        if os.path.isabs(target) and Path(target).is_relative_to(self.folder):
            target = os.path.relpath(target, place.parent)
        reason: Reason | None = "outside" if leads_outside(path, target) else None
        if reason is None and _is_endless(name, here):
            reason = "not_a_file"
        if reason is None and not Path(os.path.realpath(place)).is_relative_to(self._place):
            reason = "outside"
        if reason is not None:
            scan.left_out.append(LeftOut(path=path, reason=reason))
            return
        scan.others += 1
        scan.entries.append(Entry(path=path, kind="link", target=target))

    def _file(self, path: str, here: int, status: os.stat_result, mode: int, scan: _Scan) -> None:
        size = status.st_size
        reason: Reason | None = None
        if size > self._limits.file_bytes:
            reason = "too_large"
        elif scan.files >= self._limits.files:
            reason = "too_many"
        elif scan.bytes + size > self._limits.total_bytes:
            reason = "no_room"
        if reason is None:
            try:
                digest = self._hash(path, here, status)
            except OSError:
                reason = "unreadable"
        if reason is not None:
            scan.left_out.append(LeftOut(path=path, reason=reason, size=size))
            return
        scan.files += 1
        scan.bytes += size
        scan.entries.append(Entry(path=path, mode=mode, size=size, sha256=digest))

    def _hash(self, path: str, here: int, status: os.stat_result) -> str:
        known = self._known.get(path)
        if known is not None and known[0] == _signature(status):
            return known[1]
        with os.fdopen(open_file(os.path.basename(path), here), "rb") as content:
            signature = _signature(os.fstat(content.fileno()))
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        self._known[path] = (signature, digest)
        return digest

    def _store(self, entries: list[Entry]) -> Tree:
        """Upload content that no object of the last version holds; the tree that says where everything is."""
        places = self._kept(entries)
        missing: dict[str, Entry] = {}
        for entry in entries:
            if entry.kind == "file" and entry.sha256 not in places:
                missing.setdefault(entry.sha256, entry)
        uploads: list[Callable[[], dict[str, Place]]] = []
        for pack in _packs(entry for entry in missing.values() if entry.size < PACKED_BELOW):
            uploads.append(lambda pack=pack: self._put_pack(pack))  # type: ignore[misc]
        for entry in missing.values():
            if entry.size >= PACKED_BELOW:
                uploads.append(lambda entry=entry: self._put_file(entry))  # type: ignore[misc]
        with ThreadPoolExecutor(PARALLEL) as pool:
            for placed in pool.map(lambda upload: upload(), uploads):
                places.update(placed)
        return _tree(entries, places)

    def _kept(self, entries: list[Entry]) -> dict[str, Place]:
        """Where content of the last version is, without packs that are mostly waste or too small and too many."""
        wanted = {entry.sha256 for entry in entries if entry.kind == "file"}
        places: dict[str, Place] = {}
        live: Counter[str] = Counter()
        for entry in self._tree.entries:
            if entry.kind == "file" and entry.sha256 in wanted and entry.sha256 not in places:
                stored = self._tree.objects[entry.object]
                places[entry.sha256] = (stored.name, entry.offset, stored.size)
                live[stored.name] += entry.size
        packs = {n: size for n, _, size in places.values() if n not in wanted or size < PACKED_BELOW}
        waste = {name for name, size in packs.items() if live[name] * 2 < size}
        if len(packs) - len(waste) > MAX_PACKS:
            waste |= {name for name, size in packs.items() if size < PACK_BYTES // 2}
        return {sha256: place for sha256, place in places.items() if place[0] not in waste}

    def _put_pack(self, entries: list[Entry]) -> dict[str, Place]:
        # A file that something still writes to has the size it had when it was seen.
        content = [self._read(entry.path)[: entry.size].ljust(entry.size, b"\0") for entry in entries]
        body = b"".join(content)
        name = hashlib.sha256(body).hexdigest()
        self._snapshots.put(f"{self._prefix}blobs/{name}", body, "application/octet-stream")
        placed, offset = {}, 0
        for entry, piece in zip(entries, content, strict=True):
            placed[entry.sha256] = (name, offset, len(body))
            offset += len(piece)
        return placed

    def _read(self, path: str) -> bytes:
        with self.open(path) as file:
            return file.read()

    def _put_file(self, entry: Entry) -> dict[str, Place]:
        with self.open(entry.path) as content:
            self._snapshots.put(f"{self._prefix}blobs/{entry.sha256}", content, "application/octet-stream")
        return {entry.sha256: (entry.sha256, 0, entry.size)}


def _is_endless(link: str, here: int) -> bool:
    """Whether a link leads on and on: systems follow some 40, Python would follow all, each one call deeper."""
    try:
        os.stat(link, dir_fd=here)
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _packs(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    pack: list[Entry] = []
    size = 0
    for entry in entries:
        pack.append(entry)
        size += entry.size
        if size >= PACK_BYTES:
            yield pack
            pack, size = [], 0
    if pack:
        yield pack


def _tree(entries: list[Entry], places: dict[str, Place]) -> Tree:
    objects = {name: size for name, _, size in places.values()}
    used = {places[entry.sha256][0] for entry in entries if entry.kind == "file"}
    names = sorted(used)
    number = {name: n for n, name in enumerate(names)}
    return Tree(
        objects=tuple(Stored(name=name, size=objects[name]) for name in names),
        entries=tuple(
            entry.model_copy(update={"object": number[places[entry.sha256][0]], "offset": places[entry.sha256][1]})
            if entry.kind == "file"
            else entry
            for entry in entries
        ),
    )


def _signature(status: os.stat_result) -> Signature:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
