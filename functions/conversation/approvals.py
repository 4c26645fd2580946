"""Approvals: a tool call that waits for a person, and what was decided, once.

    pk = session_key, sk = "lock"         approval: the question that is open (JSON); gone with the lock's owner
                     sk = "turn#<id>"     decision_<number>: what was decided (JSON), written once

While a question is open, the turn owns the conversation's lock and sleeps on a task token. The decision is written
before the token is answered, so a press that was lost half way is carried out by the next one, and a question asked
again (a redriven turn, a restarted state) is answered with what was decided.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from botocore.exceptions import ClientError
from pydantic import BaseModel, ConfigDict

from functions.common import aws
from functions.common.envelope import Place
from functions.common.errors import LockLost
from functions.conversation.lock import Approval
from functions.conversation.lock_table import DEAD_TOKEN, LockTable

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_stepfunctions import SFNClient

Choice = Literal["allow", "always", "deny", "stop", "timeout"]
BUTTONS: tuple[Choice, ...] = ("allow", "always", "deny")


class Decision(BaseModel):
    """What was decided, by whom (a name), and why, for the agent; about which tool, and by which update."""

    model_config = ConfigDict(frozen=True)

    choice: Choice
    by: str = ""
    reason: str = ""
    tool: str = ""
    update: str = ""

    @property
    def allows(self) -> bool:
        """Whether the call runs."""
        return self.choice in ("allow", "always")


@dataclass(frozen=True)
class Question:
    """A question: of part `number` of a turn, in a chat."""

    session_key: str
    turn_id: str
    number: int
    chat: Place


def may_decide(approvers: tuple[str, ...], user_id: int, approval: Approval) -> bool:
    """Whether this user may decide: who asked, everyone, or those who are named."""
    if "anyone" in approvers or str(user_id) in approvers:
        return True
    return "requester" in approvers and user_id == approval.user_id


class ApprovalTable:
    """Open questions and decisions."""

    def __init__(self, table: str, dynamodb: DynamoDBClient, step_functions: SFNClient) -> None:
        self._table = table
        self._dynamodb = dynamodb
        self._step_functions = step_functions

    def ask(self, session_key: str, approval: Approval) -> bool:
        """Keep the question while its turn owns the lock; False when it was decided before, which is answered at once.

        Raises LockLost when the turn does not own the lock (any more).
        """
        if not self._lock_item(
            session_key, "SET approval = :approval ADD version :one", "#owner = :turn", approval, {":one": {"N": "1"}}
        ):
            raise LockLost(f"{approval.turn_id} does not own {session_key}")
        decision = self.decided(session_key, approval.turn_id, approval.number)
        if decision is None:
            return True
        self.answer(approval.token, decision)
        self.close(session_key, approval)
        return False

    def opened(self, session_key: str, turn_id: str, number: int) -> Approval | None:
        """This question while the turn waits for its answer, with the token it waits on by now."""
        lock, _ = LockTable(self._table, self._dynamodb, self._step_functions).read(session_key)
        found = lock.approval
        return found if found and (found.turn_id, found.number) == (turn_id, number) else None

    def close(self, session_key: str, approval: Approval) -> None:
        """The question is answered; one that was asked since stays."""
        self._lock_item(session_key, "REMOVE approval ADD version :one", "approval = :approval AND #owner = :turn",
                        approval, {":one": {"N": "1"}})  # fmt: skip

    def _lock_item(
        self, session_key: str, change: str, condition: str, approval: Approval, values: dict[str, Any]
    ) -> bool:
        try:
            self._dynamodb.update_item(
                TableName=self._table,
                Key={"pk": {"S": session_key}, "sk": {"S": "lock"}},
                UpdateExpression=change,
                ConditionExpression=condition,
                ExpressionAttributeNames={"#owner": "owner"},
                ExpressionAttributeValues={
                    ":approval": {"S": approval.model_dump_json()},
                    ":turn": {"S": approval.turn_id},
                    **values,
                },
            )
        except ClientError as error:
            aws.refused_item(error)
            return False
        return True

    def decided(self, session_key: str, turn_id: str, number: int) -> Decision | None:
        """What was decided of a turn's `number`th part, if anything was."""
        item = self._dynamodb.get_item(
            TableName=self._table, Key=_turn_key(session_key, turn_id), ConsistentRead=True
        ).get("Item", {})
        return _decision(item, number)

    def decide(self, session_key: str, turn_id: str, number: int, decision: Decision) -> Decision:
        """Note a decision, unless there is one; returns the one that holds."""
        try:
            self._dynamodb.update_item(
                TableName=self._table,
                Key=_turn_key(session_key, turn_id),
                UpdateExpression="SET #decision = :decision",
                ConditionExpression="attribute_not_exists(#decision)",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
                ExpressionAttributeNames={"#decision": f"decision_{number}"},
                ExpressionAttributeValues={":decision": {"S": decision.model_dump_json()}},
            )
        except ClientError as error:
            return _decision(aws.refused_item(error), number) or decision
        return decision

    def answer(self, token: str, decision: Decision) -> None:
        """Wake the turn; a token nobody waits for (any more) is no failure."""
        try:
            self._step_functions.send_task_success(taskToken=token, output=decision.model_dump_json())
        except ClientError as error:
            if error.response["Error"]["Code"] not in DEAD_TOKEN:
                raise


def _decision(item: dict[str, Any], number: int) -> Decision | None:
    found = item.get(f"decision_{number}")
    return Decision.model_validate_json(found["S"]) if found else None


def _turn_key(session_key: str, turn_id: str) -> dict[str, Any]:
    return {"pk": {"S": session_key}, "sk": {"S": f"turn#{turn_id}"}}
