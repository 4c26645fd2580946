"""What turns have cost, by day and month (UTC), for a conversation and over all; and what is left.

    pk = session_key, sk = "spend#2026-11-21", "spend#2026-11"    cost_usd, turns, "cost <model>", "turns <model>", ttl
    pk = "spend",     sk = the same                               over all conversations

Sums are not part of the transaction that commits a turn: that of all conversations would make their commits collide.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from botocore.exceptions import ClientError

from functions.common import aws
from functions.common.settings import BudgetSettings

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

WARN_SHARE = 0.8
"""From this share of a budget on, people are warned."""

ALL = "spend"
KEPT_SECONDS = 400 * 86_400
"""How long a sum is kept: a year, for who looks back."""

MODEL_COST, MODEL_TURNS = "cost ", "turns "
"""What the names of the sums of one model begin with."""

Scope = Literal["chat", "all"]
Period = Literal["day", "month"]


@dataclass(frozen=True)
class Spent:
    """What one budget is at, in US dollars; `limit` 0 is no limit."""

    scope: Scope
    period: Period
    spent: float
    limit: float

    @property
    def name(self) -> str:
        """The catalogue's name for it."""
        return f"budget_{self.scope}_{self.period}"

    @property
    def left(self) -> float:
        """What may still be spent; infinite without a limit."""
        return self.limit - self.spent if self.limit else float("inf")

    def crossed(self, cost: float) -> bool:
        """Whether this `cost`, spent last, took it over the line where people are warned."""
        line = self.limit * WARN_SHARE
        return bool(self.limit) and self.spent - cost < line <= self.spent


def periods(now: datetime) -> dict[Period, str]:
    """The sort keys of this day and month."""
    return {"day": f"spend#{now:%Y-%m-%d}", "month": f"spend#{now:%Y-%m}"}


def count(table: str, dynamodb: DynamoDBClient, session_key: str, turn_id: str, model: str, cost_usd: float) -> None:
    """Add a turn's cost to all sums, once; a function that dies in between leaves it out rather than count it twice."""
    now = datetime.now(UTC)
    try:
        dynamodb.update_item(
            TableName=table,
            Key={"pk": {"S": session_key}, "sk": {"S": f"turn#{turn_id}"}},
            UpdateExpression="SET counted = :true",
            ConditionExpression="attribute_not_exists(counted)",
            ExpressionAttributeValues={":true": {"BOOL": True}},
        )
    except ClientError as error:
        aws.refused_item(error)
        return
    for partition in (session_key, ALL):
        for sort_key in periods(now).values():
            dynamodb.update_item(
                TableName=table,
                Key={"pk": {"S": partition}, "sk": {"S": sort_key}},
                UpdateExpression="SET #ttl = :ttl ADD cost_usd :cost, turns :one, #cost :cost, #turns :one",
                ExpressionAttributeNames={"#ttl": "ttl", "#cost": MODEL_COST + model, "#turns": MODEL_TURNS + model},
                ExpressionAttributeValues={
                    ":cost": {"N": f"{max(cost_usd, 0):.6f}"},
                    ":one": {"N": "1"},
                    ":ttl": {"N": str(int(now.timestamp()) + KEPT_SECONDS)},
                },
            )


def spent(settings: BudgetSettings, dynamodb: DynamoDBClient, session_key: str) -> list[Spent]:
    """What all budgets are at now."""
    limits: dict[tuple[Scope, Period], float] = {
        ("chat", "day"): settings.chat_daily_usd,
        ("chat", "month"): settings.chat_monthly_usd,
        ("all", "day"): settings.daily_usd,
        ("all", "month"): settings.monthly_usd,
    }
    keys = periods(datetime.now(UTC))
    wanted: list[dict[str, Any]] = [
        {"pk": {"S": session_key if scope == "chat" else ALL}, "sk": {"S": keys[period]}} for scope, period in limits
    ]
    answers = dynamodb.transact_get_items(
        TransactItems=[{"Get": {"TableName": settings.table, "Key": key}} for key in wanted]
    )["Responses"]
    costs = [float(answer.get("Item", {}).get("cost_usd", {"N": "0"})["N"]) for answer in answers]
    return [Spent(*which, cost, limit) for (which, limit), cost in zip(limits.items(), costs, strict=True)]
