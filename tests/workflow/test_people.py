"""Whatever people do, in any order: no draft is left, no button without an answer, no message without one."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepgram.embedded.stack import EmbeddedStack
from tests.conftest import Person, until
from tests.workflow.fast_agent import ASKS, SLOW, fast_agent

AT_ONCE = 4
"""Chats that are played side by side: of a hundred sequences, most of the time is waiting."""

_chats = itertools.count(800_001)

ACTIONS = st.sampled_from(
    ["hello", ASKS, SLOW, "photo", "press", "press", "stop", "/stop", "/new", "/undo", "/status", "/newchat more"]
)


@pytest.fixture(scope="module")
def quick(stack: EmbeddedStack) -> Iterator[None]:
    with fast_agent(stack):
        yield


class Chat:
    """One chat and what a person did in it."""

    def __init__(self, stack: EmbeddedStack) -> None:
        self.stack, self.person, self.id = stack, Person(stack), next(_chats)
        self.updates: dict[int, str] = {}
        self.messages: dict[int, int] = {}

    def act(self, action: str) -> None:
        """Do it, and wait until the bot has taken it; what cannot be done now is left."""
        telegram = self.stack.telegram
        if action == "photo":
            self._sent(action, telegram.send_file(self.id, "document", "a.txt", b"text"))
        elif action == "press":
            for message, key in self.buttons()[:1]:
                self._taken(action, telegram.press(self.id, message, key))
        elif action == "stop":
            if telegram.signs(self.id)["draft"]:
                self._taken(action, telegram.press_stop(self.id))
        else:
            self._sent(action, telegram.say(self.id, action))

    def _sent(self, action: str, sent: dict[str, int]) -> None:
        self.messages[sent["update_id"]] = sent["message_id"]
        self._taken(action, sent["update_id"])

    def _taken(self, action: str, update: int) -> None:
        record = self.stack.telegram.state["updates"][str(update)]
        until(lambda: record["status"] is not None)
        self.updates[update] = json.loads(record["body"])["outcome"]

    def buttons(self) -> list[tuple[int, str]]:
        """The buttons that do something: message and data."""
        return [
            (message["message_id"], key["callback_data"])
            for message in self.person.replies(self.id)
            for row in message.get("reply_markup", {}).get("inline_keyboard", [])
            for key in row
            if key["callback_data"] != "done"
        ]

    def settle(self) -> None:
        """Answer what is asked until nothing runs."""
        while running := self._running():
            for message, key in self.buttons():
                if key.startswith("deny:"):
                    self._taken("press", self.stack.telegram.press(self.id, message, key))
            until(lambda running=running: self._running() != running or bool(self.buttons()))  # type: ignore[misc]

    def _running(self) -> list[str]:
        prefix = f"c{self.id}-"
        found = self.stack.step_functions.executions()
        return [e.name for e in found if e.name.startswith(prefix) and e.status == "RUNNING"]

    def answered(self, message: int) -> bool:
        """Whether the bot said something to this message."""
        return any(m.get("reply_to_message", {}).get("message_id") == message for m in self.person.replies(self.id))


@pytest.mark.timeout(900)
@settings(max_examples=100 // AT_ONCE, deadline=None, suppress_health_check=list(HealthCheck))
@given(chats=st.lists(st.lists(ACTIONS, min_size=1, max_size=5), min_size=AT_ONCE, max_size=AT_ONCE))
def test_nothing_is_left_open(stack: EmbeddedStack, quick: None, chats: list[list[str]]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for played in [pool.submit(play, stack, actions) for actions in chats]:
            played.result()


def play(stack: EmbeddedStack, actions: list[str]) -> None:
    """One chat, from its first action until nothing runs."""
    chat = Chat(stack)
    for action in actions:
        chat.act(action)
    chat.settle()

    said: dict[str, Any] = {"actions": actions, "outcomes": chat.updates}
    assert stack.telegram.signs(chat.id)["draft"] is None, said
    assert chat.buttons() == [], said
    for update, message in chat.messages.items():
        outcome = chat.updates[update]
        if not outcome.startswith(("stopping", "stopped", "answered")):
            # a turn that was stopped by force is told by the rule on ended Turns, a moment later
            until(lambda message=message: chat.answered(message), 30)  # type: ignore[misc]
    forced = {outcome.removeprefix("stopped ") for outcome in chat.updates.values()}
    turns = [e for e in stack.step_functions.executions() if e.name.startswith(f"c{chat.id}-")]
    assert [e.name for e in turns if e.status != "SUCCEEDED" and e.name not in forced] == [], said
