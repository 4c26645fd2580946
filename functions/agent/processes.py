"""Processes a run leaves behind: found and ended, whatever they did to get away.

A process that daemonises is adopted by the nearest *child subreaper* (Linux), which is this one; so everything a run
ever started stays below it. https://man7.org/linux/man-pages/man2/PR_SET_CHILD_SUBREAPER.2const.html
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections import defaultdict
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36


def adopt() -> None:
    """Become the parent of every orphan below this process. Where there is no such thing (macOS), orphans get away."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


def end_leftovers(keep: int | None = None) -> list[int]:
    """Kill everything below this process, except `keep` and what is below it; returns whom."""
    ended: list[int] = []
    while leftovers := below(os.getpid(), keep):
        for process in leftovers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for process in leftovers:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process, 0)
        ended += leftovers
    return ended


def below(parent: int, keep: int | None = None) -> list[int]:
    """The processes below `parent`, without `keep` and what is below it."""
    children = defaultdict(list)
    for status in Path("/proc").glob("[0-9]*/stat") if sys.platform == "linux" else ():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = status.read_text("utf-8", "replace").rpartition(")")[2].split()
            children[int(fields[1])].append(int(status.parent.name))
    found: list[int] = []
    look = [parent]
    while look:
        here = [child for process in look for child in children[process] if child != keep]
        found += here
        look = here
    return found
