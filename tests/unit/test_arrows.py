"""Which room of `functions/` may know which: imports go one way, and no circle closes."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.house import files, imported
from tests.conftest import ROOT

FUNCTIONS = ROOT / "functions"
MAY_KNOW = {
    "common": set[str](),
    "conversation": {"common"},
    "channel": {"conversation", "common"},
    "telegram": {"channel", "conversation", "common"},
    "web": {"channel", "conversation", "common"},
    "callback": {"channel", "conversation", "common"},
    "turn": {"channel", "conversation", "common"},
    "intake": {"channel", "conversation", "common"},
    "agent": {"conversation", "common"},
}
"""The rooms (and the one module beside them, `channel.py`), and whom each may import beside itself."""

OUTSIDE = {"commands", "console", "operators", "rehearsal", "cli"}
"""What of `stepgram/` the embedded stack knows nothing of."""

MODULES, LINES = 14, 400
"""Modules of one room, and lines of one module, at most."""


@pytest.mark.parametrize("room", MAY_KNOW)
def test_imports_go_one_way(room: str) -> None:
    wrong = set()
    for path in files(room):
        for name in imported(path):
            root, _, rest = name.partition(".")
            assert root not in ("stepgram", "tests"), f"{path}: {name}"
            other = rest.partition(".")[0]
            if root == "functions" and other not in MAY_KNOW[room] | {room}:
                wrong.add((path.name, name))
    assert wrong == set()


def test_every_room_is_known_and_none_is_crowded() -> None:
    rooms = {folder.relative_to(FUNCTIONS) for folder in FUNCTIONS.rglob("*") if any(folder.glob("*.py"))}
    alone = {path.stem for path in FUNCTIONS.glob("*.py")} - {"__init__"}
    rooms -= {Path(".")}
    assert {str(room).partition("/")[0] for room in rooms} | alone == MAY_KNOW.keys()
    for room in rooms:
        modules = [path.name for path in (FUNCTIONS / room).glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= MODULES, f"{room}: {modules}"
        for name in modules:
            lines = (FUNCTIONS / room / name).read_text(encoding="utf-8").count("\n")
            assert lines <= LINES, f"{room}/{name}: {lines} lines"


@pytest.mark.parametrize(("room", "others"), [("embedded", OUTSIDE), ("operators", {"commands", "console", "cli"})])
def test_the_embedded_stack_and_the_operators_side_know_nothing_of_who_uses_them(room: str, others: set[str]) -> None:
    for path in (ROOT / "stepgram" / room).rglob("*.py"):
        known = {name.split(".")[1] for name in imported(path) if name.startswith("stepgram.")}
        assert not known & others, path
