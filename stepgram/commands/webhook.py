"""`stepgram webhook`."""

from __future__ import annotations

import click
from rich.markup import escape

from stepgram.commands.shared import json_option, out, print_json, report, stack_option
from stepgram.operators.stack import open_stack
from stepgram.operators.webhook import webhook_delete, webhook_info, webhook_set


@click.group()
def webhook() -> None:
    """Tell Telegram where to deliver updates."""


@webhook.command("set")
@stack_option
@json_option
def set_webhook(stack: str | None, as_json: bool) -> None:
    """Register the stack's webhook and its secret, and the kinds of updates it wants."""
    with open_stack(stack) as opened:
        url = webhook_set(opened)
    report(as_json, {"url": url}, f"registered {url}")


@webhook.command("info")
@stack_option
@json_option
def info_webhook(stack: str | None, as_json: bool) -> None:
    """Show what Telegram knows of the webhook."""
    with open_stack(stack) as opened:
        info = webhook_info(opened)
    if as_json:
        print_json(info)
        return
    for name, value in info.items():
        out.print(f"[dim]{name:<28}[/dim] {escape(str(value))}")


@webhook.command("delete")
@stack_option
@json_option
def delete_webhook(stack: str | None, as_json: bool) -> None:
    """Take the webhook away; Telegram keeps updates for 24 hours."""
    with open_stack(stack) as opened:
        webhook_delete(opened)
    report(as_json, {"url": None}, "deleted")
