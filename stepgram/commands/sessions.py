"""Conversations: `sessions` and `session`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from stepgram.commands.shared import json_option, out, print_json, report, stack_option, table
from stepgram.operators.sessions import Sessions, session_key
from stepgram.operators.stack import open_stack


@click.command()
@stack_option
@json_option
def sessions(stack: str | None, as_json: bool) -> None:
    """List conversations: chat and topic, session, version, cost and when they expire."""
    with open_stack(stack) as opened:
        found = Sessions(opened).all()
    if as_json:
        print_json([asdict(one) for one in found])
        return
    shown = table("Conversation", "Session", "Version", "Turns", "Cost", "Expires")
    for one in found:
        shown.add_row(one.key, one.session_id, str(one.version), str(one.turns), f"${one.cost_usd:.4f}", one.expires)
    out.print(shown)


@click.group()
def session() -> None:
    """One conversation, by KEY: CHAT or CHAT:THREAD, as `stepgram sessions` lists them."""


version_option = click.option("--version", type=click.IntRange(1), help="That version instead of the newest.")


@session.command("show")
@click.argument("key", metavar="KEY")
@stack_option
@json_option
def show_session(key: str, stack: str | None, as_json: bool) -> None:
    """Show where a conversation stands, and its versions."""
    with open_stack(stack) as opened:
        found = Sessions(opened).show(key)
    if as_json:
        print_json(found)
        return
    out.print(f"[bold]{found['key']}[/bold]  session {found['session_id']}  expires {found['expires']}")
    shown = table("Version", "Turn", "Transcript", "Segments", "Files", "Workspace", "Cost")
    for row in found["versions"]:
        shown.add_row(
            str(row["version"]),
            row["turn"],
            f"{row['transcript_bytes']:,} B",
            str(row["segments"]),
            str(row["files"]),
            f"{row['workspace_bytes']:,} B",
            f"${row['cost_usd']:.4f}",
        )
    out.print(shown)


@session.command("export")
@click.argument("key", metavar="KEY")
@version_option
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder to write into; by default KEY's name."
)
@stack_option
@json_option
def export_session(key: str, version: int | None, output: Path | None, stack: str | None, as_json: bool) -> None:
    """Write a version's files: conversation.jsonl, debug.txt, todos.json, workspace.zip."""
    with open_stack(stack) as opened:
        folder = output or Path(f"session-{key.replace(':', '-t')}")
        paths = [str(path) for path in Sessions(opened).export(key, version, folder)]
    report(as_json, paths, "\n".join(paths))


@session.command("reset")
@click.argument("key", metavar="KEY")
@stack_option
@json_option
def reset_session(key: str, stack: str | None, as_json: bool) -> None:
    """Give a conversation a fresh, empty session; the old one stays until it expires."""
    with open_stack(stack) as opened:
        Sessions(opened).reset(session_key(key))
    report(as_json, {"key": key}, f"{key} starts afresh")


@session.command("fork")
@click.argument("key", metavar="KEY")
@version_option
@click.option("--to", metavar="KEY", help="The conversation that goes on from the copy; by default KEY itself.")
@stack_option
@json_option
def fork_session(key: str, version: int | None, to: str | None, stack: str | None, as_json: bool) -> None:
    """Go on from a copy of a version, in the same conversation or in another."""
    with open_stack(stack) as opened:
        made = Sessions(opened).fork(key, version, session_key(to or key))
    text = f"{made.key} goes on from version {made.version} as session {made.session_id}"
    report(as_json, asdict(made), text)
