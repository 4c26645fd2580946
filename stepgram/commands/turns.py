"""Executions: `executions`, `show`, `watch`, `logs`, `rerun`, `stop`."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import click
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from stepgram.commands.shared import (
    ago,
    err,
    json_option,
    out,
    print_explanation,
    print_json,
    print_state,
    print_timeline,
    stack_option,
    status,
    table,
)
from stepgram.operators.executions import (
    UNANSWERED,
    ExecutionDetail,
    Turns,
    Wanted,
    detail,
    follow,
    present_state,
)
from stepgram.operators.explain import explain
from stepgram.operators.logs import logs_of
from stepgram.operators.rerun import failed_since, rerun_all, wait_until_ended
from stepgram.operators.rerun import stop as stop_turn
from stepgram.operators.stack import Stack, open_stack

STATUSES = ["RUNNING", "SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED", UNANSWERED]
WATCH_SECONDS = 0.5


@click.command()
@click.option("--status", "wanted_status", type=click.Choice(STATUSES), help="UNANSWERED is any that failed.")
@click.option("--chat", type=int, help="Only this chat.")
@click.option("--since", metavar="TIME", help="Started since then (30m, 2h, 3d).")
@click.option("--text", default="", help="In the error, its cause or the name.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
@stack_option
@json_option
def executions(
    wanted_status: str | None,
    chat: int | None,
    since: str | None,
    text: str,
    limit: int,
    stack: str | None,
    as_json: bool,
) -> None:
    """List turns, newest first."""
    wanted = Wanted(wanted_status, chat, ago(since) if since else None, text=text)
    with open_stack(stack) as opened:
        rows = list(_turns(opened).rows(wanted, limit))
        if as_json:
            print_json([{name: value for name, value in row.items() if name != "cause"} for row in rows])
            return
        out.print(_table(opened, rows))


def _turns(stack: Stack) -> Turns:
    return Turns(stack.client("stepfunctions"), stack.outputs["TurnArn"])


def _table(stack: Stack, rows: list[dict[str, Any]]) -> Table:
    """Turns as a table; a running one with the state it is in."""
    step_functions = stack.client("stepfunctions")
    shown = table("Execution", "Status", "State", "Started", "Seconds", "Error")
    for row in rows:
        running = row["status"] == "RUNNING"
        state = present_state(step_functions, stack.execution_arn(row["name"])) if running else None
        seconds = f"{row['seconds']:.1f}"
        shown.add_row(row["name"], status(row["status"]), state or "", row["started"], seconds, row["error"] or "")
    return shown


@click.command()
@click.argument("name")
@stack_option
@json_option
def show(name: str, stack: str | None, as_json: bool) -> None:
    """Show one execution as a timeline of its states, and why it failed."""
    with open_stack(stack) as opened:
        found = detail(opened.client("stepfunctions"), opened.execution_arn(name))
        explanation = explain(opened, found)
    if as_json:
        print_json({**found.document(), "explanation": explanation and vars(explanation)})
        return
    seconds = f"  {(found.stopped - found.started).total_seconds():.1f} s" if found.stopped else ""
    out.print(f"[bold]{found.name}[/bold]  {status(found.status)}  {found.started:%Y-%m-%d %H:%M:%S}{seconds}")
    message = found.input.get("message", {}).get("text") if isinstance(found.input, dict) else None
    if message:
        out.print(f"[dim]>[/dim] {escape(message[:300])}")
    for number, attempt in enumerate(found.attempts, 1):
        out.print(f"\n[dim]attempt {number}[/dim]" if len(found.attempts) > 1 else "")
        print_timeline(attempt)
    if explanation is not None:
        print_explanation(explanation)
    if isinstance(found.output, dict):
        out.print()
        for key, value in found.output.items():
            shown = value.items() if isinstance(value, dict) else [(key, value)]
            for name, text in shown:
                out.print(f"[dim]{name:<14}[/dim] {escape(' '.join(str(text).split()))}")


@click.command()
@click.argument("name", required=False)
@click.option("--chat", type=int, help="Only this chat.")
@stack_option
@json_option
def watch(name: str | None, chat: int | None, stack: str | None, as_json: bool) -> None:
    """Watch execution NAME until it ends, or without it the newest turns until Ctrl-C.

    With --json, one line for each change.
    """
    with open_stack(stack) as opened:
        if name is None:
            _watch_all(opened, chat, as_json)
        else:
            _watch_one(opened, name, as_json)


def _watch_all(stack: Stack, chat: int | None, as_json: bool) -> None:
    turns, known = _turns(stack), dict[str, str]()
    with Live(console=out, auto_refresh=False, transient=False) as live:
        while True:
            rows = list(turns.rows(Wanted(chat=chat), 20))
            if as_json:
                for row in reversed(rows):
                    if known.get(row["name"]) != row["status"]:
                        known[row["name"]] = row["status"]
                        click.echo(json.dumps(row))
            else:
                live.update(_table(stack, rows), refresh=True)
            time.sleep(WATCH_SECONDS)


def _watch_one(stack: Stack, name: str, as_json: bool) -> None:
    step_functions, arn = stack.client("stepfunctions"), stack.execution_arn(name)
    for left, states in follow(step_functions, arn, WATCH_SECONDS):
        for state in (state for state in left if state.attempt == states[-1].attempt):
            if as_json:
                document = {"name": state.name, "status": state.status, "seconds": state.seconds, "error": state.error}
                click.echo(json.dumps(document))
            else:
                print_state(state)
    if step_functions.describe_execution(executionArn=arn)["status"] != "SUCCEEDED":
        sys.exit(1)


@click.command()
@click.argument("name")
@stack_option
@json_option
def logs(name: str, stack: str | None, as_json: bool) -> None:
    """Show what the functions logged for execution NAME."""
    with open_stack(stack) as opened:
        lines = logs_of(opened, name)
    if as_json:
        print_json(lines)
        return
    for line in lines:
        known = {"timestamp", "level", "state", "message"}
        noise = {"location", "service", "turn_id", "session_key", "session_id", "_aws", "xray_trace_id"}
        more = "  ".join(f"{k}={v}" for k, v in line.items() if k not in known | noise)
        colour = {"ERROR": "red", "WARNING": "yellow"}.get(str(line.get("level")), "dim")
        head = f"[dim]{line.get('timestamp', '')}[/dim] [{colour}]{line.get('level', ''):<7}[/{colour}]"
        out.print(
            f"{head} {line.get('state') or '':<14} {escape(str(line.get('message', '')))}  [dim]{escape(more)}[/dim]"
        )
    if not lines:
        out.print("nothing was logged (yet)", style="dim")


@click.command()
@click.argument("names", nargs=-1)
@click.option("--failed", is_flag=True, help="All failed, stopped or timed-out turns.")
@click.option(
    "--since", default="24h", show_default=True, metavar="TIME", help="With --failed: how far back (30m, 2h, 3d)."
)
@click.option("--from-start", is_flag=True, help="A new execution with the same input, instead of a redrive.")
@stack_option
@json_option
def rerun(names: tuple[str, ...], failed: bool, since: str, from_start: bool, stack: str | None, as_json: bool) -> None:
    """Redrive executions NAME...: they go on at the state that failed, with their history."""
    if bool(names) == failed:
        raise click.UsageError("give execution names, or --failed")
    with open_stack(stack) as opened:
        wanted = list(names) if names else failed_since(opened, ago(since))
        ended = rerun_all(opened, wanted, _ignore if as_json else _print_rerun, from_start)
    if as_json:
        print_json([{"name": found.name, "status": found.status, "error": found.error} for found in ended])
    elif not wanted:
        out.print("nothing to rerun", style="dim")
    if any(found.status != "SUCCEEDED" for found in ended):
        sys.exit(1)


def _ignore(found: ExecutionDetail, done: int, of: int) -> None:
    """No progress is shown."""


def _print_rerun(found: ExecutionDetail, done: int, of: int) -> None:
    count = f"{done}/{of}  " if of > 1 else ""
    out.print(f"{count}[bold]{found.name}[/bold]  {found.status}")
    if of == 1:
        for state in found.states:
            print_state(state)
    if found.status != "SUCCEEDED":
        where = found.failed_state.name if found.failed_state else "the execution"
        err.print(f"[red]{found.name} {found.status}[/red] in {where}: {found.error}: {found.cause or ''}")


@click.command()
@click.argument("names", nargs=-1, required=True)
@stack_option
@json_option
def stop(names: tuple[str, ...], stack: str | None, as_json: bool) -> None:
    """Stop running executions NAME... at once; their chats are told, and `rerun` can go on with them."""
    with open_stack(stack) as opened:
        arns = [stop_turn(opened, name) for name in names]
        ended = [wait_until_ended(opened, arn) for arn in arns]
    if as_json:
        print_json([{"name": found.name, "status": found.status, "error": found.error} for found in ended])
        return
    for found in ended:
        out.print(f"[bold]{found.name}[/bold]  {status(found.status)}")
