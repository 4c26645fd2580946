"""What may be spent, and what is: sums by day and month (UTC), for a conversation and over all.

    pk = session_key, sk = "spend#2026-11-21", "spend#2026-11"    cost_usd (with what is reserved), reserved_usd, turns,
                                                                  "cost <model>", "turns <model>", ttl
                      sk = "spend#session#<id>"                   the same, of one session; nothing is reserved there
    pk = "spend",     sk = by day and month                       the same, over all conversations

`ledger.py` writes them. DynamoDB's conditions cannot add, so `cost_usd` holds what is reserved, too, and what was spent
is the difference
(https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Expressions.OperatorsAndFunctions.html). Sums are read
without a transaction, which would collide with every write
(https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis.html, Transaction conflict handling).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_DOWN, Decimal
from typing import TYPE_CHECKING, Any, Literal

from functions.common import aws
from functions.common.errors import BudgetReserved, BudgetSpent, StepgramError
from functions.common.observability import logger
from functions.common.settings import BudgetSettings, ReserveSettings

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

WARN_SHARE = 0.8
"""From this share of a budget on, people are warned."""

ALL = "spend"
KEPT_SECONDS = 400 * 86_400
"""How long a sum is kept: a year, for who looks back."""

LEAST = Decimal("0.01")
"""With less than a cent no run is begun, in US dollars."""

BEYOND_USD = 1.0

MODEL_COST, MODEL_TURNS = "cost ", "turns "
"""What the names of the sums of one model begin with."""

MILLIONTH = Decimal("0.000001")

Scope = Literal["chat", "all"]
Period = Literal["day", "month"]
Limits = Mapping[tuple[Scope, Period], float]


@dataclass(frozen=True)
class Spent:
    """What one budget is at, in US dollars; `limit` 0 is no limit. `reserved` is what runs may spend that go on now."""

    scope: Scope
    period: Period
    spent: float
    limit: float
    reserved: float = 0.0

    @property
    def name(self) -> str:
        """The catalogue's name for it."""
        return f"budget_{self.scope}_{self.period}"

    @property
    def unspent(self) -> Decimal:
        """What is not spent, though it may be reserved; infinite without a limit."""
        return dollars(self.limit) - dollars(self.spent) if self.limit else Decimal("Infinity")

    @property
    def left(self) -> Decimal:
        """What is neither spent nor reserved; infinite without a limit."""
        return self.unspent - dollars(self.reserved)

    def crossed(self, cost: float) -> bool:
        """Whether this `cost`, spent last, took it over the line where people are warned."""
        line = self.limit * WARN_SHARE
        return bool(self.limit) and self.spent - cost < line <= self.spent


def grant(budgets: Sequence[Spent], wanted: Decimal) -> Decimal:
    """What a run may spend of what it wants, in US dollars: less only when waiting would bring no more.

    Raises BudgetSpent when nothing is left of a budget, BudgetReserved when others may leave some of it.
    """
    for budget in budgets:
        if budget.unspent < LEAST:
            raise BudgetSpent(f"{budget.name}: ${budget.spent:.2f} of ${budget.limit:.2f} are spent")
    for budget in budgets:
        if budget.left < wanted and budget.reserved > 0:
            raise BudgetReserved(
                f"{budget.name}: ${budget.spent:.2f} of ${budget.limit:.2f} are spent, "
                f"${budget.reserved:.2f} are reserved by turns at work"
            )
    return min(wanted, *(budget.left for budget in budgets))


def at_most(granted_usd: float, runs: int = 1) -> float:
    """What runs that were granted so much can have cost, in US dollars: an answer that had begun may pass the budget by
    as much again, or by `BEYOND_USD`; then it is cut off in its middle (`agent/model/spending.py`), and more is never
    counted (`ledger.py`). Nothing was granted, nothing can be spent.
    """
    return granted_usd + max(granted_usd, BEYOND_USD * runs) if granted_usd > 0 else 0.0


def dollars(amount: float) -> Decimal:
    """An amount in whole millionths of a dollar, as all amounts are kept."""
    return Decimal(str(amount)).quantize(MILLIONTH, ROUND_DOWN)


def periods(now: datetime) -> dict[Period, str]:
    """The sort keys of this day and month."""
    return {"day": f"spend#{now:%Y-%m-%d}", "month": f"spend#{now:%Y-%m}"}


def session_sort_key(session_id: str) -> str:
    """Where the sum of one session is."""
    return f"spend#session#{session_id}"


def crossed(settings: BudgetSettings, session_key: str, cost: float) -> list[Spent]:
    """The budgets that this cost took over the line where people are warned; none when they cannot be read."""
    try:
        with aws.translated():
            return [budget for budget in limited(settings, session_key) if budget.crossed(cost)]
    except StepgramError as error:
        logger.error("nobody is warned of budgets", error=type(error).__name__, cause=str(error))
        return []


def limited(settings: BudgetSettings, session_key: str) -> list[Spent]:
    """What the budgets of a conversation are at now; none are read when none has a limit."""
    limits = limits_of(settings)
    if not any(limits.values()):
        return []
    return budgets_of(settings.table, aws.dynamodb(), session_key, limits, datetime.now(UTC))


def spent(settings: BudgetSettings, dynamodb: DynamoDBClient, session_key: str) -> list[Spent]:
    """What all budgets are at now."""
    return budgets_of(settings.table, dynamodb, session_key, limits_of(settings), datetime.now(UTC))


def limits_of(settings: BudgetSettings) -> Limits:
    """The limit of each budget, in US dollars; 0 is none."""
    return {
        ("chat", "day"): settings.chat_daily_usd,
        ("chat", "month"): settings.chat_monthly_usd,
        ("all", "day"): settings.daily_usd,
        ("all", "month"): settings.monthly_usd,
    }


def granted_unlimited(settings: ReserveSettings) -> float:
    """What a run of a stack without limits is granted as it begins, in US dollars; 0 where there are limits."""
    return 0.0 if any(limits_of(settings).values()) else settings.max_budget_usd


def sums(table: str, dynamodb: DynamoDBClient, keys: list[tuple[str, str]]) -> dict[tuple[str, str], float]:
    """What was spent, by partition and sort key, in US dollars. Raises AwsUnavailable when DynamoDB is busy."""
    return {key: float(cost - reserved) for key, (cost, reserved) in _read(table, dynamodb, keys).items()}


def budgets_of(table: str, dynamodb: DynamoDBClient, session_key: str, limits: Limits, now: datetime) -> list[Spent]:
    """What all budgets of a conversation are at, on the day of `now`."""
    keys = keys_of(session_key, f"{now:%Y-%m-%d}")
    found = _read(table, dynamodb, list(keys.values()))
    return [
        Spent(*which, float(cost - reserved), limit, float(reserved))
        for which, limit in limits.items()
        for cost, reserved in [found[keys[which]]]
    ]


def _read(
    table: str, dynamodb: DynamoDBClient, keys: list[tuple[str, str]]
) -> dict[tuple[str, str], tuple[Decimal, Decimal]]:
    """`cost_usd` and `reserved_usd` of sums."""
    found = zip(keys, aws.items(dynamodb, table, keys), strict=True)
    return {key: (amount(item, "cost_usd"), amount(item, "reserved_usd")) for key, item in found}


def keys_of(session_key: str, day: str) -> dict[tuple[Scope, Period], tuple[str, str]]:
    """Where the sums of a day (ISO) and its month are."""
    days = periods(datetime.fromisoformat(day))
    partitions: dict[Scope, str] = {"chat": session_key, "all": ALL}
    return {(scope, period): (partition, days[period]) for scope, partition in partitions.items() for period in days}


def amount(item: dict[str, Any], name: str) -> Decimal:
    """An amount of an item; nothing where it has none."""
    return Decimal(item[name]["N"]) if name in item else Decimal()


def number(amount: Decimal) -> dict[str, str]:
    """An amount as DynamoDB takes it."""
    return {"N": f"{amount:.6f}"}


def expiry(now: datetime) -> dict[str, str]:
    """When a sum is forgotten."""
    return {"N": str(int(now.timestamp()) + KEPT_SECONDS)}
