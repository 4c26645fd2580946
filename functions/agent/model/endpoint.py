"""The model's endpoint that the CLI uses: on loopback, in this process, which signs what it passes on and counts it.

The agent's processes hold no key to the model. They hold this endpoint's address, with which they can ask the
configured models while a run goes on, and spend its budget; nothing else passes. Answers pass as they come, byte by
byte; a connection that breaks there breaks here, and errors keep their status and headers, so the CLI's own retries go
by them. Each run has connections of its own: none can have died while the container was frozen.

Sources: the calls the CLI was seen to make (2.1.329), https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1 (headers
that end at each hop). The CLI ends a run at once, without a retry, at a 402 (seen with 2.1.329, both providers).
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import socket
import sys
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from urllib3.exceptions import HTTPError, ProtocolError, ReadTimeoutError

from functions.agent.model.metering import Form, Meter, NotCounted
from functions.agent.model.request import HEADER_BEGINNINGS, HEADERS, Call, Refused, call, check, read
from functions.agent.model.spending import OverBudget, Spending
from functions.agent.model.upstream import CONNECTIONS, CutOff, Upstream, break_off
from functions.agent.settings import AgentSettings
from functions.common.observability import logger

if TYPE_CHECKING:
    from urllib3.response import BaseHTTPResponse

BODY_BYTES = 32 * 1024 * 1024
"""The largest request the Messages API takes."""

LENGTH_DIGITS = 12

ANSWER_BYTES = 32 * 1024 * 1024
"""Of an answer that does not stream."""

THREADS = 64
"""Connections at a time; what asks for more is hung up on."""

PIECE_BYTES = 64 * 1024
SILENT_SECONDS = 60
"""A client that does not send its request, or take its answer, for so long is hung up on."""

INVOKE = re.compile(r"/model/([^/?]+)/(invoke|invoke-with-response-stream)")
PROFILE = re.compile(r"/inference-profiles/([^/?]+)")
LIST = re.compile(r"/inference-profiles(\?.*)?")
MESSAGES = re.compile(r"/v1/messages(/count_tokens)?(\?beta=true)?")
NO_PROFILES = b'{"inferenceProfileSummaries":[]}'
"""The CLI asks for the account's profiles at each start, waits for the answer, and needs none: its models are given."""

HOP = frozenset({"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"})
NOT_RETURNED = HOP | {"date", "server", "set-cookie", "location"}

SPENT = "The budget of this turn is spent."
NO_ROOM = "Other requests of this turn may cost what is left of its budget."
RETRY_AFTER = 5
"""Seconds, for a request that found no room in the budget."""

CUT_SECONDS = 3.0
"""How long the requests of a run may take to end when they are cut."""


class Endpoint:
    """The endpoint of one CLI process, from its start to `close`. It asks the model only while `serving` a run."""

    def __init__(self, settings: AgentSettings, models: frozenset[str]) -> None:
        """Raises ConfigurationError, AwsUnavailable when there are no keys to the model."""
        self._settings = settings
        self._models = models | {re.sub(r"\[1m\]$", "", model) for model in models}
        self._places = threading.BoundedSemaphore(CONNECTIONS)
        self._upstream = Upstream(settings)
        self._spending: Spending | None = None
        self._clients: set[socket.socket] = set()
        self._key = secrets.token_urlsafe(16)
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.endpoint = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/{self._key}"
        threading.Thread(target=self._server.serve_forever, daemon=True, name="model-endpoint").start()

    @contextlib.contextmanager
    def serving(self, spending: Spending | None) -> Iterator[None]:
        """Pass requests on while a run goes on, with the keys of now; it pays. What still passes at its end is cut.

        Raises ConfigurationError, AwsUnavailable.
        """
        upstream = self._upstream = Upstream(self._settings)
        self._spending = spending
        try:
            yield
        finally:
            self._spending = None
            upstream.cut()
            for client in list(self._clients):
                with contextlib.suppress(OSError):  # it came to its end meanwhile
                    client.shutdown(socket.SHUT_RDWR)
            if spending is not None and not spending.ended(CUT_SECONDS):
                logger.error("a request to the model goes on after its run")

    def close(self) -> None:
        """Listen no more."""
        self._key = ""
        threading.Thread(target=self._server.end, daemon=True).start()

    def knows(self, path: str) -> str | None:
        """The path behind the endpoint's own address; None for whoever does not know it, above all a page in a browser
        of the machine."""
        own = f"/{self._key}"
        known = self._key and secrets.compare_digest(path[: len(own)].encode(), own.encode())
        return path[len(own) :] if known else None

    def call(self, path: str, body: bytes) -> Call:
        """What a request asks for. Raises Refused."""
        found = INVOKE.fullmatch(path) if self._settings.provider == "bedrock" else MESSAGES.fullmatch(path)
        if found is None:
            raise Refused(404, f"{path[:200]} is not passed on")
        asked = read(body)
        if self._settings.provider == "bedrock":
            model, action = self._configured(unquote(found[1])), found[2]
            if asked.document.get("model", model) not in self._models:
                raise Refused(400, "model: the body names another one than the path")
            form: Form = "json" if action == "invoke" else "eventstream"
            path = f"/model/{quote(model, safe=':')}/{action}"
        else:
            model, form = self._configured(str(asked.document.get("model"))), "sse" if asked.streams else "json"
            if found[1]:
                check(asked.document)
                return Call(path, model, form)
        return call(path, model, form, asked)

    @contextlib.contextmanager
    def passing(
        self, call: Call, headers: dict[str, str], body: bytes, client: socket.socket
    ) -> Iterator[tuple[BaseHTTPResponse, Meter, Spending]]:
        """The model's answer, which has begun, who counts it and who pays. Raises Refused, HTTPError, NotCounted."""
        upstream, spending, request = self._upstream, self._spending, uuid.uuid4().hex
        if spending is None:
            raise Refused(403, "no run is under way")
        try:
            if not spending.begin(request, call.most_usd, can_be_cut=call.form != "json"):
                raise Refused(429, NO_ROOM, RETRY_AFTER)
        except OverBudget as error:
            raise Refused(402, SPENT) from error
        unanswered_usd = 0.0
        self._clients.add(client)
        try:
            with self._places:
                if spending.is_over:  # by those that had the places before
                    raise Refused(402, SPENT)
                answer = upstream.ask(call.path, {**headers, "accept-encoding": "identity"}, body)
                unanswered_usd = call.unanswered_usd if answer.status < 400 else 0.0
                streams = answer.headers.get("content-type", "").startswith("text/event-stream")
                form: Form = call.form if call.form == "eventstream" else "sse" if streams else "json"
                meter = Meter(form, call.model, lambda spent: spending.told(request, spent))
                try:
                    yield answer, meter, spending
                finally:
                    meter.cut_off()
                    answer.close()  # one that was read to its end has given its connection back
        except (ProtocolError, CutOff, ReadTimeoutError):
            unanswered_usd = call.unanswered_usd
            raise
        finally:
            self._clients.discard(client)
            spending.end(request, unanswered_usd)

    def profile(self, path: str) -> bytes:
        """What Bedrock says of a configured application's profile. Raises Refused, HTTPError."""
        found = PROFILE.fullmatch(path)
        if found is None or self._settings.provider != "bedrock":
            raise Refused(404, f"{path[:200]} is not passed on")
        model = self._configured(unquote(found[1]))
        answer = self._upstream.look_up(f"/inference-profiles/{quote(model, safe=':')}")
        if answer.status != 200:
            raise Refused(404, f"Bedrock says {answer.status} of the profile")
        return bytes(answer.data)

    def without_secrets(self, text: bytes) -> bytes:
        """An answer of the model's endpoint without the keys that it may quote, however it writes them."""
        for hidden in self._upstream.secrets:
            for form in (hidden, hidden.replace("/", "\\/"), quote(hidden, safe=""), quote(hidden, safe="").lower()):
                text = text.replace(form.encode(), b"...")
        return text

    def _configured(self, model: str) -> str:
        if model not in self._models:
            raise Refused(403, f"the model {model[:100]} is not configured")
        return model


class _Server(ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = THREADS
    endpoint: Endpoint

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._room = threading.BoundedSemaphore(THREADS)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve it in a thread, while there are not too many."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread could be started
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """One client's connection; the others go on."""
        logger.warning("a request to the model's endpoint broke off", cause=repr(sys.exception()))

    def end(self) -> None:
        """Stop listening."""
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = SILENT_SECONDS
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what passes is in the CLI's own log."""

    def do_GET(self) -> None:
        """What the CLI asks Bedrock's control plane at its start."""
        path = self.server.endpoint.knows(self.path)
        try:
            if path is None:
                raise Refused(404, "there is nothing here")
            self._whole(200, {}, NO_PROFILES if LIST.fullmatch(path) else self.server.endpoint.profile(path))
        except (Refused, HTTPError) as error:
            self._refuse(error.status if isinstance(error, Refused) else 404, str(error))

    def do_POST(self) -> None:
        """A request to the model."""
        endpoint = self.server.endpoint
        path = endpoint.knows(self.path)
        self.close_connection = True
        try:
            if path is None:
                raise Refused(404, "there is nothing here")
            body = self._body()
            asked = endpoint.call(path, body)
            with endpoint.passing(asked, self._sent(), body, self.connection) as passing:
                self._pass_on(endpoint, *passing)
        except Refused as error:
            self._refuse(error.status, str(error), error.retry_after)
        except HTTPError as error:
            self._refuse(502, f"the model's endpoint does not answer: {type(error).__name__}")
            logger.warning("the model's endpoint does not answer", cause=str(error))

    def _pass_on(self, endpoint: Endpoint, answer: BaseHTTPResponse, meter: Meter, spending: Spending) -> None:
        """The answer, as it comes; one that breaks off breaks off here. Raises Refused and HTTPError before it begins.

        The meter hears each piece first: nothing is answered that is not counted. What nobody takes counts, too.
        """
        headers = {name.lower(): value for name, value in answer.headers.items()}
        returned = {name: value for name, value in headers.items() if name not in NOT_RETURNED}
        if "content-encoding" in headers:
            raise Refused(502, "the model's endpoint compresses its answer, which was not asked for")
        if 300 <= answer.status < 400:
            raise Refused(502, f"the model's endpoint redirects ({answer.status}), which is not followed")
        if answer.status < 300 and answer.status != 200:
            raise Refused(502, f"the model's endpoint answers {answer.status}")
        if answer.status != 200 or meter.form == "json":
            whole = answer.read(ANSWER_BYTES)
            if answer.status == 200:
                _count(meter, whole)
            else:
                whole = endpoint.without_secrets(whole)
            return self._whole(answer.status, returned, whole)
        chunked = "content-length" not in headers and "transfer-encoding" in headers
        self._begin(answer.status, {**returned, **({"transfer-encoding": "chunked"} if chunked else {})})
        try:
            while data := answer.read1(PIECE_BYTES):
                meter.hear(data)
                if spending.is_far_over:
                    raise OverBudget(SPENT)
                self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
            if chunked:
                self.wfile.write(b"0\r\n\r\n")
        except (HTTPError, NotCounted, OverBudget, OSError) as error:
            logger.warning("an answer of the model breaks off", cause=f"{type(error).__name__}: {error}")
            _hear_rest(answer, meter)
        return None

    def _sent(self) -> dict[str, str]:
        """The request's headers that are passed on, each on one line."""
        found = {
            name.lower(): " ".join(value.split())
            for name, value in self.headers.items()
            if name.lower() in HEADERS or name.lower().startswith(HEADER_BEGINNINGS)
        }
        return {**found, "content-type": "application/json"}

    def _body(self) -> bytes:
        length = self.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()):
            raise Refused(411, "the request's length is not told")
        if len(length) > LENGTH_DIGITS or int(length) > BODY_BYTES:
            raise Refused(413, f"{length[:LENGTH_DIGITS]} bytes are more than {BODY_BYTES}")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise Refused(400, "the body is shorter than was told")
        return body

    def _begin(self, status: int, headers: dict[str, str]) -> None:
        self.close_connection = True
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("connection", "close")
        self.end_headers()

    def _whole(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self._begin(status, {"content-type": "application/json", **headers, "content-length": str(len(body))})
        self.wfile.write(body)

    def _refuse(self, status: int, why: str, retry_after: int | None = None) -> None:
        """An error of our own, in the words of both Bedrock and the Messages API."""
        error = {"type": "invalid_request_error", "message": why}
        headers = {} if retry_after is None else {"retry-after": str(retry_after)}
        self._whole(status, headers, json.dumps({"type": "error", "message": why, "error": error}).encode())


def _hear_rest(answer: BaseHTTPResponse, meter: Meter) -> None:
    """Take no more of an answer; what has arrived of it was made, and counts."""
    with contextlib.suppress(HTTPError, NotCounted, OSError, RuntimeError):
        break_off(answer)
        while data := answer.read1(PIECE_BYTES):
            meter.hear(data)


def _count(meter: Meter, whole: bytes) -> None:
    try:
        meter.hear(whole)
    except NotCounted as error:
        raise Refused(502, f"the model's answer is not understood: {error}") from error
