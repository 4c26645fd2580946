"""`stepgram ask`."""

from __future__ import annotations

import sys

import click

from stepgram.commands.shared import err, json_option, out, print_json, print_state, stack_option
from stepgram.operators.ask import Answer, Decide, Person
from stepgram.operators.ask import ask as send
from stepgram.operators.executions import State
from stepgram.operators.stack import open_stack

DEFAULT_CHAT = 1001


@click.command()
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
        answer = send(opened, text, person, _ignore if as_json else print_state)
    if as_json:
        print_json(answer.document())
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


def _print_answer(answer: Answer) -> None:
    for reply in answer.replies:
        click.echo()
        click.echo(reply)
    if answer.execution:
        cost = f" · ${answer.cost_usd:.4f}" if answer.cost_usd is not None else ""
        out.print(f"\n{answer.execution} · {answer.status} · version {answer.version}{cost}", style="dim")
