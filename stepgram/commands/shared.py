"""What all commands share: where they print, their common options, and how a state and a status look."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stepgram.operators.executions import State
from stepgram.operators.explain import Explanation

COLOURS = {"succeeded": "green", "caught": "yellow", "running": "blue"}
STATUS_COLOURS = {"SUCCEEDED": "green", "RUNNING": "blue"}
SIGNS = {"succeeded": "✓", "caught": "!", "running": "…"}
BAR_COLUMNS = 30

WIDE = 200
"""Columns of tables that no terminal bounds."""

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDE)
err = Console(stderr=True, highlight=False, soft_wrap=True)

stack_option = click.option("--stack", metavar="NAME", help="A deployed stack; without it, the local one.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

Options = Callable[..., Any]


class Failed(click.ClickException):
    """Something could not be done; printed as one line, exit status 1."""

    def show(self, file: Any = None) -> None:
        """The message on standard error."""
        err.print(f"[red]error:[/red] {escape(self.message)}")


def print_json(document: Any) -> None:
    """A document as JSON on standard output."""
    click.echo(json.dumps(document, ensure_ascii=False, indent=2, default=str))


def report(as_json: bool, document: Any, text: str) -> None:
    """What was done: as a sentence, or as JSON."""
    if as_json:
        print_json(document)
    else:
        out.print(escape(text))


def table(*columns: str) -> Table:
    """An empty table in our style."""
    return Table(*columns, box=None, pad_edge=False, header_style="dim")


def status(name: str) -> str:
    """An execution's status in its colour."""
    colour = STATUS_COLOURS.get(name, "red")
    return f"[{colour}]{name}[/{colour}]"


def print_state(state: State, bar: str = "") -> None:
    """One state as a line: sign, name, a bar, seconds, tries and error."""
    colour = COLOURS.get(state.status, "red")
    tries = f"  {state.tries} tries" if state.tries > 1 else ""
    error = f"  {state.error}" if state.status not in ("succeeded", "running") and state.error else ""
    sign = SIGNS.get(state.status, "✗")
    out.print(
        f"[{colour}]{sign}[/{colour}] {state.name:<18} [{colour}]{bar}[/{colour}]{state.seconds:8.3f} s"
        f"[dim]{tries}[/dim]{error}"
    )


def print_timeline(states: list[State]) -> None:
    """The states of one attempt, each with a bar where its time lies in the attempt's."""
    if not states:
        return
    first = states[0].entered
    total = max((state.entered - first).total_seconds() + state.seconds for state in states) or 1.0
    for state in states:
        start = round(BAR_COLUMNS * (state.entered - first).total_seconds() / total)
        length = max(1, round(BAR_COLUMNS * state.seconds / total))
        start = min(start, BAR_COLUMNS - 1)
        print_state(state, (" " * start + "█" * length)[:BAR_COLUMNS].ljust(BAR_COLUMNS) + " ")


def print_explanation(found: Explanation) -> None:
    """Why a turn failed, what was done already, and what can be done."""
    out.print(f"\n[red]{found.state} failed:[/red] {found.error}: {escape(found.cause)}")
    rows = [
        ("retries spent", str(found.retries)),
        ("committed", "yes" if found.committed else "no, the conversation is as before"),
        ("delivered", f"{found.delivered} of the answer"),
        ("rerun", found.rerun),
        ("next step", found.remedy),
    ]
    for name, value in rows:
        out.print(f"[dim]{name:<14}[/dim] {escape(value)}")


def ago(text: str) -> datetime:
    """The time so long ago: 30m, 2h or 3d. Raises click.UsageError."""
    units = {"m": "minutes", "h": "hours", "d": "days"}
    if text[-1:] not in units or not text[:-1].isdigit():
        raise click.UsageError(f"--since {text!r}: write 30m, 2h or 3d")
    return datetime.now(UTC) - timedelta(**{units[text[-1]]: int(text[:-1])})
