"""A question asked anew (a redriven turn, a restarted state) while somebody presses: the turn always hears of it.

Each test lets one of the two run as a whole before a chosen call to DynamoDB of the other.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, cast

import pytest

from functions.common.approvals import ApprovalTable, Decision, Question
from functions.common.envelope import Chat
from functions.common.lock import Approval
from functions.common.sessions import SessionTable
from functions.common.telegram import BotApi
from functions.common.verdict import settle
from stepgram.embedded.client import client
from stepgram.embedded.stack import EmbeddedStack

TURN = "c1-t0-u1"


class Between:
    """A DynamoDB client that lets somebody else act before its `call`th call."""

    def __init__(self, dynamodb: Any, call: int, act: Callable[[], None]) -> None:
        self._dynamodb = dynamodb
        self._left = call
        self._act = act

    def __getattr__(self, name: str) -> Any:
        def call(**given: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                self._act()
            return getattr(self._dynamodb, name)(**given)

        return call


class Tokens:
    """Step Functions, as far as it is told of task tokens."""

    def __init__(self) -> None:
        self.answered: list[str] = []

    def send_task_success(self, taskToken: str, output: str) -> None:
        self.answered.append(taskToken)


class Waiting:
    """A turn that owns its lock and asked before; now it asks again, with a new token."""

    def __init__(self, stack: EmbeddedStack) -> None:
        self.dynamodb = client("dynamodb", stack.addresses.aws)
        self.table = stack.deployment.outputs["SessionTable"]
        self.key = f"{uuid.uuid4().int % 10**12}:0"
        self.tokens = Tokens()
        item = {"pk": {"S": self.key}, "sk": {"S": "lock"}, "owner": {"S": TURN}, "version": {"N": "1"}}
        self.dynamodb.put_item(TableName=self.table, Item=item)
        assert self.approvals().ask(self.key, self.question("old"))

    def approvals(self, dynamodb: Any = None) -> ApprovalTable:
        return ApprovalTable(self.table, dynamodb or self.dynamodb, cast(Any, self.tokens))

    def question(self, token: str) -> Approval:
        return Approval(turn_id=TURN, number=0, token=token, user_id=1, tool="Bash")

    def ask_again(self, dynamodb: Any = None) -> None:
        self.approvals(dynamodb).ask(self.key, self.question("new"))

    def press(self, dynamodb: Any = None) -> None:
        asked = Question(self.key, TURN, 0, Chat(id=1, type="private", thread_id=0))
        table, bot = SessionTable(self.table, self.dynamodb), cast(BotApi, None)
        settle(self.approvals(dynamodb), table, bot, asked, Decision(choice="allow"), "en")


@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_press_meets_a_question_that_is_asked_again_meanwhile(stack: EmbeddedStack, call: int) -> None:
    waiting = Waiting(stack)

    waiting.press(Between(waiting.dynamodb, call, waiting.ask_again))

    assert "new" in waiting.tokens.answered


@pytest.mark.parametrize("call", [1, 2])
def test_a_question_asked_again_meets_a_press_that_comes_meanwhile(stack: EmbeddedStack, call: int) -> None:
    waiting = Waiting(stack)

    waiting.ask_again(Between(waiting.dynamodb, call, waiting.press))

    assert "new" in waiting.tokens.answered
