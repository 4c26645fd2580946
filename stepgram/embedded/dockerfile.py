"""The agent's Dockerfile, read as what it puts into Lambda's task root.

Only what this project's image says is understood; any other line is refused, so that an image that changes cannot
differ unnoticed from what the rehearsal runs. Instructions: https://docs.docker.com/reference/dockerfile/.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

BASE = "public.ecr.aws/lambda/python:"
TASK_ROOT = re.compile(r"\$(\{LAMBDA_TASK_ROOT\}|LAMBDA_TASK_ROOT)(/|$)")
TOOLS = re.compile(r"(micro)?dnf (install|clean|update|upgrade)\b")
ELSEWHERE = re.compile(r"python3? -m venv (?P<folder>/\S+)|(?P<pip>/\S+/bin/pip) install\b")
CHECK = re.compile(r'for program in [\w -]+; do command -v "\$program" [^;]*; exit 1; }; done')
"""The image's own look for programs that come from TOOLS and the requirements; here they are this machine's."""

HARMLESS = re.compile(r"rm (-\w+ )*/(tmp|var/cache)/\S+")


class DockerfileError(Exception):
    """A line of the Dockerfile that is not understood here; the message shows it."""


@dataclass(frozen=True)
class Image:
    """What the Dockerfile makes. Sources are relative to the build context, targets to the task root.

    `environment` is what ENV adds to the base image's, with `${PATH}` left as it is.
    """

    python: str
    handler: str
    requirements: tuple[str, ...]
    copies: tuple[tuple[str, str], ...]
    environment: tuple[tuple[str, str], ...]


def read(path: Path) -> Image:
    """The image that a Dockerfile describes. Raises DockerfileError for a line that is not understood."""
    python = handler = ""
    requirements: list[str] = []
    copies: list[tuple[str, str]] = []
    aside: dict[str, str] = {}
    environment: list[tuple[str, str]] = []
    for line in _lines(path.read_text(encoding="utf-8")):
        instruction, _, rest = line.partition(" ")
        words = rest.split()
        if instruction == "FROM" and len(words) == 1 and rest.startswith(BASE):
            python = rest.removeprefix(BASE)
        elif instruction == "COPY" and len(words) == 2 and TASK_ROOT.match(words[1]):
            copies.append((words[0], TASK_ROOT.sub("", words[1], count=1)))
        elif instruction == "COPY" and len(words) == 2 and words[1].startswith("/tmp/"):
            aside[words[1]] = words[0]
        elif instruction == "RUN" and CHECK.fullmatch(rest):
            continue
        elif instruction == "RUN":
            requirements += [aside[name] for command in rest.split("&&") for name in _installs(command.strip(), line)]
        elif instruction == "ENV" and (found := re.fullmatch(r'(\w+)="?([^"]*)"?', rest)):
            environment.append((found[1], found[2]))
        elif instruction == "CMD" and rest.startswith("["):
            (handler,) = json.loads(rest)
        else:
            raise DockerfileError(f"{path.name}: the rehearsal does not understand the line: {line}")
    if not python or not handler:
        raise DockerfileError(f"{path.name}: no FROM {BASE}VERSION or no CMD")
    return Image(python, handler, tuple(requirements), tuple(copies), tuple(environment))


def _lines(text: str) -> list[str]:
    """Instructions, one a line: comments are gone, continued lines joined."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return [re.sub(r"\s+", " ", line).strip() for line in kept.replace("\\\n", " ").splitlines() if line.strip()]


def _installs(command: str, line: str) -> list[str]:
    """The requirements files that one shell command installs into the image's own Python.

    Tools of the system and environments beside the task root (local MCP servers) are not part of the package.
    """
    if TOOLS.match(command) or ELSEWHERE.match(command) or HARMLESS.fullmatch(command):
        return []
    words = shlex.split(command)
    if words[:2] == ["pip", "install"]:
        files = [after for word, after in pairwise(words) if word in ("-r", "--requirement")]
        if [word for word in words[2:] if not word.startswith("-") and word not in files]:
            raise DockerfileError(f"the rehearsal installs requirements files only: {line}")
        return files
    raise DockerfileError(f"the rehearsal does not understand the command {command!r} of: {line}")
