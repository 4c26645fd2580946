"""The documentation names what there is."""

from __future__ import annotations

import re

import pytest

from docs import generate
from functions.common import errors
from tests.conftest import ROOT

OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
README, CHINESE = (ROOT / "README.md").read_text(), (ROOT / "README.zh-CN.md").read_text()
RAISED = [
    n for n, c in vars(errors).items() if isinstance(c, type) and issubclass(c, Exception) and not c.__subclasses__()
]


@pytest.mark.parametrize("name", RAISED)
def test_every_error_says_what_to_do(name: str) -> None:
    assert re.search(rf"^\|.*`{name}`.*\|", OPERATIONS, re.MULTILINE)


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
