"""The lock: one turn at a time per conversation, in the order people wrote, without polling.

The rules are one pure function, `transition(lock, event) -> (lock, effects)`; `lock_table.py` beside it writes
its result by compare-and-set and carries out the effects. `tests/unit/test_lock.py` visits every interleaving of a few
turns that announce, acquire, release, die, are redriven and are told late, twice or never.

A turn is *announced* before its execution starts, so a later one cannot overtake it. In AcquireLock it leaves a
*claim* with its task token: it owns the lock, or waits and sleeps at no cost until its token is answered.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from functions.common.errors import LockLost, TooManyWaiting

Order = tuple[int, int]
"""(Telegram message_id, update_id): the order in which people wrote."""

Sequence = tuple[int, str, int]
"""(redrive count of the execution, when it entered AcquireLock, retries there): a larger one is a later try."""

MAX_WAITERS = 64
"""Turns that may wait in one conversation. A claim is at most 2.5 KB (task tokens have up to 2,048 characters), so the
item stays under half of DynamoDB's 400 KB."""


class Frozen(BaseModel):
    """A value that is compared and stored, never changed."""

    model_config = ConfigDict(frozen=True)


class Announcement(Frozen):
    """A turn that will come to AcquireLock, since its execution is about to start."""

    turn_id: str
    order: Order


class Claim(Frozen):
    """A turn that owns the lock or waits for it, by the task token of its latest try."""

    turn_id: str
    order: Order
    sequence: Sequence
    token: str
    execution_arn: str


class Approval(Frozen):
    """A question that is open: part `number` of the owner waits to use `tool`; `user_id` wrote the message."""

    turn_id: str
    number: int
    token: str
    user_id: int
    tool: str


class Lock(Frozen):
    """The lock item of one conversation. `fence` grows by one at every grant and never shrinks."""

    owner: Claim | None = None
    fence: int = 0
    waiters: tuple[Claim, ...] = ()
    announced: tuple[Announcement, ...] = ()
    approval: Approval | None = None

    def before(self, turn_id: str) -> int:
        """How many turns come before this one; 0 for the owner."""
        claim = next((waiter for waiter in self.waiters if waiter.turn_id == turn_id), None)
        if claim is None:
            return 0
        waiters = sum(waiter.order < claim.order for waiter in self.waiters)
        return (self.owner is not None) + waiters + len(_earlier(self, claim))


class Held(Frozen):
    """What an owner is told: its fence, and the redrive count of the execution that was told."""

    fence: int
    redrive_count: int = 0
    granted_at: str | None = None

    def check(self, redrive_count: int) -> None:
        """Raise LockLost when the execution was redriven since: what ended it has released the lock."""
        if redrive_count > self.redrive_count:
            raise LockLost(f"redriven ({redrive_count}) since it acquired the lock ({self.redrive_count})")


class Ended(Frozen):
    """An execution known to have ended, up to this redrive count."""

    turn_id: str
    redrive_count: int


class Announce(Frozen):
    """A turn is about to start. The Intake writes this itself, as one attribute of the item."""

    announcement: Announcement


class Acquire(Frozen):
    """A turn wants the lock. `ended` names others that stand in its way and are known to have ended."""

    claim: Claim
    ended: tuple[Ended, ...] = ()


class Release(Frozen):
    """A turn is done with the lock, or with waiting for it, up to this redrive count of its execution.

    `ended` names others that stand in the first waiter's way and are known to have ended.
    """

    turn_id: str
    redrive_count: int
    ended: tuple[Ended, ...] = ()


class Grant(Frozen):
    """Tell a turn that it owns the lock.

    A dead token does not mean that nobody owns it: a Remind may have been faster, or the turn is between two tries and
    its next one is granted anew. Only an execution that has ended is taken for gone.
    """

    turn_id: str
    token: str
    held: Held


class Remind(Frozen):
    """Tell the owner again, in case whoever granted died before it told; mostly it knows, and its token is dead."""

    turn_id: str
    token: str
    held: Held


Event = Announce | Acquire | Release
Effect = Grant | Remind


def transition(lock: Lock, event: Event) -> tuple[Lock, tuple[Effect, ...]]:
    """The lock after `event`, and whom to tell. Raises TooManyWaiting when the queue is full."""
    match event:
        case Announce(announcement=announcement):
            return _announce(lock, announcement), ()
        case Acquire(claim=claim, ended=ended):
            return _acquire(lock, claim, ended)
        case Release(turn_id=turn_id, redrive_count=redrive_count, ended=ended):
            return _settle(_forget(lock, Ended(turn_id=turn_id, redrive_count=redrive_count), *ended))


def claim_of(lock: Lock, turn_id: str) -> Claim | None:
    """The claim of a turn, whether it owns or waits."""
    claims = [*lock.waiters, *([lock.owner] if lock.owner else [])]
    return next((claim for claim in claims if claim.turn_id == turn_id), None)


def in_the_way(lock: Lock, claim: Claim | None = None) -> set[str]:
    """The turns that keep `claim`, or the first waiter, from the lock: whether they have ended is worth asking."""
    wanting = claim or (lock.waiters[0] if lock.waiters else None)
    if wanting is None:
        return set()
    owner = {lock.owner.turn_id} if lock.owner else set()
    return (owner | _earlier(lock, wanting)) - {wanting.turn_id}


def _earlier(lock: Lock, claim: Claim) -> set[str]:
    return {one.turn_id for one in lock.announced if one.order < claim.order}


def _announce(lock: Lock, announcement: Announcement) -> Lock:
    if announcement in lock.announced or claim_of(lock, announcement.turn_id) is not None:
        return lock
    return lock.model_copy(update={"announced": (*lock.announced, announcement)})


def _acquire(lock: Lock, claim: Claim, ended: tuple[Ended, ...]) -> tuple[Lock, tuple[Effect, ...]]:
    lock = _forget(lock, *ended)
    lock = lock.model_copy(update={"announced": _others(lock.announced, claim.turn_id)})
    known = claim_of(lock, claim.turn_id)
    if known is not None and known.sequence >= claim.sequence:
        return _settle(lock)
    if lock.owner is not None and known is lock.owner:
        return _grant(lock, claim)
    if known is None and len(lock.waiters) >= MAX_WAITERS:
        raise TooManyWaiting(f"{len(lock.waiters)} messages are waiting in this conversation")
    waiters = sorted((*_others(lock.waiters, claim.turn_id), claim), key=lambda waiter: waiter.order)
    return _settle(lock.model_copy(update={"waiters": tuple(waiters)}))


def _forget(lock: Lock, *ended: Ended) -> Lock:
    """Drop what ended executions left; a claim of a later redrive stays."""
    for one in ended:
        claim = claim_of(lock, one.turn_id)
        update: dict[str, object] = {"announced": _others(lock.announced, one.turn_id)}
        if claim is not None and claim.sequence[0] <= one.redrive_count:
            update["waiters"] = _others(lock.waiters, one.turn_id)
            update["owner"] = None if claim is lock.owner else lock.owner
        lock = lock.model_copy(update=update)
    return lock


def _settle(lock: Lock) -> tuple[Lock, tuple[Effect, ...]]:
    """Give a free lock to the first waiter, unless an earlier turn is still on its way."""
    if lock.owner is not None:
        return lock, (_tell(Remind, lock.owner, lock.fence),)
    if not lock.waiters or in_the_way(lock):
        return lock, ()
    return _grant(lock.model_copy(update={"waiters": lock.waiters[1:]}), lock.waiters[0])


def _grant(lock: Lock, claim: Claim) -> tuple[Lock, tuple[Effect, ...]]:
    owned = lock.model_copy(update={"owner": claim, "fence": lock.fence + 1})
    return owned, (_tell(Grant, claim, owned.fence),)


def _tell(effect: type[Grant] | type[Remind], claim: Claim, fence: int) -> Effect:
    held = Held(fence=fence, redrive_count=claim.sequence[0])
    return effect(turn_id=claim.turn_id, token=claim.token, held=held)


Entry = TypeVar("Entry", Claim, Announcement)


def _others(entries: tuple[Entry, ...], turn_id: str) -> tuple[Entry, ...]:
    return tuple(entry for entry in entries if entry.turn_id != turn_id)
