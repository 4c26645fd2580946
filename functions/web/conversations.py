"""Conversations of the web: whose they are, what they are called, when they were used.

    pk = session_key, sk = "conversation"      owner, title, created, used (ISO 8601), events (`events.py`)
    pk = "owner#<owner>", sk = session_key     the same names: what the owner's list shows

One that is deleted takes no events any more (`events.py`), and is in nobody's list; what it said ends with its session.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from functions.common import aws
from functions.common.envelope import WebChat

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

COLLIDING_SECONDS = 15.0

LISTED = 1000
"""Conversations of one owner that are listed, the first by their keys."""


class Conversation(BaseModel):
    """One conversation; `created` and `used` are ISO 8601 times."""

    model_config = ConfigDict(frozen=True)

    id: str
    owner: str
    title: str
    created: str
    used: str

    @property
    def place(self) -> WebChat:
        """Where its messages are written."""
        return WebChat(channel="web", id=self.id)


class ConversationTable:
    """The conversations of all owners."""

    def __init__(self, table: str, dynamodb: DynamoDBClient) -> None:
        self._table = table
        self._dynamodb = dynamodb

    def create(self, owner: str, title: str) -> Conversation:
        """A new one."""
        now = _now()
        made = Conversation(id=uuid.uuid4().hex, owner=owner, title=title, created=now, used=now)
        names = {name: {"S": str(value)} for name, value in made.model_dump(exclude={"id"}).items()}
        self._dynamodb.transact_write_items(
            TransactItems=[
                {"Put": {"TableName": self._table, "Item": {**key, **names}}} for key in self._keys(made.id, owner)
            ]
        )
        return made

    def get(self, owner: str, conversation_id: str) -> Conversation | None:
        """One of the owner's; None when there is none of this id, or it is somebody else's."""
        place = WebChat(channel="web", id=conversation_id)
        found = self._dynamodb.get_item(
            TableName=self._table, Key=aws.item_key(place.session_key, "conversation"), ConsistentRead=True
        ).get("Item")
        if found is None or found["owner"]["S"] != owner:
            return None
        return _read(conversation_id, dict(found))

    def of(self, owner: str) -> list[Conversation]:
        """All of the owner's, the one that was used last first."""
        found = self._dynamodb.query(
            TableName=self._table,
            KeyConditionExpression="pk = :owner",
            ExpressionAttributeValues={":owner": {"S": f"owner#{owner}"}},
            ConsistentRead=True,
            Limit=LISTED,
        )["Items"]
        listed = [_read(item["sk"]["S"].removeprefix("w"), dict(item)) for item in found]
        return sorted(listed, key=lambda one: one.used, reverse=True)

    def rename(self, one: Conversation, title: str) -> bool:
        """Call it something else; False when it was deleted meanwhile."""
        return self._set(one, "SET title = :value", title)

    def use(self, one: Conversation) -> bool:
        """Somebody wrote in it just now; False when it was deleted meanwhile."""
        return self._set(one, "SET used = :value", _now())

    def delete(self, one: Conversation) -> None:
        """It takes nothing any more; once is enough."""
        self._dynamodb.transact_write_items(
            TransactItems=[{"Delete": {"TableName": self._table, "Key": key}} for key in self._keys(one.id, one.owner)]
        )

    def _set(self, one: Conversation, change: str, value: str) -> bool:
        there, value_of = "attribute_exists(pk)", {":value": {"S": value}}
        updates: list[Any] = [
            {
                "Update": {
                    "TableName": self._table,
                    "Key": key,
                    "UpdateExpression": change,
                    "ConditionExpression": there,
                    "ExpressionAttributeValues": value_of,
                }
            }
            for key in self._keys(one.id, one.owner)
        ]
        collisions = aws.Collisions(COLLIDING_SECONDS, "the conversation was")
        while not aws.transacted(self._dynamodb, updates):
            if self.get(one.owner, one.id) is None:
                return False
            collisions.wait()
        return True

    @staticmethod
    def _keys(conversation_id: str, owner: str) -> list[dict[str, Any]]:
        key = WebChat(channel="web", id=conversation_id).session_key
        return [aws.item_key(key, "conversation"), aws.item_key(f"owner#{owner}", key)]


def _read(conversation_id: str, item: dict[str, Any]) -> Conversation:
    names = {name: item[name]["S"] for name in ("owner", "title", "created", "used")}
    return Conversation(id=conversation_id, **names)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
