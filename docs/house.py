"""The picture of the rooms of `functions/`, drawn from their imports: `make docs` writes it, a test sees it is current.

A room stands above the rooms it imports; arrows that follow from others are left out.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

from functions.channel import ROOMS

ROOT = Path(__file__).resolve().parents[1]
FUNCTIONS = ROOT / "functions"
SAYS = {
    "telegram": "a channel",
    "web": "another channel",
    "intake": "what needs no agent",
    "turn": "the states of the Turn",
    "callback": "the agent's one door",
    "channel": "what the workflow needs of a channel",
    "agent": "the container, treated as hostile",
    "conversation": "what a conversation is; knows no channel",
    "common": "plumbing without an opinion",
}
WIDTH, GAP, MARGIN, LINE = 940, 16, 16, 17
COLUMN = 130
"""Pixels: of the picture, between boxes, around them, of a line of text, of a column of modules."""


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, whether at run time or for types."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}: imports are absolute, so that arrows can be read"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def files(room: str) -> list[Path]:
    """The modules of a room, or the one module that is it."""
    found = [*(FUNCTIONS / room).rglob("*.py"), *FUNCTIONS.glob(f"{room}.py")]
    return sorted(path for path in found if path.name != "__init__.py")


def arrows() -> dict[str, set[str]]:
    """Which rooms each room imports."""
    names = {room: {name for path in files(room) for name in imported(path)} for room in SAYS}
    return {
        room: {other for other in SAYS if other != room and any(_is_in(name, other) for name in found)}
        for room, found in names.items()
    }


def _is_in(name: str, room: str) -> bool:
    return name.split(".")[:2] == ["functions", room]


def _height(room: str, known: Mapping[str, set[str]]) -> int:
    return max((1 + _height(other, known) for other in known[room]), default=0)


def _reach(room: str, known: Mapping[str, set[str]]) -> set[str]:
    return known[room] | {far for other in known[room] for far in _reach(other, known)}


def draw() -> str:
    """The picture, as SVG."""
    known = arrows()
    floors: dict[int, list[str]] = {}
    for room in SAYS:
        floors.setdefault(_height(room, known), []).append(room)
    boxes: dict[str, tuple[float, float, float, float]] = {}
    shapes: list[str] = []
    top = float(MARGIN)
    for floor in sorted(floors, reverse=True):
        rooms = floors[floor]
        width = (WIDTH - 2 * MARGIN - GAP * (len(rooms) - 1)) / len(rooms)
        columns = max(1, int((width - 2 * GAP) // COLUMN))
        tall = max(-(-len(files(room)) // columns) for room in rooms)
        height = (tall + 2) * LINE + 2 * GAP
        for number, room in enumerate(rooms):
            left = MARGIN + number * (width + GAP)
            boxes[room] = (left, top, width, height)
            shapes += _box(room, left, top, width, height, columns)
        top += height + 2.5 * GAP
    lines = []
    for room, others in known.items():
        for other in sorted(others - {far for near in others for far in _reach(near, known)}):
            lines.append(_arrow(boxes[room], boxes[other]))
    for module in ROOMS.values():
        lines.append(_arrow(boxes["channel"], boxes[module.split(".")[1]], dashed=True))
    size = f'width="{WIDTH}" height="{top:.0f}" viewBox="0 0 {WIDTH} {top:.0f}"'
    style = (
        "text{font:13px system-ui,sans-serif;fill:#1f2328}.n{font-weight:600;font-size:15px}.s{fill:#59636e}"
        "rect{fill:#f6f8fa;stroke:#8c959f}path{stroke:#0969da;fill:none;stroke-width:1.5}"
    )
    tip = (
        '<marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L8 4L0 8z" style="fill:#0969da;stroke:none"/></marker>'
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}><title>The rooms of functions/</title><style>{style}</style>'
    )
    white = f'<rect width="{WIDTH}" height="{top:.0f}" style="fill:#fff;stroke:none"/>'
    return "\n".join([head, f"<defs>{tip}</defs>{white}", *shapes, *lines, "</svg>"]) + "\n"


def _box(room: str, left: float, top: float, width: float, height: float, columns: int) -> list[str]:
    def text(x: float, y: float, what: str, kind: str = "") -> str:
        return f'<text x="{x:.0f}" y="{y:.0f}"{f" class={kind!r}" if kind else ""}>{escape(what)}</text>'

    is_room = (FUNCTIONS / room).is_dir()
    shown = [f'<rect x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" height="{height:.0f}" rx="6"/>']
    shown.append(text(left + GAP, top + GAP + 8, f"{room}{'/' if is_room else '.py'}", "n"))
    shown.append(text(left + GAP, top + GAP + 8 + LINE, SAYS[room], "s"))
    modules = [str(path.relative_to(FUNCTIONS / room).with_suffix("")) for path in files(room)] if is_room else []
    rows = -(-len(modules) // columns) or 1
    for number, name in enumerate(modules):
        column, row = divmod(number, rows)
        shown.append(text(left + GAP + column * COLUMN, top + GAP + 14 + (row + 2) * LINE, name))
    return shown


def _arrow(
    above: tuple[float, float, float, float], below: tuple[float, float, float, float], dashed: bool = False
) -> str:
    """From one box to another; dashed: found by its name when it runs, and imported nowhere."""
    x1, y1 = above[0] + above[2] / 2, above[1] + above[3]
    x2, y2 = below[0] + below[2] / 2, below[1]
    if dashed:
        x1, y1, x2, y2 = above[0] + 40, above[1], below[0] + 40, below[1] + below[3]
    else:
        x2 = min(max(x1, below[0] + 30), below[0] + below[2] - 30)
    style = ' style="stroke-dasharray:4 4"' if dashed else ""
    return f'<path d="M{x1:.0f} {y1:.0f}L{x2:.0f} {y2:.0f}" marker-end="url(#tip)"{style}/>'
