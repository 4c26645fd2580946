"""Processes a run leaves behind: found and ended, whatever they did to get away.

Two ways to find them. A process that daemonises is adopted by the nearest *child subreaper* (Linux), which this one
becomes where it may; then everything a run ever started stays below it. Lambda refuses that (EPERM,
https://github.com/krallin/tini/issues/218). There, a process is known by its user and its start: whatever of our user
started after us is a leftover, unless it is one of our ancestors or is kept. That second way is used only where nobody
else can be meant: under Lambda's runtime client, when at the start no process of our user was there but we and our
ancestors. On a developer's machine only what is below us is ever ended.

https://man7.org/linux/man-pages/man2/PR_SET_CHILD_SUBREAPER.2const.html
https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html (fields), proc_pid_status.5 (Uid)
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from functions.common.observability import logger

PR_SET_CHILD_SUBREAPER = 36
END_SECONDS, LOOK_SECONDS = 5.0, 0.01
"""How long leftovers are ended before that is given up, and how often it is looked whether they are gone."""

RUNTIME = "AWS_LAMBDA_RUNTIME_API"
"""The variable that tells Lambda's runtime client where Lambda is
(https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html)."""

OWN_TMP = "STEPGRAM_OWN_TMP"
"""The variable in which the embedded stack tells a function that its TMPDIR is its own alone; Lambda's always is."""

PROC = Path("/proc")

SHARED, IPC_RMID = {"shm": "shmid", "sem": "semid", "msg": "msqid"}, 0
"""What of System V's the kernel lists, and what it calls their ids."""


class StillRunning(Exception):
    """A leftover could not be ended: nothing more may run in this container."""


@dataclass(frozen=True)
class Process:
    """A process that runs. Its id alone may be another's later; `started` is in clock ticks since the machine did."""

    id: int
    started: int
    parent: int = field(compare=False)


@dataclass(frozen=True)
class Look:
    """What one look at the machine's processes found: which run, and the ids of all, even of those that just ended.

    One that forks and ends all the time may be missed by a look, but not without a change of ids from one to the next.
    """

    processes: dict[int, Process]
    ids: frozenset[int]

    def below(self, parent: int, keep: Process | None = None) -> list[Process]:
        """The processes below `parent`, without `keep` and what is below it; parents first."""
        found: list[Process] = []
        here = [parent]
        while here:
            next_ones = [p for p in self.processes.values() if p.parent in here and p != keep and p not in found]
            found += next_ones
            here = [process.id for process in next_ones]
        return found

    def above(self, child: int) -> set[int]:
        """The ids of a process and of all it comes from."""
        line = {child}
        while (process := self.processes.get(child)) is not None and process.parent not in line:
            child = process.parent
            line.add(child)
        return line

    def strangers(self, keep: Process | None = None) -> list[Process]:
        """Processes of our user, which are neither we nor our ancestors nor kept."""
        mine = self.above(os.getpid())
        kept = {p.id for p in self.below(keep.id)} | {keep.id} if keep is not None else set()
        others = [process for process in self.processes.values() if process.id not in mine | kept]
        return [process for process in others if os.geteuid() in _users(process)]


_alone = False
"""Whether all processes of our user that come later are this function's own."""


def adopt() -> None:
    """Become the parent of every orphan below this process where that is allowed, and see whether we are alone here."""
    global _alone
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        logger.info("orphans are not adopted", cause=os.strerror(ctypes.get_errno()))
    if RUNTIME in os.environ:
        others = look().strangers()
        _alone = not others
        if others:
            logger.warning("others run as our user: of leftovers only those below us are ended", processes=len(others))


def end_leftovers(keep: Process | None = None, seconds: float = END_SECONDS) -> list[Process]:
    """Kill what a run left, but `keep` and what is below it; returns whom. Raises StillRunning after `seconds`."""
    until = time.monotonic() + seconds
    ended: dict[Process, None] = {}
    before: frozenset[int] = frozenset()
    while True:
        now = look()
        leftovers = now.below(os.getpid(), keep)
        if _alone:
            since = now.processes[os.getpid()].started
            leftovers += [p for p in now.strangers(keep) if p.started >= since and p not in leftovers]
        if not leftovers and (now.ids == before or not _alone):
            return list(ended)
        before = now.ids
        if time.monotonic() > until:
            raise StillRunning(f"{len(leftovers)} processes could not be ended in {seconds:g} seconds: {leftovers[:5]}")
        for process in leftovers:
            ended[process] = None
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process.id, signal.SIGKILL)
        _bury(leftovers, until)


def forget_shared() -> None:
    """Remove the System V shared memory, semaphores and queues of our user: they outlive their processes.

    Only where no one else can be meant. Source: proc(5), /proc/sysvipc ; IPC_RMID in shmctl(2), semctl(2), msgctl(2).
    """
    if not _alone:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    for kind, name in SHARED.items():
        with contextlib.suppress(FileNotFoundError):
            head, *rows = (PROC / "sysvipc" / kind).read_text().splitlines()
            columns = head.split()
            for row in (dict(zip(columns, row.split(), strict=False)) for row in rows):
                if int(row["uid"]) == os.geteuid():
                    given = (int(row[name]), 0, IPC_RMID) if kind == "sem" else (int(row[name]), IPC_RMID, None)
                    getattr(libc, f"{kind}ctl")(*given)


def end_below(ancestor: int, keep: Collection[int] = (), seconds: float = END_SECONDS) -> None:
    """Kill what is below a process, but these children of it and what is below them.

    For the host of several functions' processes that is a child subreaper: what its functions started is below them
    while they run, and else right below it. Raises StillRunning after `seconds`.
    """
    until = time.monotonic() + seconds
    while True:
        now = look()
        kept = {process for child in keep for process in (child, *(p.id for p in now.below(child)))}
        left = [process for process in now.below(ancestor) if process.id not in kept]
        if not left:
            return
        if time.monotonic() > until:
            raise StillRunning(f"{len(left)} processes could not be ended in {seconds:g} seconds: {left[:5]}")
        for process in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process.id, signal.SIGKILL)
        _bury(left, until)


def _bury(processes: list[Process], until: float) -> None:
    """Wait until killed processes are gone, those that are our children by reaping them."""
    while time.monotonic() < until:
        for process in processes:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.id, os.WNOHANG)
        still = look().processes
        if not any(still.get(process.id) == process for process in processes):
            return
        time.sleep(LOOK_SECONDS)


def below(parent: int, keep: Process | None = None) -> list[Process]:
    """The processes below `parent`, without `keep` and what is below it."""
    return look().below(parent, keep)


def look() -> Look:
    """All processes that run; none where there is no /proc. One that ended but was not reaped by its parent is left out
    when that parent is not we: it runs no more."""
    found: dict[int, Process] = {}
    folders = list(PROC.glob("[0-9]*")) if sys.platform == "linux" else []
    for folder in folders:
        try:
            fields = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, parent, threads, started = fields[0], int(fields[1]), int(fields[17]), int(fields[19])
        # The first thread of a process can end before the others: then it is a zombie that runs.
        if state not in "ZX" or threads > 1 or parent == os.getpid():
            found[int(folder.name)] = Process(int(folder.name), started, parent)
    return Look(found, frozenset(int(folder.name) for folder in folders))


def _users(process: Process) -> set[int]:
    """Its real, effective, saved and file system user; the owner of its folder may be root whoever runs it."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in (PROC / str(process.id) / "status").read_text("utf-8", "replace").splitlines():
            if line.startswith("Uid:"):
                return {int(user) for user in line.split()[1:]}
    return set()
