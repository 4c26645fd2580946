"""What the agent has cost, by day and month (UTC), for a conversation and over all; what is reserved, what is left.

    pk = session_key, sk = "spend#2026-11-21", "spend#2026-11"    cost_usd (with what is reserved), reserved_usd, turns,
                                                                  "cost <model>", "turns <model>", ttl
                      sk = "spend#session#<id>"                   the same, of one session; nothing is reserved there
    pk = "spend",     sk = by day and month                       the same, over all conversations
                      sk = "reserved#<session_key>#<turn_id>"     id, usd, day, at (seconds since 1970), ttl
    pk = session_key, sk = "turn#<id>"                            "spent <run>": what is counted of each of its runs;
                                                                  granted_usd so far; ledger: grows with each change

Before a run of the agent starts, what it may spend is taken off what is left of every budget; when it ended, whichever
step comes next puts what was spent in its place, once, in the sums of the day on which it was taken. DynamoDB's
conditions cannot add, so `cost_usd` holds both, and what was spent is the difference
(https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Expressions.OperatorsAndFunctions.html). A turn has
one reservation at most. One that nobody settled within an hour is settled by the first run that finds too little left.

Money is counted when it is spent, not when an answer is committed: each run of the agent leaves a record of its cost in
the turn's folder, however it ends. It is the agent's own word, so it is bounded on both sides: a turn counts `CLAIMED`
times what it was granted at most; one that handed in a result, or whose run worked for long, and which recorded nothing
counts as what was reserved for it, unless a person stopped it.

Sums are shared by all conversations, so transactions collide and are tried again; in the end counting gives up for now
rather than fail a turn, and the rule on ended Turns counts again. Sums are read without a transaction, which would
collide with every write
(https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis.html, Transaction conflict handling).
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_DOWN, Decimal
from typing import TYPE_CHECKING, Any, Literal, Self

from botocore.exceptions import ClientError

from functions.common import aws
from functions.common.errors import AwsUnavailable, BudgetReserved, BudgetSpent, SnapshotMissing, StepgramError
from functions.common.models import known
from functions.common.observability import logger, measure
from functions.common.settings import BudgetSettings, LedgerSettings, ReserveSettings
from functions.conversation.files.snapshots import RunCost, Snapshots, costs_prefix

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

WARN_SHARE = 0.8
"""From this share of a budget on, people are warned."""

ALL = "spend"
KEPT_SECONDS = 400 * 86_400
"""How long a sum is kept: a year, for who looks back."""

SPENT = "spent "
"""What the names of a turn's counted runs begin with."""

UNRECORDED = "unrecorded"
"""The run, and the model, of what is counted of a turn that recorded nothing."""

RUNS = 100
"""Records of costs that are read of one turn at most."""

CHANGES = 20
"""Runs that one transaction counts: an expression has 4 KB at most (DynamoDB quotas)."""

RESERVED = "reserved#"
STALE_SECONDS = 3600
"""A run takes 15 minutes at most: a reservation as old as this was forgotten."""

WORKED_SECONDS = 120
"""A claimed run that was gone for so long did not die as it started."""

CLAIMED = 2
"""The CLI ends a run after the request that passed its budget, so more than was granted may be true; not any sum."""

LEAST = Decimal("0.01")
"""With less than a cent no run is begun, in US dollars."""

COUNTING_SECONDS = 15.0
"""How long counting is tried while others count, too."""

MODEL_COST, MODEL_TURNS = "cost ", "turns "
"""What the names of the sums of one model begin with."""

OTHER = "other"
"""The model of a record that names none of `models.toml`: names that the agent makes up would fill the sums."""

MILLIONTH = Decimal("0.000001")

MET = frozenset({"None", "ConditionalCheckFailed", "TransactionConflict"})
"""Why a transaction is cancelled when others wrote meanwhile (API reference, TransactWriteItems)."""

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


def dollars(amount: float) -> Decimal:
    """An amount in whole millionths of a dollar, as all amounts are kept."""
    return Decimal(str(amount)).quantize(MILLIONTH, ROUND_DOWN)


def periods(now: datetime) -> dict[Period, str]:
    """The sort keys of this day and month."""
    return {"day": f"spend#{now:%Y-%m-%d}", "month": f"spend#{now:%Y-%m}"}


def session_sort_key(session_id: str) -> str:
    """Where the sum of one session is."""
    return f"spend#session#{session_id}"


@dataclass(frozen=True)
class Reservation:
    """Reserved for a turn's run since `at` (seconds since 1970), in the sums of the `day` (ISO) and its month."""

    id: str
    usd: Decimal
    day: str
    at: int


@dataclass(frozen=True)
class Change:
    """What is to be written: what is `counted` of each run by now, what of it is new by model, and the reservation that
    ends with it. `item` is the turn's, as it was read. Not `whole`: there is more than one transaction takes.
    """

    item: dict[str, Any]
    reservation: Reservation | None
    counted: dict[str, Decimal]
    models: dict[str, Decimal]
    whole: bool = True

    @property
    def new(self) -> Decimal:
        """What was not counted yet."""
        return sum(self.models.values(), Decimal())

    @property
    def total(self) -> Decimal:
        """What is counted of the turn."""
        return sum(self.counted.values(), Decimal())


class Collisions:
    """Waits between the tries of a transaction that others collide with."""

    def __init__(self) -> None:
        self._end, self._pause = time.monotonic() + COUNTING_SECONDS, 0.05

    def wait(self) -> None:
        """Before the next try. Raises AwsUnavailable when they were too many."""
        if time.monotonic() > self._end:
            raise AwsUnavailable("the sums of costs were written all the time")
        time.sleep(random.uniform(0, self._pause))
        self._pause = min(2 * self._pause, 1.0)


class Ledger:
    """Reserves what the runs of turns may spend, and counts what they have cost."""

    def __init__(self, table: str, dynamodb: DynamoDBClient, snapshots: Snapshots) -> None:
        self._table = table
        self._dynamodb = dynamodb
        self._snapshots = snapshots

    @classmethod
    def of(cls, settings: LedgerSettings) -> Self:
        """The ledger of the stack."""
        return cls(settings.table, aws.dynamodb(), Snapshots(settings.bucket, aws.s3()))

    def reserve(self, session_key: str, turn_id: str, wanted_usd: float, limits: Limits) -> float:
        """Take what the turn's next run may spend off what is left of all budgets; returns how much that is, in US
        dollars.

        What an earlier run of the turn had is settled first, so a call that comes again reserves nothing twice. A turn
        whose answer is committed gets nothing: it asks the model nothing.
        Raises BudgetSpent, BudgetReserved, or AwsUnavailable when others reserve or count all the time.
        """
        wanted, collisions = max(dollars(wanted_usd), LEAST), Collisions()
        while True:
            self.settle(session_key, turn_id)
            if "version" in self._turn(session_key, turn_id):
                return 0.0
            now = datetime.now(UTC)
            try:
                granted = grant(_budgets(self._table, self._dynamodb, session_key, limits, now), wanted)
            except BudgetReserved:
                if not self._settle_forgotten(now):
                    raise
                continue
            if self._take(session_key, turn_id, granted, limits, now):
                return float(granted)
            collisions.wait()

    def settle(self, session_key: str, turn_id: str, answered: bool = False) -> float:
        """Put what the turn's runs have cost in the place of what was reserved; returns what is counted of the turn, in
        US dollars. `answered`: its last run handed in a result. Raises AwsUnavailable when others count all the time.
        """
        collisions = Collisions()
        while True:
            change = self._change(session_key, turn_id, answered)
            if change.reservation is None and change.counted == _runs(change.item):
                return float(change.total)
            if not self._count(session_key, turn_id, change):
                collisions.wait()
            elif change.whole:
                return float(change.total)

    def _change(self, session_key: str, turn_id: str, answered: bool) -> Change:
        found = self._get(ALL, _reserved(session_key, turn_id))
        reservation = _reservation(found) if found else None
        item = self._turn(session_key, turn_id)
        granted = _amount(item, "granted_usd") + (reservation.usd if reservation else 0)
        counted, models = _runs(item), dict[str, Decimal]()
        costs = self._costs(item["session_id"]["S"], turn_id) if "session_id" in item else []
        changes = 0
        for cost in costs:
            had = counted.get(cost.run, Decimal())
            room = CLAIMED * granted - sum(counted.values()) if granted else Decimal("Infinity")
            new = max(min(dollars(cost.cost_usd) - had, room), Decimal())
            if cost.run in counted and not new:
                continue
            if changes == CHANGES:
                return Change(item, None, counted, models, whole=False)
            changes += 1
            counted[cost.run] = had + new
            model = known().named(cost.model)
            name = model.anthropic if model else OTHER
            models[name] = models.get(name, Decimal()) + new
        if reservation and not sum(counted.values()) and _has_cost(item, reservation, answered):
            logger.error("nothing is recorded of the turn's cost, all that was reserved counts", turn_id=turn_id)
            counted[UNRECORDED] = models[UNRECORDED] = reservation.usd
        return Change(item, reservation, counted, models)

    def _costs(self, session_id: str, turn_id: str) -> list[RunCost]:
        found = []
        for key in self._snapshots.keys(costs_prefix(session_id, turn_id))[:RUNS]:
            try:
                found.append(self._snapshots.read(key, RunCost))
            except SnapshotMissing as error:
                logger.error("a record of costs is none", key=key, cause=str(error))
        return found

    def _count(self, session_key: str, turn_id: str, change: Change) -> bool:
        """Write the change, in one transaction; False when others wrote meanwhile."""
        now, reservation = datetime.now(UTC), change.reservation
        day = reservation.day if reservation else f"{now:%Y-%m-%d}"
        writes = [self._mark(session_key, turn_id, change, now)]
        writes += [self._sum(key, now, change, reservation) for key in _keys(session_key, day).values()]
        if "session_id" in change.item and change.models:
            key = (session_key, session_sort_key(change.item["session_id"]["S"]))
            writes.append(self._sum(key, now, change, None))
        if reservation is not None:
            writes.append({"Delete": {
                "TableName": self._table,
                "Key": _key(ALL, _reserved(session_key, turn_id)),
                "ConditionExpression": "id = :id",
                "ExpressionAttributeValues": {":id": {"S": reservation.id}},
            }})  # fmt: skip
        done = self._write(writes)
        if done and change.new:
            measure(CostUsd=float(change.new))
        return done

    def _mark(self, session_key: str, turn_id: str, change: Change, now: datetime) -> Any:
        before = _runs(change.item)
        runs = [run for run, usd in change.counted.items() if before.get(run) != usd]
        seen = change.item.get("ledger")
        granted = change.reservation.usd if change.reservation else Decimal()
        return {
            "Update": {
                "TableName": self._table,
                "Key": _key(session_key, f"turn#{turn_id}"),
                "UpdateExpression": ", ".join(
                    ["SET #ttl = if_not_exists(#ttl, :ttl)", *(f"#{n} = :{n}" for n in range(len(runs)))]
                )
                + " ADD ledger :one, granted_usd :granted",
                "ConditionExpression": "ledger = :seen" if seen else "attribute_not_exists(ledger)",
                "ExpressionAttributeNames": {"#ttl": "ttl", **{f"#{n}": SPENT + run for n, run in enumerate(runs)}},
                "ExpressionAttributeValues": {
                    **{f":{n}": _number(change.counted[run]) for n, run in enumerate(runs)},
                    **({":seen": seen} if seen else {}),
                    ":one": {"N": "1"},
                    ":granted": _number(granted),
                    ":ttl": _ttl(now),
                },
            }
        }

    def _sum(self, key: tuple[str, str], now: datetime, change: Change, reservation: Reservation | None) -> Any:
        """Add what is new to a sum, and take back what is reserved there."""
        released = reservation.usd if reservation else Decimal()
        first = None if _runs(change.item) else next(iter(change.models), None)
        adds = ["cost_usd :cost", "reserved_usd :reserved", "turns :turn"]
        values = {":cost": _number(change.new - released), ":reserved": _number(-released)}
        values |= {":turn": {"N": "1" if first else "0"}, ":ttl": _ttl(now)}
        names = {"#ttl": "ttl"}
        for n, (model, usd) in enumerate(change.models.items()):
            adds += [f"#cost{n} :cost{n}", f"#turns{n} :turns{n}"]
            names |= {f"#cost{n}": MODEL_COST + model, f"#turns{n}": MODEL_TURNS + model}
            values |= {f":cost{n}": _number(usd), f":turns{n}": {"N": "1" if model == first else "0"}}
        return {
            "Update": {
                "TableName": self._table,
                "Key": _key(*key),
                "UpdateExpression": f"SET #ttl = :ttl ADD {', '.join(adds)}",
                "ExpressionAttributeNames": names,
                "ExpressionAttributeValues": values,
            }
        }

    def _take(self, session_key: str, turn_id: str, granted: Decimal, limits: Limits, now: datetime) -> bool:
        """Write the reservation; False when less is left than was read, or others wrote meanwhile."""
        seconds, taken = int(now.timestamp()), {":taken": _number(granted)}
        item = {"id": {"S": uuid.uuid4().hex}, "usd": taken[":taken"], "day": {"S": f"{now:%Y-%m-%d}"}}
        item |= {"at": {"N": str(seconds)}, "turn": {"S": turn_id}, "chat": {"S": session_key}, "ttl": _ttl(now)}
        writes: list[Any] = [{"Put": {
            "TableName": self._table,
            "Item": {**_key(ALL, _reserved(session_key, turn_id)), **item},
            "ConditionExpression": "attribute_not_exists(pk)",
        }}]  # fmt: skip
        for which, key in _keys(session_key, f"{now:%Y-%m-%d}").items():
            limit: dict[str, Any] = {}
            values = {**taken, ":ttl": _ttl(now)}
            if limits[which]:
                limit["ConditionExpression"] = "attribute_not_exists(cost_usd) OR cost_usd <= :room"
                values[":room"] = _number(dollars(limits[which]) - granted)
            writes.append({"Update": {
                "TableName": self._table,
                "Key": _key(*key),
                "UpdateExpression": "SET #ttl = :ttl ADD cost_usd :taken, reserved_usd :taken",
                "ExpressionAttributeNames": {"#ttl": "ttl"},
                "ExpressionAttributeValues": values,
                **limit,
            }})  # fmt: skip
        return self._write(writes)

    def _settle_forgotten(self, now: datetime) -> int:
        """Settle the turns whose reservation outlived their run; returns how many there were."""
        pages = self._dynamodb.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression="pk = :all AND begins_with(sk, :reserved)",
            FilterExpression="#at < :old",
            ExpressionAttributeNames={"#at": "at"},
            ExpressionAttributeValues={
                ":all": {"S": ALL},
                ":reserved": {"S": RESERVED},
                ":old": {"N": str(int(now.timestamp()) - STALE_SECONDS)},
            },
        )
        found = [item for page in pages for item in page["Items"]]
        for item in found:
            logger.warning("a forgotten reservation is settled", turn_id=item["turn"]["S"])
            self.settle(item["chat"]["S"], item["turn"]["S"])
        return len(found)

    def _write(self, writes: list[Any]) -> bool:
        try:
            self._dynamodb.transact_write_items(TransactItems=writes)
        except ClientError as error:
            reasons: list[Any] = error.response.get("CancellationReasons", [])
            if not reasons or not MET.issuperset(reason.get("Code", "None") for reason in reasons):
                raise
            return False
        return True

    def _turn(self, session_key: str, turn_id: str) -> dict[str, Any]:
        return self._get(session_key, f"turn#{turn_id}")

    def _get(self, partition: str, sort_key: str) -> dict[str, Any]:
        found = self._dynamodb.get_item(TableName=self._table, Key=_key(partition, sort_key), ConsistentRead=True)
        return dict(found.get("Item", {}))


def reserve(settings: ReserveSettings, session_key: str, turn_id: str, wanted_usd: float) -> float:
    """Take what a turn's next run may spend off what is left, before it starts; returns how much, in US dollars.

    Without limits nothing is written. Raises BudgetSpent, BudgetReserved, AwsUnavailable.
    """
    limits = limits_of(settings)
    if not any(limits.values()):
        return wanted_usd
    return Ledger.of(settings).reserve(session_key, turn_id, wanted_usd, limits)


def settle(settings: LedgerSettings, session_key: str, turn_id: str, answered: bool = False) -> float:
    """Count what a turn's runs have cost by now; 0 when it cannot be done, which fails no turn.

    `answered`: the run before this step handed in a result.
    """
    try:
        with aws.translated():
            return Ledger.of(settings).settle(session_key, turn_id, answered)
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
    return _budgets(settings.table, dynamodb, session_key, limits_of(settings), datetime.now(UTC))


def limits_of(settings: BudgetSettings) -> Limits:
    """The limit of each budget, in US dollars; 0 is none."""
    return {
        ("chat", "day"): settings.chat_daily_usd,
        ("chat", "month"): settings.chat_monthly_usd,
        ("all", "day"): settings.daily_usd,
        ("all", "month"): settings.monthly_usd,
    }


def sums(table: str, dynamodb: DynamoDBClient, keys: list[tuple[str, str]]) -> dict[tuple[str, str], float]:
    """What was spent, by partition and sort key, in US dollars. Raises AwsUnavailable when DynamoDB is busy."""
    return {key: float(cost - reserved) for key, (cost, reserved) in _read(table, dynamodb, keys).items()}


def _budgets(table: str, dynamodb: DynamoDBClient, session_key: str, limits: Limits, now: datetime) -> list[Spent]:
    keys = _keys(session_key, f"{now:%Y-%m-%d}")
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
    asked: Any = {table: {"Keys": [_key(*key) for key in keys], "ConsistentRead": True}}
    answer = dynamodb.batch_get_item(RequestItems=asked)
    if answer.get("UnprocessedKeys"):
        raise AwsUnavailable("dynamodb:BatchGetItem left out some of the sums of costs")
    found = {(item["pk"]["S"], item["sk"]["S"]): item for item in answer["Responses"][table]}
    items = {key: found.get(key, {}) for key in keys}
    return {key: (_amount(item, "cost_usd"), _amount(item, "reserved_usd")) for key, item in items.items()}


def _keys(session_key: str, day: str) -> dict[tuple[Scope, Period], tuple[str, str]]:
    """Where the sums of a day (ISO) and its month are."""
    days = periods(datetime.fromisoformat(day))
    partitions: dict[Scope, str] = {"chat": session_key, "all": ALL}
    return {(scope, period): (partition, days[period]) for scope, partition in partitions.items() for period in days}


def _has_cost(item: dict[str, Any], reservation: Reservation, answered: bool) -> bool:
    """Whether a turn of which nothing is recorded must have cost something, by its item and what it did.

    A result takes a request to the model, unless a person stopped the turn before its first one; a run that was claimed
    (`runs.py`) and ended long after did not fail as it began.
    """
    worked = "run_claim" in item and datetime.now(UTC).timestamp() - reservation.at > WORKED_SECONDS
    return (answered or worked) and "stop" not in item


def _reserved(session_key: str, turn_id: str) -> str:
    return f"{RESERVED}{session_key}#{turn_id}"


def _reservation(item: dict[str, Any]) -> Reservation:
    return Reservation(item["id"]["S"], Decimal(item["usd"]["N"]), item["day"]["S"], int(item["at"]["N"]))


def _runs(item: dict[str, Any]) -> dict[str, Decimal]:
    """What is counted of each run of a turn, by the turn's item."""
    return {name.removeprefix(SPENT): _amount(item, name) for name in item if name.startswith(SPENT)}


def _amount(item: dict[str, Any], name: str) -> Decimal:
    return Decimal(item[name]["N"]) if name in item else Decimal()


def _number(amount: Decimal) -> dict[str, str]:
    return {"N": f"{amount:.6f}"}


def _ttl(now: datetime) -> dict[str, str]:
    return {"N": str(int(now.timestamp()) + KEPT_SECONDS)}


def _key(partition: str, sort_key: str) -> dict[str, Any]:
    return {"pk": {"S": partition}, "sk": {"S": sort_key}}
