"""What the agent has cost, by day and month (UTC), for a conversation and over all; and what is left.

    pk = session_key, sk = "spend#2026-11-21", "spend#2026-11"    cost_usd, turns, "cost <model>", "turns <model>", ttl
                      sk = "spend#session#<id>"                   the same, of one session
    pk = "spend",     sk = by day and month                       the same, over all conversations
    pk = session_key, sk = "turn#<id>"                            "spent <run>": what is counted of each of its runs

Money is counted when it is spent, not when an answer is committed: each run of the agent leaves a record of its cost in
the turn's folder, however it ends, and whichever step comes next counts it, once: the transaction that adds to the sums
says on the turn's item what is counted of the run. Sums are shared by all conversations, so transactions collide and
are tried again; in the end counting gives up for now rather than fail a turn, and the rule on ended Turns counts again.
Sums are read without a transaction, which would collide with every write
(https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis.html, Transaction conflict handling).
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Self

from botocore.exceptions import ClientError
from pydantic import ValidationError

from functions.common import aws
from functions.common.errors import AwsUnavailable, StepgramError
from functions.common.observability import logger, measure
from functions.common.settings import BudgetSettings, LedgerSettings
from functions.common.snapshots import RunCost, Snapshots, costs_prefix

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

WARN_SHARE = 0.8
"""From this share of a budget on, people are warned."""

ALL = "spend"
KEPT_SECONDS = 400 * 86_400
"""How long a sum is kept: a year, for who looks back."""

SPENT = "spent "
"""What the names of a turn's counted runs begin with."""

COUNTING_SECONDS = 15.0
"""How long counting is tried while others count, too."""

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


def session_sort_key(session_id: str) -> str:
    """Where the sum of one session is."""
    return f"spend#session#{session_id}"


class Ledger:
    """Counts what the runs of turns have cost."""

    def __init__(self, table: str, dynamodb: DynamoDBClient, snapshots: Snapshots) -> None:
        self._table = table
        self._dynamodb = dynamodb
        self._snapshots = snapshots

    @classmethod
    def of(cls, settings: LedgerSettings) -> Self:
        """The ledger of the stack."""
        return cls(settings.table, aws.dynamodb(), Snapshots(settings.bucket, aws.s3()))

    def settle(self, session_key: str, turn_id: str) -> float:
        """Count what the turn's runs have cost and is not counted yet; returns what is counted of the turn, in US
        dollars. Raises AwsUnavailable when others count all the time.
        """
        item = self._turn(session_key, turn_id)
        counted = sum(_runs(item).values())
        if "session_id" in item:
            session_id = item["session_id"]["S"]
            counted += sum(
                self._count(session_key, turn_id, session_id, cost) for cost in self._costs(session_id, turn_id)
            )
        return counted

    def _costs(self, session_id: str, turn_id: str) -> list[RunCost]:
        found = []
        for key in self._snapshots.keys(costs_prefix(session_id, turn_id)):
            try:
                found.append(self._snapshots.read(key, RunCost))
            except ValidationError as error:  # the agent wrote it
                logger.error("a record of costs is none", key=key, cause=str(error))
        return found

    def _count(self, session_key: str, turn_id: str, session_id: str, cost: RunCost) -> float:
        """Add what is new of one run to all sums, in one transaction; returns how much that was.

        Raises AwsUnavailable when others counted all the time.
        """
        end, pause = time.monotonic() + COUNTING_SECONDS, 0.05
        while True:
            before = _runs(self._turn(session_key, turn_id))
            new = cost.cost_usd - before.get(cost.run, 0.0)
            if new <= 0 and cost.run in before:
                return 0.0
            try:
                self._dynamodb.transact_write_items(
                    TransactItems=[
                        self._mark(session_key, turn_id, cost, before.get(cost.run)),
                        *self._sums(session_key, session_id, cost.model, new, first=not before),
                    ]
                )
            except ClientError as error:
                if error.response["Error"]["Code"] != "TransactionCanceledException":
                    raise
                if time.monotonic() > end:
                    raise AwsUnavailable(f"the sums of costs were written all the time: {error}") from error
                time.sleep(random.uniform(0, pause))
                pause = min(2 * pause, 1.0)
            else:
                measure(CostUsd=new)
                return new

    def _mark(self, session_key: str, turn_id: str, cost: RunCost, before: float | None) -> Any:
        values = {":now": {"N": _number(cost.cost_usd)}}
        condition = "attribute_not_exists(#run)"
        if before is not None:
            condition, values[":before"] = "#run = :before", {"N": _number(before)}
        return {
            "Update": {
                "TableName": self._table,
                "Key": _key(session_key, f"turn#{turn_id}"),
                "UpdateExpression": "SET #run = :now",
                "ConditionExpression": condition,
                "ExpressionAttributeNames": {"#run": SPENT + cost.run},
                "ExpressionAttributeValues": values,
            }
        }

    def _sums(self, session_key: str, session_id: str, model: str, new: float, first: bool) -> list[Any]:
        now = datetime.now(UTC)
        days = list(periods(now).values())
        keys = [*((partition, day) for partition in (session_key, ALL) for day in days)]
        return [
            {
                "Update": {
                    "TableName": self._table,
                    "Key": _key(partition, sort_key),
                    "UpdateExpression": "SET #ttl = :ttl ADD cost_usd :cost, turns :turn, #cost :cost, #turns :turn",
                    "ExpressionAttributeNames": {
                        "#ttl": "ttl",
                        "#cost": MODEL_COST + model,
                        "#turns": MODEL_TURNS + model,
                    },
                    "ExpressionAttributeValues": {
                        ":cost": {"N": _number(new)},
                        ":turn": {"N": "1" if first else "0"},
                        ":ttl": {"N": str(int(now.timestamp()) + KEPT_SECONDS)},
                    },
                }
            }
            for partition, sort_key in [*keys, (session_key, session_sort_key(session_id))]
        ]

    def _turn(self, session_key: str, turn_id: str) -> dict[str, Any]:
        key = _key(session_key, f"turn#{turn_id}")
        found = self._dynamodb.get_item(TableName=self._table, Key=key, ConsistentRead=True)
        return dict(found.get("Item", {}))


def settle(settings: LedgerSettings, session_key: str, turn_id: str) -> float:
    """Count what a turn's runs have cost by now; 0 when it cannot be done, which fails no turn."""
    try:
        with aws.translated():
            return Ledger.of(settings).settle(session_key, turn_id)
    except (StepgramError, ClientError) as error:
        logger.error("costs are not counted yet", error=type(error).__name__, cause=str(error))
        measure(CostsNotCounted=1)
        return 0.0


def crossed(settings: BudgetSettings, session_key: str, cost: float) -> list[Spent]:
    """The budgets that this cost took over the line where people are warned; none when they cannot be read."""
    try:
        with aws.translated():
            return [budget for budget in spent(settings, aws.dynamodb(), session_key) if budget.crossed(cost)]
    except StepgramError as error:
        logger.error("nobody is warned of budgets", error=type(error).__name__, cause=str(error))
        return []


def spent(settings: BudgetSettings, dynamodb: DynamoDBClient, session_key: str) -> list[Spent]:
    """What all budgets are at now."""
    limits: dict[tuple[Scope, Period], float] = {
        ("chat", "day"): settings.chat_daily_usd,
        ("chat", "month"): settings.chat_monthly_usd,
        ("all", "day"): settings.daily_usd,
        ("all", "month"): settings.monthly_usd,
    }
    days = periods(datetime.now(UTC))
    keys = {which: (session_key if which[0] == "chat" else ALL, days[which[1]]) for which in limits}
    costs = sums(settings.table, dynamodb, list(keys.values()))
    return [Spent(*which, costs[keys[which]], limit) for which, limit in limits.items()]


def sums(table: str, dynamodb: DynamoDBClient, keys: list[tuple[str, str]]) -> dict[tuple[str, str], float]:
    """The costs of sums by partition and sort key, in US dollars. Raises AwsUnavailable when DynamoDB is busy."""
    asked: Any = {table: {"Keys": [_key(*key) for key in keys], "ConsistentRead": True}}
    answer = dynamodb.batch_get_item(RequestItems=asked)
    if answer.get("UnprocessedKeys"):
        raise AwsUnavailable("dynamodb:BatchGetItem left out some of the sums of costs")
    found = {(item["pk"]["S"], item["sk"]["S"]): float(item["cost_usd"]["N"]) for item in answer["Responses"][table]}
    return {key: found.get(key, 0.0) for key in keys}


def _runs(item: dict[str, Any]) -> dict[str, float]:
    """What is counted of each run of a turn, by the turn's item."""
    return {name.removeprefix(SPENT): float(value["N"]) for name, value in item.items() if name.startswith(SPENT)}


def _number(dollars: float) -> str:
    return f"{dollars:.6f}"


def _key(partition: str, sort_key: str) -> dict[str, Any]:
    return {"pk": {"S": partition}, "sk": {"S": sort_key}}
