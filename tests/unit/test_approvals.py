"""A question asked anew (a redriven turn, a restarted state) while somebody presses: the turn always hears of it.

Each test lets one of the two run as a whole before a chosen call to DynamoDB of the other.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, cast

import pytest

from functions.common.envelope import Chat
from functions.conversation.approvals import ApprovalTable, Choice, Decision, Question
from functions.conversation.lock import Approval
from functions.conversation.sessions import SessionTable
from functions.conversation.verdict import remember, settle
from stepgram.embedded.client import client
from stepgram.embedded.stack import EmbeddedStack

TURN = "c1-t0-u1"
SESSION = "11111111-1111-4111-8111-111111111111"


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
        SessionTable(self.table, self.dynamodb).works_in(self.key, TURN, SESSION, lost=False)
        assert self.approvals().ask(self.key, self.question("old"))

    def approvals(self, dynamodb: Any = None) -> ApprovalTable:
        return ApprovalTable(self.table, dynamodb or self.dynamodb, cast(Any, self.tokens))

    def question(self, token: str) -> Approval:
        return Approval(turn_id=TURN, number=0, token=token, user_id=1, tool="Bash")

    def ask_again(self, dynamodb: Any = None) -> None:
        self.approvals(dynamodb).ask(self.key, self.question("new"))

    def press(self, dynamodb: Any = None, choice: Choice = "allow") -> Decision:
        asked = Question(self.key, TURN, 0, Chat(id=1, type="private", thread_id=0))
        table, bot = SessionTable(self.table, dynamodb or self.dynamodb), cast(Any, None)
        return settle(self.approvals(dynamodb), table, bot, asked, Decision(choice=choice, tool="Bash"), "en")

    @property
    def allowed(self) -> tuple[str, ...]:
        return SessionTable(self.table, self.dynamodb).preferences(self.key).allowed_tools(SESSION)


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


CALLS = 6
"""Calls to DynamoDB that carrying out an answer takes, at most."""


@pytest.mark.parametrize("call", range(1, CALLS + 1))
@pytest.mark.parametrize(("first", "second"), [("always", "deny"), ("deny", "always"), ("stop", "always")])
def test_wherever_another_answer_comes_between_what_holds_is_what_is_remembered(
    stack: EmbeddedStack, call: int, first: Choice, second: Choice
) -> None:
    waiting = Waiting(stack)
    said: list[Decision] = []

    between = Between(waiting.dynamodb, call, lambda: said.append(waiting.press(choice=second)))
    said.append(waiting.press(between, first))

    held = waiting.approvals().decided(waiting.key, TURN, 0)
    assert held is not None
    assert {decision.choice for decision in said} == {held.choice}
    assert waiting.allowed == (("Bash",) if held.choice == "always" else ())


@pytest.mark.parametrize("call", range(2, CALLS))
def test_a_process_that_dies_while_it_carries_out_an_answer_is_made_good_by_the_next_press(
    stack: EmbeddedStack, call: int
) -> None:
    def die() -> None:
        raise ConnectionError("the process dies")

    waiting = Waiting(stack)
    with pytest.raises(ConnectionError):
        waiting.press(Between(waiting.dynamodb, call, die), "always")

    assert waiting.press(choice="deny").choice == "always"
    assert waiting.allowed == ("Bash",)


def test_a_press_after_the_question_is_closed_changes_no_choice_made_since(stack: EmbeddedStack) -> None:
    waiting = Waiting(stack)
    waiting.press(choice="always")
    table = SessionTable(waiting.table, waiting.dynamodb)
    table.choose(waiting.key, lambda chosen: chosen.allow("Write", "another session"))

    waiting.press(choice="deny")

    assert table.preferences(waiting.key).allowed_in == "another session"


def test_two_choices_at_once_both_hold(stack: EmbeddedStack) -> None:
    waiting = Waiting(stack)
    table = SessionTable(waiting.table, waiting.dynamodb)
    always = Decision(choice="always", tool="Bash")

    def verbose() -> None:
        table.choose(waiting.key, lambda chosen: chosen.model_copy(update={"verbose": 2}))

    remember(SessionTable(waiting.table, Between(waiting.dynamodb, 2, verbose)), waiting.key, SESSION, always)

    assert table.preferences(waiting.key).verbose == 2
    assert waiting.allowed == ("Bash",)
