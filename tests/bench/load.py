"""`make bench-load`: many chats at once on the embedded stack, with faults; what was lost, doubled or out of order.

Loopback only and bounded: `chats` x `messages` turns, then it stops. The agent is the tests' fast one, so that the lock
and the workflow are what is measured.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import tempfile
import threading
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from functions.common.envelope import turn_id
from stepgram.embedded.answers import Answer, failure
from stepgram.embedded.functions import InvokeError, Invoker
from stepgram.embedded.stack import EmbeddedStack
from stepgram.embedded.template import FunctionSpec
from stepgram.operators.executions import detail
from stepgram.operators.rerun import rerun_all
from stepgram.operators.stack import Stack
from tests.bench.figures import Figure, show
from tests.conftest import Person
from tests.workflow.fast_agent import answer_to, fast_agent

FIRST_CHAT = 800_000
END_SECONDS = 1500.0
KINDS = ("throttled", "platform error", "killed", "timeout", "twice")


class Faults:
    """Strikes a share of all invocations, by a fixed seed."""

    def __init__(self, share: float, seed: int) -> None:
        self._share, self._random = share, random.Random(seed)
        self._lock = threading.Lock()
        self.struck: Counter[str] = Counter()

    def around(self, spec: FunctionSpec, event: dict[str, Any], run: Invoker) -> Answer:
        with self._lock:
            kind = self._random.choice(KINDS) if self._random.random() < self._share else None
            if kind is None or "turn_id" not in event:
                kind = None
            else:
                self.struck[kind] += 1
        if kind == "throttled":
            raise InvokeError(429, "TooManyRequestsException", "injected")
        if kind == "platform error":
            raise InvokeError(500, "ServiceException", "injected")
        answer = run(spec, event)
        if kind == "twice":
            return run(spec, event)
        if kind is not None and answer.function_error is None:
            return failure("Runtime.ExitError" if kind == "killed" else "Sandbox.Timedout", "injected")
        return answer


def load(stack: EmbeddedStack, chats: int, messages: int, share: float, seed: int) -> dict[str, Any]:
    """Send everything at once in random order over the chats, wait, rerun what failed, and count."""
    faults = Faults(share, seed)
    stack.functions.around = faults.around
    person = Person(stack)
    order = [chat for chat in range(FIRST_CHAT, FIRST_CHAT + chats) for _ in range(messages)]
    random.Random(seed).shuffle(order)
    numbers: Counter[int] = Counter()
    names: list[str] = []
    started = time.monotonic()
    for chat in order:
        numbers[chat] += 1
        names.append(turn_id(chat, 0, stack.telegram.say(chat, f"message {numbers[chat]}")["update_id"]))
    _wait(stack, names)
    seconds = time.monotonic() - started
    stack.functions.around = None
    failed = [e.name for e in stack.step_functions.executions() if e.status != "SUCCEEDED"]
    addresses = stack.addresses
    rerun_all(Stack(addresses.outputs, addresses.aws, addresses.telegram), failed, lambda *_: None)
    expected = [answer_to(f"message {n}") for n in range(1, messages + 1)]
    said = {chat: person.texts(chat) for chat in range(FIRST_CHAT, FIRST_CHAT + chats)}
    return {
        "turns": len(names),
        "faults": dict(faults.struck),
        "failed, then rerun": len(failed),
        "lost": sum(text not in texts for texts in said.values() for text in expected),
        "doubled": sum(max(0, texts.count(text) - 1) for texts in said.values() for text in expected),
        "out of order": sum(_inversions(texts, expected) for texts in said.values()),
        "seconds": round(seconds, 1),
        "turns a second": round(len(names) / seconds, 1),
        "memory, MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "hand-over": _hand_overs(person, names),
    }


def _wait(stack: EmbeddedStack, names: list[str]) -> None:
    end = time.monotonic() + END_SECONDS
    shown = 0.0
    while True:
        ended = sum(e.status != "RUNNING" for e in stack.step_functions.executions())
        if ended >= len(names):
            return
        if time.monotonic() > end:
            sys.exit(f"{len(names) - ended} turns did not end within {END_SECONDS:.0f} s")
        if time.monotonic() - shown > 15:
            shown = time.monotonic()
            print(f"  {ended} of {len(names)} ended", file=sys.stderr)
        time.sleep(0.5)


def _inversions(texts: list[str], expected: list[str]) -> int:
    """Neighbours in the wrong order. (A rerun answers where its notice stood.)"""
    places = [texts.index(text) for text in expected if text in texts]
    return sum(a > b for a, b in pairwise(places))


def _hand_overs(person: Person, names: list[str]) -> tuple[float, ...]:
    """Milliseconds from entering ReleaseLock to the next owner's leaving AcquireLock, where that one was waiting."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for name in names:
        states = {s.name: s for s in detail(person.step_functions, person.arn(name)).attempts[0]}
        if "ReleaseLock" not in states or "AcquireLock" not in states:
            continue
        asked = states["AcquireLock"].entered.timestamp()
        row = (asked, asked + states["AcquireLock"].seconds, states["ReleaseLock"].entered.timestamp())
        found.setdefault(name.rpartition("-u")[0], []).append(row)
    times = []
    for rows in found.values():
        rows.sort(key=lambda row: row[1])
        for before, after in pairwise(rows):
            if after[0] < before[2] < after[1]:
                times.append((after[1] - before[2]) * 1000)
    return tuple(times)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="make bench-load")
    parser.add_argument("--chats", type=int, default=200)
    parser.add_argument("--messages", type=int, default=10)
    parser.add_argument("--faults", type=float, default=0.05, help="share of all invocations")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as home,
        EmbeddedStack(Path(home), environment={}) as stack,
        fast_agent(stack),
    ):
        result = load(stack, given.chats, given.messages, given.faults, given.seed)
    times = result.pop("hand-over")
    show("Load: hand-over of the lock", [Figure("release to next owner", "ms", times)] if times else [])
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
