"""Strict mode: each function in containers of its own, from its real package, by AWS's own runtime client.

A container is a process that `launcher.py` became, with its own Runtime API. It is used for one invocation at a time
and kept for the next one, as Lambda does; one that failed to start, ended, ran out of time or memory, or answered with
too much is not used again. What Lambda has and this has not: a loopback of each container's own (as root, a Runtime API
answers its own container's user alone), and the freeze between two invocations. Error documents: https://docs.aws.amazon.com/lambda/latest/dg/python-exceptions.html,
https://docs.aws.amazon.com/lambda/latest/dg/troubleshooting-invocation.html, and what Lambda is seen to answer.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import queue
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

from functions.common.folders import NotCleaned, remove
from functions.common.observability import logger
from stepgram.embedded import launcher
from stepgram.embedded.answers import Answer
from stepgram.embedded.functions import CONCURRENCY
from stepgram.embedded.launcher import Launch
from stepgram.embedded.limits import RESERVED
from stepgram.embedded.packages import Package, Packages, Runtime
from stepgram.embedded.runtime_api import RESPONSE_LIMIT, Invocation, Outcome, RuntimeApi
from stepgram.embedded.template import FunctionSpec

INIT_SECONDS = 10.0
"""A function's start does not count against its timeout so long (Lambda guide, execution environment lifecycle)."""

IDLE_TENANTS = 3
"""Containers of tenants that are kept for their next messages; of more, the one that was idle longest ends."""

LOOK_SECONDS = 0.1
"""How often the memory of containers that work is looked at."""

USERS = range(60_600, 61_100)
"""Users nobody has: a range that systemd's documentation of user ids calls unused."""

FOLDER = "stepgram-container-"
"""What the names of containers' `/tmp` begin with."""

NEW_SECONDS = 60.0
"""A folder so young may not be locked yet."""

PAGE = os.sysconf("SC_PAGE_SIZE")
MEGABYTE = 1024 * 1024


class Containers:
    """The containers of all functions of a stack."""

    def __init__(self, packages: Packages, log: Path) -> None:
        self._packages = packages
        self._log = log
        self._idle: dict[str, list[Container]] = defaultdict(list)
        self._busy: set[Container] = set()
        self._places = defaultdict[str, threading.Semaphore](lambda: threading.Semaphore(CONCURRENCY))
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        sweep()
        self.isolated = can_isolate(packages.runtime)
        self.limits = _limits(self.isolated)
        self._watch = threading.Thread(target=self._watch_memory, daemon=True, name="memory")
        self._watch.start()

    @property
    def busy(self) -> bool:
        """Whether an invocation runs."""
        return bool(self._busy)

    def run(
        self, spec: FunctionSpec, event: bytes, environment: dict[str, str], tenant: str | None, request_id: str
    ) -> Answer:
        """One invocation, in a container of this tenant that is warm or in a new one."""
        with self._places[spec.name]:
            container = self._take(spec, environment, tenant)
            try:
                return container.run(event, request_id)
            finally:
                self._give_back(container)

    def start(self, spec: FunctionSpec, environment: dict[str, str]) -> Answer | None:
        """Start a container ahead of its first invocation; what Lambda would answer when it cannot be started."""
        container = self._take(spec, environment, None)
        try:
            return container.started()
        finally:
            self._give_back(container)

    def cool_down(self) -> None:
        """End what waits, as Lambda does with containers nobody calls."""
        with self._lock:
            idle, self._idle = self._idle, defaultdict(list)
        for container in (c for containers in idle.values() for c in containers):
            container.stop()

    def stop(self) -> None:
        """End all containers."""
        self._stopped.set()
        self.cool_down()
        with self._lock:
            busy = list(self._busy)
        for container in busy:
            container.stop()
        self._watch.join()

    def _take(self, spec: FunctionSpec, environment: dict[str, str], tenant: str | None) -> Container:
        """A container without a tenant (it has served nobody yet) becomes this one's."""
        with self._lock:
            idle = self._idle[spec.name]
            fits = [c for c in reversed(idle) if c.given == environment and c.tenant in (tenant, None) and c.alive]
            found = next((c for c in fits if c.tenant == tenant), fits[0] if fits else None)
            if found is not None:
                idle.remove(found)
                found.tenant = tenant
                self._busy.add(found)
                return found
            user = self._free_user() if os.getuid() == 0 else None
            container = Container(spec, self._packages, environment, self._log, user, self.isolated)
            container.tenant = tenant
            self._busy.add(container)
            return container

    def _give_back(self, container: Container) -> None:
        with self._lock:
            self._busy.discard(container)
            idle = self._idle[container.spec.name]
            if container.alive and not self._stopped.is_set():
                idle.append(container)
            ended = [] if container in idle else [container]
            while container.spec.tenants and len(idle) > IDLE_TENANTS:
                ended.append(idle.pop(0))
        for one in ended:
            one.stop()

    def _free_user(self) -> int:
        """A user that no process on this machine has."""
        taken = {c.user for c in (*self._busy, *(c for containers in self._idle.values() for c in containers))}
        while (user := random.choice(USERS)) in taken or of_user(user):
            pass
        return user

    def _watch_memory(self) -> None:
        while not self._stopped.wait(LOOK_SECONDS):
            with self._lock:
                busy = list(self._busy)
            for container in busy:
                container.check_memory()


class Container:
    """One execution environment. `given` is what the template and the stack put into its environment."""

    def __init__(
        self,
        spec: FunctionSpec,
        packages: Packages,
        given: dict[str, str],
        log: Path,
        user: int | None,
        isolate: bool,
    ) -> None:
        package, runtime = packages.of(spec), packages.runtime
        self.spec = spec
        self.given = given
        self.user = user
        self.tenant: str | None = None
        self.began = time.monotonic()
        self._isolated = isolate
        self._usable = True
        self._api = RuntimeApi(user)
        self._log = log
        self._tmp = tempfile.mkdtemp(prefix=FOLDER)
        self._held = contextlib.ExitStack()
        folder = os.open(self._tmp, os.O_RDONLY)
        self._held.callback(os.close, folder)
        fcntl.flock(folder, fcntl.LOCK_EX)
        if user is not None:
            os.chown(self._tmp, user, user)
        launch: Launch = {
            "task": str(package.folder),
            "runtime": str(runtime.folder),
            "lang": str(runtime.python),
            "tmp": self._tmp,
            "python": runtime.command,
            "handler": package.handler,
            "environment": environment(spec, package, runtime.version, self._api.address, given),
            "user": user,
            "isolate": isolate,
        }
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                _command(runtime),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env={},
                cwd="/",
                start_new_session=True,
            )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(launch).encode())
        self._process.stdin.close()
        threading.Thread(target=self._wait, daemon=True, name=f"container-{spec.logical_id}").start()

    @property
    def alive(self) -> bool:
        """Whether it can take another invocation."""
        return self._usable and self._process.poll() is None and self._api.outcomes.empty()

    def started(self) -> Answer | None:
        """Wait until it asks for an event; else what an invocation would be told."""
        if not self._api.started.wait(INIT_SECONDS + self.spec.timeout):
            return self._late("")
        with contextlib.suppress(queue.Empty):
            return self._answer(self._api.outcomes.get_nowait(), "")
        return None

    def run(self, event: bytes, request_id: str) -> Answer:
        """One invocation."""
        timeout = float(self.spec.timeout)
        trace = f"Root=1-{int(time.time()):08x}-{secrets.token_hex(12)};Parent={secrets.token_hex(8)};Sampled=0"
        self._api.give(Invocation(request_id, event, timeout, self.spec.arn, trace))
        self._api.started.wait(max(0.0, self.began + INIT_SECONDS - time.monotonic()))
        try:
            outcome = self._api.outcomes.get(timeout=timeout)
        except queue.Empty:
            return self._late(request_id)
        return self._answer(outcome, request_id)

    def check_memory(self) -> None:
        """End it when its processes together hold more than its function may have."""
        limit = self.spec.memory * MEGABYTE
        processes = below(self._process.pid)
        if sum(map(_resident, processes)) > limit and sum(map(_own_share, processes)) > limit:
            self._usable = False
            self._api.ended(Outcome("memory"))
            self._kill()

    def stop(self) -> None:
        """End all its processes; its `/tmp` goes, too."""
        self._usable = False
        self._kill()
        self._process.wait()
        self._api.close()
        _remove(Path(self._tmp))
        self._held.close()

    def _answer(self, outcome: Outcome, request_id: str) -> Answer:
        """What Invoke returns for an outcome."""
        if outcome.kind == "response":
            return Answer(outcome.body)
        if outcome.kind == "error":
            return Answer(outcome.body, "Unhandled")
        self._usable = False
        if outcome.kind == "init":
            return Answer(outcome.body, "Unhandled")
        if outcome.kind == "large":
            message = f"Response payload size exceeded maximum allowed payload size ({RESPONSE_LIMIT} bytes)."
            return self._failed("Function.ResponseSizeTooLarge", message, request_id)
        kind = "Runtime.OutOfMemory" if outcome.kind == "memory" else "Runtime.ExitError"
        return self._failed(kind, f"RequestId: {request_id} Error: {how_it_ended(outcome)}", request_id)

    def _late(self, request_id: str) -> Answer:
        self._usable = False
        message = f"RequestId: {request_id} Error: Task timed out after {self.spec.timeout:.2f} seconds"
        return self._failed("Sandbox.Timedout", message, request_id)

    def _failed(self, kind: str, message: str, request_id: str) -> Answer:
        """What the platform itself says of a failure, also in the log, as Lambda does in the JSON format."""
        record = {"requestId": request_id, "status": "error", "errorType": kind, "function": self.spec.name}
        line = {"type": "platform.report", "record": record, "level": "ERROR", "message": message}
        with self._log.open("ab") as log:
            log.write(json.dumps(line).encode() + b"\n")
        return Answer(json.dumps({"errorType": kind, "errorMessage": message}).encode(), "Unhandled")

    def _wait(self) -> None:
        """Tell how its process ended."""
        self._api.ended(Outcome("exit", status=self._process.wait()))

    def _kill(self) -> None:
        """In a view of its own the first process takes all others along; else they are looked for."""
        while self._process.poll() is None:
            first, *others = below(self._process.pid)
            for process in others[:1] or [first] if self._isolated else [*others, first]:
                _end(process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1)
        if not self._isolated:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            while self.user is not None and (left := of_user(self.user)):
                for process in left:
                    _end(process)


def environment(spec: FunctionSpec, package: Package, version: str, api: str, given: dict[str, str]) -> dict[str, str]:
    """The whole environment of a function: what the template gives it, and Lambda's own variables.

    https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html, "Defined runtime environment variables".
    The one exception is AWS_ENDPOINT_URL, which the stack gives: there is no AWS here.
    """
    own = {
        "_HANDLER": package.handler,
        "AWS_EXECUTION_ENV": f"AWS_Lambda_python{version}",
        "AWS_LAMBDA_FUNCTION_NAME": spec.name,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(spec.memory),
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": spec.log_group or f"/aws/lambda/{spec.name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": f"{time.strftime('%Y/%m/%d')}/[$LATEST]{secrets.token_hex(16)}",
        "AWS_LAMBDA_LOG_FORMAT": spec.log_format,
        "AWS_LAMBDA_LOG_LEVEL": "INFO",
        "AWS_LAMBDA_RUNTIME_API": api,
        "AWS_SESSION_TOKEN": "local",
        "LAMBDA_TASK_ROOT": "{task}",
        "LAMBDA_RUNTIME_DIR": "{runtime}",
        "LANG": "en_US.UTF-8",
        "TZ": ":UTC",
        "PATH": "{lang}/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin",
        "LD_LIBRARY_PATH": "{lang}/lib:/lib64:/usr/lib64:{runtime}:{runtime}/lib:{task}:{task}/lib:/opt/lib",
        "PYTHONPATH": "{runtime}",
    }
    if spec.log_format != "JSON":
        del own["AWS_LAMBDA_LOG_LEVEL"]
    for name, value in package.environment:
        own[name] = value.replace("${" + name + "}", own.get(name, ""))
    lambdas = {name: value for name, value in own.items() if name in RESERVED}
    return {**own, **given, **lambdas}


def sweep() -> None:
    """Remove folders that a stack left which was killed. The kernel unlocks a folder when its stack's process ends."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        try:
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(held).st_mtime < time.time() - NEW_SECONDS:
                _remove(folder)
        os.close(held)


def _remove(folder: Path) -> None:
    """Remove a container's folder. What cannot be removed is nobody's any more: each container gets a new one."""
    try:
        remove(folder)
    except NotCleaned as error:
        logger.warning("a container's folder is not removed", cause=str(error))


def can_isolate(runtime: Runtime) -> bool:
    """Whether a container gets a view of its own on this machine: Linux, and root or user namespaces."""
    if sys.platform != "linux":
        return False
    nowhere, user = tempfile.gettempdir(), USERS[0] if os.getuid() == 0 else None
    launch: Launch = {
        "task": nowhere,
        "runtime": nowhere,
        "lang": nowhere,
        "tmp": nowhere,
        "python": "",
        "handler": "",
        "environment": {},
        "user": user,
        "isolate": True,
    }
    probe = [*_command(runtime), "--probe"]
    done = subprocess.run(probe, input=json.dumps(launch), capture_output=True, text=True, check=False)
    return done.returncode == 0


def _limits(isolated: bool) -> str:
    user = "as a user of its own" if os.getuid() == 0 else "as you"
    view = (
        "code read-only, /tmp and processes of its own" if isolated else "with a TMPDIR of its own; nothing is hidden"
    )
    refused = "prctl refused as Lambda does" if sys.platform == "linux" else "nothing is refused: this is not Linux"
    return f"{user}, {view}, {refused}"


def _command(runtime: Runtime) -> list[str]:
    return [str(runtime.python / runtime.command), "-I", "-S", launcher.__file__]


def how_it_ended(outcome: Outcome) -> str:
    """Lambda's words for the end of a runtime's process. A status over 128 is a signal's, as shells tell it."""
    status = outcome.status if outcome.status >= 0 else 128 - outcome.status
    if outcome.kind == "memory":
        return "Runtime exited with error: signal: killed"
    if status > 128:
        return f"Runtime exited with error: signal: {(signal.strsignal(status - 128) or '').lower()}"
    return f"Runtime exited with error: exit status {status}" if status else "Runtime exited without providing a reason"


# ------------------------------------------------------------------------------------------------ its processes


def below(process: int) -> list[int]:
    """A process and all it started, itself first (proc(5), /proc/PID/task/TID/children)."""
    found = [process]
    for one in found:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for thread in os.listdir(f"/proc/{one}/task"):
                with open(f"/proc/{one}/task/{thread}/children") as file:
                    found += map(int, file.read().split())
    return found


def of_user(user: int) -> list[int]:
    """The processes of a user that still run; the dead that nobody collected are none."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if folder.stat().st_uid == user and " Z " not in (folder / "stat").read_text("utf-8", "replace"):
                found.append(int(folder.name))
    return found


def _end(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def _resident(process: int) -> int:
    """Bytes of memory a process has, shared ones counted in full."""
    try:
        with open(f"/proc/{process}/statm") as file:
            return int(file.read().split()[1]) * PAGE
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _own_share(process: int) -> int:
    """Bytes of memory a process has, shared ones divided by who has them; slower to read."""
    try:
        with open(f"/proc/{process}/smaps_rollup") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    except (FileNotFoundError, ProcessLookupError):
        return 0
    except (PermissionError, StopIteration):
        return _resident(process)
