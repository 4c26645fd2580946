"""`stepgram cost`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import click

from stepgram.commands.shared import json_option, out, print_json, stack_option, table
from stepgram.operators.cost import By, spendings, summed
from stepgram.operators.estimate import Line, Usage, prices, seeds, stepgram
from stepgram.operators.stack import open_stack


@click.command()
@click.option("--by", type=click.Choice(["day", "chat", "model"]), default="day", show_default=True)
@click.option("--days", type=click.IntRange(1, 400), default=30, show_default=True, help="How many days back, UTC.")
@click.option("--estimate", is_flag=True, help="Instead: what AWS costs a month by list prices, without the model.")
@click.option("--turns", type=click.IntRange(0), default=100_000, show_default=True, help="For --estimate.")
@click.option("--agent-seconds", type=click.FloatRange(0), default=10.0, show_default=True, help="For --estimate.")
@stack_option
@json_option
def cost(by: By, days: int, estimate: bool, turns: int, agent_seconds: float, stack: str | None, as_json: bool) -> None:
    """What the model has cost, by day, chat or model; or with --estimate what AWS would cost."""
    if estimate:
        _estimate(Usage(turns, agent_seconds), as_json)
        return
    since = datetime.now(UTC).date() - timedelta(days=days - 1)
    with open_stack(stack) as opened:
        found = spendings(opened, since)
    if as_json:
        print_json([asdict(one) for one in found])
        return
    shown = table(by.capitalize(), "Turns", "US dollars")
    for name, count, spent in summed(found, by):
        shown.add_row(name, str(count), f"{spent:.4f}")
    total, all_turns = sum(one.cost_usd for one in found), sum(one.turns for one in found)
    shown.add_row("[bold]total[/bold]", f"[bold]{all_turns}[/bold]", f"[bold]{total:.4f}[/bold]")
    out.print(shown)


def _estimate(usage: Usage, as_json: bool) -> None:
    bills = {"stepgram": stepgram(usage), "seeds": seeds(usage)}
    if as_json:
        document = {
            name: {"total": _total(bill), "lines": [{**asdict(line), "cost": line.cost} for line in bill]}
            for name, bill in bills.items()
        }
        print_json({"prices": prices()["date"], "turns": usage.turns, **document})
        return
    titles = {"stepgram": "Stepgram", "seeds": "The seeds' queue design"}
    for name, bill in bills.items():
        shown = table(titles[name], "What for", "US dollars a month")
        for line in bill:
            shown.add_row(line.part, line.what, f"{line.cost:9.2f}")
        shown.add_row("[bold]together[/bold]", "", f"[bold]{_total(bill):9.2f}[/bold]")
        out.print(shown)
        out.print()
    out.print(
        f"[dim]{usage.turns:,} turns a month, list prices of {prices()['region']} as known in {prices()['date']}, "
        "without the model[/dim]"
    )


def _total(bill: list[Line]) -> float:
    return round(sum(line.cost for line in bill), 2)
