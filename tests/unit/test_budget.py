"""The ledger: what is reserved and spent never exceeds a limit, and in the end what is counted is what was spent."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, ClassVar, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from functions.common.errors import AwsUnavailable, BudgetReserved, BudgetSpent, SnapshotMissing
from functions.common.settings import ReserveSettings
from functions.conversation import budget, ledger
from functions.conversation.budget import ALL, Limits, Spent, grant
from functions.conversation.files.documents import RunCost, cost_key
from functions.conversation.ledger import Ledger
from stepgram.embedded.client import client
from stepgram.embedded.stack import EmbeddedStack

CHAT, TURN = "5:0", "c5-t0-u1"
OPUS = "global.anthropic.claude-opus-5-5"
NO_LIMITS: Limits = {("chat", "day"): 0, ("chat", "month"): 0, ("all", "day"): 0, ("all", "month"): 0}
_tables = itertools.count()


class Records:
    """The bucket: what the runs of turns say they have cost."""

    def __init__(self) -> None:
        self.costs: dict[str, RunCost] = {}

    def say(self, turn: str, run: int, cost_usd: float, model: str = OPUS) -> None:
        self.costs[cost_key("s", turn, run)] = RunCost(model=model, cost_usd=cost_usd)

    def read(self, key: str, model: Any) -> RunCost:
        if key not in self.costs:
            raise SnapshotMissing(key)
        return self.costs[key]


class Clock(datetime):
    """A clock that a test moves."""

    ahead: ClassVar[timedelta] = timedelta()

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return datetime.now(UTC) + cls.ahead


class Calls:
    """A client before whose chosen call something else happens."""

    def __init__(self, dynamodb: Any) -> None:
        self._dynamodb = dynamodb
        self.until: int | None = None
        self.then: Callable[[], Any] = lambda: None

    def __getattr__(self, operation: str) -> Any:
        if self.until is not None:
            self.until -= 1
            if self.until < 0:
                self.until = None
                self.then()
        return getattr(self._dynamodb, operation)


class Books:
    """A ledger in a table of its own."""

    def __init__(self, dynamodb: Any) -> None:
        self.table = f"ledger-{next(_tables)}"
        keys = ("pk", "HASH"), ("sk", "RANGE")
        dynamodb.create_table(
            TableName=self.table,
            KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in keys],
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name, _ in keys],
            BillingMode="PAY_PER_REQUEST",
        )
        self.calls = Calls(dynamodb)
        self.records = Records()
        self.ledger = Ledger(self.table, cast(Any, self.calls), cast(Any, self.records))
        self._dynamodb = dynamodb

    def turn(self, chat: str, turn: str, **more: Any) -> None:
        """The turn's item, as Hydrate leaves it."""
        key = {"pk": {"S": chat}, "sk": {"S": f"turn#{turn}"}}
        self._dynamodb.put_item(TableName=self.table, Item={**key, "session_id": {"S": "s"}, **more})

    def begin(self, chat: str, turn: str, wanted: float, limits: Limits) -> float:
        """A run of the turn begins, and wants to spend so much."""
        return self.ledger.reserve(chat, turn, self.number(chat, turn), wanted, limits)

    def number(self, chat: str, turn: str) -> int:
        """A run of the turn begins; its number."""
        answer = self._dynamodb.update_item(
            TableName=self.table,
            Key={"pk": {"S": chat}, "sk": {"S": f"turn#{turn}"}},
            UpdateExpression="ADD runs :one",
            ExpressionAttributeValues={":one": {"N": "1"}},
            ReturnValues="ALL_NEW",
        )
        return int(answer["Attributes"]["runs"]["N"])

    def items(self, prefix: str = "") -> list[dict[str, Any]]:
        """All there is of a kind."""
        found = self._dynamodb.scan(TableName=self.table)["Items"]
        return [item for item in found if item["sk"]["S"].startswith(prefix)]

    def reserved(self, items: list[dict[str, Any]] | None = None) -> dict[str, Decimal]:
        """What each turn has now."""
        held = [item for item in items or self.items() if item["sk"]["S"].startswith("reserved#")]
        return {item["turn"]["S"]: Decimal(item["usd"]["N"]) for item in held}

    def sums(self, partition: str, items: list[dict[str, Any]] | None = None) -> dict[str, tuple[Decimal, Decimal]]:
        """What is taken, and of that reserved, by day and month."""
        return {
            item["sk"]["S"].removeprefix("spend#"): (Decimal(item["cost_usd"]["N"]), Decimal(item["reserved_usd"]["N"]))
            for item in items or self.items()
            if item["pk"]["S"] == partition and item["sk"]["S"].startswith("spend#20")
        }

    def spent(self, partition: str = ALL) -> Decimal:
        """What was spent this month and before."""
        return sum((cost - held for key, (cost, held) in self.sums(partition).items() if len(key) == 7), Decimal())


@pytest.fixture
def books(stack: EmbeddedStack, monkeypatch: pytest.MonkeyPatch) -> Books:
    for module in (budget, ledger):
        monkeypatch.setattr(module, "datetime", Clock)
    monkeypatch.setattr(Clock, "ahead", timedelta())
    return Books(client("dynamodb", stack.addresses.aws))


class Money(RuleBasedStateMachine):
    """Turns of three chats: they start, start again, spend, wait, end and never come back, and two things at once."""

    dynamodb: ClassVar[Any] = None
    LIMITS: ClassVar[Limits] = {("chat", "day"): 0.7, ("chat", "month"): 0, ("all", "day"): 1, ("all", "month"): 2.5}

    def __init__(self) -> None:
        super().__init__()
        Clock.ahead = timedelta()
        self.books = Books(self.dynamodb)
        self.granted: dict[str, Decimal] = {}
        self.turns: list[str] = []
        self.runs: dict[str, int] = {}

    def _reserve(self, turn: str, wanted: float) -> None:
        self.granted.pop(turn, None)
        try:
            self.runs[turn] = self.books.number(self._chat(turn), turn)
            granted = self.books.ledger.reserve(self._chat(turn), turn, self.runs[turn], wanted, self.LIMITS)
        except (BudgetSpent, BudgetReserved):
            return
        self.granted[turn] = Decimal(str(granted))

    def _chat(self, turn: str) -> str:
        return f"{turn[4]}:0"

    def _happens(self, kind: str, choice: int) -> None:
        wanted = (0.1, 0.4, 0.5, 3.0)[choice % 4]
        if kind == "message":
            turn = f"turn{choice % 3}-{len(self.turns)}"
            self.turns.append(turn)
            self.books.turn(self._chat(turn), turn)
            self._reserve(turn, wanted)
        elif kind == "midnight":
            Clock.ahead += timedelta(days=1)
        elif self.turns:
            turn = self.turns[choice % len(self.turns)]
            if kind == "again":
                self._reserve(turn, wanted)
            elif kind == "spend" and turn in self.granted:
                share = (Decimal(0), Decimal("0.3"), Decimal(1))[choice % 3]
                self.books.records.say(turn, self.runs[turn], float(self.granted.pop(turn) * share))
            elif kind == "settle":
                self.granted.pop(turn, None)
                self.books.ledger.settle(self._chat(turn), turn)

    KINDS = st.sampled_from(["message", "message", "again", "spend", "spend", "settle", "midnight"])

    @rule(kind=KINDS, choice=st.integers(0, 11))
    def one_thing_happens(self, kind: str, choice: int) -> None:
        self._happens(kind, choice)

    @rule(
        kinds=st.tuples(KINDS, KINDS), choices=st.tuples(st.integers(0, 11), st.integers(0, 11)), at=st.integers(0, 9)
    )
    def two_things_happen_at_once(self, kinds: tuple[str, str], choices: tuple[int, int], at: int) -> None:
        self.books.calls.until, self.books.calls.then = at, lambda: self._happens(kinds[1], choices[1])
        self._happens(kinds[0], choices[0])
        self.books.calls.until = None

    @invariant()
    def nothing_is_taken_twice(self) -> None:
        items = self.books.items()
        held = self.books.reserved(items)
        for partition in (ALL, "0:0", "1:0", "2:0"):
            standing = sum((usd for turn, usd in held.items() if partition in (ALL, self._chat(turn))), Decimal())
            found = self.books.sums(partition, items)
            for period in (7, 10):  # months and days
                assert sum((h for key, (_, h) in found.items() if len(key) == period), Decimal()) == standing
            for key, (cost, _) in found.items():
                which: Any = ("all" if partition == ALL else "chat", "month" if len(key) == 7 else "day")
                assert cost <= Decimal(str(self.LIMITS[which] or 99)), f"{partition} {key}"

    def teardown(self) -> None:
        """Every turn ends: nothing is reserved, and what is counted is what was spent."""
        for turn in self.turns:
            self.books.ledger.settle(self._chat(turn), turn)
        assert self.books.reserved() == {}
        said = {key: Decimal(str(cost.cost_usd)) for key, cost in self.books.records.costs.items()}
        for chat in ("0", "1", "2"):
            assert self.books.spent(f"{chat}:0") == sum(
                (c for key, c in said.items() if f"/turn{chat}-" in key), Decimal()
            )
        assert self.books.spent() == sum(said.values())


@pytest.mark.timeout(900)
def test_long_random_runs_never_take_more_than_there_is(books: Books, stack: EmbeddedStack) -> None:
    Money.dynamodb = client("dynamodb", stack.addresses.aws)

    run_state_machine_as_test(
        Money,
        settings=settings(
            max_examples=15,
            stateful_step_count=20,
            deadline=timedelta(seconds=60),
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize(("first", "second"), itertools.product(("reserve", "settle"), repeat=2))
def test_two_calls_for_one_turn_meet_anywhere(books: Books, held: bool, first: str, second: str) -> None:
    """A step and its retry, Persist and the rule on ended Turns: the second comes before any call of the first."""
    limits = {**NO_LIMITS, ("all", "day"): 1000.0}
    for at in range(12):
        chat, turn = f"{at}:0", f"c{at}-t0-u1"
        what: dict[str, Callable[[], Any]] = {
            "reserve": partial(books.ledger.reserve, chat, turn, 2, 0.2, limits),
            "settle": partial(books.ledger.settle, chat, turn),
        }
        books.turn(chat, turn, granted_usd={"N": "0" if held else "0.1"})
        run = books.number(chat, turn)
        if held:
            books.ledger.reserve(chat, turn, run, 0.1, limits)
        books.records.say(turn, run, 0.05)
        books.calls.until, books.calls.then = at, what[second]
        what[first]()
        books.calls.until = None

        standing = books.reserved().get(turn, Decimal())
        assert set(books.sums(chat).values()) == {(Decimal("0.05") + standing, standing)}, f"at {at}"


def test_twenty_chats_at_once_do_not_spend_what_is_left_many_times(books: Books) -> None:
    """With a dollar left and runs of 40 cents two begin; the others wait, and go on with what those left."""
    limits = {**NO_LIMITS, ("all", "day"): 1.0}
    turns = [(f"{chat}:0", f"c{chat}-t0-u1") for chat in range(20)]
    for chat, turn in turns:
        books.turn(chat, turn)

    def begin(place: tuple[str, str]) -> str:
        try:
            return f"{books.begin(*place, 0.4, limits):.2f}"
        except (BudgetReserved, BudgetSpent) as error:
            return type(error).__name__

    with ThreadPoolExecutor(20) as pool:
        first = list(pool.map(begin, turns))

    assert sorted(first) == ["0.40"] * 2 + ["BudgetReserved"] * 18

    for place, granted in zip(turns, first, strict=True):
        if granted == "0.40":
            books.records.say(place[1], 1, 0.3)
            books.ledger.settle(*place)
    waiting = [place for place, granted in zip(turns, first, strict=True) if granted != "0.40"]

    assert begin(waiting[0]) == "0.40"
    assert begin(waiting[1]) == "BudgetReserved", "no 40 cents are left beside it"
    books.records.say(waiting[0][1], 1, 0.35)
    books.ledger.settle(*waiting[0])
    assert begin(waiting[1]) == "0.05", "nobody is at work who could leave more"
    books.records.say(waiting[1][1], 1, 0.05)
    books.ledger.settle(*waiting[1])
    assert begin(waiting[2]) == "BudgetSpent"
    assert books.spent() == Decimal("1.00")


def test_without_limits_nothing_is_read_or_written() -> None:
    none = ReserveSettings(
        table="none", bucket="none", daily_usd=0, monthly_usd=0, chat_daily_usd=0, chat_monthly_usd=0
    )

    assert ledger.reserve(none, CHAT, TURN, 1, 5.0) == 5.0


def reserve(books: Books, wanted: float = 0.5, **item: Any) -> float:
    books.turn(CHAT, TURN, **item)
    return books.begin(CHAT, TURN, wanted, {**NO_LIMITS, ("all", "day"): 1.0})


def test_a_run_that_comes_again_reserves_once(books: Books) -> None:
    assert [reserve(books) for _ in range(3)] == [0.5] * 3

    assert books.reserved() == {TURN: Decimal("0.5")}


def test_a_turn_whose_answer_is_committed_reserves_nothing(books: Books) -> None:
    assert reserve(books, version={"N": "3"}) == 0.0

    assert books.reserved() == {}


def test_what_was_reserved_before_midnight_is_counted_there(books: Books) -> None:
    """Else the new day, whose money others may have by then, would hold more than its limit."""
    Clock.ahead = timedelta(days=1)
    reserve(books)
    Clock.ahead = timedelta(days=2)
    books.records.say(TURN, 1, 0.2)
    books.ledger.settle(CHAT, TURN)

    day = f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%d}"
    assert books.sums(ALL)[day] == books.sums(CHAT)[day] == (Decimal("0.2"), Decimal())
    assert f"{datetime.now(UTC) + timedelta(days=2):%Y-%m-%d}" not in books.sums(ALL)


@pytest.mark.parametrize(
    ("answered", "item", "seconds", "recorded", "counted"),
    [
        (True, {}, 0, None, "0.5"),
        (True, {}, 0, 0.0, "0.5"),
        (True, {}, 0, 0.01, "0.01"),
        (True, {"stop": {"N": "0"}}, 0, None, "0"),
        (False, {}, 0, None, "0"),
        (False, {}, 0, 0.0, "0"),
        (False, {}, 600, None, "0"),
        (False, {"run_claim": {"S": "x"}}, 10, None, "0"),
        (False, {"run_claim": {"S": "x"}}, 600, None, "0.5"),
    ],
)
def test_who_answers_or_works_for_long_cannot_have_cost_nothing(
    books: Books, answered: bool, item: Any, seconds: int, recorded: float | None, counted: str
) -> None:
    """A hostile agent records what it likes; a run that failed before its first request cost nothing indeed."""
    reserve(books, **item)
    Clock.ahead = timedelta(seconds=seconds)
    if recorded is not None:
        books.records.say(TURN, 1, recorded)

    assert books.ledger.settle(CHAT, TURN, answered) == float(counted)
    assert books.ledger.settle(CHAT, TURN, answered) == float(counted)
    assert books.spent() == Decimal(counted)
    assert books.reserved() == {}


def test_a_lie_fills_no_budget_of_others(books: Books) -> None:
    """More than was granted may be true by one request; thousands are not, whatever the models are called."""
    reserve(books)
    for run in range(150):
        books.records.say(TURN, run, 10_000, model=f"made-up-{run}")

    books.ledger.settle(CHAT, TURN)

    assert books.spent() == Decimal("1.5")
    assert books.reserved() == {}
    models = {name for item in books.items("spend#20") for name in item if name.startswith("cost ")}
    assert models == {"cost other"}


def test_the_model_is_called_by_its_own_name(books: Books) -> None:
    reserve(books)
    books.records.say(TURN, 1, 0.1, model=f"x-made-up-{'y' * 200}/{OPUS}")
    books.ledger.settle(CHAT, TURN)

    assert "cost claude-opus-5-5" in books.items("spend#20")[0]


def test_a_forgotten_reservation_is_settled_by_who_finds_too_little_left(books: Books) -> None:
    """Its turn died, and the rule on ended Turns never heard of it."""
    books.turn("6:0", "c6-t0-u1")
    books.begin("6:0", "c6-t0-u1", 0.9, {**NO_LIMITS, ("all", "month"): 1.0})
    books.records.say("c6-t0-u1", 1, 0.2)
    with pytest.raises(BudgetReserved):
        books.begin(CHAT, TURN, 0.5, {**NO_LIMITS, ("all", "month"): 1.0})
    Clock.ahead = timedelta(seconds=ledger.STALE_SECONDS + 1)

    assert books.begin(CHAT, TURN, 0.5, {**NO_LIMITS, ("all", "month"): 1.0}) == 0.5
    assert books.reserved() == {TURN: Decimal("0.5")}
    assert books.spent() == Decimal("0.2")


def test_a_sum_of_before_there_were_reservations_counts(books: Books) -> None:
    books.calls.update_item(
        TableName=books.table,
        Key={"pk": {"S": ALL}, "sk": {"S": f"spend#{datetime.now(UTC):%Y-%m-%d}"}},
        UpdateExpression="SET cost_usd = :cost",
        ExpressionAttributeValues={":cost": {"N": "0.8"}},
    )

    assert reserve(books) == 0.2
    books.turn("6:0", "c6-t0-u1")
    with pytest.raises(BudgetReserved):
        books.begin("6:0", "c6-t0-u1", 0.5, {**NO_LIMITS, ("all", "day"): 1.0})


@given(spent=st.floats(0, 3), limit=st.floats(0, 3), held=st.floats(0, 3), wanted=st.decimals("0.01", 5, places=6))
def test_what_is_granted_is_left(spent: float, limit: float, held: float, wanted: Decimal) -> None:
    one = Spent("all", "day", spent, limit, held)
    try:
        granted = grant([one], wanted)
    except (BudgetSpent, BudgetReserved):
        assert limit and one.left < wanted
        return

    assert 0 < granted <= min(wanted, one.left)


def test_a_busy_ledger_gives_up_in_time(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "COUNTING_SECONDS", 0.2)
    monkeypatch.setattr(ledger.aws, "transacted", lambda *given: False)
    began = time.monotonic()

    with pytest.raises(AwsUnavailable):
        reserve(books)

    assert time.monotonic() - began < 5


def test_what_was_granted_nothing_has_cost_nothing(books: Books) -> None:
    """The agent of an earlier turn knows the next ones' names."""
    for run in range(1, 100):
        books.records.say(TURN, run, 10_000)

    assert reserve(books) == 0.5
    assert books.spent() == 0
    assert books.ledger.settle(CHAT, "c5-t0-u2") == 0.0
    books.turn("6:0", "c6-t0-u1")
    assert books.begin("6:0", "c6-t0-u1", 0.5, {**NO_LIMITS, ("all", "day"): 1.0}) == 0.5


def test_records_that_nobody_numbered_hide_none(books: Books) -> None:
    reserve(books)
    for name in range(150):
        books.records.costs[f"sessions/s/turns/{TURN}/costs/!{name}.json"] = RunCost(model=OPUS, cost_usd=0)
    books.records.say(TURN, 1, 0.4)

    assert books.ledger.settle(CHAT, TURN) == 0.4


def test_a_run_that_recorded_nothing_counts_beside_one_that_did_and_not_twice(books: Books) -> None:
    """The second run answered and recorded nothing; its true record comes late."""
    reserve(books)
    books.records.say(TURN, 1, 0.000001)
    books.ledger.settle(CHAT, TURN)
    books.begin(CHAT, TURN, 0.3, {**NO_LIMITS, ("all", "day"): 1.0})

    assert books.ledger.settle(CHAT, TURN, answered=True) == 0.300001
    books.records.say(TURN, 2, 0.29)
    assert books.ledger.settle(CHAT, TURN) == 0.300001
    books.records.say(TURN, 2, 0.35)
    assert books.ledger.settle(CHAT, TURN) == 0.350001
    assert books.spent() == Decimal("0.350001")


def test_what_an_answer_can_cost_beyond_a_small_budget_is_counted(books: Books) -> None:
    reserve(books, 0.1)
    books.records.say(TURN, 1, 1.05)

    assert books.ledger.settle(CHAT, TURN) == 1.05


def test_a_reservation_of_before_runs_were_told_apart_counts_whole(books: Books) -> None:
    """Its record has another name, which nobody reads any more."""
    reserve(books)
    key = {"pk": {"S": ALL}, "sk": {"S": f"reserved#{CHAT}#{TURN}"}}
    books.calls.update_item(
        TableName=books.table, Key=key, UpdateExpression="REMOVE #run", ExpressionAttributeNames={"#run": "run"}
    )

    assert books.ledger.settle(CHAT, TURN, answered=True) == 0.5
    assert books.reserved() == {}
