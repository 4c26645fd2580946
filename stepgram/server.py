"""A WSGI application on a loopback port, which answers nobody else's pages.

Every page that is open in a browser can send requests to loopback, and a name of its own that suddenly means 127.0.0.1
makes them its own origin's (DNS rebinding). So every server here has a guard in front: the name it is called by must be
its own, and so must the page that calls, if it is a page (https://www.w3.org/TR/fetch-metadata/,
https://fetch.spec.whatwg.org/#origin-header). What is to be read by those alone who were given an address has a token
in its path besides.
"""

from __future__ import annotations

import hmac
import logging
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any

from flask import Blueprint, Flask, Response, abort
from werkzeug.serving import BaseWSGIServer, make_server

HOST = "127.0.0.1"

POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"
"""What a page of ours may load: what this server has."""

NOBODY = "Open the address that `stepgram local` or `stepgram console` printed: it holds a token."
CROSS_ORIGIN = "access-control-"
"""How the headers begin that let pages of others read an answer (https://fetch.spec.whatwg.org/#http-responses)."""


class PortBusy(Exception):
    """Another program listens on the port."""

    def __init__(self, port: int) -> None:
        super().__init__(f"port {port} is busy")
        self.port = port


def hosts(port: int | str) -> set[str]:
    """The names of a server on a port of this machine, as `Host` says them."""
    names = {HOST, "localhost"}
    return {f"{name}:{port}" for name in names} | (names if str(port) == "80" else set())


def refusal(header: Callable[[str], str | None], port: int | str) -> str | None:
    """Why a request is not for this server or comes from a page of another; None when it is answered.

    `header` gives a header of the request by its name, `port` is the server's own.
    """
    host, origin = header("Host"), header("Origin")
    if host not in hosts(port):
        return f"this server is {HOST}:{port} or localhost:{port}, whatever else leads to it"
    if origin not in (None, f"http://{host}") or header("Sec-Fetch-Site") not in (None, "same-origin", "none"):
        return "this server answers its own pages, not those of others"
    return None


class Guard:
    """In front of every application: refuses what `refusal` says, and lets no other page read an answer."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """The WSGI entry."""
        port = environ["SERVER_PORT"]
        reason = refusal(lambda name: environ.get(f"HTTP_{name.upper().replace('-', '_')}"), port)
        if reason is not None:
            start_response("403 Forbidden", [("Content-Type", "text/plain"), ("X-Content-Type-Options", "nosniff")])
            return [f"Refused: {reason}.".encode()]

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            kept = [(name, value) for name, value in headers if not name.lower().startswith(CROSS_ORIGIN)]
            return start_response(status, kept, *more)

        answer: Iterable[bytes] = self._app(environ, start)
        return answer


def only_with_token(page: Flask | Blueprint, token: str) -> None:
    """Answer under addresses alone that hold the token, as their part `<token>`, and keep what is there to itself.

    A file that somebody sent has a policy of its own.
    """

    @page.url_value_preprocessor
    def check(endpoint: str | None, values: dict[str, Any] | None) -> None:
        given = (values or {}).pop("token", "")
        if not hmac.compare_digest(given.encode(), token.encode()):
            abort(Response(NOBODY, 403))

    @page.after_request
    def keep_to_itself(response: Response) -> Response:
        response.headers.setdefault("Content-Security-Policy", POLICY)
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = "no-store"
        return response


class Server:
    """A WSGI application on a loopback port (0: any free one), guarded, in a thread. Raises PortBusy."""

    def __init__(self, app: Any, port: int = 0) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        _check_free(port)
        self._server: BaseWSGIServer = make_server(HOST, port, Guard(app), threaded=True)
        self.port = int(self._server.server_port)
        self.url = f"http://{HOST}:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True, name=f"server-{self.port}"
        )
        self._thread.start()

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()


def _check_free(port: int) -> None:
    """werkzeug ends the process when it cannot bind; ask first."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise PortBusy(port) from error
