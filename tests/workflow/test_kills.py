"""Each step of the Turn dies after every one of its writes, and runs again: the result is that of one clean run.

A write is a request that changes something in AWS (PutObject, UpdateItem, ...) or a message to Telegram. The step is
killed by an exception no function catches, right after its n-th write was carried out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.model import OperationModel

from functions.agent.callback import Callback
from functions.common import aws
from functions.common.observability import logger
from functions.common.settings import environment
from functions.telegram.bot_api import BotApi
from functions.turn import run_agent
from stepgram.embedded.answers import Answer, failure
from stepgram.embedded.client import client
from stepgram.embedded.functions import Invoker
from stepgram.embedded.stack import EmbeddedStack
from stepgram.embedded.template import FunctionSpec
from tests.conftest import Person
from tests.workflow.fast_agent import answer_to, fast_agent

WRITES = ("PutItem", "UpdateItem", "TransactWriteItems", "PutObject", "SendTaskSuccess")
STEPS = [
    ("RunAgent", ["UpdateItem", "TransactWriteItems", "invoke"]),  # begun; reserved; started
    ("Agent", ["begin", *["PutObject"] * 5, "end"]),  # transcript, manifest, debug log, costs, result
    ("Persist", ["TransactWriteItems"] * 2),  # the snapshot; then the sums of costs
    ("Reply", ["UpdateItem", "sendMessage", "UpdateItem", "UpdateItem"]),  # closed; sent; noted; complete
    ("ReleaseLock", ["PutItem", "SendTaskSuccess"]),
    ("ReportFailure", ["UpdateItem", "sendMessage", "UpdateItem"]),
]
NOT_TWICE = [(state, n) for state, writes in STEPS for n in range(1, len(writes) + 1) if writes[n - 1] != "sendMessage"]


class Killed(BaseException):
    """The process is gone: nothing runs after it, no `except` and no retry of a client."""


class Killer:
    """Kills the first run of one state of one turn after its n-th write; without a number it only listens."""

    def __init__(self, stack: EmbeddedStack, state: str, chat: int, after: int | None) -> None:
        self._stack, self._state, self._chat, self._after = stack, state, chat, after
        self.writes: list[str] = []
        self._active: tuple[str, str, str] | None = None
        self.struck = False

    def around(self, spec: FunctionSpec, event: dict[str, Any], run: Invoker) -> Answer:
        mine = event.get("session_key") == f"{self._chat}:0"
        if mine and self._state == "ReportFailure" and event.get("state") == "RunAgent" and not self.struck:
            return failure("ModelRejected", "so that the failure route is taken")
        state = "Agent" if spec.logical_id == "AgentFunction" else event.get("state")
        if not mine or state != self._state or spec.logical_id == "CallbackFunction" or self.struck:
            return run(spec, event)
        self.struck, self._active = True, (spec.name, event["turn_id"], event["state"])
        try:
            return run(spec, event)
        except Killed:
            return failure("Runtime.ExitError", "killed")
        finally:
            self._active = None

    def wrote(self, what: str) -> None:
        """A write was carried out; those of other steps, which run at the same time, do not count."""
        working, function = logger.thread_safe_get_current_keys(), environment().get("AWS_LAMBDA_FUNCTION_NAME")
        if self._active is None or (function, working.get("turn_id"), working.get("state")) != self._active:
            return
        self.writes.append(what)
        if len(self.writes) == self._after:
            self._active = None
            raise Killed

    def after_call(self, model: OperationModel, **_: Any) -> None:
        if model.name in WRITES:
            self.wrote(model.name)


@pytest.fixture
def quick(stack: EmbeddedStack) -> Iterator[None]:
    with fast_agent(stack):
        yield


def play(
    stack: EmbeddedStack, chat: int, state: str, after: int | None, monkeypatch: pytest.MonkeyPatch
) -> tuple[Killer, list[str], Any]:
    """Two messages of a chat; the first one's `state` is killed. Returns the killer, the bot's texts, the session."""
    killer, person = Killer(stack, state, chat, after), Person(stack)
    call = BotApi.call

    def telegram(self: BotApi, method: str, *arguments: Any) -> Any:
        result = call(self, method, *arguments)
        if method.startswith("send"):
            killer.wrote(method)
        return result

    made = aws._made

    def listened(*arguments: Any) -> Any:
        """Each function has clients of its own, and the agent one for each run."""
        one = made(*arguments)
        one.meta.events.register("after-call.*.*", killer.after_call)
        return one

    surely, start = Callback._surely, run_agent.invoke

    def callback(self: Callback, given: dict[str, Any]) -> Any:
        result = surely(self, given)
        killer.wrote(given["what"])
        return result

    def invoke(*arguments: Any) -> None:
        start(*arguments)
        killer.wrote("invoke")

    monkeypatch.setattr(Callback, "_surely", callback)
    monkeypatch.setattr(run_agent, "invoke", invoke)
    monkeypatch.setattr(BotApi, "call", telegram)
    monkeypatch.setattr(aws, "_made", listened)
    aws._client.cache_clear()
    stack.functions.around = killer.around
    try:
        first = person.say(chat, "first")
        second = person.say(chat, "second")
        one, _ = person.wait(first), person.wait(second)
        if one.status != "SUCCEEDED":
            person.redrive(first)
    finally:
        stack.functions.around = None
        aws._client.cache_clear()
    table = client("dynamodb", stack.addresses.aws)
    key = {"pk": {"S": f"{chat}:0"}, "sk": {"S": "session"}}
    found = table.get_item(TableName=stack.deployment.outputs["SessionTable"], Key=key)["Item"]
    return killer, person.texts(chat), (found["version"]["N"], found["turns"]["N"])


@pytest.mark.parametrize(("state", "writes"), STEPS)
def test_the_writes_of_a_step_are_those_it_is_killed_between(
    stack: EmbeddedStack, chat: int, quick: None, state: str, writes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    killer, _, _ = play(stack, chat, state, None, monkeypatch)

    assert killer.writes == writes


@pytest.mark.parametrize(("state", "after"), NOT_TWICE)
def test_a_step_killed_after_a_write_and_run_again_does_nothing_twice(
    stack: EmbeddedStack, chat: int, quick: None, state: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    killer, texts, session = play(stack, chat, state, after, monkeypatch)

    assert killer.struck
    assert sorted(texts) == sorted([answer_to("first"), answer_to("second")])
    assert session == ("2", "2")


def test_a_reply_killed_between_telegram_and_its_ledger_says_its_part_again(
    stack: EmbeddedStack, chat: int, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one window: Telegram has no idempotency key. The part comes twice rather than never."""
    _, texts, session = play(stack, chat, "Reply", 2, monkeypatch)

    assert texts.count(answer_to("first")) == 2
    assert texts.count(answer_to("second")) == 1
    assert session == ("2", "2")
    assert json.dumps(texts).count("went wrong") == 0
