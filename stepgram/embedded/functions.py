"""The Lambda host: runs the template's functions and answers as Lambda's Invoke API does.

Zip functions run in this process, each invocation with the function's own environment; the agent runs in processes
of its own (`workers.py`), because it can be killed, run out of time and crash, and each conversation has its own. In
strict mode all of them run in containers from their real packages instead (`containers.py`). Sources: Invoke (Lambda
API reference, https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html) for the answers, the Lambda runtime's
error documents (`errorType`, `Runtime.ExitError`, `Sandbox.Timedout`) for failures, and
https://docs.aws.amazon.com/lambda/latest/dg/tenant-isolation-invoke.html for tenants.
"""

from __future__ import annotations

import contextvars
import json
import re
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

from functions.common.settings import use_environment
from stepgram.embedded.answers import Answer, Context, call_handler, failure
from stepgram.embedded.client import secret_key
from stepgram.embedded.limits import RESERVED
from stepgram.embedded.template import FunctionSpec
from stepgram.embedded.workers import WorkerPool

PAYLOAD_LIMIT = 6 * 1024 * 1024
"""Bytes of a synchronous request or response (Lambda quotas)."""

EVENT_LIMIT = 1024 * 1024
"""Bytes of an asynchronous request (Lambda quotas)."""

TENANT = re.compile(r"[a-zA-Z0-9._:/=+\-@ ]{1,256}")
"""A tenant's id (Lambda API reference, Invoke)."""

CONCURRENCY = 8
"""Invocations of one zip function at a time; more wait their turn here, where Lambda would start more containers."""


class InvokeError(Exception):
    """The platform refuses the invocation: an HTTP status and Lambda's error code."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


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

    def run(
        self, spec: FunctionSpec, event: bytes, environment: dict[str, str], tenant: str | None, request_id: str
    ) -> Answer:
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
        self.specs = specs
        self._base = base
        self.strict = containers
        self._workers = WorkerPool(home)
        self._stopped = False
        self._threads = {name: ThreadPoolExecutor(CONCURRENCY, f"function-{name}") for name in specs}
        self.around: Callable[[FunctionSpec, dict[str, Any], Invoker], Answer] | None = None

    def invoke(self, reference: str, body: bytes, tenant: str | None = None) -> Answer:
        """One synchronous invocation. Raises InvokeError for what the platform itself refuses."""
        spec = self.admit(reference, body, tenant, PAYLOAD_LIMIT)
        try:
            event = json.loads(body or b"{}")
        except ValueError as error:
            raise InvokeError(400, "InvalidRequestContentException", f"Could not parse payload: {error}") from error
        run = partial(self.run, tenant=tenant)
        if self.around is not None:
            return self.around(spec, event, run)
        return run(spec, event)

    def admit(self, reference: str, body: bytes, tenant: str | None, limit: int) -> FunctionSpec:
        """The function of an invocation. Raises InvokeError for what is refused before any code runs."""
        spec = self.specs.get(function_name(reference))
        if spec is None:
            raise InvokeError(404, "ResourceNotFoundException", f"Function not found: {unquote(reference)}")
        if len(body) > limit:
            raise InvokeError(413, "RequestTooLargeException", f"{len(body)} bytes are more than {limit}")
        if spec.tenants and tenant is None:
            message = "The invoked function is enabled with tenancy configuration. Add a valid tenant ID."
            raise InvokeError(400, "InvalidParameterValueException", message)
        if tenant is not None and not spec.tenants:
            message = "The invoked function is not enabled with tenancy configuration. Remove the tenant ID."
            raise InvokeError(400, "InvalidParameterValueException", message)
        if tenant is not None and not TENANT.fullmatch(tenant):
            raise InvokeError(400, "InvalidParameterValueException", f"tenant id {tenant!r}: not {TENANT.pattern}")
        return spec

    @property
    def stopped(self) -> bool:
        """Whether the stack ends: nothing is invoked any more."""
        return self._stopped

    def run(self, spec: FunctionSpec, event: dict[str, Any], tenant: str | None = None) -> Answer:
        """Run the function, whatever a test put around it."""
        if self._stopped:
            raise InvokeError(503, "ServiceException", "the stack stops")
        environment = self.environment(spec)
        request_id = str(uuid.uuid4())
        if self.strict is not None:
            return self.strict.run(spec, json.dumps(event).encode(), environment, tenant, request_id)
        answer = (
            self._workers.run(spec, event, environment, tenant, request_id)
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
        for spec in self.specs.values():
            if spec.is_image:
                self._workers.warm(self.environment(spec))

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
        return self.strict.start(spec, self.environment(spec))

    def cool_down(self) -> None:
        """End idle processes, as Lambda does with containers nobody calls."""
        self._workers.cool_down()
        if self.strict is not None:
            self.strict.cool_down()

    def environment(self, spec: FunctionSpec) -> dict[str, str]:
        """What the stack and the template give; the template cannot take Lambda's own variables."""
        own = {
            "AWS_LAMBDA_FUNCTION_NAME": spec.name,
            "AWS_ACCESS_KEY_ID": spec.name,
            "AWS_SECRET_ACCESS_KEY": secret_key(self._base["AWS_ENDPOINT_URL"], spec.name),
        }
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
