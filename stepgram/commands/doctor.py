"""`stepgram doctor`."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click
from rich.markup import escape

from stepgram.commands.shared import json_option, out, print_json, stack_option
from stepgram.operators.doctor import Check, Doctor, redrive_check
from stepgram.operators.stack import open_stack

SIGNS = {"ok": "[green]✓[/green]", "failed": "[red]✗[/red]", "unknown": "[yellow]?[/yellow]"}


@click.command()
@click.option(
    "--redrive-check", "chat", type=int, metavar="CHAT", help="Also fail a turn, redrive it, and answer in this chat."
)
@stack_option
@json_option
def doctor(chat: int | None, stack: str | None, as_json: bool) -> None:
    """Check everything a turn needs; each failure comes with its remedy. Exit status 1 when something is wrong."""
    found: list[Check] = []
    with open_stack(stack) as opened:
        for check in Doctor(opened).checks():
            found.append(check)
            if not as_json:
                _print(check)
        if chat is not None:
            found.append(redrive_check(opened, chat))
            if not as_json:
                _print(found[-1])
    if as_json:
        print_json([asdict(check) for check in found])
    if any(check.verdict == "failed" for check in found):
        sys.exit(1)


def _print(check: Check) -> None:
    out.print(f"{SIGNS[check.verdict]} {check.name:<22} {escape(check.found)}")
    if check.remedy and check.verdict != "ok":
        out.print(f"  [dim]{'':<22} {escape(check.remedy)}[/dim]")
