"""A wire in front of a local server, whose connections can be cut as a frozen container finds them when it thaws."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Literal
from urllib.parse import urlsplit

import pytest

from stepgram import server
from stepgram.server import HOST

Cut = Literal["alive", "closed", "reset", "silent"]
"""`alive`: nothing happened. `closed`: the server said goodbye. `reset`: it did, unheard, and does not know the
connection any more. `silent`: something on the way forgot the connection, and nothing ever comes back."""

CLOSES, KEEPS = b"Connection: close\r\n", b"Connection: keep-alive\r\n"
CONTINUE = b"HTTP/1.1 100 "
"""How an answer begins that only asks for the rest of the request."""


class Forwarder:
    """Forwards to `target`, an http address, and keeps connections alive, which that server does not.

    `url` is its own address, under which the server answers too; `connections` counts those that were made to it.
    """

    def __init__(self, target: str, patch: pytest.MonkeyPatch) -> None:
        self._target = (HOST, int(urlsplit(target).port or 0))
        self._listening = socket.create_server((HOST, 0))
        self.url = f"http://{HOST}:{self._listening.getsockname()[1]}"
        own, mine = server.hosts, self.url.removeprefix("http://")
        patch.setattr(server, "hosts", lambda port: {*own(port), mine})
        self._cut: dict[socket.socket, Cut] = {}
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, how: Cut) -> None:
        """Cut all connections there are; new ones work."""
        for near in self._cut:
            self._cut[near] = how
            if how == "closed":
                with contextlib.suppress(OSError):
                    near.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Take no new connections."""
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                self.connections += 1
                self._cut[near] = "alive"
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        """One connection; every request on it has one of its own to the target, which closes it after its answer."""
        answer: Answer | None = None
        with contextlib.suppress(OSError):
            while data := near.recv(65536):
                if self._cut[near] == "reset":
                    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    break
                if self._cut[near] == "silent":
                    continue
                if answer is None or answer.begun:  # then this is the next request
                    if answer is not None:
                        answer.join()
                    answer = Answer(near, socket.create_connection(self._target))
                    answer.start()
                answer.far.sendall(data)
        near.close()


class Answer(threading.Thread):
    """What the target says to one request, on its way back."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        super().__init__(daemon=True)
        self.near, self.far = near, far
        self.begun = False

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.far.recv(65536):
                self.begun = self.begun or not data.startswith(CONTINUE)
                self.near.sendall(data.replace(CLOSES, KEEPS, 1))
        self.far.close()
