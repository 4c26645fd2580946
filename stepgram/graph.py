"""A definition as a picture: SVG drawn from the Amazon States Language itself, each state coloured by what it did.

The main path runs from left to right; every other chain of states stands below the state it returns to and runs
towards it. A dashed line is a Catch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape
from typing import Any

from stepgram.executions import State

BOX_WIDTH, BOX_HEIGHT = 138, 46
COLUMN, ROW = 166, 112
MARGIN = 14

STYLE = """
.stepgram text{font:600 12.5px system-ui,sans-serif;fill:var(--ink,#1f2430);text-anchor:middle}
.stepgram .sub{font-weight:400;font-size:11px;fill:var(--dim,#6b7280)}
.stepgram rect{fill:var(--box,#fff);stroke:var(--line,#9aa3b2);stroke-width:1.5;rx:9}
.stepgram path{fill:none;stroke:var(--line,#9aa3b2);stroke-width:1.4}
.stepgram .catch{stroke-dasharray:4 4;opacity:.55}
.stepgram .unreached rect{stroke-dasharray:3 3}.stepgram .unreached text{fill:var(--dim,#6b7280)}
.stepgram .succeeded rect{fill:#e3f6e8;stroke:#2f9e57}.stepgram .running rect{fill:#e3eefd;stroke:#2f6fde}
.stepgram .caught rect{fill:#fdf1da;stroke:#c98a17}.stepgram .failed rect{fill:#fde6e6;stroke:#d63b3b}
.stepgram .succeeded text,.stepgram .running text,.stepgram .caught text,.stepgram .failed text{fill:#1f2430}
"""


@dataclass(frozen=True)
class Place:
    """Where a state stands, in columns and rows."""

    column: int
    row: int

    @property
    def x(self) -> int:
        """Left edge in pixels."""
        return MARGIN + self.column * COLUMN

    @property
    def y(self) -> int:
        """Top edge in pixels."""
        return MARGIN + self.row * ROW

    @property
    def middle(self) -> int:
        """Horizontal middle in pixels."""
        return self.x + BOX_WIDTH // 2


def draw(definition: str, states: list[State] | None = None) -> str:
    """The definition as SVG; `states` are the visits to colour it by."""
    document = json.loads(definition)
    places = layout(document)
    last = {state.name: state for state in states or []}
    columns = 1 + max(place.column for place in places.values())
    rows = 1 + max(place.row for place in places.values())
    width, height = MARGIN * 2 + columns * COLUMN - (COLUMN - BOX_WIDTH), MARGIN * 2 + (rows - 1) * ROW + BOX_HEIGHT
    edges = [_edge(places, *edge) for edge in edges_of(document)]
    boxes = [_box(name, document["States"][name], places[name], last.get(name)) for name in places]
    return (
        f'<svg class="stepgram" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="states of the execution"><style>{STYLE}</style>'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"><path d="M0,0L8,4L0,8z" style="fill:var(--line,#9aa3b2);stroke:none"/></marker>'
        f"</defs>{''.join(edges)}{''.join(boxes)}</svg>"
    )


def edges_of(document: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """(from, to, whether it is a Catch) of every transition."""
    edges = []
    for name, state in document["States"].items():
        targets = [state.get("Next"), state.get("Default"), *(c.get("Next") for c in state.get("Choices", []))]
        edges += [(name, target, False) for target in targets if target]
        edges += [(name, catcher["Next"], True) for catcher in state.get("Catch", [])]
    return edges


def main_path(document: dict[str, Any]) -> list[str]:
    """The states from the start along Next (a Choice: its first) to the end."""
    path: list[str] = []
    name: str | None = document["StartAt"]
    while name is not None and name not in path:
        path.append(name)
        state = document["States"][name]
        name = state.get("Next") or next((c["Next"] for c in state.get("Choices", [])), None)
    return path


def layout(document: dict[str, Any]) -> dict[str, Place]:
    """A place for every state."""
    path = main_path(document)
    places = {name: Place(column, 0) for column, name in enumerate(path)}
    rest = [name for name in document["States"] if name not in places]
    entered = {target for source, target, catch in edges_of(document) if not catch and source in rest}
    for first in [name for name in rest if name not in entered] + rest:
        if first in places:
            continue
        chain = [first]
        while (following := document["States"][chain[-1]].get("Next")) in rest and following not in chain:
            chain.append(following)
        target = document["States"][chain[-1]].get("Next")
        left = places[target].column if target in places else 0
        columns = [left + offset for offset in range(len(chain))]
        row = 1
        while any(Place(column, row) in places.values() for column in columns):
            row += 1
        places |= {name: Place(column, row) for name, column in zip(reversed(chain), columns, strict=True)}
    return places


def _edge(places: dict[str, Place], source: str, target: str, catch: bool) -> str:
    start, end = places[source], places[target]
    kind = "catch" if catch else "next"
    middle = BOX_HEIGHT // 2
    if start.row == end.row and end.column == start.column + 1:
        line = f"M{start.x + BOX_WIDTH},{start.y + middle}L{end.x - 2},{end.y + middle}"
    elif start.row == end.row and end.column == start.column - 1:
        line = f"M{start.x},{start.y + middle}L{end.x + BOX_WIDTH + 2},{end.y + middle}"
    elif start.row < end.row:
        line = _curve(start.middle, start.y + BOX_HEIGHT, end.middle, end.y - 2)
    else:
        line = _curve(start.middle - 10, start.y, end.middle - 10, end.y + BOX_HEIGHT + 2)
    return f'<path class="{kind}" d="{line}" marker-end="url(#tip)"/>'


def _curve(x1: int, y1: int, x2: int, y2: int) -> str:
    half = (y1 + y2) // 2
    return f"M{x1},{y1}C{x1},{half} {x2},{half} {x2},{y2}"


def _box(name: str, definition: dict[str, Any], place: Place, state: State | None) -> str:
    status = "unreached" if state is None else state.status
    status = "failed" if status in ("aborted", "timed out") else status
    note = definition["Type"] if state is None else f"{state.seconds:.2f} s"
    if state is not None and state.tries > 1:
        note += f" · {state.tries} tries"
    title = escape(definition.get("Comment", name))
    return (
        f'<g class="{status}" data-state="{escape(name)}" tabindex="0"><title>{title}</title>'
        f'<rect x="{place.x}" y="{place.y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}"/>'
        f'<text x="{place.middle}" y="{place.y + 20}">{escape(name)}</text>'
        f'<text class="sub" x="{place.middle}" y="{place.y + 36}">{escape(note)}</text></g>'
    )
