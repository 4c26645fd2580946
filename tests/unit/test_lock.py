"""The lock: every interleaving of a few turns, then long random runs of the real table with many writers."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable

import pytest

from functions.common.errors import LockContended, LockLost, TooManyWaiting
from functions.conversation import lock as rules
from functions.conversation.lock import (
    MAX_WAITERS,
    Acquire,
    Announce,
    Announcement,
    Claim,
    Effect,
    Ended,
    Event,
    Grant,
    Held,
    Lock,
    Release,
    Remind,
    transition,
)
from functions.conversation.lock_table import LockTable
from stepgram.embedded.client import client
from stepgram.embedded.stack import EmbeddedStack
from tests.unit.lock_model import Model, Violation, explore

ARN = "arn:aws:states:us-east-1:123456789012:execution:stepgram-turn:"


def claim(order: int, redrive: int = 0, retry: int = 0, turn: str | None = None) -> Claim:
    name = turn or f"turn{order}"
    sequence = (redrive, "2026-11-21T00:00:00.000Z", retry)
    token = f"{name}.{redrive}.{retry}"
    return Claim(turn_id=name, order=(order, order), sequence=sequence, token=token, execution_arn=ARN + name)


def after(lock: Lock, *events: Event) -> tuple[Lock, tuple[Effect, ...]]:
    effects: tuple[Effect, ...] = ()
    for event in events:
        lock, effects = transition(lock, event)
    return lock, effects


def release(order: int, redrive: int = 0) -> Release:
    return Release(turn_id=f"turn{order}", redrive_count=redrive)


def test_a_free_lock_is_granted_at_once() -> None:
    lock, effects = after(Lock(), Acquire(claim=claim(1)))

    assert lock.owner == claim(1)
    assert effects == (Grant(turn_id="turn1", token="turn1.0.0", held=Held(fence=1)),)


def test_waiters_are_served_in_the_order_people_wrote() -> None:
    lock, _ = after(Lock(), *(Acquire(claim=claim(n)) for n in (1, 4, 2, 3)))

    served = []
    for _ in range(3):
        assert lock.owner is not None
        lock, effects = after(lock, Release(turn_id=lock.owner.turn_id, redrive_count=0))
        served.append(effects[0].turn_id)
    assert served == ["turn2", "turn3", "turn4"]
    assert lock.fence == 4


def test_a_later_turn_does_not_overtake_one_that_is_announced() -> None:
    first = Announcement(turn_id="turn1", order=(1, 1))
    lock, effects = after(Lock(), Announce(announcement=first), Acquire(claim=claim(2)))

    granted, told = after(lock, Acquire(claim=claim(1)))

    assert (lock.owner, effects) == (None, ())
    assert granted.owner == claim(1)
    assert [effect.turn_id for effect in told] == ["turn1"]


def test_an_announced_turn_that_ended_holds_nobody_up() -> None:
    first = Announcement(turn_id="turn1", order=(1, 1))
    gone = (Ended(turn_id="turn1", redrive_count=0),)

    lock, _ = after(Lock(), Announce(announcement=first), Acquire(claim=claim(2), ended=gone))

    assert (lock.owner, lock.announced) == (claim(2), ())


def test_a_repeated_acquire_reminds_and_a_new_try_is_granted_anew() -> None:
    lock, repeated = after(Lock(), Acquire(claim=claim(1)), Acquire(claim=claim(1)))
    newer, again = after(lock, Acquire(claim=claim(1, retry=1)))
    _, late = after(newer, Acquire(claim=claim(1)))

    assert repeated == (Remind(turn_id="turn1", token="turn1.0.0", held=Held(fence=1)),)
    assert again == (Grant(turn_id="turn1", token="turn1.0.1", held=Held(fence=2)),)
    assert late == (Remind(turn_id="turn1", token="turn1.0.1", held=Held(fence=2)),)


def test_a_late_release_does_not_touch_what_a_redrive_acquired() -> None:
    lock, _ = after(Lock(), Acquire(claim=claim(1, redrive=1)))

    kept, _ = after(lock, release(1, redrive=0))
    freed, _ = after(lock, release(1, redrive=1))

    assert (kept.owner, freed.owner) == (claim(1, redrive=1), None)


def test_a_redriven_execution_does_not_hold_what_it_acquired_before() -> None:
    held = Held(fence=3, redrive_count=1)

    held.check(1)
    with pytest.raises(LockLost, match="redriven"):
        held.check(2)


def test_a_full_queue_refuses_and_keeps_those_who_wait() -> None:
    lock, _ = after(Lock(), *(Acquire(claim=claim(n)) for n in range(MAX_WAITERS + 1)))

    with pytest.raises(TooManyWaiting, match="64 messages are waiting"):
        transition(lock, Acquire(claim=claim(1000)))
    again, _ = after(lock, Acquire(claim=claim(5, retry=1)))
    assert len(again.waiters) == MAX_WAITERS


def test_the_fullest_item_is_under_half_of_dynamodbs_limit() -> None:
    long = claim(1).model_copy(update={"token": "t" * 2048, "turn_id": "c" * 80, "execution_arn": "a" * 256})
    lock = Lock(owner=long, waiters=(long,) * MAX_WAITERS)

    assert len(lock.model_dump_json()) < 200 * 1024


# -------------------------------------------------------------------- every interleaving


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("turns", "faults", "least"), [(2, 1, 16_000), (3, 0, 3_000), (3, 1, 1_300_000)])
def test_no_interleaving_breaks_the_lock(
    turns: int, faults: int, least: int, capsys: pytest.CaptureFixture[str]
) -> None:
    report = explore(Model(turns=turns, faults=faults))

    with capsys.disabled():
        visited = f"{report.worlds:,} states, {report.steps:,} transitions"
        sys.stdout.write(f"{turns} turns, {faults} faults: {visited}\n")
    assert report.worlds >= least


def broken(name: str, original: Callable[..., object], mended: Callable[..., object]) -> Callable[..., object]:
    """The rules with one function of the module replaced."""

    def run(lock: Lock, event: Event) -> tuple[Lock, tuple[Effect, ...]]:
        setattr(rules, name, mended)
        try:
            return transition(lock, event)
        finally:
            setattr(rules, name, original)

    return run


def ignores_the_redrive(lock: Lock, *ended: Ended) -> Lock:
    return _forget(lock, *(one.model_copy(update={"redrive_count": 99}) for one in ended))


def keeps_the_fence(lock: Lock, one: Claim) -> tuple[Lock, tuple[Effect, ...]]:
    granted, effects = _grant(lock, one)
    return granted.model_copy(update={"fence": max(1, lock.fence)}), effects


def overlooks_announcements(lock: Lock, own: Claim | None = None) -> set[str]:
    return set() if own is None else _in_the_way(lock, own)


def lets_the_last_go_first(lock: Lock, own: Claim) -> tuple[Lock, tuple[Effect, ...]]:
    if lock.waiters and lock.waiters[-1].order > own.order:
        last, rest = lock.waiters[-1], (*lock.waiters[:-1], own)
        return _grant(lock.model_copy(update={"waiters": rest}), last)
    return _grant(lock, own)


_forget, _grant, _in_the_way = rules._forget, rules._grant, rules.in_the_way


@pytest.mark.parametrize(
    ("name", "mutant", "faults", "finding"),
    [
        ("_forget", ignores_the_redrive, 1, "is inside, but the lock says"),
        ("_grant", keeps_the_fence, 0, "inside"),
        ("in_the_way", overlooks_announcements, 0, "overtook"),
        ("_grant", lets_the_last_go_first, 0, "overtook"),
    ],
)
def test_the_check_finds_a_broken_line(name: str, mutant: Callable[..., object], faults: int, finding: str) -> None:
    with pytest.raises(Violation, match=finding):
        explore(Model(broken(name, getattr(rules, name), mutant), turns=3, faults=faults))  # type: ignore[arg-type]


# -------------------------------------------------------------------- the table


@pytest.fixture
def locks(stack: EmbeddedStack) -> LockTable:
    endpoint = stack.addresses.aws
    table = stack.deployment.outputs["SessionTable"]
    return LockTable(table, client("dynamodb", endpoint), client("stepfunctions", endpoint))


def test_the_intakes_announcement_is_read_and_survives_other_writes(locks: LockTable, chat: int) -> None:
    key = f"{chat}:0"
    locks._dynamodb.update_item(
        TableName=locks._table,
        Key={"pk": {"S": key}, "sk": {"S": "lock"}},
        UpdateExpression="SET #turn = :order ADD version :one",
        ExpressionAttributeNames={"#turn": "announced turn1"},
        ExpressionAttributeValues={":order": {"L": [{"N": "1"}, {"N": "7"}]}, ":one": {"N": "1"}},
    )

    lock, version = locks.read(key)
    assert locks._write(key, lock.model_copy(update={"fence": 3}), version)

    again, _ = locks.read(key)
    assert again == Lock(fence=3, announced=(Announcement(turn_id="turn1", order=(1, 7)),))


def test_a_write_after_somebody_elses_fails(locks: LockTable, chat: int) -> None:
    key = f"{chat}:0"
    assert locks._write(key, Lock(fence=1), 0)

    assert not locks._write(key, Lock(fence=2), 0)
    assert not locks._write(key, Lock(fence=2), 5)
    assert locks._write(key, Lock(fence=2), 1)


def test_a_lock_that_always_changes_is_given_up_by_name(
    locks: LockTable, chat: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LockTable, "_write", lambda *_: False)

    with pytest.raises(LockContended):
        locks.acquire(f"{chat}:0", claim(1))


def test_many_writers_at_once_lose_nobody(locks: LockTable, chat: int) -> None:
    """Nobody waits for these tokens and no such executions exist, so each turn is released as soon as it is told."""
    key, failures = f"{chat}:0", []

    def take_part(order: int) -> None:
        try:
            locks.acquire(key, claim(order, turn=f"c{chat}-t0-u{order}"))
            locks.release(key, f"c{chat}-t0-u{order}", 0)
        except (LockContended, AssertionError) as error:
            failures.append(error)

    threads = [threading.Thread(target=take_part, args=(order,)) for order in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    lock, version = locks.read(key)
    assert failures == []
    assert (lock.owner, lock.waiters) == (None, ())
    assert 1 <= lock.fence <= version


def test_the_item_holds_what_persist_checks(locks: LockTable, chat: int) -> None:
    key = f"{chat}:0"
    owned, _ = transition(Lock(), Acquire(claim=claim(1)))
    locks._write(key, owned, 0)

    item = locks._dynamodb.get_item(TableName=locks._table, Key={"pk": {"S": key}, "sk": {"S": "lock"}})["Item"]

    assert (item["owner"], item["fence"]) == ({"S": "turn1"}, {"N": "1"})
    assert "announced" not in json.loads(item["lock"]["S"])
