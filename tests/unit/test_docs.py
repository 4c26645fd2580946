"""The documentation names what there is."""

from __future__ import annotations

import json
import re

import pytest

from docs import generate, house
from functions.common import errors
from tests.conftest import ROOT

OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
README, CHINESE = (ROOT / "README.md").read_text(), (ROOT / "README.zh-CN.md").read_text()
NAMED = {n: c for n, c in vars(errors).items() if isinstance(c, type) and issubclass(c, Exception)}
RAISED = [n for n, c in NAMED.items() if not c.__subclasses__() or n == "SnapshotMissing"]


@pytest.mark.parametrize("name", [*RAISED, *errors.PLATFORM])
def test_every_error_has_its_section_with_what_to_do(name: str) -> None:
    section = re.search(rf"^### {re.escape(name)}\n\n(.+)$", OPERATIONS, re.MULTILINE)

    assert section is not None
    assert "**Do:** " in section[1]
    assert errors.remedy_of(name) in section[1]


def test_no_error_of_ours_is_without_a_remedy() -> None:
    assert [name for name in RAISED if errors.remedy_of(name) == errors.UNKNOWN] == []
    assert errors.remedy_of("SomethingElse") == errors.UNKNOWN


def matched() -> set[str]:
    """The names that Retry and Catch of the Turn match."""
    states = json.loads((ROOT / "statemachine" / "turn.asl.json").read_text())["States"].values()
    rules = [rule for state in states for rule in (*state.get("Retry", []), *state.get("Catch", []))]
    return {name for rule in rules for name in rule["ErrorEquals"]}


def test_every_error_the_definition_names_has_its_section() -> None:
    assert [name for name in matched() - {"States.ALL"} if errors.remedy_of(name) == errors.UNKNOWN] == []


@pytest.mark.parametrize("name", generate.alarms())
def test_every_alarm_has_its_section(name: str) -> None:
    assert f"### {name}\n" in OPERATIONS


def test_both_readmes_say_the_same() -> None:
    def skeleton(text: str) -> list[str]:
        commands = re.findall(r"`(make \w+|uv run [^`]+|stepgram [^`]+)`|^((?:make|uv run)[^#\n]*)", text, re.MULTILINE)
        links = re.findall(r"\]\(([^)]+)\)", text)
        blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        code = [re.sub(r" *#.*", "", block) for block in blocks]
        return [
            *(a or b.strip() for a, b in commands),
            *links,
            *code,
            str(text.count("\n## ")),
            str(text.count("\n- ")),
        ]

    assert skeleton(README) == skeleton(CHINESE)


def test_the_picture_of_the_rooms_is_drawn_from_their_imports() -> None:
    assert (ROOT / "docs" / "house.svg").read_text() == house.draw(), "make docs"
    assert house.arrows()["conversation"] == {"common"}
