"""Secrets: whatever an agent runs, it finds no key to the model, to AWS or to its session, wherever it can read."""

from __future__ import annotations

import base64
import json
import secrets
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from functions.agent.closed import PR_SET_DUMPABLE
from tests.attacks.hostile import Play, play

STOPPED_BY = (
    "The agent has none: its CLI speaks to an endpoint of the function's own on loopback, which signs and passes "
    "on. The function's first environment is wiped, and its memory closed to what it starts."
)

SEARCH = Path(__file__).with_name("search.py")
SESSION_TOKEN = "FQoGZXIvYXdzEBYaD"
"""How the tokens begin that STS gives here: the credentials for the session's objects have one."""

DOORS = ("environ", "thread", "memory", "copied", "traced", "fd")
"""What one process can open of another."""


@dataclass(frozen=True)
class Found:
    """Where each text was found, and which doors of each process were open."""

    places: dict[str, list[str]]
    opened: dict[str, dict[str, str]]
    files: int

    @property
    def handler(self) -> dict[str, str]:
        """The doors of the function's own process."""
        (found,) = [doors for doors in self.opened.values() if "awslambdaric" in doors["command"]]
        return found


def search(wanted: list[str]) -> str:
    """A message that makes the agent look for these texts, which are not written in it as they are."""
    packed = base64.b64encode(zlib.compress(SEARCH.read_bytes(), 9)).decode()
    code = f"import base64,zlib;exec(zlib.decompress(base64.b64decode('{packed}')))"
    message = f'!bash $(ls /var/lang/bin/python3* | head -1) -c "{code}" {" ".join(text[::-1] for text in wanted)}'
    assert len(message) < 4096, "the longest message Telegram takes"
    return message


def attack(**more: Any) -> tuple[Found, list[str], str]:
    """What was found, what was to be found, and a control, which is no secret."""
    hidden = {name: f"{name}-{secrets.token_hex(16)}" for name in ("secret", "token", "model_key")}
    control = secrets.token_hex(8)
    wanted = [*hidden.values(), SESSION_TOKEN, control]

    answers = play(Play([f"!bash echo {control} > note", search(wanted)], **hidden, **more))

    line = next(line for line in answers[-1].splitlines() if line.startswith("FOUND "))
    return Found(*json.loads(line.removeprefix("FOUND ")).values()), wanted[:-1], control


@pytest.mark.timeout(300)
def test_no_secret_is_found_anywhere() -> None:
    found, hidden, control = attack()

    assert {text: found.places[text] for text in hidden} == {text: [] for text in hidden}
    assert {door: found.handler[door] for door in DOORS if found.handler[door] == "read"} == {}
    kinds = {place.split(" ")[1] if place[0].isdigit() else "file" for place in found.places[control]}
    assert {"memory", "file"} <= kinds, f"the search finds what is there: {found.places[control]}"
    assert found.files > 1000


@pytest.mark.timeout(300)
def test_where_the_sandbox_leaves_the_memory_open_no_variable_file_or_command_line_has_a_secret() -> None:
    found, hidden, _ = attack(refused=(PR_SET_DUMPABLE,))

    places = {place for text in hidden for place in found.places[text]}
    assert {place for place in places if not place.endswith(" memory")} == set()
    assert found.handler["environ"] == "read", "the door was open"
