"""`stepgram access`."""

from __future__ import annotations

import getpass
from typing import Literal

import click
from rich.markup import escape

from functions.conversation.admission import Admission, Guest
from stepgram.commands.shared import json_option, out, print_json, report, stack_option
from stepgram.operators.stack import Stack, StackError, open_stack


@click.group()
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
        print_json(guests)
        return
    for guest in guests:
        name, by = escape(guest["name"]), escape(guest["by"])
        out.print(f"{guest['kind']} {guest['id']}  {name}  [dim]allowed by {by}[/dim]")


@access.command("allow")
@click.argument("code")
@stack_option
@json_option
def allow_access(code: str, stack: str | None, as_json: bool) -> None:
    """Allow the person who was given this pairing CODE by the bot."""
    with open_stack(stack) as opened:
        guest = admission(opened).redeem(code, getpass.getuser())
    if guest is None:
        raise StackError(f"nobody has the code {code} (any more); the bot gives a new one after an hour")
    report(as_json, guest.model_dump(), f"user {guest.id} ({guest.name}) may talk to the bot now")


@access.command("add")
@click.argument("kind", type=click.Choice(["user", "chat"]))
@click.argument("number", type=int)
@stack_option
@json_option
def add_access(kind: Literal["user", "chat"], number: int, stack: str | None, as_json: bool) -> None:
    """Allow a user, or everybody in a chat, by id (`/whoami` shows both)."""
    with open_stack(stack) as opened:
        guest = Guest(kind=kind, id=number, by=getpass.getuser())
        admission(opened).add(guest)
    report(as_json, guest.model_dump(), f"{kind} {number} is allowed now")


@access.command("remove")
@click.argument("kind", type=click.Choice(["user", "chat"]))
@click.argument("number", type=int)
@stack_option
@json_option
def remove_access(kind: Literal["user", "chat"], number: int, stack: str | None, as_json: bool) -> None:
    """Take a permission back; the template's lists stay as they are."""
    with open_stack(stack) as opened:
        if not admission(opened).remove(kind, number):
            raise StackError(f"{kind} {number} is not on the list")
    report(as_json, {"kind": kind, "id": number}, f"{kind} {number} is no longer allowed")


def admission(stack: Stack) -> Admission:
    """The stack's access list."""
    return Admission(stack.outputs["SessionTable"], stack.client("dynamodb"))
