"""What a hostile agent runs: looks for secrets wherever its user can read. Standard library alone, one JSON line out.

Its arguments are what it looks for, each written backwards, so that they are not found where they were only told.
"""

import ctypes
import json
import os
import sys

PIECE = 8 * 1024 * 1024
FILES = ("/tmp", "/var", "/dev/shm", "/run", "/etc", os.environ.get("HOME", "/"), os.environ.get("TMPDIR", "/"))
PTRACE_ATTACH, PTRACE_DETACH = 16, 17

wanted = [argument[::-1].encode() for argument in sys.argv[1:]]
found = {text.decode(): [] for text in wanted}
opened = {}
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


class Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def look(place, data):
    for text in wanted:
        if text in data and place not in found[text.decode()]:
            found[text.decode()].append(place)


def read(path, place):
    """A file, in pieces that overlap."""
    try:
        with open(path, "rb") as file:
            rest = b""
            while data := file.read(PIECE):
                look(place, rest + data)
                rest = data[-200:]
        return "read"
    except OSError as error:
        return error.strerror


def regions(pid):
    """Where a process has memory of its own: start and end."""
    at = None
    with open(f"/proc/{pid}/smaps") as file:
        for line in file:
            first = line.split(" ", 1)[0]
            if "-" in first and not first.endswith(":"):
                at = [int(part, 16) for part in first.split("-")] if line.split()[1].startswith("r") else None
            elif first == "Anonymous:" and at and line.split()[1] != "0":
                yield at


def memory(pid):
    """By /proc/PID/mem."""
    try:
        with open(f"/proc/{pid}/mem", "rb", 0) as file:
            for start, end in regions(pid):
                for at in range(start, end, PIECE):
                    try:
                        file.seek(at)
                        look(f"{pid} memory", file.read(min(PIECE, end - at)))
                    except (OSError, ValueError):
                        continue
        return "read"
    except OSError as error:
        return error.strerror


def copied(pid):
    """By process_vm_readv: where no map of the memory can be read, a page that every process of this Python has."""
    buffer = ctypes.create_string_buffer(4096)
    here = Vector(ctypes.addressof(buffer), 4096)
    try:
        places = [start for start, _ in regions(pid)][:200]
    except OSError:
        places = [start for start, _ in regions("self")][:50]
    failure = "nothing"
    for place in places:
        there = Vector(place, 4096)
        if libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0) > 0:
            look(f"{pid} memory", buffer.raw)
            return "read"
        failure = os.strerror(ctypes.get_errno())
    return failure


def traced(pid):
    """By ptrace."""
    if libc.ptrace(PTRACE_ATTACH, pid, None, None) != 0:
        return os.strerror(ctypes.get_errno())
    os.waitpid(pid, 0x40000000)
    libc.ptrace(PTRACE_DETACH, pid, None, None)
    return "read"


for name in sorted(filter(str.isdigit, os.listdir("/proc")), key=int):
    if int(name) == os.getpid():
        continue
    with open(f"/proc/{name}/cmdline", "rb") as file:
        command = file.read().replace(b"\0", b" ").decode("utf-8", "replace")
    doors = {kind: read(f"/proc/{name}/{kind}", f"{name} {kind}") for kind in ("environ", "cmdline", "auxv")}
    for thread in os.listdir(f"/proc/{name}/task"):
        doors["thread"] = read(f"/proc/{name}/task/{thread}/environ", f"{name} environ of a thread")
    try:
        for number in os.listdir(f"/proc/{name}/fd"):
            path = f"/proc/{name}/fd/{number}"
            if os.path.isfile(path):
                read(path, f"{name} open file")
        doors["fd"] = "read"
    except OSError as error:
        doors["fd"] = error.strerror
    doors |= {"memory": memory(name), "copied": copied(int(name)), "traced": traced(int(name))}
    opened[name] = {"command": command[:60], **doors}
files = 0
for top in dict.fromkeys(map(os.path.realpath, FILES)):
    for folder, _, names in os.walk(top):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                files += read(path, f"file {path}") == "read"
for name, value in os.environ.items():
    look(f"variable {name}", value.encode())
sys.stdout.write("FOUND " + json.dumps({"found": found, "opened": opened, "files": files}))
