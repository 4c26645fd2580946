"""A strict stack in a process of its own, since one process has one stack at a time.

The first line of standard input has the template's parameters, each further one a request; each is answered by a line.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from stepgram.embedded.containers import Container, Containers, below, of_user
from stepgram.embedded.packages import Packages
from stepgram.embedded.stack import EmbeddedStack
from tests.conftest import ROOT, Person, until

AGENT = "stepgram-AgentFunction"


class StrictStack:
    """A strict stack of a test: what people write into it, and what is to be seen of its containers from outside."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, chat: int, text: str) -> dict[str, Any]:
        """Write a message: the `status`, `error` and `cause` of its turn, and the `text` the bot wrote last."""
        return self._request({"do": "ask", "chat": chat, "text": text})

    def say(self, chat: int, text: str) -> str:
        """Write a message and go on; returns its turn's name."""
        name: str = self._request({"do": "say", "chat": chat, "text": text})["name"]
        return name

    def wait(self, chat: int, name: str) -> dict[str, Any]:
        """Wait for a turn; returns what `ask` does."""
        return self._request({"do": "wait", "chat": chat, "name": name})

    def agents(self, chat: int) -> list[dict[str, Any]]:
        """The agent's containers of a chat that wait: `id`, `user`, `tmp`, what is `left` in it, and the `commands` of
        its processes."""
        found: list[dict[str, Any]] = self._request({"do": "agents", "chat": chat})["agents"]
        return found

    def set(self, **spec: Any) -> None:
        """Change the agent's function: its `timeout`, or variables of its environment. Its containers are ended."""
        self._request({"do": "set", **spec})

    def _request(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the stack's process ended"
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def strict_stack(packages: Path, home: Path, tmp: Path | None = None, **parameters: str) -> Iterator[StrictStack]:
    """Start one; `packages` is a cache of packages, `tmp` where containers have their folders."""
    environment = {**os.environ, **({"TMPDIR": str(tmp)} if tmp is not None else {})}
    with (home / "stack.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(packages), str(home)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdin is not None
    process.stdin.write(json.dumps(parameters) + "\n")
    process.stdin.flush()
    try:
        yield StrictStack(process)
    finally:
        process.stdin.close()
        process.wait(60)


def main() -> None:
    """Serve requests until standard input closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    parameters = json.loads(sys.stdin.readline())
    packages = Packages(Path(sys.argv[1]))
    with EmbeddedStack(Path(sys.argv[2]), parameters=parameters, environment={}, packages=packages) as stack:
        person = Person(stack)
        for line in sys.stdin:
            answers.write(json.dumps(_answer(stack, person, json.loads(line))) + "\n")
            answers.flush()


def _answer(stack: EmbeddedStack, person: Person, request: dict[str, Any]) -> dict[str, Any]:
    if request["do"] == "say":
        return {"name": person.say(request["chat"], request["text"])}
    if request["do"] in ("ask", "wait"):
        name = request.get("name") or person.say(request["chat"], request["text"])
        turn, texts = person.wait(name), person.texts(request["chat"])
        return {"status": turn.status, "error": turn.error, "cause": turn.cause, "text": texts[-1], "texts": texts}
    if request["do"] == "set":
        spec = stack.functions.specs[AGENT]
        changed = {**spec.environment, **request.get("environment", {})}
        stack.functions.specs[AGENT] = replace(spec, timeout=request.get("timeout", spec.timeout), environment=changed)
        stack.functions.cool_down()
        return {}
    strict, tenant = stack.functions.strict, f"{request['chat']}:0"
    assert isinstance(strict, Containers)
    until(lambda: not any(container.tenant == tenant for container in list(strict._busy)))  # it closes after its answer
    return {"agents": [_seen(container) for container in strict._idle[AGENT] if container.tenant == tenant]}


def _seen(container: Container) -> dict[str, Any]:
    processes = of_user(container.user) if container.user is not None else below(container._process.pid)
    commands = []
    for process in processes:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            commands.append((Path("/proc") / str(process) / "cmdline").read_text().replace("\0", " "))
    return {
        "id": container._process.pid,
        "user": container.user,
        "tmp": container._tmp,
        "left": sorted(map(ascii, os.listdir(container._tmp))),
        "commands": commands,
    }


if __name__ == "__main__":
    main()
