"""The agent's own process on the embedded stack: one JSON line in, one invocation, one JSON line out.

It starts as the zygote (`workers.py`): it imports packages, and forks a worker for each environment it is sent. A
worker's environment is the function's and nothing else of the machine's; what its handler prints goes to the log. What
a worker leaves behind when it dies becomes a child of the zygote, and is ended by the pool. The zygote ends with the
stack, also when that is killed in the middle of an invocation, and takes along all that came from it.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import sys
import tempfile
import threading
from typing import Literal, NoReturn

import claude_agent_sdk  # noqa: F401 - the agent's module itself is imported by each worker: it looks at its process
import pathspec  # noqa: F401

import functions.common.aws
import functions.conversation.files.workspace
from functions.agent.processes import adopt, end_below
from stepgram.embedded.answers import Context, call_handler

AGENT = "functions.agent.handler"
MESSAGE_BYTES = 1024 * 1024
SERVICES: tuple[Literal["s3", "kms", "lambda"], ...] = ("s3", "kms", "lambda")
"""Whose clients the agent's function has."""


def main() -> None:
    """Fork a worker for each environment that is sent; without a stack, end all: the next stack would meet them."""
    control = socket.socket(fileno=int(sys.argv[1]))
    adopt()
    for service in SERVICES:  # what they read of botocore's models is kept
        functions.common.aws._session().client(service, region_name="us-east-1")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    assert threading.active_count() == 1, "only a process without threads may be forked"
    while True:
        document, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 1)
        if not document:
            end_below(os.getpid())
            return
        with socket.socket(fileno=descriptors[0]) as requests:
            if os.fork() == 0:
                control.close()
                _serve(requests, json.loads(document))


def _serve(requests: socket.socket, environment: dict[str, str]) -> NoReturn:
    """Be a worker until the stack closes its socket."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    requests.sendall(json.dumps({"process": os.getpid()}).encode() + b"\n")
    importlib.import_module(AGENT)
    for line in requests.makefile("rb"):
        request = json.loads(line)
        context = Context(request["name"], request["seconds"], request["request_id"], request["memory"])
        answer = call_handler(request["handler"], request["event"], context)
        document = {"payload": json.loads(answer.payload), "function_error": answer.function_error}
        requests.sendall(json.dumps(document).encode() + b"\n")
    os._exit(0)


if __name__ == "__main__":
    main()
