"""Reserves what the runs of turns may spend, and counts what they have cost, in the sums of `budget.py`.

    pk = "spend",     sk = "reserved#<session_key>#<turn_id>"     id, run, usd, day, at (seconds since 1970), ttl
    pk = session_key, sk = "turn#<id>"                            "spent <run>": what is counted of each of its runs;
                                                                  granted_usd so far; ledger: grows with each change

Before a run of the agent starts, what it may spend is taken off what is left of every budget; when it ended, whichever
step comes next puts what was spent in its place, once, in the sums of the day on which it was taken. A turn has one
reservation at most. One that nobody settled within an hour is settled by the first run that finds too little left.

Money is counted when it is spent, not when an answer is committed: each run of the agent leaves a record of its cost in
the turn's folder, under the number that trusted code gave it (`runs.py`), however it ends. It is the agent's own word,
so it is bounded on both sides: a turn counts what its grants can have cost at most (`budget.at_most`), one that was
granted nothing counts nothing; a run that handed in a result, or worked for long, and which recorded nothing counts as
what was reserved for it, unless a person stopped it.

Sums are shared by all conversations, so transactions collide and are tried again; in the end counting gives up for now
rather than fail a turn, and the rule on ended Turns counts again.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Self

from botocore.exceptions import ClientError

from functions.common import aws
from functions.common.errors import BudgetReserved, ResultRefused, SnapshotMissing, StepgramError
from functions.common.models import known
from functions.common.observability import logger, measure
from functions.common.settings import LedgerSettings, ReserveSettings
from functions.conversation.budget import (
    ALL,
    LEAST,
    MODEL_COST,
    MODEL_TURNS,
    Limits,
    amount,
    at_most,
    budgets_of,
    dollars,
    expiry,
    grant,
    keys_of,
    limits_of,
    number,
    session_sort_key,
)
from functions.conversation.files.documents import RunCost, cost_key
from functions.conversation.files.snapshots import Snapshots

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

SPENT = "spent "
"""What the names of a turn's counted runs begin with."""

UNRECORDED = "unrecorded"
"""The model of what is counted of a run that recorded nothing."""

RUNS, CHANGES = 100, 20
"""Of one turn, the last runs whose records are read, and those that one transaction counts, at most: an expression has
4 KB at most (DynamoDB quotas)."""

RESERVED = "reserved#"
STALE_SECONDS = 3600
"""A run takes 15 minutes at most: a reservation as old as this was forgotten."""

WORKED_SECONDS = 120
"""A claimed run that was gone for so long did not die as it started."""

COUNTING_SECONDS = 15.0
"""How long counting is tried while others count, too."""

OTHER = "other"
"""The model of a record that names none of `models.toml`: names that the agent makes up would fill the sums."""


@dataclass(frozen=True)
class Reservation:
    """Reserved for a `run` of a turn since `at` (seconds since 1970), in the sums of the `day` (ISO) and its month."""

    id: str
    run: int
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

    def reserve(self, session_key: str, turn_id: str, run: int, wanted_usd: float, limits: Limits) -> float:
        """Take what the turn's run of this number may spend off what is left of all budgets; returns how much that is,
        in US dollars.

        What an earlier run of the turn had is settled first, so a call that comes again reserves nothing twice. A turn
        whose answer is committed gets nothing: it asks the model nothing.
        Raises BudgetSpent, BudgetReserved, or AwsUnavailable when others reserve or count all the time.
        """
        wanted, collisions = max(dollars(wanted_usd), LEAST), aws.Collisions(COUNTING_SECONDS, "the sums of costs were")
        while True:
            if self._settled(session_key, turn_id, before=run)[1]:
                return 0.0
            now = datetime.now(UTC)
            try:
                granted = grant(budgets_of(self._table, self._dynamodb, session_key, limits, now), wanted)
            except BudgetReserved:
                if not self._settle_forgotten(now):
                    raise
                continue
            if self._take(session_key, turn_id, run, granted, limits, now):
                return float(granted)
            collisions.wait()

    def settle(self, session_key: str, turn_id: str, answered: bool = False) -> float:
        """Put what the turn's runs have cost in the place of what was reserved; returns what is counted of the turn, in
        US dollars. `answered`: its last run handed in a result. Raises AwsUnavailable when others count all the time.
        """
        return self._settled(session_key, turn_id, answered)[0]

    def _settled(
        self, session_key: str, turn_id: str, answered: bool = False, before: int | None = None
    ) -> tuple[float, bool]:
        """The same, and whether the turn's answer was committed by then. What begins only now (the run `before` which
        the others came) has cost nothing yet."""
        collisions = aws.Collisions(COUNTING_SECONDS, "the sums of costs were")
        while True:
            change = self._change(session_key, turn_id, answered, before)
            settled = float(change.total), "version" in change.item
            if change.reservation is None and change.counted == _runs(change.item):
                return settled
            if not self._count(session_key, turn_id, change):
                collisions.wait()
            elif change.whole:
                return settled

    def _change(self, session_key: str, turn_id: str, answered: bool, before: int | None) -> Change:
        keys = [(ALL, _reserved(session_key, turn_id)), (session_key, f"turn#{turn_id}")]
        found, item = aws.items(self._dynamodb, self._table, keys)
        reservation = _reservation(found) if found else None
        granted = amount(item, "granted_usd") + (reservation.usd if reservation else 0)
        begun = int(item["runs"]["N"]) if "runs" in item else 0
        most = dollars(at_most(float(granted), begun))
        counted, models = _runs(item), dict[str, Decimal]()
        changes = 0
        for run in range(max(1, begun - RUNS + 1), before or begun + 1):
            cost = self._cost(item, turn_id, run)
            had = counted.get(str(run), Decimal())
            name, said = (cost.model, dollars(cost.cost_usd)) if cost else (UNRECORDED, Decimal())
            is_reserved = reservation is not None and run == (reservation.run or begun)
            if reservation and is_reserved and not said and not had and _has_cost(item, reservation, answered):
                logger.error("a run recorded no cost, all that was reserved counts", turn_id=turn_id, run=run)
                name, said = UNRECORDED, reservation.usd
            new = max(min(said - had, most - sum(counted.values())), Decimal())
            if not new and (str(run) in counted or cost is None):
                continue
            if changes == CHANGES:
                return Change(item, None, counted, models, whole=False)
            changes += 1
            counted[str(run)] = had + new
            model = known().named(name)
            name = model.anthropic if model else name if name == UNRECORDED else OTHER
            models[name] = models.get(name, Decimal()) + new
        return Change(item, reservation, counted, models)

    def _cost(self, item: dict[str, Any], turn_id: str, run: int) -> RunCost | None:
        """What a run recorded; None: nothing, or nothing that is a record."""
        if "session_id" not in item:
            return None
        key = cost_key(item["session_id"]["S"], turn_id, run)
        try:
            return self._snapshots.read(key, RunCost)
        except ResultRefused as error:
            logger.error("a record of costs is none", key=key, cause=str(error))
        except SnapshotMissing:  # the run never asked the model
            pass
        return None

    def _count(self, session_key: str, turn_id: str, change: Change) -> bool:
        """Write the change, in one transaction; False when others wrote meanwhile."""
        now, reservation = datetime.now(UTC), change.reservation
        day = reservation.day if reservation else f"{now:%Y-%m-%d}"
        writes = [self._mark(session_key, turn_id, change, now)]
        writes += [self._sum(key, now, change, reservation) for key in keys_of(session_key, day).values()]
        if "session_id" in change.item and change.models:
            key = (session_key, session_sort_key(change.item["session_id"]["S"]))
            writes.append(self._sum(key, now, change, None))
        if reservation is not None:
            writes.append({"Delete": {
                "TableName": self._table,
                "Key": aws.item_key(ALL, _reserved(session_key, turn_id)),
                "ConditionExpression": "id = :id",
                "ExpressionAttributeValues": {":id": {"S": reservation.id}},
            }})  # fmt: skip
        done = aws.transacted(self._dynamodb, writes)
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
                "Key": aws.item_key(session_key, f"turn#{turn_id}"),
                "UpdateExpression": ", ".join(
                    ["SET #ttl = if_not_exists(#ttl, :ttl)", *(f"#{n} = :{n}" for n in range(len(runs)))]
                )
                + " ADD ledger :one, granted_usd :granted",
                "ConditionExpression": "ledger = :seen" if seen else "attribute_not_exists(ledger)",
                "ExpressionAttributeNames": {"#ttl": "ttl", **{f"#{n}": SPENT + run for n, run in enumerate(runs)}},
                "ExpressionAttributeValues": {
                    **{f":{n}": number(change.counted[run]) for n, run in enumerate(runs)},
                    **({":seen": seen} if seen else {}),
                    ":one": {"N": "1"},
                    ":granted": number(granted),
                    ":ttl": expiry(now),
                },
            }
        }

    def _sum(self, key: tuple[str, str], now: datetime, change: Change, reservation: Reservation | None) -> Any:
        """Add what is new to a sum, and take back what is reserved there."""
        released = reservation.usd if reservation else Decimal()
        first = None if _runs(change.item) else next(iter(change.models), None)
        adds = ["cost_usd :cost", "reserved_usd :reserved", "turns :turn"]
        values = {":cost": number(change.new - released), ":reserved": number(-released)}
        values |= {":turn": {"N": "1" if first else "0"}, ":ttl": expiry(now)}
        names = {"#ttl": "ttl"}
        for n, (model, usd) in enumerate(change.models.items()):
            adds += [f"#cost{n} :cost{n}", f"#turns{n} :turns{n}"]
            names |= {f"#cost{n}": MODEL_COST + model, f"#turns{n}": MODEL_TURNS + model}
            values |= {f":cost{n}": number(usd), f":turns{n}": {"N": "1" if model == first else "0"}}
        return {
            "Update": {
                "TableName": self._table,
                "Key": aws.item_key(*key),
                "UpdateExpression": f"SET #ttl = :ttl ADD {', '.join(adds)}",
                "ExpressionAttributeNames": names,
                "ExpressionAttributeValues": values,
            }
        }

    def _take(self, session_key: str, turn_id: str, run: int, granted: Decimal, limits: Limits, now: datetime) -> bool:
        """Write the reservation; False when less is left than was read, or others wrote meanwhile."""
        seconds, taken = int(now.timestamp()), {":taken": number(granted)}
        item = {"id": {"S": uuid.uuid4().hex}, "usd": taken[":taken"], "day": {"S": f"{now:%Y-%m-%d}"}}
        item |= {
            "run": {"N": str(run)},
            "at": {"N": str(seconds)},
            "turn": {"S": turn_id},
            "chat": {"S": session_key},
            "ttl": expiry(now),
        }
        writes: list[Any] = [{"Put": {
            "TableName": self._table,
            "Item": {**aws.item_key(ALL, _reserved(session_key, turn_id)), **item},
            "ConditionExpression": "attribute_not_exists(pk)",
        }}]  # fmt: skip
        for which, key in keys_of(session_key, f"{now:%Y-%m-%d}").items():
            limit: dict[str, Any] = {}
            values = {**taken, ":ttl": expiry(now)}
            if limits[which]:
                limit["ConditionExpression"] = "attribute_not_exists(cost_usd) OR cost_usd <= :room"
                values[":room"] = number(dollars(limits[which]) - granted)
            writes.append({"Update": {
                "TableName": self._table,
                "Key": aws.item_key(*key),
                "UpdateExpression": "SET #ttl = :ttl ADD cost_usd :taken, reserved_usd :taken",
                "ExpressionAttributeNames": {"#ttl": "ttl"},
                "ExpressionAttributeValues": values,
                **limit,
            }})  # fmt: skip
        return aws.transacted(self._dynamodb, writes)

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


def reserve(settings: ReserveSettings, session_key: str, turn_id: str, run: int, wanted_usd: float) -> float:
    """Take what a turn's run may spend off what is left, before it starts; returns how much, in US dollars.

    Without limits nothing is written (`granted_unlimited`). Raises BudgetSpent, BudgetReserved, AwsUnavailable.
    """
    limits = limits_of(settings)
    if not any(limits.values()):
        return wanted_usd
    return Ledger.of(settings).reserve(session_key, turn_id, run, wanted_usd, limits)


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
    run = int(item["run"]["N"]) if "run" in item else 0  # one from before runs were told apart
    return Reservation(item["id"]["S"], run, Decimal(item["usd"]["N"]), item["day"]["S"], int(item["at"]["N"]))


def _runs(item: dict[str, Any]) -> dict[str, Decimal]:
    """What is counted of each run of a turn, by the turn's item."""
    return {name.removeprefix(SPENT): amount(item, name) for name in item if name.startswith(SPENT)}
