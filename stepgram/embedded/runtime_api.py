"""Lambda's Runtime API on loopback, for one container: its function asks for events here and answers them.

Paths, headers and statuses: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html. What the server says to a
wrong request id (400) and to an answer that is too large (413) is what AWS's own runtime interface emulator says
(aws/aws-lambda-runtime-interface-emulator, `rapi/rendering/render_error.go`).
"""

from __future__ import annotations

import json
import queue
import re
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from stepgram.server import refusal

VERSION = "/2018-06-01/runtime"
ANSWER = re.compile(rf"{VERSION}/invocation/([\w-]+)/(response|error)")

RESPONSE_LIMIT = 6 * 1024 * 1024 + 100
"""Bytes of an answer at most: the number in Lambda's own message."""


@dataclass(frozen=True)
class Invocation:
    """One event for the function; `timeout` in seconds begins when it is taken."""

    request_id: str
    event: bytes
    timeout: float
    function_arn: str
    trace_id: str


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    `kind`: response, error; init (it cannot be started); large (over the limit); exit (with `status`); memory.
    """

    kind: Literal["response", "error", "init", "large", "exit", "memory"]
    body: bytes = b""
    status: int = 0


class RuntimeApi:
    """The server. `started` is set when the function asks for its first event, or has come to an end instead.

    Every container of Lambda has a loopback of its own. Here all share one, so a container with a `user` of its own is
    answered by that alone.
    """

    def __init__(self, user: int | None = None) -> None:
        self.started = threading.Event()
        self.outcomes: queue.Queue[Outcome] = queue.Queue()
        self._events: queue.Queue[Invocation | None] = queue.Queue()
        self._current: Invocation | None = None
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.api, self._server.user = self, user
        self.address = f"127.0.0.1:{self._server.server_port}"
        name = f"runtime-api-{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True, name=name).start()

    def give(self, invocation: Invocation) -> None:
        """Hand an event to the function when it asks for one."""
        self._events.put(invocation)

    def close(self) -> None:
        """Close the port."""
        self._events.put(None)
        self._server.shutdown()
        self._server.server_close()

    def next(self) -> Invocation | None:
        """Wait for the next event; None when the container ends."""
        self.started.set()
        self._current = self._events.get()
        return self._current

    def ended(self, outcome: Outcome) -> None:
        """The container cannot go on: it could not be started, or its process is gone."""
        self.outcomes.put(outcome)
        self.started.set()

    def answered(self, request_id: str, outcome: Outcome) -> bool:
        """Take an answer, once for each event; False when it is to none that runs."""
        if self._current is None or self._current.request_id != request_id:
            return False
        self._current = None
        self.outcomes.put(outcome)
        return True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    api: RuntimeApi
    user: int | None

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether this client may connect."""
        return self.user is None or owner(client_address[1], self.server_address[1]) == self.user

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A function that was ended breaks its connection; its exit says why."""


def owner(port: int, to: int) -> int | None:
    """The user of the process that connects from a loopback port to another (proc(5), /proc/net/tcp)."""
    ends = [f"0100007F:{port:04X}", f"0100007F:{to:04X}"]
    with open("/proc/net/tcp") as table:
        lines = (line.split() for line in table)
        return next((int(fields[7]) for fields in lines if fields[1:3] == ends), None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the function's own output is the log."""

    def parse_request(self) -> bool:
        """Answer to the function alone, and to no page that is open in a browser."""
        if not super().parse_request():
            return False
        reason = refusal(self.headers.get, self.server.server_port)
        if reason is not None:
            self.close_connection = True
            self._say(403, {"errorMessage": reason, "errorType": "Forbidden"})
        return reason is None

    def do_GET(self) -> None:
        """The next event; the request waits as long as there is none."""
        if self.path != f"{VERSION}/invocation/next":
            return self._say(404, {"errorMessage": "Not Found", "errorType": "NotFound"})
        invocation = self.server.api.next()
        if invocation is None:
            return self._say(500, {"errorMessage": "Internal Server Error", "errorType": "InternalServerError"})
        self.send_response(200)
        for name, value in {
            "Lambda-Runtime-Aws-Request-Id": invocation.request_id,
            "Lambda-Runtime-Deadline-Ms": str(int((time.time() + invocation.timeout) * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": invocation.function_arn,
            "Lambda-Runtime-Trace-Id": invocation.trace_id,
            "Content-Type": "application/json",
            "Content-Length": str(len(invocation.event)),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(invocation.event)
        return None

    def do_POST(self) -> None:
        """An answer, an error, or that the function cannot be started."""
        api, body = self.server.api, self._body()
        if self.path == f"{VERSION}/init/error":
            api.ended(Outcome("init", body))
            return self._say(202, {"status": "OK"})
        found = ANSWER.fullmatch(self.path)
        if found is None:
            return self._say(404, {"errorMessage": "Not Found", "errorType": "NotFound"})
        large = len(body) > RESPONSE_LIMIT
        kind: Literal["response", "error"] = "response" if found[2] == "response" else "error"
        if not api.answered(found[1], Outcome("large") if large else Outcome(kind, body)):
            return self._say(400, {"errorMessage": "Invalid request ID", "errorType": "InvalidRequestID"})
        if large:
            message = f"Exceeded maximum allowed payload size ({RESPONSE_LIMIT} bytes)."
            return self._say(413, {"errorMessage": message, "errorType": "RequestEntityTooLarge"})
        return self._say(202, {"status": "OK"})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _say(self, status: int, document: dict[str, str]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
