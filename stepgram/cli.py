"""The `stepgram` command. Exit status: 0 done, 1 a turn failed or nothing could be done, 2 wrong usage."""

from __future__ import annotations

import getpass
import json
import os
import signal
import sys
import threading
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import click
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.table import Table

from functions.common.admission import Admission, Guest
from functions.common.errors import SnapshotMissing
from stepgram import console as console_page
from stepgram.ask import Answer, Decide, Person
from stepgram.ask import ask as send
from stepgram.embedded.client import Ports
from stepgram.embedded.polling import WebhookInTheWay
from stepgram.embedded.server import PortBusy, Server
from stepgram.embedded.telegram.updates import import_models
from stepgram.executions import ExecutionDetail, State, detail, list_executions, present_state
from stepgram.rerun import RerunError, failed_since, rerun_all
from stepgram.sessions import Sessions, session_key
from stepgram.stack import Stack, StackError, dotenv, open_stack, serve
from stepgram.webhook import bot_of, set_commands, webhook_delete, webhook_info, webhook_set

DEFAULT_CHAT = 1001
COLOURS = {"succeeded": "green", "caught": "yellow", "running": "blue"}
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

stack_option = click.option("--stack", metavar="NAME", help="A deployed stack; without it, the local one.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class Failed(click.ClickException):
    """Something could not be done; printed as one line, exit status 1."""

    def show(self, file: Any = None) -> None:
        """The message on standard error."""
        err.print(f"[red]error:[/red] {self.message}")


class Group(click.Group):
    """Turns the errors of our own modules and of AWS into one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (StackError, RerunError, SnapshotMissing, ValueError) as error:
            raise Failed(str(error)) from error
        except (ClientError, BotoCoreError) as error:
            raise Failed(f"AWS: {error}") from error
        except OSError as error:
            raise Failed(str(error)) from error


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="stepgram")
def main() -> None:
    """A Telegram bot that is a Claude agent; every message is one Step Functions execution."""
    dotenv()


@main.command()
@click.argument("text")
@click.option("--chat", type=int, default=DEFAULT_CHAT, show_default=True, help="The chat's id; a group's is negative.")
@click.option("--thread", type=click.IntRange(0), default=0, help="The forum topic's id.")
@click.option("--user", type=click.IntRange(1), help="Who writes; in a private chat the chat's id.")
@click.option("--fresh", is_flag=True, help="Forget everything kept in .stepgram first.")
@click.option("--yes", is_flag=True, help="Allow every tool call that asks.")
@stack_option
@json_option
def ask(
    text: str, chat: int, thread: int, user: int | None, fresh: bool, yes: bool, stack: str | None, as_json: bool
) -> None:
    """Send TEXT through the whole stack, print the states as they pass, then the reply."""
    if fresh and stack:
        raise click.UsageError("--fresh is for the local stack only")
    with open_stack(stack, fresh) as opened:
        person = Person(chat, thread, user, _decide(yes))
        answer = send(opened, text, person, _ignore if as_json else _print_state)
    if as_json:
        click.echo(json.dumps(answer.document(), ensure_ascii=False, indent=2))
    else:
        _print_answer(answer)
    if answer.status != "SUCCEEDED":
        where = answer.failed_state or "the execution"
        err.print(f"[red]{answer.execution} {answer.status}[/red] in {where}: {answer.error}: {answer.cause or ''}")
        err.print(f"run it again: stepgram rerun {answer.execution}", style="dim")
        sys.exit(1)


def _decide(yes: bool) -> Decide:
    """How tool calls that ask are decided on: yes to all, by who sits at the terminal, or no to all."""

    def terminal(question: str) -> str:
        err.print(question, markup=False, highlight=False)
        letter = click.prompt(
            "Allow once (y), always in this conversation (a), or deny (n)?",
            type=click.Choice(["y", "a", "n"]),
            default="n",
            err=True,
        )
        return {"y": "allow", "a": "always", "n": "deny"}[letter]

    def nobody(question: str) -> str:
        err.print(f"denied, since nobody can be asked (--yes allows): {question}", markup=False, highlight=False)
        return "deny"

    if yes:
        return lambda question: "allow"
    return terminal if sys.stdin.isatty() else nobody


def _ignore(state: State) -> None:
    """No progress is shown."""


def _print_state(state: State) -> None:
    colour = COLOURS.get(state.status, "red")
    tries = f"  {state.tries} tries" if state.tries > 1 else ""
    error = f"  {state.error}" if state.status not in ("succeeded", "running") and state.error else ""
    out.print(f"[{colour}]{_sign(state)}[/{colour}] {state.name:<18} {state.seconds:8.3f} s[dim]{tries}[/dim]{error}")


def _sign(state: State) -> str:
    return {"succeeded": "✓", "caught": "!", "running": "…"}.get(state.status, "✗")


def _print_answer(answer: Answer) -> None:
    for reply in answer.replies:
        click.echo()
        click.echo(reply)
    if answer.execution:
        cost = f" · ${answer.cost_usd:.4f}" if answer.cost_usd is not None else ""
        out.print(f"\n{answer.execution} · {answer.status} · version {answer.version}{cost}", style="dim")


@main.command()
@click.option(
    "--port",
    type=click.IntRange(1, 65533),
    default=8765,
    show_default=True,
    help="The chat page's port; the console page has the next, AWS the one after.",
)
def local(port: int) -> None:
    """Run the stack on this machine, with a chat page and a console page, until Ctrl-C.

    With TELEGRAM_BOT_TOKEN in the environment or in .env the chat is real Telegram (for ALLOWED_USERS), by long
    polling, and there is no chat page.
    """
    try:
        with serve(Ports(aws=port + 2, telegram=port), os.environ.get("TELEGRAM_BOT_TOKEN") or None) as stack:
            page = Server(console_page.app(stack), port + 1)
            out.print(f"[bold]chat[/bold]     {stack.telegram or 'your bot in Telegram'}")
            out.print(f"[bold]console[/bold]  {page.url}")
            out.print(f"[dim]AWS      {stack.endpoint}   (Ctrl-C stops; `stepgram ask` goes through here)[/dim]")
            if stack.telegram:
                import_models()
            else:
                set_commands(bot_of(stack))
            if not stack.telegram and not any(os.environ.get(name) for name in ("ALLOWED_USERS", "ALLOWED_CHATS")):
                out.print("nobody may talk to the bot yet: write to it, then run `stepgram access allow CODE`")
            stopped = threading.Event()
            signal.signal(signal.SIGINT, lambda *_: stopped.set())
            signal.signal(signal.SIGTERM, lambda *_: stopped.set())
            while not stopped.wait(1):
                pass  # a signal may reach another thread; its handler runs when this one wakes
            out.print("stopping; what still runs goes on at the next start", style="dim")
            page.stop()
    except WebhookInTheWay as error:
        raise Failed(str(error)) from error
    except PortBusy as error:
        raise Failed(f"{error}; try `stepgram local --port {port + 10}`") from error


@main.command()
@click.option("--status", type=click.Choice(["RUNNING", "SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED"]))
@click.option("--chat", type=int, help="Only this chat.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
@stack_option
@json_option
def executions(status: str | None, chat: int | None, limit: int, stack: str | None, as_json: bool) -> None:
    """List turns, newest first."""
    with open_stack(stack) as opened:
        step_functions = opened.client("stepfunctions")
        rows = list_executions(step_functions, opened.outputs["TurnArn"], status, chat, limit)
        running = [] if as_json else [row["name"] for row in rows if row["status"] == "RUNNING"]
        states = {name: present_state(step_functions, opened.execution_arn(name)) for name in running}
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table("Execution", "Status", "State", "Started", "Seconds", "Error", box=None)
    for row in rows:
        colour = {"SUCCEEDED": "green", "RUNNING": "blue"}.get(row["status"], "red")
        table.add_row(
            row["name"],
            f"[{colour}]{row['status']}[/{colour}]",
            states.get(row["name"]) or "",
            row["started"],
            f"{row['seconds']:.1f}",
            row["error"] or "",
        )
    out.print(table)


@main.command()
@click.argument("name")
@stack_option
@json_option
def show(name: str, stack: str | None, as_json: bool) -> None:
    """Show one execution, state by state."""
    with open_stack(stack) as opened:
        found = detail(opened.client("stepfunctions"), opened.execution_arn(name))
    if as_json:
        click.echo(json.dumps(found.document(), ensure_ascii=False, indent=2))
        return
    out.print(f"[bold]{found.name}[/bold]  {found.status}")
    for number, attempt in enumerate(found.attempts, 1):
        if len(found.attempts) > 1:
            out.print(f"\nattempt {number}", style="dim")
        for state in attempt:
            _print_state(state)
    if found.failed_state is not None:
        out.print(f"\n[red]{found.failed_state.name} failed:[/red] {found.error}: {found.cause or ''}")
    if isinstance(found.output, dict):
        out.print()
        for key, value in found.output.items():
            out.print(f"[dim]{key}[/dim] {value}", markup=True)


@main.command()
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
        wanted = list(names) if names else failed_since(opened, datetime.now(UTC) - _duration(since))
        ended = rerun_all(opened, wanted, _ignore_rerun if as_json else _print_rerun, from_start)
    if as_json:
        rows = [{"name": found.name, "status": found.status, "error": found.error} for found in ended]
        click.echo(json.dumps(rows, indent=2))
    elif not wanted:
        out.print("nothing to rerun", style="dim")
    if any(found.status != "SUCCEEDED" for found in ended):
        sys.exit(1)


def _ignore_rerun(found: ExecutionDetail, done: int, of: int) -> None:
    """No progress is shown."""


def _print_rerun(found: ExecutionDetail, done: int, of: int) -> None:
    count = f"{done}/{of}  " if of > 1 else ""
    out.print(f"{count}[bold]{found.name}[/bold]  {found.status}")
    if of == 1:
        for state in found.states:
            _print_state(state)
    if found.status != "SUCCEEDED":
        where = found.failed_state.name if found.failed_state else "the execution"
        err.print(f"[red]{found.name} {found.status}[/red] in {where}: {found.error}: {found.cause or ''}")


def _duration(text: str) -> timedelta:
    units = {"m": "minutes", "h": "hours", "d": "days"}
    if text[-1:] not in units or not text[:-1].isdigit():
        raise click.UsageError(f"--since {text!r}: write 30m, 2h or 3d")
    return timedelta(**{units[text[-1]]: int(text[:-1])})


@main.command()
@stack_option
@json_option
def sessions(stack: str | None, as_json: bool) -> None:
    """List conversations: chat and topic, session, version, cost and when they expire."""
    with open_stack(stack) as opened:
        found = Sessions(opened).all()
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found], indent=2))
        return
    table = Table("Conversation", "Session", "Version", "Turns", "Cost", "Expires", box=None)
    for one in found:
        table.add_row(one.key, one.session_id, str(one.version), str(one.turns), f"${one.cost_usd:.4f}", one.expires)
    out.print(table)


@main.group()
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
        click.echo(json.dumps(found, indent=2))
        return
    out.print(f"[bold]{found['key']}[/bold]  session {found['session_id']}  expires {found['expires']}")
    table = Table("Version", "Turn", "Transcript", "Segments", "Files", "Workspace", "Cost", box=None)
    for row in found["versions"]:
        table.add_row(
            str(row["version"]),
            row["turn"],
            f"{row['transcript_bytes']:,} B",
            str(row["segments"]),
            str(row["files"]),
            f"{row['workspace_bytes']:,} B",
            f"${row['cost_usd']:.4f}",
        )
    out.print(table)


@session.command("export")
@click.argument("key", metavar="KEY")
@version_option
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder to write into; by default KEY's name."
)
@stack_option
def export_session(key: str, version: int | None, output: Path | None, stack: str | None) -> None:
    """Write a version's files: conversation.jsonl, debug.txt, todos.json, workspace.zip."""
    with open_stack(stack) as opened:
        folder = output or Path(f"session-{key.replace(':', '-t')}")
        for path in Sessions(opened).export(key, version, folder):
            out.print(str(path))


@session.command("reset")
@click.argument("key", metavar="KEY")
@stack_option
def reset_session(key: str, stack: str | None) -> None:
    """Give a conversation a fresh, empty session; the old one stays until it expires."""
    with open_stack(stack) as opened:
        Sessions(opened).reset(session_key(key))
    out.print(f"{key} starts afresh")


@session.command("fork")
@click.argument("key", metavar="KEY")
@version_option
@click.option("--to", metavar="KEY", help="The conversation that goes on from the copy; by default KEY itself.")
@stack_option
def fork_session(key: str, version: int | None, to: str | None, stack: str | None) -> None:
    """Go on from a copy of a version, in the same conversation or in another."""
    with open_stack(stack) as opened:
        made = Sessions(opened).fork(key, version, session_key(to or key))
    out.print(f"{made.key} goes on from version {made.version} as session {made.session_id}")


@main.group()
def webhook() -> None:
    """Tell Telegram where to deliver updates."""


@webhook.command("set")
@stack_option
def set_webhook(stack: str | None) -> None:
    """Register the stack's webhook and its secret, and the kinds of updates it wants."""
    with open_stack(stack) as opened:
        out.print(f"registered {webhook_set(opened)}")


@webhook.command("info")
@stack_option
def info_webhook(stack: str | None) -> None:
    """Show what Telegram knows of the webhook."""
    with open_stack(stack) as opened:
        click.echo(json.dumps(webhook_info(opened), indent=2))


@webhook.command("delete")
@stack_option
def delete_webhook(stack: str | None) -> None:
    """Take the webhook away; Telegram keeps updates for 24 hours."""
    with open_stack(stack) as opened:
        webhook_delete(opened)
        out.print("deleted")


def run() -> None:
    """The entry of the process.

    The local stack's threads (moto's executions, servers) are still there when the command is done. Python's own end
    would run into them: inside Rust and C++ code they abort the process ("exception not rethrown"), so it is left out.
    """
    try:
        main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


@main.group()
def access() -> None:
    """Who may talk to the bot, besides the template's AllowedUsers and AllowedChats."""


@access.command("list")
@stack_option
@json_option
def list_access(stack: str | None, as_json: bool) -> None:
    """Everybody who was allowed."""
    with open_stack(stack) as opened:
        guests = [guest.model_dump() for guest in admission(opened).guests()]
    if as_json:
        click.echo(json.dumps(guests, ensure_ascii=False, indent=2))
        return
    for guest in guests:
        out.print(
            f"{guest['kind']} {guest['id']}  {guest['name']}  [dim]allowed by {guest['by']}[/dim]", highlight=False
        )


@access.command("allow")
@click.argument("code")
@stack_option
def allow_access(code: str, stack: str | None) -> None:
    """Allow the person who was given this pairing CODE by the bot."""
    with open_stack(stack) as opened:
        guest = admission(opened).redeem(code, getpass.getuser())
    if guest is None:
        raise StackError(f"nobody has the code {code} (any more); the bot gives a new one after an hour")
    out.print(f"user {guest.id} ({guest.name}) may talk to the bot now", highlight=False)


@access.command("add")
@click.argument("kind", type=click.Choice(["user", "chat"]))
@click.argument("number", type=int)
@stack_option
def add_access(kind: Literal["user", "chat"], number: int, stack: str | None) -> None:
    """Allow a user, or everybody in a chat, by id (`/whoami` shows both)."""
    with open_stack(stack) as opened:
        admission(opened).add(Guest(kind=kind, id=number, by=getpass.getuser()))
    out.print(f"{kind} {number} is allowed now", highlight=False)


@access.command("remove")
@click.argument("kind", type=click.Choice(["user", "chat"]))
@click.argument("number", type=int)
@stack_option
def remove_access(kind: Literal["user", "chat"], number: int, stack: str | None) -> None:
    """Take a permission back; the template's lists stay as they are."""
    with open_stack(stack) as opened:
        if not admission(opened).remove(kind, number):
            raise StackError(f"{kind} {number} is not on the list")
    out.print(f"{kind} {number} is no longer allowed", highlight=False)


def admission(stack: Stack) -> Admission:
    """The stack's access list."""
    return Admission(stack.outputs["SessionTable"], stack.client("dynamodb"))


if __name__ == "__main__":
    run()
