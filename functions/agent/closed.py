"""Keeps what this process knows from the processes it starts, which belong to the same user: Bash is one of them.

Two doors. `/proc/PID/environ` shows the environment a process was started with, whatever became of it since: the
secrets in it are overwritten. `/proc/PID/mem`, ptrace and process_vm_readv show a process's memory: they are shut by
taking away its *dumpable* mark, which also shuts its environment and open files. Where a sandbox refuses that option,
the first door alone is shut. A process that is started gets a mark of its own again by execve.

https://man7.org/linux/man-pages/man2/PR_SET_DUMPABLE.2const.html
https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html (env_start, env_end)
https://man7.org/linux/man-pages/man2/ptrace.2.html (Ptrace access mode checking)
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

from functions.common.observability import logger

PR_SET_DUMPABLE = 4

SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN",
           "AWS_BEARER_TOKEN_BEDROCK", "ANTHROPIC_API_KEY")  # fmt: skip
"""Variables whose values nobody may see. Python's own copy of them (`os.environ`) stays: boto3 reads it."""

ENV_START, ENV_END = 50 - 3, 51 - 3
"""Fields of /proc/PID/stat, counted from behind the name."""


def close_to_children() -> bool:
    """Shut both doors as far as they can be; returns whether both are."""
    if sys.platform != "linux":
        return False
    _forget_first_environment()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        logger.warning("this process's memory is open to those it starts", cause=os.strerror(ctypes.get_errno()))
        return False
    return True


def _forget_first_environment() -> None:
    """Overwrite the secrets' values where the kernel finds what this process was started with."""
    fields = Path("/proc/self/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    start, end = int(fields[ENV_START]), int(fields[ENV_END])
    place = start
    for entry in ctypes.string_at(start, end - start).split(b"\0"):
        name, _, value = entry.partition(b"=")
        if name.decode("utf-8", "replace") in SECRETS:
            ctypes.memset(place + len(name) + 1, 0, len(value))
        place += len(entry) + 1
