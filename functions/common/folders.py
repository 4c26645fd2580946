"""Opens and empties folders in which a hostile process can have put anything.

What empties them goes down and up by descriptors: a handful are open at a time, no path is longer than one name,
nothing recurses, no link is followed and no other mount entered. Nothing is created or renamed on the way, so a full
disk is no hindrance. Rights are given where they lack. The way up is the folder's `..`, which must be the one that was
left: whoever moves folders about meanwhile is told, not followed.

https://man7.org/linux/man-pages/man2/open.2.html (O_NOFOLLOW, O_PATH, *at calls),
https://man7.org/linux/man-pages/man5/proc_pid_fdinfo.5.html (mnt_id)
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
PASS = FOLDER | (os.O_PATH if sys.platform == "linux" else 0)
"""To go through a folder one need not be able to read it."""

SHOWN = 5
"""So many of the places that could not be removed are told."""

Identity = tuple[int, int]
"""(device, inode)."""


class NotCleaned(Exception):
    """Something could not be removed: nothing more may run in this container."""


@dataclass(frozen=True)
class _Left:
    """A folder that was left for one in it: `inner` is that one's name, `folders` are the names still to be removed."""

    identity: Identity
    inner: str
    folders: list[str]


def remove(folder: Path) -> None:
    """Remove a folder with all that is in it, or what was put in its place; nothing is fine. Raises NotCleaned."""
    try:
        if stat.S_ISDIR(folder.lstat().st_mode):
            clear(folder)
            folder.rmdir()
        else:
            folder.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise NotCleaned(f"{folder}: {error.strerror}") from error


def clear(folder: Path) -> None:
    """Remove all that is in a folder, which stays. Raises NotCleaned; what can be removed is gone then, too."""
    try:
        here = open_folder(str(folder))
    except OSError as error:
        raise NotCleaned(f"{folder}: {error.strerror}") from error
    stays: list[str] = []
    try:
        _clear(here, stays)
    except OSError as error:
        stays.append(f"{error.filename}: {error.strerror}")
    if stays:
        more = f" and {len(stays) - SHOWN} more" if len(stays) > SHOWN else ""
        raise NotCleaned(f"in {folder}: {', '.join(stays[:SHOWN])!a}{more}")


def _clear(here: int, stays: list[str]) -> None:
    """Empty the folder `here`, a descriptor that is closed at the end; `stays` hears what cannot be removed."""
    mount = _mount(here)
    above: list[_Left] = []
    try:
        folders = _remove_files(here, stays)
        while folders or above:
            if folders:
                inner = folders.pop()
                with _told(inner, stays):
                    there = open_folder(inner, here, mount)
                    above.append(_Left(_identity(here), inner, folders))
                    os.close(here)
                    here, folders = there, []
                    folders = _remove_files(here, stays)
            else:
                left = above.pop()
                there = os.open("..", FOLDER, dir_fd=here)
                os.close(here)
                here, folders = there, left.folders
                if _identity(here) != left.identity:
                    raise OSError(errno.ESTALE, "it was moved meanwhile", left.inner)
                with _told(left.inner, stays):
                    os.rmdir(left.inner, dir_fd=here)
    finally:
        os.close(here)


def _remove_files(here: int, stays: list[str]) -> list[str]:
    """Remove what is no folder; the names of those that are."""
    folders: list[str] = []
    others: list[str] = []
    with os.scandir(here) as found:
        for entry in found:
            (folders if entry.is_dir(follow_symlinks=False) else others).append(entry.name)
    for name in others:
        with _told(name, stays):
            os.unlink(name, dir_fd=here)
    return folders


@contextlib.contextmanager
def _told(name: str, stays: list[str]) -> Iterator[None]:
    """Note what cannot be removed, and go on; what is gone already is fine."""
    try:
        yield
    except FileNotFoundError:
        return
    except OSError as error:
        stays.append(f"{name}: {error.strerror}")


@contextlib.contextmanager
def opened(folder: Path, inner: str = "") -> Iterator[int]:
    """A folder, or one in it (a path relative to it), as a descriptor. `folder` itself is without links.

    A link that somebody put anywhere on the way is not followed but an OSError. Rights are given to the folder and
    those in it, not above.
    """
    here = os.open(folder.anchor, PASS)
    try:
        for name in folder.parent.parts[1:]:
            here = _instead(here, os.open(name, PASS, dir_fd=here))
        for name in (folder.name, *filter(None, inner.split("/"))):
            here = _instead(here, open_folder(name, here))
        yield here
    finally:
        os.close(here)


def _instead(old: int, new: int) -> int:
    os.close(old)
    return new


def open_folder(name: str, above: int | None = None, mount: str | None = None) -> int:
    """A folder, its owner's to read and write from now on, when it is on that mount (None: whichever it is on).

    No link is followed. Returns a descriptor to be closed. Raises OSError.
    """
    return _open(name, above, mount, FOLDER, stat.S_ISDIR, stat.S_IRWXU)


def open_file(name: str, above: int) -> int:
    """An ordinary file, its owner's to read from now on. No link is followed and nothing waited for.

    Returns a descriptor to be closed. Raises OSError.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return _open(name, above, None, flags, stat.S_ISREG, stat.S_IRUSR)


def _open(
    name: str, above: int | None, mount: str | None, flags: int, is_kind: Callable[[int], bool], rights: int
) -> int:
    """Open what is of this kind, with these rights given to it. Linux's chmod would follow a link, O_PATH does not."""
    if sys.platform != "linux":
        status = os.stat(name, dir_fd=above, follow_symlinks=False)
        _check(name, is_kind(status.st_mode), str(status.st_dev), mount)
        if status.st_mode & rights != rights:
            os.chmod(name, stat.S_IMODE(status.st_mode) | rights, dir_fd=above, follow_symlinks=False)
        return os.open(name, flags, dir_fd=above)
    place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    try:
        mode = os.fstat(place).st_mode
        _check(name, is_kind(mode), _mount(place), mount)
        if mode & rights != rights:
            os.chmod(f"/proc/self/fd/{place}", stat.S_IMODE(mode) | rights)
        return os.open(f"/proc/self/fd/{place}", flags & ~os.O_NOFOLLOW)
    finally:
        os.close(place)


def _check(name: str, is_kind: bool, is_on: str, mount: str | None) -> None:
    if not is_kind:
        raise OSError(errno.ENOTDIR, "it is something else", name)
    if mount not in (None, is_on):
        raise OSError(errno.EXDEV, "something is mounted there", name)


def _identity(folder: int) -> Identity:
    status = os.fstat(folder)
    return status.st_dev, status.st_ino


def _mount(folder: int) -> str:
    """What tells one mount from another: a folder bound to another place has that one's device.

    A process that is closed to others (PR_SET_DUMPABLE) cannot read it before Linux 5.14: then the device has to do.
    """
    if sys.platform == "linux":
        with contextlib.suppress(PermissionError), open(f"/proc/self/fdinfo/{folder}") as file:
            return next(line for line in file if line.startswith("mnt_id:"))
    return str(os.fstat(folder).st_dev)
