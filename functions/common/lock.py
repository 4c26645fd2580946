"""The lock: one turn at a time per conversation, in order, without polling.

The rules are one pure function, `transition(lock, event) -> (lock, effects)`. `functions/common/lock_table.py`
writes its result by compare-and-set and carries out the effects. A turn that must wait leaves its task token in
`waiters` and sleeps in its execution at no cost; whoever releases hands over to the lowest order.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

Order = tuple[int, int]
"""(Telegram message_id, update_id): the order in which people wrote."""


class Frozen(BaseModel):
    """A value that is compared and stored, never changed."""

    model_config = ConfigDict(frozen=True)


class Claim(Frozen):
    """A turn that owns the lock or waits for it. `token` is its latest task token."""

    turn_id: str
    order: Order
    token: str
    execution_arn: str


class Lock(Frozen):
    """The lock item of one conversation. `fence` grows by one at every hand-over and never shrinks."""

    owner: Claim | None = None
    fence: int = 0
    waiters: tuple[Claim, ...] = ()


class Acquire(Frozen):
    """A turn wants the lock. `ended_owner` names an owner whose execution is known to have ended."""

    claim: Claim
    ended_owner: str | None = None


class Release(Frozen):
    """A turn is done with the lock, or with waiting for it."""

    turn_id: str


class Grant(Frozen):
    """Tell a turn that it owns the lock. When its token is dead the turn is gone: release it."""

    turn_id: str
    token: str
    fence: int


class Remind(Frozen):
    """Tell the owner again, in case it never heard. A dead token means that it did."""

    turn_id: str
    token: str
    fence: int


Event = Acquire | Release
Effect = Grant | Remind


def transition(lock: Lock, event: Event) -> tuple[Lock, tuple[Effect, ...]]:
    """The lock after `event`, and whom to tell."""
    if isinstance(event, Acquire):
        return _acquire(lock, event.claim, event.ended_owner)
    return _release(lock, event.turn_id)


def _acquire(lock: Lock, claim: Claim, ended_owner: str | None) -> tuple[Lock, tuple[Effect, ...]]:
    if lock.owner is not None and lock.owner.turn_id == claim.turn_id:
        again = lock.model_copy(update={"owner": claim, "waiters": _without(lock.waiters, claim.turn_id)})
        return again, (_remind(again),)
    waiting = lock.model_copy(
        update={"waiters": tuple(sorted((*_without(lock.waiters, claim.turn_id), claim), key=lambda c: c.order))}
    )
    if waiting.owner is None or waiting.owner.turn_id == ended_owner:
        return _hand_over(waiting)
    return waiting, (_remind(waiting),)


def _release(lock: Lock, turn_id: str) -> tuple[Lock, tuple[Effect, ...]]:
    if lock.owner is not None and lock.owner.turn_id == turn_id:
        return _hand_over(lock)
    left = lock.model_copy(update={"waiters": _without(lock.waiters, turn_id)})
    if left.owner is None:
        return _hand_over(left)
    return left, (_remind(left),)


def _hand_over(lock: Lock) -> tuple[Lock, tuple[Effect, ...]]:
    if not lock.waiters:
        return lock.model_copy(update={"owner": None}), ()
    first, *rest = lock.waiters
    owned = Lock(owner=first, fence=lock.fence + 1, waiters=tuple(rest))
    return owned, (Grant(turn_id=first.turn_id, token=first.token, fence=owned.fence),)


def _remind(lock: Lock) -> Remind:
    assert lock.owner is not None
    return Remind(turn_id=lock.owner.turn_id, token=lock.owner.token, fence=lock.fence)


def _without(waiters: tuple[Claim, ...], turn_id: str) -> tuple[Claim, ...]:
    return tuple(waiter for waiter in waiters if waiter.turn_id != turn_id)
