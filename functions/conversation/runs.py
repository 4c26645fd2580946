"""Runs of the agent: each has a number on its turn's item, is claimed once, and ends once.

    pk = session_key, sk = "turn#<id>"    runs (the last one's number), run_sequence, run_attempt, run_token, run_claim,
                                          run_ended

A trusted step begins a run, and notes the task token that its end answers; the agent's container knows the number
alone, in its sealed ticket. It is started by an asynchronous invocation, which comes at least once, late, or not at all
(https://docs.aws.amazon.com/lambda/latest/dg/invocation-async.html): a delivery of a run that another one claimed, or
that is not the present one any more, does nothing. Two runs of a turn do not work side by side for long: a run that has
not reached the callback for `LEASE_SECONDS` gives itself up, before Step Functions gives it up (`HeartbeatSeconds`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError
from pydantic import BaseModel, ConfigDict

from functions.common import aws
from functions.conversation.lock_table import DEAD_TOKEN

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_stepfunctions import SFNClient

LEASE_SECONDS = 60
"""A run without a word from the callback for so long is over; RunAgent's HeartbeatSeconds is longer."""

CURRENT = "runs = :run AND attribute_not_exists(run_ended)"
"""The condition that `:run` is the turn's present run, and has not ended."""


class Seat(BaseModel):
    """A run as trusted code knows it: its number, what it was given to go on from, what its turn may have cost by its
    end, in US dollars, and the ids of the models that may answer."""

    model_config = ConfigDict(frozen=True)

    number: int
    session_id: str
    part: int
    version: int
    manifest: str | None
    going_on: str | None
    budget_usd: float
    models: frozenset[str]


class Running(BaseModel):
    """What the turn's item says of its present run; number 0: there was none yet, or the change was not for this one.

    `stop` is the last attempt of the execution that was asked to stop (-1: none).
    """

    model_config = ConfigDict(frozen=True)

    number: int = 0
    token: str = ""
    ended: bool = False
    stop: int = -1

    def is_run(self, number: int) -> bool:
        """Whether this is the run, and goes on."""
        return self.number == number and not self.ended


class RunTable:
    """The runs of turns, on their items."""

    def __init__(self, table: str, dynamodb: DynamoDBClient) -> None:
        self._table = table
        self._dynamodb = dynamodb

    def begin(
        self, session_key: str, turn_id: str, attempt: int, sequence: str, token: str, granted_usd: float = 0.0
    ) -> Running:
        """A new run; number 0 when a later try of the state has begun one already.

        `attempt` is the execution's redrive count; `sequence` orders the tries of the state. What ran before is over.
        `granted_usd` is what it is granted beside what is reserved for it (`ledger.py`).
        """
        return self._change(
            session_key,
            turn_id,
            "SET run_sequence = :s, run_attempt = :a, run_token = :t ADD runs :one, granted_usd :granted "
            "REMOVE run_claim, run_ended",
            "attribute_not_exists(run_sequence) OR run_sequence < :s",
            {
                ":s": {"S": sequence},
                ":a": {"N": str(attempt)},
                ":t": {"S": token},
                ":one": {"N": "1"},
                ":granted": {"N": f"{granted_usd:.6f}"},
            },
        )

    def claim(self, session_key: str, turn_id: str, number: int, delivery: str) -> Running:
        """Claim a run for one delivery of its event; a run that is not the present one when it cannot be."""
        return self._change(
            session_key,
            turn_id,
            "SET run_claim = :d",
            f"{CURRENT} AND (attribute_not_exists(run_claim) OR run_claim = :d)",
            {":run": {"N": str(number)}, ":d": {"S": delivery}},
        )

    def end(self, session_key: str, turn_id: str, number: int) -> Running:
        """End the run, if it is the present one; saying so again is no other end."""
        values = {":run": {"N": str(number)}}
        return self._change(session_key, turn_id, "SET run_ended = :run", "runs = :run", values)

    def void(self, session_key: str, turn_id: str, attempt: int) -> None:
        """End whatever run an ended attempt of the execution had; a later attempt's goes on."""
        values = {":a": {"N": str(attempt)}}
        self._change(session_key, turn_id, "SET run_ended = runs", "run_attempt <= :a", values)

    def _change(self, session_key: str, turn_id: str, change: str, condition: str, values: dict[str, Any]) -> Running:
        try:
            answer = self._dynamodb.update_item(
                TableName=self._table,
                Key={"pk": {"S": session_key}, "sk": {"S": f"turn#{turn_id}"}},
                UpdateExpression=change,
                ConditionExpression=condition,
                ExpressionAttributeValues=values,
                ReturnValues="ALL_NEW",
            )
        except ClientError as error:
            aws.refused_item(error)
            return Running()
        return running(dict(answer["Attributes"]))


def running(item: dict[str, Any]) -> Running:
    """What a turn's item says of its run, and whether it was asked to stop."""
    stop = int(item.get("stop", {"N": "-1"})["N"])
    if "runs" not in item:
        return Running(stop=stop)
    number = int(item["runs"]["N"])
    return Running(number=number, token=item["run_token"]["S"], ended="run_ended" in item, stop=stop)


class Answers:
    """What the state that waits for a run hears of it."""

    def __init__(self, step_functions: SFNClient) -> None:
        self._step_functions = step_functions

    def alive(self, token: str) -> bool:
        """Say that the run lives; False when nobody waits for it (any more)."""
        return self._heard(lambda: self._step_functions.send_task_heartbeat(taskToken=token))

    def succeeded(self, token: str, output: BaseModel) -> bool:
        """Answer with what it made."""
        document = output.model_dump_json()
        return self._heard(lambda: self._step_functions.send_task_success(taskToken=token, output=document))

    def failed(self, token: str, error: str, cause: str) -> bool:
        """Answer with the error that ended it."""
        return self._heard(
            lambda: self._step_functions.send_task_failure(taskToken=token, error=error, cause=cause[:CAUSE_CHARACTERS])
        )

    @staticmethod
    def _heard(call: Any) -> bool:
        try:
            call()
        except ClientError as error:
            if error.response["Error"]["Code"] not in DEAD_TOKEN:
                raise
            return False
        return True


CAUSE_CHARACTERS = 4000
"""Characters of a cause: Step Functions takes 32,768 bytes (API reference, SendTaskFailure)."""
