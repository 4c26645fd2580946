"""What people see of a conversation of the web, as events: each written once, numbered without a gap, short-lived.

    pk = session_key, sk = "conversation"       owner, title, created, used (ISO), events (the last one's number), ttl
                      sk = "event#<number>"     turn, event (JSON), ttl

An event gets the number after the last one's in the transaction that writes it; with it goes the entry in the turn's
ledger, so that a step which died says nothing twice. A conversation that was deleted takes none.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from functions.common import aws
from functions.common.errors import WebRefused

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

KEPT_SECONDS = 86_400
"""How long an event is kept: what happened before is in the transcript."""

COLLIDING_SECONDS = 15.0
PAGE = 200
"""Events that are read at a time."""


class Happened(BaseModel):
    """The base of all events."""

    model_config = ConfigDict(frozen=True)


class Said(Happened):
    """A text that is no answer: a notice that something was lost, what a command has to say."""

    kind: Literal["said"] = "said"
    text: str


class Answered(Happened):
    """What the agent said, whole, as Markdown; what is long is in S3, under `key`."""

    kind: Literal["answered"] = "answered"
    markdown: str
    key: str = ""


class FileSent(Happened):
    """A file for the person; `key` is where it is in S3, `size` in bytes."""

    kind: Literal["file"] = "file"
    name: str
    size: int
    key: str
    caption: str = ""


class Asked(Happened):
    """Whether a tool call may run: who may decide, by which choices, within how many hours; a call that is long is in
    S3, under `key`."""

    kind: Literal["asked"] = "asked"
    number: int
    tool: str
    call: str
    who: str
    hours: float
    choices: tuple[str, ...]
    key: str = ""


class Decided(Happened):
    """What was decided of the question `number`."""

    kind: Literal["decided"] = "decided"
    number: int
    text: str


class Failed(Happened):
    """The turn failed, for the `number`th time; it can run again."""

    kind: Literal["failed"] = "failed"
    number: int
    text: str
    again: str


class Withdrawn(Happened):
    """What the event of this number offered is not offered any more."""

    kind: Literal["withdrawn"] = "withdrawn"
    event: int


class Working(Happened):
    """The turn is at work: the answer so far, the tool that runs, how many turns are before it."""

    kind: Literal["working"] = "working"
    text: str = ""
    tool: str = ""
    detail: str = ""
    busy: bool = False
    waiting: int | None = None


class Complete(Happened):
    """Nothing of the answer is missing."""

    kind: Literal["complete"] = "complete"


Event = Annotated[
    Said | Answered | FileSent | Asked | Decided | Failed | Withdrawn | Working | Complete, Field(discriminator="kind")
]
EVENT: TypeAdapter[Event] = TypeAdapter(Event)


class Numbered(BaseModel):
    """An event with its number in its conversation, and its turn."""

    model_config = ConfigDict(frozen=True)

    number: int
    turn_id: str
    event: Event


class EventTable:
    """The events of all conversations."""

    def __init__(self, table: str, dynamodb: DynamoDBClient) -> None:
        self._table = table
        self._dynamodb = dynamodb

    def append(self, session_key: str, turn_id: str, event: Event, part: str | None = None) -> int:
        """Write an event; returns its number. As a `part` of what the turn says it is written once, whoever asks again.

        Raises WebRefused when the conversation is deleted, AwsUnavailable when others write all the time.
        """
        collisions = aws.Collisions(COLLIDING_SECONDS, "the conversation's events were")
        while True:
            with aws.translated():
                conversation, turn = aws.items(
                    self._dynamodb, self._table, [(session_key, "conversation"), (session_key, f"turn#{turn_id}")]
                )
            if not conversation:
                raise WebRefused("the conversation is deleted")
            said = turn.get("delivered", {}).get("M", {})
            if part is not None and part in said:
                return int(said[part]["N"])
            last = int(conversation["events"]["N"]) if "events" in conversation else 0
            writes = [self._next(session_key, last), self._put(session_key, turn_id, last + 1, event)]
            if part is not None:
                writes.append(self._ledger(session_key, turn_id, part, last + 1, "delivered" in turn))
            with aws.translated():
                if aws.transacted(self._dynamodb, writes):
                    return last + 1
            collisions.wait()

    def after(self, session_key: str, number: int, limit: int = PAGE) -> list[Numbered]:
        """The events after this number, oldest first."""
        found = self._dynamodb.query(
            TableName=self._table,
            KeyConditionExpression="pk = :key AND sk BETWEEN :first AND :last",
            ExpressionAttributeValues={
                ":key": {"S": session_key},
                ":first": {"S": _sort_key(number + 1)},
                ":last": {"S": _sort_key(10**12 - 1)},
            },
            ConsistentRead=True,
            Limit=limit,
        )["Items"]
        return [
            Numbered(
                number=int(item["sk"]["S"].removeprefix("event#")),
                turn_id=item["turn"]["S"],
                event=EVENT.validate_json(item["event"]["S"]),
            )
            for item in found
        ]

    def _next(self, session_key: str, last: int) -> Any:
        condition = "events = :last" if last else "attribute_exists(pk) AND attribute_not_exists(events)"
        values = {":next": {"N": str(last + 1)}, **({":last": {"N": str(last)}} if last else {})}
        return {
            "Update": {
                "TableName": self._table,
                "Key": aws.item_key(session_key, "conversation"),
                "UpdateExpression": "SET events = :next",
                "ConditionExpression": condition,
                "ExpressionAttributeValues": values,
            }
        }

    def _put(self, session_key: str, turn_id: str, number: int, event: Event) -> Any:
        item = {
            **aws.item_key(session_key, _sort_key(number)),
            "turn": {"S": turn_id},
            "event": {"S": EVENT.dump_json(event).decode()},
            "ttl": {"N": str(int(time.time()) + KEPT_SECONDS)},
        }
        return {"Put": {"TableName": self._table, "Item": item, "ConditionExpression": "attribute_not_exists(pk)"}}

    def _ledger(self, session_key: str, turn_id: str, part: str, number: int, is_begun: bool) -> Any:
        """The entry in the turn's ledger, which may have none yet."""
        entry = {"N": str(number)}
        update: dict[str, Any] = {
            "UpdateExpression": "SET delivered.#part = :number",
            "ConditionExpression": "attribute_not_exists(delivered.#part)",
            "ExpressionAttributeNames": {"#part": part},
            "ExpressionAttributeValues": {":number": entry},
        }
        if not is_begun:
            update = {
                "UpdateExpression": "SET delivered = :first, #ttl = if_not_exists(#ttl, :ttl)",
                "ConditionExpression": "attribute_not_exists(delivered)",
                "ExpressionAttributeNames": {"#ttl": "ttl"},
                "ExpressionAttributeValues": {
                    ":first": {"M": {part: entry}},
                    ":ttl": {"N": str(int(time.time()) + KEPT_SECONDS)},
                },
            }
        return {"Update": {"TableName": self._table, "Key": aws.item_key(session_key, f"turn#{turn_id}"), **update}}


def _sort_key(number: int) -> str:
    return f"event#{number:012d}"
