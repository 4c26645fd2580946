"""`stepgram local` and `stepgram console`: what runs until Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading

import click

from stepgram.commands.shared import Failed, out
from stepgram.console.server import serve as serve_console
from stepgram.embedded.client import Ports
from stepgram.embedded.polling import WebhookInTheWay
from stepgram.embedded.telegram.updates import import_models
from stepgram.operators.stack import open_stack, serve
from stepgram.operators.webhook import bot_of, set_commands
from stepgram.server import PortBusy


@click.command()
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
            page, address = serve_console(stack, port + 1)
            out.print(f"[bold]chat[/bold]     {f'{stack.telegram}/' if stack.telegram else 'your bot in Telegram'}")
            out.print(f"[bold]console[/bold]  {address}")
            out.print(f"[dim]AWS      {stack.endpoint}   (Ctrl-C stops; `stepgram ask` goes through here)[/dim]")
            if stack.telegram:
                import_models()
            else:
                set_commands(bot_of(stack))
            if not stack.telegram and not any(os.environ.get(name) for name in ("ALLOWED_USERS", "ALLOWED_CHATS")):
                out.print("nobody may talk to the bot yet: write to it, then run `stepgram access allow CODE`")
            _until_stopped()
            out.print("stopping; what still runs goes on at the next start", style="dim")
            page.stop()
    except WebhookInTheWay as error:
        raise Failed(str(error)) from error
    except PortBusy as error:
        raise Failed(f"{error}; try `stepgram local --port {port + 10}`") from error


@click.command()
@click.option(
    "--stack", metavar="NAME", required=True, help="The deployed stack; it is read with your own credentials."
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The page's port; by default any free one.")
def console(stack: str, port: int) -> None:
    """Serve the console page of a deployed stack on this machine alone, until Ctrl-C.

    `stepgram local` serves the one of the local stack.
    """
    try:
        with open_stack(stack) as opened:
            page, address = serve_console(opened, port)
            out.print(f"[bold]console[/bold]  {address}")
            _until_stopped()
            page.stop()
    except PortBusy as error:
        raise Failed(str(error)) from error


def _until_stopped() -> None:
    """Wait for SIGINT or SIGTERM."""
    stopped = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stopped.set())
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    while not stopped.wait(1):
        pass  # a signal may reach another thread; its handler runs when this one wakes
