"""A seccomp filter that answers EPERM to chosen calls of this process and all below it, as Lambda does.

https://man7.org/linux/man-pages/man2/seccomp.2.html; numbers of the calls: linux/unistd.h of both architectures.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
ARCHITECTURES = {
    "x86_64": (0xC000003E, {"kill": 62, "prctl": 157}),
    "aarch64": (0xC00000B7, {"kill": 129, "prctl": 167}),
}
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, EPERM = 0x7FFF0000, 0x00050000 | errno.EPERM
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16
"""Where `struct seccomp_data` has them."""


def refuse(call: str, argument: int | None = None) -> None:
    """Refuse a call from now on; with `argument`, only when that is its first one."""
    architecture, numbers = ARCHITECTURES[platform.machine()]
    same = [(LOAD, 0, 0, FIRST_ARGUMENT), (EQUAL, 0, 1, argument)] if argument is not None else []
    rules = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 0, 3 + len(same), architecture),
        (LOAD, 0, 0, NUMBER),
        (EQUAL, 0, 1 + len(same), numbers[call]),
        *same,
        (RETURN, 0, 0, EPERM),
        (RETURN, 0, 0, ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(rules), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    for request in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0)):
        if libc.prctl(*request) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
