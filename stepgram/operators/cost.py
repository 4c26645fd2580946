"""What the model has cost, from the sums that Persist keeps (`functions/conversation/budget.py`)."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

from functions.conversation.budget import ALL, MODEL_COST, MODEL_TURNS
from stepgram.operators.stack import Stack

By = Literal["day", "chat", "model"]
DAY = re.compile(r"spend#(\d{4}-\d\d-\d\d)")


@dataclass(frozen=True)
class Spending:
    """What one conversation spent on one day (UTC) with one model. `cost_usd` as the CLI reckons it."""

    day: str
    chat: str
    model: str
    turns: int
    cost_usd: float


def spendings(stack: Stack, since: date) -> list[Spending]:
    """All spendings since a day, oldest first."""
    pages = (
        stack.client("dynamodb")
        .get_paginator("scan")
        .paginate(
            TableName=stack.outputs["SessionTable"],
            FilterExpression="begins_with(sk, :spend) AND pk <> :all",
            ExpressionAttributeValues={":spend": {"S": "spend#"}, ":all": {"S": ALL}},
        )
    )
    found = [one for page in pages for item in page["Items"] for one in _of(item)]
    return sorted(
        (one for one in found if one.day >= since.isoformat()), key=lambda one: (one.day, one.chat, one.model)
    )


def _of(item: dict[str, Any]) -> list[Spending]:
    day = DAY.fullmatch(item["sk"]["S"])
    if day is None:
        return []  # a month's sum
    costs = {name.removeprefix(MODEL_COST): value for name, value in item.items() if name.startswith(MODEL_COST)}
    return [
        Spending(day[1], item["pk"]["S"], model, int(item[MODEL_TURNS + model]["N"]), float(cost["N"]))
        for model, cost in costs.items()
    ]


def summed(found: list[Spending], by: By) -> list[tuple[str, int, float]]:
    """Name, turns and cost of each day, chat or model; the days in order, the others dearest first."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    for one in found:
        one_sum = sums[getattr(one, by)]
        one_sum[0] += one.turns
        one_sum[1] += one.cost_usd
    rows = [(name, int(turns), round(cost, 6)) for name, (turns, cost) in sums.items()]
    return sorted(rows, key=lambda row: row[0] if by == "day" else (-row[2], row[0]))
