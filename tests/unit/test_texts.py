"""The catalogue: complete in both languages, used, and the only place where the bot's words are."""

from __future__ import annotations

import ast
from string import Formatter

import pytest

from functions.conversation.texts import CATALOGUE
from tests.conftest import ROOT

CODE = {path: path.read_text() for path in (ROOT / "functions").rglob("*.py") if path.name != "texts.py"}
FAMILIES = ("ended_", "left_out_", "approval_", "approved_", "budget_", "menu_")
"""Texts whose names are put together in code."""

SPEAKING = {"text": 1, "say": 0, "tell": 1}
"""Calls that take a text's name or a part's name, and where."""


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_text_is_in_both_languages_with_the_same_values(name: str) -> None:
    english, chinese = CATALOGUE[name]["en"], CATALOGUE[name]["zh"]

    assert english.strip() and chinese.strip()
    assert fields(english) == fields(chinese)


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_text_is_used(name: str) -> None:
    family = next((one for one in FAMILIES if name.startswith(one)), "")
    together = "".join(CODE.values())

    assert f'"{name}"' in together or (family and f'f"{family}' in together)


def test_no_words_for_people_are_written_in_code() -> None:
    """What is said to a chat is a name of the catalogue, never a sentence."""
    found = []
    for path, source in CODE.items():
        for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            if name in SPEAKING and len(call.args) > SPEAKING[name]:
                given = call.args[SPEAKING[name]]
                if isinstance(given, ast.Constant) and isinstance(given.value, str) and " " in given.value:
                    found.append(f"{path.name}:{call.lineno}: {given.value}")

    assert found == []
