"""Where the model is, and how a request to it is signed: the keys stay in this process.

On Bedrock a request is signed by the function's role or another account's keys (SigV4), or carries an API key; the
Anthropic API takes `x-api-key`; a gateway (`ModelBaseUrl`) what the secret has, or nothing. Sources:
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html ,
https://docs.aws.amazon.com/bedrock/latest/userguide/api-keys-use.html ,
https://platform.claude.com/docs/en/api/overview (Authentication).
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import weakref
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import urllib3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from botocore.httpsession import get_cert_path
from urllib3.exceptions import HTTPError, ProtocolError

from functions.agent.settings import AgentSettings
from functions.common import aws
from functions.common.errors import ConfigurationError
from functions.common.secrets import secret

if TYPE_CHECKING:
    from collections.abc import Callable

    from urllib3.response import BaseHTTPResponse

ACCOUNT_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
BEARER, API_KEY = "AWS_BEARER_TOKEN_BEDROCK", "ANTHROPIC_API_KEY"
SECRET_KEYS = frozenset({*ACCOUNT_KEYS, BEARER, API_KEY})

ANTHROPIC = "https://api.anthropic.com"
CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 190.0
"""The second is longer than the CLI waits for anything: it gives up first."""

LOOK_UP = urllib3.Timeout(connect=2.0, read=3.0)
"""A start of the CLI waits for what Bedrock says of an inference profile."""

CONNECTIONS = 8


def model_keys(secret_id: str | None) -> dict[str, str]:
    """The secret's keys; none without a secret. Raises ConfigurationError, AwsUnavailable."""
    if secret_id is None:
        return {}
    try:
        document = json.loads(secret(secret_id))
    except ValueError as error:
        raise ConfigurationError(f"secret {secret_id} is not a JSON object") from error
    if not isinstance(document, dict) or not document or not SECRET_KEYS.issuperset(document):
        raise ConfigurationError(f"secret {secret_id} may hold only {', '.join(sorted(SECRET_KEYS))}")
    return {name: str(value) for name, value in document.items()}


class Cut(HTTPError):
    """Nothing is asked any more."""


class CutOff(HTTPError):
    """A request was under way, and had no answer, when nothing was wanted any more."""


class Upstream:
    """The model's endpoint with the keys of now. Its connections are its own: a new one has none that died.

    Raises ConfigurationError when there are no keys, AwsUnavailable when they cannot be read now.
    """

    def __init__(self, settings: AgentSettings) -> None:
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._connecting = threading.Lock()
        self._is_cut = False
        region = settings.bedrock_region or settings.region
        on_bedrock = settings.provider == "bedrock"
        self._region = region
        self._keys = model_keys(settings.model_secret_id)
        self._by_role = not self._keys and on_bedrock and settings.base_url is None
        if self._by_role:
            aws.credentials()
        elif settings.base_url is None and not {BEARER, *ACCOUNT_KEYS[:1]}.intersection(self._keys) and on_bedrock:
            raise ConfigurationError(f"secret {settings.model_secret_id} has no keys for Bedrock")
        elif settings.base_url is None and not on_bedrock and API_KEY not in self._keys:
            raise ConfigurationError("MODEL_PROVIDER anthropic needs MODEL_SECRET_ID, a secret with ANTHROPIC_API_KEY")
        own = f"https://bedrock-runtime.{region}.amazonaws.com" if on_bedrock else ANTHROPIC
        self._root = (settings.base_url or own).rstrip("/")
        self._control = (settings.base_url or f"https://bedrock.{region}.amazonaws.com").rstrip("/")

    @property
    def secrets(self) -> list[str]:
        """What may be in no answer: an error of AWS's may quote the request it was sent."""
        if self._by_role:
            role = aws.credentials()
            return [value for value in (role.access_key, role.secret_key, role.token) if value]
        return [value for value in self._keys.values() if value]

    def ask(self, path: str, headers: dict[str, str], body: bytes) -> BaseHTTPResponse:
        """POST to a path below the model's root; the answer has begun. Raises urllib3's HTTPError when there is none,
        Cut and CutOff.

        `headers` are sent as they are, with the authorisation added. No redirect is followed, and no proxy that the
        environment names is used.
        """
        if self._is_cut:
            raise Cut("the run is over")
        try:
            return self._send(self._pool, "POST", self._root, path, headers, body)
        except ProtocolError as error:
            if self._is_cut:
                raise CutOff("the run is over") from error
            raise

    def cut(self) -> None:
        """Break off what is under way, and ask nothing any more. From any thread."""
        with self._connecting:
            self._is_cut = True
            for connected in self._sockets:
                _shut_down(connected)

    def connected(self, to: socket.socket) -> None:
        """A connection was made. Raises Cut."""
        with self._connecting:
            if self._is_cut:
                raise Cut("the run is over")
            self._sockets.add(to)

    def look_up(self, path: str) -> BaseHTTPResponse:
        """GET from Bedrock's control plane; the whole answer. Raises urllib3's HTTPError."""
        pool = _pool(self._control)
        return self._send(pool, "GET", self._control, path, {}, None, preload_content=True, timeout=LOOK_UP)

    @cached_property
    def _pool(self) -> urllib3.HTTPConnectionPool:
        pool = _pool(self._root)
        pool.ConnectionCls = _watched(pool.ConnectionCls, self.connected)
        return pool

    def _send(
        self,
        pool: urllib3.HTTPConnectionPool,
        method: str,
        root: str,
        path: str,
        headers: dict[str, str],
        body: bytes | None,
        **more: Any,
    ) -> BaseHTTPResponse:
        signed = {**headers, **self._authorisation(method, root + path, body)}
        target = urlsplit(root).path + path
        options = {"preload_content": False, "decode_content": False, **more}
        return pool.urlopen(method, target, body, signed, redirect=False, retries=False, **options)

    def _authorisation(self, method: str, url: str, body: bytes | None) -> dict[str, str]:
        """The headers that say who asks."""
        if API_KEY in self._keys:
            return {"x-api-key": self._keys[API_KEY]}
        if BEARER in self._keys:
            return {"authorization": f"Bearer {self._keys[BEARER]}"}
        if not self._by_role and ACCOUNT_KEYS[0] not in self._keys:
            return {}
        request = AWSRequest(method, url, data=body)
        SigV4Auth(self._account, "bedrock", self._region).add_auth(request)
        return dict(request.headers.items())

    @property
    def _account(self) -> ReadOnlyCredentials:
        if self._by_role:
            return aws.credentials()
        key, hidden, token = (self._keys.get(name, "") for name in ACCOUNT_KEYS)
        return ReadOnlyCredentials(key, hidden, token or None)


def _pool(root: str) -> urllib3.HTTPConnectionPool:
    timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=ANSWER_SECONDS)
    trusted = {"ca_certs": get_cert_path(True)} if root.startswith("https:") else {}
    return urllib3.connection_from_url(root, maxsize=CONNECTIONS, timeout=timeout, **trusted)


def break_off(answer: BaseHTTPResponse) -> None:
    """Take nothing more from the model; what has arrived already can still be read."""
    connection: Any = answer.connection
    if connection is not None:
        _shut_down(connection.made)


def _watched(base: Any, connected: Callable[[socket.socket], None]) -> Any:
    """A class of connections that tell when they are made. (`sock` is taken away from one that is used once.)"""

    class Watched(base):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            self.made = self.sock
            connected(self.sock)

    return Watched


def _shut_down(connected: socket.socket) -> None:
    """Hang up; what has arrived can still be read. (`SSLSocket.shutdown` would forget how to decipher it.)"""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connected, socket.SHUT_RDWR)
