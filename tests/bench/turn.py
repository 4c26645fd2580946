"""One turn: what the orchestration adds to the agent, and what the agent adds to the model."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from datetime import datetime

from stepgram.embedded.stack import EmbeddedStack
from stepgram.operators.executions import ExecutionDetail
from tests.bench.figures import Figure
from tests.conftest import Person

FIRST_CHAT = 720_000
COLD_CHAT = 730_000
SIGNS_CHAT = 740_000


def ask(stack: EmbeddedStack, chat: int) -> ExecutionDetail:
    """One turn, begun when nothing else runs."""
    return Person(stack).ask(chat, "hello")


def orchestration(stack: EmbeddedStack, runs: int) -> list[Figure]:
    """The whole turn, the agent's own seconds, the difference, and each state's part of it."""
    ask(stack, FIRST_CHAT)
    turns = [ask(stack, FIRST_CHAT + 1 + number) for number in range(runs)]
    whole, agent = [], []
    states: dict[str, list[float]] = {}
    for turn in turns:
        last = turn.states[-1]
        whole.append((_ends(last.entered, last.seconds) - turn.states[0].entered.timestamp()) * 1000)
        agent.append(turn.output["agent_seconds"] * 1000)
        for state in turn.states:
            own = state.seconds * 1000 - (agent[-1] if state.name == "RunAgent" else 0)
            states.setdefault(state.name, []).append(own)
    overhead = tuple(w - a for w, a in zip(whole, agent, strict=True))
    total = sum(statistics.median(samples) for samples in states.values())
    parts = [
        Figure(f"  {name}{' without the agent' if name == 'RunAgent' else ''}, {share:.0%} of it", "ms", tuple(samples))
        for name, samples in states.items()
        for share in [statistics.median(samples) / total]
    ]
    return [
        Figure("whole turn", "ms", tuple(whole)),
        Figure("the agent itself", "ms", tuple(agent)),
        Figure("orchestration (the difference)", "ms", overhead),
        *parts,
    ]


def agent(stack: EmbeddedStack, runs: int) -> list[Figure]:
    """From the state's start to the first model request, and from the stream's end to the state's end."""
    before, after = _around_the_model(stack, FIRST_CHAT + 1000, runs, cold=False)
    return [
        Figure("warm process: start to first model request", "ms", before),
        Figure("warm process: end of stream to return", "ms", after),
    ]


def open_conversation(stack: EmbeddedStack, runs: int) -> list[Figure]:
    """The same for the second message of a conversation, whose CLI process is still open."""
    before, after = [], []
    for number in range(runs):
        chat = FIRST_CHAT + 2000 + number
        ask(stack, chat)
        start, end = _around_one(stack, chat)
        before.append(start)
        after.append(end)
    return [
        Figure("open conversation: start to first model request", "ms", tuple(before)),
        Figure("open conversation: end of stream to return", "ms", tuple(after)),
    ]


def cold(stack: EmbeddedStack, runs: int) -> list[Figure]:
    """The same in a process that did not exist before: Python, its imports and the CLI all start."""
    before, after = _around_the_model(stack, COLD_CHAT, runs, cold=True)
    return [
        Figure("cold process: start to first model request", "ms", before),
        Figure("cold process: end of stream to return", "ms", after),
    ]


def _around_the_model(
    stack: EmbeddedStack, first_chat: int, runs: int, cold: bool
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    before, after = [], []
    for number in range(runs):
        if cold:
            stack.functions.cool_down()
        start, end = _around_one(stack, first_chat + number)
        before.append(start)
        after.append(end)
        time.sleep(0.2)  # the background save of the stack is not part of the next sample
    return tuple(before), tuple(after)


def _around_one(stack: EmbeddedStack, chat: int) -> tuple[float, float]:
    turn = ask(stack, chat)
    state = next(s for s in turn.states if s.name == "RunAgent")
    record = next(r for r in reversed(stack.bedrock.requests) if r["session"] == turn.output["session_id"])
    start = (record["time"] - state.entered.timestamp()) * 1000
    return start, (_ends(state.entered, state.seconds) - record["ended"]) * 1000


def _ends(entered: datetime, seconds: float) -> float:
    return entered.timestamp() + seconds


def signs(stack: EmbeddedStack, runs: int) -> list[Figure]:
    """What people feel: from a message to the first sign of life, and from a pressed Stop to the end of the turn."""
    person = Person(stack)
    person.ask(SIGNS_CHAT, "hello")
    sign, stopped = [], []
    for chat in range(SIGNS_CHAT + 1, SIGNS_CHAT + 1 + runs):
        written = time.monotonic()
        name = person.say(chat, "!slow 60")
        _until(lambda chat=chat: stack.telegram.signs(chat)["draft"] is not None)  # type: ignore[misc]
        sign.append((time.monotonic() - written) * 1000)
        _until(lambda chat=chat: "word" in json.dumps(stack.telegram.signs(chat)["draft"]))  # type: ignore[misc]
        pressed = time.monotonic()
        stack.telegram.press_stop(chat)
        _until(lambda name=name: person.status(name) != "RUNNING")  # type: ignore[misc]
        stopped.append((time.monotonic() - pressed) * 1000)
    return [
        Figure("a message to its first sign of life in the chat", "ms", tuple(sign)),
        Figure("a pressed Stop to the end of the turn, its answer delivered", "ms", tuple(stopped)),
    ]


def _until(condition: Callable[[], bool]) -> None:
    """Look every 5 ms; the turn itself ends what never becomes true."""
    while not condition():
        time.sleep(0.005)
