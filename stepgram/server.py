"""A WSGI application on a loopback port."""

from __future__ import annotations

import logging
import socket
import threading
from typing import Any

from werkzeug.serving import BaseWSGIServer, make_server

HOST = "127.0.0.1"


class PortBusy(Exception):
    """Another program listens on the port."""

    def __init__(self, port: int) -> None:
        super().__init__(f"port {port} is busy")
        self.port = port


class Server:
    """A WSGI application on a loopback port (0: any free one), in a thread. Raises PortBusy."""

    def __init__(self, app: Any, port: int = 0) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        _check_free(port)
        self._server: BaseWSGIServer = make_server(HOST, port, app, threaded=True)
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
