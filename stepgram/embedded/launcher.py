"""Becomes one function's process with what Lambda gives it and nothing else. A script: `python -I -S launcher.py`.

Standard input brings a Launch as JSON. Where the system allows it (root, or user namespaces) the process gets a view
of its own: the code, the runtime client and Python at Lambda's own paths; `/tmp` of its own, and nothing else that can
be written; no process but its own. Where it does not, the same folders are used as they are, and TMPDIR stands for
`/tmp`. Either way it loses its privileges and gets a filter that refuses the `prctl` options that Lambda refuses. With
`--probe` it only tries whether there can be such a view.

Sources: the paths and variables of Lambda's environments
(https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html), namespaces(7), user_namespaces(7),
pid_namespaces(7), seccomp(2), prctl(2). It imports the standard library alone: it runs on a bare Python.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import signal
import struct
import sys
from typing import Any, NoReturn, TypedDict

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID = 0x00020000, 0x08000000, 0x10000000, 0x20000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38
REFUSED = (PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG)
"""What Lambda's sandbox answers with EPERM (krallin/tini issues 218 and 227, seen on AWS's own Python image)."""

PRCTL = {"x86_64": 157, "aarch64": 167}
"""The number of the system call, by machine (the kernel's unistd headers)."""

TASK, RUNTIME, LANG, TMP = "/var/task", "/var/runtime", "/var/lang", "/tmp"
WRITABLE = (f"{TMP}/", "/proc/", "/dev/")
"""Where a function may write: its own `/tmp` and processes, and devices. `/dev/shm` is read-only, as on Lambda."""

OCTAL = re.compile(rb"\\([0-7]{3})")
"""How mountinfo writes blanks. Compiled here: the standard library's place is covered later."""


class Launch(TypedDict):
    """What to start: the folders, the interpreter below `lang`, the handler, the whole environment, and as whom.

    `user` is None where this process has no right to change it. The environment's values may name the folders, as
    `{task}`, `{runtime}`, `{lang}`. `isolate`: a view of its own, or the folders as they are.
    """

    task: str
    runtime: str
    lang: str
    tmp: str
    python: str
    handler: str
    environment: dict[str, str]
    user: int | None
    isolate: bool


def main() -> NoReturn:
    """Read the launch and become the function's process, or the one above it."""
    launch: Launch = json.load(sys.stdin)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    if launch["isolate"]:
        _own_namespaces(launch["user"])
        init = os.fork()
        if init:
            _end_as(init)
        _die_with_parent()
        _own_view(launch)
        if "--probe" in sys.argv:
            os._exit(0)
        runtime = os.fork()
        if runtime:
            _lose_privileges(launch["user"])
            _die_with_parent()
            _reap_until(runtime)
        launch = {**launch, "task": TASK, "runtime": RUNTIME, "lang": LANG, "tmp": TMP}
    else:
        launch["environment"]["TMPDIR"] = launch["tmp"]
    _lose_privileges(launch["user"])
    refuse_prctl(REFUSED)
    _become(launch)


def _become(launch: Launch) -> NoReturn:
    """Start AWS's runtime client in the task root, which is therefore the first place of imports, as on Lambda."""
    folders = {name: launch[name] for name in ("task", "runtime", "lang")}
    environment = {name: _filled(value, folders) for name, value in launch["environment"].items()}
    python = os.path.join(launch["lang"], launch["python"])
    os.chdir(launch["task"])
    os.execve(python, [python, "-s", "-m", "awslambdaric", launch["handler"]], environment)


def _filled(value: str, folders: dict[str, str]) -> str:
    for name, folder in folders.items():
        value = value.replace("{" + name + "}", folder)
    return value


# --------------------------------------------------------------------------------------------- a view of its own


def _own_namespaces(user: int | None) -> None:
    """Mounts, processes, memory and queues of its own; without root in a user namespace, where its number is kept."""
    uid, gid = os.getuid(), os.getgid()
    if _libc().unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWPID | (0 if user is not None else CLONE_NEWUSER)) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    if user is None:
        for name, line in (("uid_map", f"{uid} {uid} 1"), ("setgroups", "deny"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(line)


def _own_view(launch: Launch) -> None:
    """Lambda's paths: /var holds the code, the runtime and Python; /tmp and /proc are its own, all else is read-only.

    Sources may lie below what is covered, so they are opened first.
    """
    sources = {
        target: os.open(launch[name], os.O_PATH)  # type: ignore[literal-required]
        for target, name in ((TASK, "task"), (RUNTIME, "runtime"), (LANG, "lang"), (TMP, "tmp"))
    }
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV)
    _mount("tmpfs", "/var", "tmpfs", MS_NOSUID | MS_NODEV)
    for target, source in sources.items():
        os.makedirs(target, exist_ok=True)
        _mount(f"/proc/self/fd/{source}", target, None, MS_BIND)
        os.close(source)
    if os.path.isdir("/dev/shm"):
        _mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_RDONLY)
    for target in _mounts():
        if not f"{target}/".startswith(WRITABLE):
            _read_only(target)


def _mounts() -> list[str]:
    """Where something is mounted that can be reached: not what a later mount or its own place's rights cover.

    proc(5): /proc/PID/mountinfo names a mount's id first and its place fifth, with octal escapes;
    /proc/PID/fdinfo/FD has the id of the mount that a file was opened on.
    """
    found = []
    with open("/proc/self/mountinfo", "rb") as file:
        listed = [line.split() for line in file]
    for number, _, _, _, written, *_ in listed:
        place = OCTAL.sub(lambda escape: bytes([int(escape[1], 8)]), written)
        try:
            there = os.open(place, os.O_PATH)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        with open(f"/proc/self/fdinfo/{there}", "rb") as file:
            if b"mnt_id:\t" + number + b"\n" in file.read():
                found.append(os.fsdecode(place))
        os.close(there)
    return found


def _read_only(target: str) -> None:
    """Remount read-only; flags that the mount has locked (user_namespaces(7)) are kept."""
    flags = os.statvfs(target).f_flag & (os.ST_NODEV | os.ST_NOSUID | os.ST_NOEXEC | os.ST_NOATIME | os.ST_RELATIME)
    kept = {os.ST_NOSUID: 2, os.ST_NODEV: 4, os.ST_NOEXEC: 8, os.ST_NOATIME: 1024, os.ST_RELATIME: 1 << 21}
    known = sum(mount for flag, mount in kept.items() if flags & flag)
    _mount("none", target, None, MS_REMOUNT | MS_BIND | MS_RDONLY | known)


def _mount(source: str, target: str, kind: str | None, flags: int) -> None:
    given = [source.encode(), target.encode(), kind.encode() if kind else None, flags, None]
    if _libc().mount(*given) != 0:
        raise OSError(ctypes.get_errno(), f"mount {target}: {os.strerror(ctypes.get_errno())}")


# ------------------------------------------------------------------------------------------------ what it may not


def _lose_privileges(user: int | None) -> None:
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)


def refuse_prctl(options: tuple[int, ...]) -> None:
    """From now on, prctl with one of these options fails with EPERM, here and in every process started from here.

    A classic BPF program over seccomp_data: number at 0, machine at 4, first argument at 16 (seccomp(2)).
    """
    if sys.platform != "linux" or platform.machine() not in PRCTL:
        return

    def step(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
        return struct.pack("HBBI", code, true, false, value)

    load, equal, answer = 0x20, 0x15, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000 | 1  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO with EPERM
    tests = [step(equal, option, true=len(options) - number) for number, option in enumerate(options)]
    program = b"".join(
        [
            step(load, 0),
            step(equal, PRCTL[platform.machine()], false=len(options) + 1),
            step(load, 16),
            *tests,
            step(answer, allow),
            step(answer, refuse),
        ]
    )

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_void_p))

    text = ctypes.create_string_buffer(program)
    given = Program(len(program) // 8, ctypes.cast(text, ctypes.c_void_p))
    libc = _libc()
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, 2, ctypes.byref(given), 0, 0)):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "the seccomp filter is refused")


# -------------------------------------------------------------------------------------- the processes above it


def _die_with_parent() -> None:
    """The first process of the container ends with the launcher, and with it the kernel ends all others."""
    if _libc().prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_PDEATHSIG")


def _reap_until(runtime: int) -> NoReturn:
    """What process 1 does: collect the dead until the runtime has ended, and tell how.

    It was told the environment, so nobody may look into it.
    """
    _libc().prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    while True:
        ended, status = os.wait()
        if ended == runtime:
            os._exit(_told(status))


def _end_as(init: int) -> NoReturn:
    _, status = os.waitpid(init, 0)
    os._exit(_told(status))


def _told(status: int) -> int:
    """An exit status, or 128 and the signal's number, as shells tell it."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
    return libc


if __name__ == "__main__":
    main()
