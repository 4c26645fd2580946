"""Processes for the image function on the embedded stack's fast mode: each for one tenant, as Lambda's containers are.

A worker takes one invocation at a time and is kept warm for its tenant's next one; nobody else ever gets it. It is
forked from a process that has the packages imported already (the *zygote*), and one without a tenant is kept ready: a
conversation's first message would otherwise wait for a second of imports, and every conversation has a first message.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from functions.agent.processes import OWN_TMP, StillRunning, end_below
from functions.common.folders import NotCleaned, remove
from functions.common.observability import logger
from stepgram.embedded.answers import Answer, failure
from stepgram.embedded.state import private
from stepgram.embedded.template import FunctionSpec

IDLE_WORKERS = 3
"""Workers that are kept for their tenants' next messages; of more, the one that was idle longest ends."""


class WorkerPool:
    """All workers of one stack."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._idle: list[Worker] = []
        self._busy: set[Worker] = set()
        self._lock = threading.Lock()
        self._stopped = False
        self._zygote: Zygote | None = None
        self._ending: set[Worker] = set()
        """Those whose folders are not gone yet."""
        self._spare: Worker | None = None
        """One that is ready and has no tenant yet."""

    def run(
        self, spec: FunctionSpec, event: dict[str, Any], environment: dict[str, str], tenant: str | None, request: str
    ) -> Answer:
        """Run one invocation in a warm process of this tenant, or in a new one. `request` is its id."""
        with self._lock:
            worker = next((w for w in self._idle if (w.tenant, w.environment) == (tenant, environment)), None)
            if worker is not None:
                self._idle.remove(worker)
            else:
                worker = self._new(environment)
                worker.tenant = tenant
            self._busy.add(worker)
        answer = worker.run(spec, event, request)
        with self._lock:
            self._busy.discard(worker)
            if worker.alive and not self._stopped:
                self._idle.append(worker)
            ended = [] if worker in self._idle else [worker]
            while len(self._idle) > IDLE_WORKERS:
                ended.append(self._idle.pop(0))
            self._ending |= set(ended)
        self._end(ended)
        with self._lock:
            if self._spare is None and not self._stopped:
                self._spare = self._start(environment)
        return answer

    def warm(self, environment: dict[str, str]) -> None:
        """Have a process ready ahead of the first invocation."""
        with self._lock:
            self._spare = self._spare or self._start(environment)

    def _new(self, environment: dict[str, str]) -> Worker:
        """A process that has served nobody: the one that is ready, or another."""
        spare, self._spare = self._spare, None
        if spare is not None and spare.alive and spare.environment == environment:
            return spare
        if spare is not None:
            spare.stop()
        return self._start(environment)

    def _start(self, environment: dict[str, str]) -> Worker:
        """A new process with the first folder that no other has: the path of a workspace should be a few, not many."""
        taken = {worker.number for worker in (*self._all(), *self._ending)}
        number = next(n for n in itertools.count() if n not in taken)
        if self._zygote is None or not self._zygote.alive:
            self._zygote = Zygote(environment, self._home)
        try:
            return Worker(number, environment, self._home, self._zygote)
        except BrokenPipeError:  # it ended just now
            self._zygote = Zygote(environment, self._home)
            return Worker(number, environment, self._home, self._zygote)

    def _all(self) -> list[Worker]:
        return [*self._idle, *self._busy, *([self._spare] if self._spare else [])]

    def cool_down(self) -> None:
        """End the processes that wait for an invocation, and the one they come from."""
        with self._lock:
            idle = [worker for worker in self._all() if worker not in self._busy]
            self._idle, self._spare = [], None
            self._ending |= set(idle)
        self._end(idle)
        with self._lock:
            zygote, self._zygote = self._zygote, None
        if zygote is not None:
            zygote.stop()

    def stop(self) -> None:
        """End all processes and what they started."""
        with self._lock:
            self._stopped = True
            busy, self._busy = list(self._busy), set()
            self._ending |= set(busy)
        self._end(busy)
        self.cool_down()

    def _end(self, workers: list[Worker]) -> None:
        """End workers, and what those that ended have left, whatever it did to get away."""
        for worker in workers:
            worker.stop()
        with self._lock:
            self._ending -= set(workers)
            if not workers or self._zygote is None:
                return
            try:
                end_below(self._zygote.process, keep=[w.process for w in self._all() if w.process])
            except StillRunning as error:
                logger.warning("a worker's processes still run", cause=str(error))


class Zygote:
    """A process that has imported what a worker needs, and becomes one, again and again, by fork."""

    def __init__(self, environment: dict[str, str], home: Path) -> None:
        self._control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        inherited = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        with (home / "functions.log").open("ab") as stderr, other:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "stepgram.embedded.worker", str(other.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                env={**inherited, **environment},
                pass_fds=[other.fileno()],
                start_new_session=True,
            )
        self._inherited = inherited

    @property
    def process(self) -> int:
        """Its process's id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can fork."""
        return self._process.poll() is None

    def fork(self, environment: dict[str, str]) -> socket.socket:
        """A new worker with this environment; returns the socket it serves."""
        ours, theirs = socket.socketpair()
        with theirs:
            document = json.dumps({**self._inherited, **environment}).encode()
            socket.send_fds(self._control, [document], [theirs.fileno()])
        return ours

    def stop(self) -> None:
        """End it; its workers go on. (Were its socket closed first, it would end them.)"""
        self._process.kill()
        self._process.wait()
        self._control.close()


class Worker:
    """One process that runs the agent's handler for one tenant; it and its children form a process group of their own.

    It has a temporary folder of its own, as each of Lambda's execution environments has its own `/tmp`.
    """

    def __init__(self, number: int, environment: dict[str, str], home: Path, zygote: Zygote) -> None:
        self.number, self.environment = number, environment
        self.tenant: str | None = None
        self._tmp = home / "containers" / str(number)
        remove(self._tmp)
        private(self._tmp)
        tmp = str(self._tmp.resolve())
        self._socket = zygote.fork({**environment, "TMPDIR": tmp, OWN_TMP: tmp})
        self._lines = self._socket.makefile("rb")
        started = self._lines.readline()
        self.process = int(json.loads(started)["process"]) if started else 0
        self._ended = not started

    @property
    def alive(self) -> bool:
        """Whether the process can take another invocation."""
        return not self._ended

    def run(self, spec: FunctionSpec, event: dict[str, Any], request_id: str) -> Answer:
        """One invocation; a process that dies or is too late answers as Lambda's sandbox does."""
        late = threading.Event()

        def end() -> None:
            late.set()
            self.stop()

        timer = threading.Timer(spec.timeout, end)
        timer.start()
        request = {"handler": spec.handler, "name": spec.name, "seconds": spec.timeout, "memory": spec.memory}
        try:
            line = self._exchange({**request, "event": event, "request_id": request_id})
        finally:
            timer.cancel()
        if late.is_set():
            return failure("Sandbox.Timedout", f"{request_id} Task timed out after {spec.timeout}.00 seconds")
        if not line:
            self._ended = True
            return failure("Runtime.ExitError", f"RequestId: {request_id} Error: Runtime exited")
        answer = json.loads(line)
        return Answer(json.dumps(answer["payload"]).encode(), answer["function_error"])

    def _exchange(self, request: dict[str, Any]) -> bytes:
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            return self._lines.readline()
        except OSError:
            return b""

    def stop(self) -> None:
        """Kill the process group; its folder goes, too."""
        self._ended = True
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process, 9)
            self.process = 0
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        try:
            remove(self._tmp)
        except NotCleaned as error:  # nobody gets it: a worker begins by removing what is there
            logger.warning("a worker's folder is not removed yet", cause=str(error))
