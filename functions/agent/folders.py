"""Removes all that is in a folder, whatever a hostile process put there.

It goes down and up by descriptors: a handful are open at a time, no path is longer than one name, nothing recurses, no
link is followed and no other mount entered. Nothing is created or renamed on the way, so a full disk is no hindrance.
Rights are given where they lack. The way up is the folder's `..`, which must be the one that was left: whoever moves
folders about meanwhile is told, not followed.

https://man7.org/linux/man-pages/man2/open.2.html (O_NOFOLLOW, O_PATH, *at calls),
https://man7.org/linux/man-pages/man5/proc_pid_fdinfo.5.html (mnt_id)
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
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
        here = _open(str(folder))
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
                    there = _open(inner, here, mount)
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
                    raise OSError(0, "it was moved meanwhile", left.inner)
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


def _open(name: str, above: int | None = None, mount: str | None = None) -> int:
    """A folder, its owner's to read and write from now on, when it is on that mount (None: whichever it is on)."""
    if sys.platform != "linux":
        status = os.stat(name, dir_fd=above, follow_symlinks=False)
        _check(name, str(status.st_dev), mount)
        if stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(name, stat.S_IRWXU, dir_fd=above, follow_symlinks=False)
        return os.open(name, FOLDER, dir_fd=above)
    place = os.open(name, FOLDER | os.O_PATH, dir_fd=above)
    try:
        _check(name, _mount(place), mount)
        if os.fstat(place).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(f"/proc/self/fd/{place}", stat.S_IRWXU)
        return os.open(".", FOLDER, dir_fd=place)
    finally:
        os.close(place)


def _check(name: str, is_on: str, mount: str | None) -> None:
    if mount not in (None, is_on):
        raise OSError(0, "something is mounted there", name)


def _identity(folder: int) -> Identity:
    status = os.fstat(folder)
    return status.st_dev, status.st_ino


def _mount(folder: int) -> str:
    """What tells one mount from another: a folder bound to another place has that one's device."""
    if sys.platform != "linux":
        return str(os.fstat(folder).st_dev)
    with open(f"/proc/self/fdinfo/{folder}") as file:
        return next(line for line in file if line.startswith("mnt_id:"))
