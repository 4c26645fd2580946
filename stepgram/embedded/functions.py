"""The Lambda host: runs the template's functions and answers as Lambda's Invoke API does.

Zip functions run in this process, each invocation with the function's own environment; the agent runs in processes
of its own (`worker.py`), because it can be killed, run out of time and crash. In strict mode all of them run in
containers from their real packages instead (`containers.py`). Sources: Invoke (Lambda API reference,
https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html) for the answers, and the Lambda runtime's error
documents (`errorType`, `Runtime.ExitError`, `Sandbox.Timedout`) for failures.
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import unquote

from functions.common.settings import use_environment
from stepgram.embedded.limits import RESERVED
from stepgram.embedded.template import FunctionSpec

PAYLOAD_LIMIT = 6 * 1024 * 1024
"""Bytes of a synchronous request or response (Lambda quotas)."""

IDLE_WORKERS = 2
CONCURRENCY = 8
"""Invocations of one zip function at a time; more wait their turn here, where Lambda would start more containers."""


@dataclass(frozen=True)
class Answer:
    """What Invoke returns: the payload, and the name in `X-Amz-Function-Error` when the function failed."""

    payload: bytes
    function_error: str | None = None


class InvokeError(Exception):
    """The platform refuses the invocation: an HTTP status and Lambda's error code."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Context:
    """The context object a handler gets; it counts down."""

    def __init__(self, name: str, seconds: float, request_id: str, memory: int) -> None:
        self._deadline = time.monotonic() + seconds
        self.function_name = name
        self.aws_request_id = request_id
        self.memory_limit_in_mb = memory
        self.function_version = "$LATEST"
        self.invoked_function_arn = f"arn:aws:lambda:us-east-1:123456789012:function:{name}"

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until Lambda ends the function."""
        return max(0, int((self._deadline - time.monotonic()) * 1000))


def failure(error_type: str, message: str, trace: list[str] | None = None, request_id: str = "") -> Answer:
    """The error document of a failed invocation, fields in the order of Lambda's Python runtime."""
    document = {"errorMessage": message, "errorType": error_type, "requestId": request_id, "stackTrace": trace or []}
    return Answer(json.dumps(document).encode(), "Unhandled")


def function_name(reference: str) -> str:
    """The name in a function's name, ARN or partial ARN, with or without an alias."""
    parts = unquote(reference).split(":")
    return parts[6] if parts[0] == "arn" else parts[0]


Invoker = Callable[[FunctionSpec, dict[str, Any]], Answer]


class Strict(Protocol):
    """Where functions run in strict mode (`containers.py`). `limits` says in words how far they are shut in."""

    limits: str

    @property
    def busy(self) -> bool:
        """Whether an invocation runs."""

    def run(self, spec: FunctionSpec, event: bytes, environment: dict[str, str], request_id: str) -> Answer:
        """One invocation."""

    def start(self, spec: FunctionSpec, environment: dict[str, str]) -> Answer | None:
        """Start a container ahead of its first invocation; the answer says why it cannot be."""

    def cool_down(self) -> None:
        """End what waits."""

    def stop(self) -> None:
        """End everything."""


class FunctionHost:
    """All functions of one stack, in this process or in the `containers` of strict mode.

    `around` may wrap every invocation: tests put faults there.
    """

    def __init__(
        self, specs: dict[str, FunctionSpec], base: dict[str, str], home: Path, containers: Strict | None = None
    ) -> None:
        self._specs = specs
        self._base = base
        self.strict = containers
        self._workers = WorkerPool(home)
        self._stopped = False
        self._threads = {name: ThreadPoolExecutor(CONCURRENCY, f"function-{name}") for name in specs}
        self.around: Callable[[FunctionSpec, dict[str, Any], Invoker], Answer] | None = None

    def invoke(self, reference: str, body: bytes) -> Answer:
        """One synchronous invocation. Raises InvokeError for what the platform itself refuses."""
        spec = self._specs.get(function_name(reference))
        if spec is None:
            raise InvokeError(404, "ResourceNotFoundException", f"Function not found: {unquote(reference)}")
        if len(body) > PAYLOAD_LIMIT:
            raise InvokeError(413, "RequestTooLargeException", f"{len(body)} bytes are more than {PAYLOAD_LIMIT}")
        try:
            event = json.loads(body or b"{}")
        except ValueError as error:
            raise InvokeError(400, "InvalidRequestContentException", f"Could not parse payload: {error}") from error
        if self.around is not None:
            return self.around(spec, event, self.run)
        return self.run(spec, event)

    def knows(self, reference: str) -> bool:
        """Whether there is such a function."""
        return function_name(reference) in self._specs

    def retries(self, reference: str) -> int:
        """How often an asynchronous invocation that failed is tried again."""
        return self._specs[function_name(reference)].retries

    def run(self, spec: FunctionSpec, event: dict[str, Any]) -> Answer:
        """Run the function, whatever a test put around it."""
        if self._stopped:
            raise InvokeError(503, "ServiceException", "the stack stops")
        environment = self._environment(spec)
        request_id = str(uuid.uuid4())
        if self.strict is not None:
            return self.strict.run(spec, json.dumps(event).encode(), environment, request_id)
        answer = (
            self._workers.run(spec, event, environment, request_id)
            if spec.is_image
            else self._in_thread(spec, event, environment, request_id)
        )
        if len(answer.payload) > PAYLOAD_LIMIT:
            return failure("Function.ResponseSizeTooLarge", "the response is larger than 6 MB", [], request_id)
        return answer

    def _in_thread(
        self, spec: FunctionSpec, event: dict[str, Any], environment: dict[str, str], request_id: str
    ) -> Answer:
        started = threading.Event()

        def call() -> Answer:
            started.set()
            use_environment(environment)
            return call_handler(spec.handler, event, Context(spec.name, spec.timeout, request_id, spec.memory))

        future = self._threads[spec.name].submit(contextvars.Context().run, call)
        started.wait()
        try:
            return future.result(timeout=spec.timeout)
        except FutureTimeout:
            return failure("Sandbox.Timedout", f"{request_id} Task timed out after {spec.timeout}.00 seconds")

    def warm(self) -> None:
        """Start the agent's process ahead of the first message, so that nobody waits for its imports.

        In strict mode nothing is warm, as after a deployment.
        """
        if self.strict is not None:
            return
        for spec in self._specs.values():
            if spec.is_image:
                self._workers.warm(self._environment(spec))

    @property
    def limits(self) -> str:
        """How far functions are shut in, in words."""
        return self.strict.limits if self.strict is not None else "in this process"

    @property
    def busy(self) -> bool:
        """Strict mode: whether an invocation runs."""
        return self.strict is not None and self.strict.busy

    def start(self, spec: FunctionSpec) -> Answer | None:
        """Strict mode: start a container of a function; what Lambda would answer when it cannot be started."""
        if self.strict is None:
            raise ValueError("functions are started one by one in strict mode only")
        return self.strict.start(spec, self._environment(spec))

    def cool_down(self) -> None:
        """End idle processes, as Lambda does with containers nobody calls."""
        self._workers.cool_down()
        if self.strict is not None:
            self.strict.cool_down()

    def _environment(self, spec: FunctionSpec) -> dict[str, str]:
        """What the stack and the template give; the template cannot take Lambda's own variables."""
        own = {"AWS_LAMBDA_FUNCTION_NAME": spec.name, "AWS_ACCESS_KEY_ID": spec.name}
        given = {name: value for name, value in spec.environment.items() if name not in RESERVED}
        return {**self._base, **own, **given}

    def stop(self) -> None:
        """End the agent's processes; zip functions that still run end with this process."""
        self._stopped = True
        self._workers.stop()
        if self.strict is not None:
            self.strict.stop()
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)


def call_handler(handler: str, event: dict[str, Any], context: Context) -> Answer:
    """Import and call a handler; any exception becomes the error document, as Lambda's runtime does."""
    try:
        module, _, name = handler.rpartition(".")
        result = getattr(importlib.import_module(module), name)(event, context)
    except Exception as error:  # noqa: BLE001 - whatever a function raises is its answer
        trace = traceback.format_tb(error.__traceback__)
        return failure(type(error).__name__, str(error), trace, context.aws_request_id)
    try:
        return Answer(json.dumps(result).encode())
    except (TypeError, ValueError) as error:
        return failure("Runtime.MarshalError", f"Unable to marshal response: {error}", [], context.aws_request_id)


class WorkerPool:
    """Processes for the image function: one invocation at a time each, kept warm as Lambda keeps containers."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._idle: list[Worker] = []
        self._busy: set[Worker] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, spec: FunctionSpec, event: dict[str, Any], environment: dict[str, str], request_id: str) -> Answer:
        """Run one invocation in a warm process, that of the same conversation if there is one, or in a new one."""
        with self._lock:
            warm = [w for w in self._idle if w.environment == environment]
            worker = next((w for w in warm if w.conversation == event.get("session_key")), warm[0] if warm else None)
            if worker is not None:
                self._idle.remove(worker)
            else:
                worker = self._start(environment)
            worker.conversation = event.get("session_key")
            self._busy.add(worker)
        answer = worker.run(spec, event, request_id)
        with self._lock:
            self._busy.discard(worker)
            if worker.alive and len(self._idle) < IDLE_WORKERS and not self._stopped:
                self._idle.append(worker)
                return answer
        worker.stop()
        return answer

    def warm(self, environment: dict[str, str]) -> None:
        """Start a process ahead of the first invocation."""
        with self._lock:
            self._idle.append(self._start(environment))

    def _start(self, environment: dict[str, str]) -> Worker:
        """A new process with the first `/tmp` that no other has, so that one at a time always has the same."""
        taken = {worker.number for worker in (*self._idle, *self._busy)}
        number = next(n for n in itertools.count() if n not in taken)
        return Worker(number, environment, self._home)

    def cool_down(self) -> None:
        """End the processes that wait for an invocation."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.stop()

    def stop(self) -> None:
        """End all processes and what they started."""
        with self._lock:
            self._stopped = True
            workers = [*self._idle, *self._busy]
        for worker in workers:
            worker.stop()


class Worker:
    """One process that runs the agent's handler; it and its children form a process group of their own.

    It has a temporary folder of its own, as each of Lambda's execution environments has its own `/tmp`.
    """

    def __init__(self, number: int, environment: dict[str, str], home: Path) -> None:
        self.number = number
        self.environment = environment
        self.conversation: str | None = None
        inherited = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        temporary = home / "containers" / str(number)
        temporary.mkdir(parents=True, exist_ok=True)
        inherited["TMPDIR"] = str(temporary)
        with (home / "functions.log").open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "stepgram.embedded.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**inherited, **environment},
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        """Whether the process can take another invocation."""
        return self._process.poll() is None

    def run(self, spec: FunctionSpec, event: dict[str, Any], request_id: str) -> Answer:
        """One invocation; a process that dies or is too late answers as Lambda's sandbox does."""
        assert self._process.stdin is not None and self._process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            self.stop()

        timer = threading.Timer(spec.timeout, end)
        timer.start()
        request = {"handler": spec.handler, "name": spec.name, "seconds": spec.timeout, "memory": spec.memory}
        try:
            line = self._exchange(
                self._process.stdin, self._process.stdout, {**request, "event": event, "request_id": request_id}
            )
        finally:
            timer.cancel()
        if late.is_set():
            return failure("Sandbox.Timedout", f"{request_id} Task timed out after {spec.timeout}.00 seconds")
        if not line:
            self._process.wait()
            return failure("Runtime.ExitError", f"RequestId: {request_id} Error: Runtime exited")
        answer = json.loads(line)
        return Answer(json.dumps(answer["payload"]).encode(), answer["function_error"])

    @staticmethod
    def _exchange(stdin: IO[bytes], stdout: IO[bytes], request: dict[str, Any]) -> bytes:
        try:
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            return b""
        return stdout.readline()

    def stop(self) -> None:
        """Kill the process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait()
