"""A model of turns around the lock, small enough to visit every interleaving.

A world is the lock item, what each turn is doing, what is on its way (answers to task tokens, status events, repeated
calls) and how many faults may still happen. Every step is one atomic write or one message; between any two of them
anything else may happen. `explore` visits every world that can be reached and checks it.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from functions.conversation.lock import (
    Acquire,
    Announce,
    Announcement,
    Claim,
    Effect,
    Ended,
    Event,
    Grant,
    Lock,
    Release,
    in_the_way,
    transition,
)
from functions.conversation.lock_table import NEVER_STARTED

Transition = Callable[[Lock, Event], tuple[Lock, tuple[Effect, ...]]]

LIVING = ("started", "asked", "inside", "leaving", "returning")


class Turn(NamedTuple):
    """What a turn does.

    new, never: its execution does not exist              inside: it was told that it owns the lock
    started: announced, on its way to AcquireLock         leaving: it has released; the next turn may not be told yet
    asked: it waits for its token                         done, dead: its execution ended
    returning: redriven where it had released
    """

    phase: str = "new"
    redrive: int = 0
    retry: int = 0
    fence: int = 0


class Message(NamedTuple):
    """Something on its way. `cause` is the call that will be repeated when the message is lost with its sender."""

    kind: str  # tell, remind, unheard, event, again
    turn: int
    token: tuple[int, int] = (0, 0)
    fence: int = 0
    cause: tuple[str, int, int, int] = ("", 0, 0, 0)


class World(NamedTuple):
    """Everything.

    `unsure`: a status event was lost, DescribeExecution was late, or a call came again after its turn had ended, so a
    dead turn may stand as owner until the next one looks.
    """

    lock: Lock
    turns: tuple[Turn, ...]
    messages: tuple[Message, ...]
    faults: int
    unsure: bool


class Violation(AssertionError):
    """An invariant does not hold; the message tells what, and the steps that led there."""


@dataclass
class Report:
    """How much was visited."""

    worlds: int = 0
    steps: int = 0
    ends: int = 0


def name(turn: int) -> str:
    return f"turn{turn}"


def number(turn_id: str) -> int:
    return int(turn_id.removeprefix("turn"))


def claim(turn: int, redrive: int, retry: int) -> Claim:
    token = f"{turn}.{redrive}.{retry}"
    return Claim(
        turn_id=name(turn), order=(turn, turn), sequence=(redrive, "entered", retry), token=token, execution_arn="a"
    )


class Model:
    """The steps of the world under one transition function."""

    def __init__(self, rules: Transition = transition, turns: int = 3, faults: int = 2) -> None:
        self._rules = rules
        self.start = World(Lock(), tuple(Turn() for _ in range(turns)), (), faults, False)

    # ------------------------------------------------------------------ steps

    def steps(self, world: World) -> tuple[list[tuple[str, World]], bool]:
        """Every step that can happen next, and whether anything happens by itself (no fault, nobody who redrives)."""
        found = list(self._progress(world)) or list(self._look_again(world))
        faulty = self._faults(world._replace(faults=world.faults - 1)) if world.faults else ()
        return [*found, *self._redrives(world), *faulty], bool(found)

    def _progress(self, world: World) -> Iterator[tuple[str, World]]:
        for index, turn in enumerate(world.turns):
            if turn.phase == "new" and (index == 0 or world.turns[index - 1].phase != "new"):
                yield f"start {index}", self._turn(self._announce(world, index), index, turn._replace(phase="started"))
            elif turn.phase == "started":
                asked = self._turn(world, index, turn._replace(phase="asked"))
                for knows in (True, False):
                    yield f"acquire {index}", self._acquire(asked, index, turn.redrive, turn.retry, knows)
            elif turn.phase in ("inside", "returning"):
                left = self._turn(world, index, turn._replace(phase="leaving"))
                yield f"release {index}", self._release(left, index, turn.redrive, ("release", index, turn.redrive, 0))
            elif turn.phase == "leaving" and not any(m.cause[:2] == ("release", index) for m in world.messages):
                done = self._turn(world, index, turn._replace(phase="done"))
                yield f"end {index}", self._post(done, Message("event", index, (turn.redrive, 0)))
        for message in set(world.messages):
            taken = self._take(world, message)
            yield f"{message.kind} {message.turn}", self._deliver(taken, message)
            if message.kind == "unheard":
                yield f"{message.turn} seems to run", taken._replace(unsure=True)

    def _look_again(self, world: World) -> Iterator[tuple[str, World]]:
        for index, turn in enumerate(world.turns):
            if turn.phase == "asked":
                asked = self._turn(world, index, turn._replace(retry=turn.retry + 1))
                yield f"look again {index}", self._acquire(asked, index, turn.redrive, turn.retry + 1, True)

    def _redrives(self, world: World) -> Iterator[tuple[str, World]]:
        for index, turn in enumerate(world.turns):
            if turn.phase in ("dead", "dead left"):
                phase = "started" if turn.phase == "dead" else "returning"
                again = turn._replace(phase=phase, redrive=turn.redrive + 1, retry=0, fence=0)
                yield f"redrive {index}", self._turn(world, index, again)

    def _faults(self, world: World) -> Iterator[tuple[str, World]]:
        for index, turn in enumerate(world.turns):
            if turn.phase == "new" and (index == 0 or world.turns[index - 1].phase != "new"):
                never = self._turn(self._announce(world, index), index, turn._replace(phase="never"))
                yield f"{index} is announced and never starts", never
            if turn.phase in LIVING:
                where = "dead left" if turn.phase in ("leaving", "returning") else "dead"
                dead = self._turn(world, index, turn._replace(phase=where))
                yield f"die {index}", self._post(dead, Message("event", index, (turn.redrive, 0)))
            if turn.phase in ("asked", "inside"):
                call = ("acquire", index, turn.redrive, turn.retry)
                yield f"acquire {index} comes twice", self._post(world, Message("again", index, cause=call))
            if turn.phase in ("leaving", "done"):
                call = ("release", index, turn.redrive, 1)
                yield f"release {index} comes twice", self._post(world, Message("again", index, cause=call))
        for message in set(world.messages):
            if message.kind == "event":
                lost = self._take(world, message)
                yield f"event {message.turn} is lost", lost._replace(unsure=True)
                yield f"event {message.turn} comes twice", self._post(world, message)
            elif message.kind in ("tell", "remind", "unheard"):
                yield f"{message.kind} {message.turn} is lost", self._lose(self._take(world, message), message)

    # ------------------------------------------------------------------ their parts

    def _announce(self, world: World, index: int) -> World:
        announcement = Announcement(turn_id=name(index), order=(index, index))
        lock, _ = self._rules(world.lock, Announce(announcement=announcement))
        return world._replace(lock=lock)

    def _acquire(self, world: World, index: int, redrive: int, retry: int, knows: bool) -> World:
        own = claim(index, redrive, retry)
        ended = self.ended(world, in_the_way(world.lock, own)) if knows else ()
        return self._apply(world, Acquire(claim=own, ended=ended), ("acquire", index, redrive, retry))

    def _release(self, world: World, index: int, redrive: int, cause: tuple[str, int, int, int]) -> World:
        ended = self.ended(world, in_the_way(world.lock))
        return self._apply(world, Release(turn_id=name(index), redrive_count=redrive, ended=ended), cause)

    @staticmethod
    def ended(world: World, asked: set[str]) -> tuple[Ended, ...]:
        """What DescribeExecution says of some turns."""
        found = []
        for index, turn in enumerate(world.turns):
            if name(index) in asked and turn.phase not in LIVING:
                exists = turn.phase not in ("new", "never")
                found.append(Ended(turn_id=name(index), redrive_count=turn.redrive if exists else NEVER_STARTED))
        return tuple(found)

    def _apply(self, world: World, event: Event, cause: tuple[str, int, int, int]) -> World:
        lock, effects = self._rules(world.lock, event)
        if lock.fence < world.lock.fence:
            raise Violation("the fence shrank")
        changed = world._replace(lock=lock)
        for effect in effects:
            turn = number(effect.turn_id)
            if isinstance(effect, Grant):
                self._check_grant(world, lock, effect, turn)
            _, redrive, retry = map(int, effect.token.split("."))
            kind = "tell" if isinstance(effect, Grant) else "remind"
            asked = world.turns[turn]
            if kind == "remind" and (asked.phase, asked.redrive, asked.retry) != ("asked", redrive, retry):
                continue  # to a token that is dead for ever, which says nothing
            changed = self._post(changed, Message(kind, turn, (redrive, retry), effect.held.fence, cause))
        return changed

    @staticmethod
    def _check_grant(before: World, lock: Lock, grant: Grant, turn: int) -> None:
        if grant.held.fence <= before.lock.fence:
            raise Violation(f"the fence did not grow with the grant to {turn}")
        if before.lock.owner is not None and number(before.lock.owner.turn_id) == turn:
            return
        waiting = {number(waiter.turn_id) for waiter in (*before.lock.waiters, *lock.waiters)}
        for index in range(turn):
            other = before.turns[index]
            fresh = other.phase == "started" and (other.redrive, other.retry) == (0, 0)
            if fresh or (other.phase == "asked" and index in waiting):
                raise Violation(f"{turn} overtook {index}")

    def _deliver(self, world: World, message: Message) -> World:
        turn = world.turns[message.turn]
        if message.kind in ("tell", "remind"):
            if turn.phase == "asked" and (turn.redrive, turn.retry) == message.token:
                return self._turn(world, message.turn, turn._replace(phase="inside", fence=message.fence))
            return self._post(world, message._replace(kind="unheard")) if message.kind == "tell" else world
        if message.kind == "unheard":
            gone = self.ended(world, {name(message.turn)})
            return self._release(world, message.turn, gone[0].redrive_count, message.cause) if gone else world
        if message.kind == "event":
            return self._release(world, message.turn, message.token[0], ("event", message.turn, message.token[0], 0))
        kind, index, redrive, retry = message.cause
        if kind == "acquire":
            late = world.turns[index].phase not in LIVING
            return self._acquire(world._replace(unsure=world.unsure or late), index, redrive, retry, knows=True)
        return self._release(world, index, redrive, message.cause)

    def _lose(self, world: World, message: Message) -> World:
        """The sender died after its write: whoever called it calls again."""
        kind, index, redrive, _ = message.cause
        turn = world.turns[index]
        if kind == "event":
            return self._post(world, Message("event", index, (redrive, 0)))
        if kind == "acquire" and turn.phase == "asked" and turn.redrive == redrive:
            return self._turn(world, index, turn._replace(phase="started", retry=turn.retry + 1))
        if kind == "release" and turn.phase == "leaving" and turn.redrive == redrive:
            return self._turn(world, index, turn._replace(phase="returning"))
        return world

    @staticmethod
    def _turn(world: World, index: int, turn: Turn) -> World:
        return world._replace(turns=(*world.turns[:index], turn, *world.turns[index + 1 :]))

    @staticmethod
    def _post(world: World, message: Message) -> World:
        return world._replace(messages=tuple(sorted((*world.messages, message))))

    @staticmethod
    def _take(world: World, message: Message) -> World:
        rest = list(world.messages)
        rest.remove(message)
        return world._replace(messages=tuple(rest))

    # ------------------------------------------------------------------ what must hold

    @staticmethod
    def check(world: World) -> None:
        """In every world."""
        inside = [index for index, turn in enumerate(world.turns) if turn.phase == "inside"]
        if len(inside) > 1:
            raise Violation(f"{inside} own the lock together")
        for index in inside:
            owner = world.lock.owner
            if owner is None or number(owner.turn_id) != index or world.lock.fence != world.turns[index].fence:
                raise Violation(f"{index} is inside, but the lock says {owner} with fence {world.lock.fence}")

    def check_end(self, world: World) -> None:
        """Where nothing more happens by itself."""
        for index, turn in enumerate(world.turns):
            if turn.phase in LIVING:
                raise Violation(f"{index} is forgotten: {turn}")
        lock = world.lock
        if not world.unsure and (lock.owner or lock.waiters):
            raise Violation(f"nobody is left, but the lock is not free: {lock}")
        fresh = len(world.turns)
        own = claim(fresh, 0, 0)
        after, effects = self._rules(lock, Acquire(claim=own, ended=self.ended(world, in_the_way(lock, own))))
        while effects and isinstance(effects[0], Grant) and number(effects[0].turn_id) != fresh:
            gone = self.ended(world, {effects[0].turn_id})[0]
            after, effects = self._rules(after, Release(turn_id=gone.turn_id, redrive_count=gone.redrive_count))
        if after.owner is None or number(after.owner.turn_id) != fresh:
            raise Violation(f"the next turn cannot have the lock: {after}")


def explore(model: Model) -> Report:
    """Visit every world; raises Violation with the steps that led there."""
    report = Report()
    came: dict[World, tuple[World, str] | None] = {model.start: None}
    queue = deque([model.start])
    while queue:
        world = queue.popleft()
        report.worlds += 1
        try:
            model.check(world)
            steps, goes_on = model.steps(world)
            if not goes_on:
                report.ends += 1
                model.check_end(world)
        except Violation as error:
            raise Violation(f"{error}\n  {' > '.join(_path(came, world))}") from error
        for step, following in steps:
            report.steps += 1
            if following not in came:
                came[following] = (world, step)
                queue.append(following)
    return report


def _path(came: dict[World, tuple[World, str] | None], world: World) -> list[str]:
    path: list[str] = []
    before = came[world]
    while before is not None:
        path.insert(0, before[1])
        before = came[before[0]]
    return path


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    print(explore(Model(turns=given[0], faults=given[1])))  # noqa: T201
