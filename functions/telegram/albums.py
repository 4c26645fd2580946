"""Albums: messages that Telegram sends one by one and people sent as one become one turn.

    pk = session_key, sk = "album#<media_group_id>"    leader (a turn), parts (JSON by turn), changed (ms), closed

The first message's turn leads; the others only add their part. Hydrate closes the album when nothing came for a moment;
what comes later still is a turn of its own.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError
from pydantic import BaseModel

from functions.common import aws
from functions.common.envelope import Message

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

QUIET_MS = 1500
"""An album to which nothing was added for so long is complete; its messages come within tenths of a second."""

TTL_SECONDS = 86_400


class Album(BaseModel):
    """An album as it stands: the messages by turn, in the order people see them; `quiet`: nothing came for a moment."""

    leader: str
    parts: tuple[Message, ...]
    closed: bool
    quiet: bool


class AlbumTable:
    """The albums of all conversations."""

    def __init__(self, table: str, dynamodb: DynamoDBClient) -> None:
        self._table = table
        self._dynamodb = dynamodb

    def join(self, session_key: str, turn_id: str, message: Message) -> bool:
        """Add a message to its album. True when its own turn must run: it leads, or the album is closed already."""
        now = time.time_ns() // 1_000_000
        part = {":part": {"S": message.model_dump_json()}, ":now": {"N": str(now)}}
        first = {":turn": {"S": turn_id}, ":parts": {"M": {turn_id: part[":part"]}}, ":now": part[":now"]}
        ttl = {":ttl": {"N": str(now // 1000 + TTL_SECONDS)}}
        try:
            self._update(session_key, message, "SET leader = :turn, parts = :parts, changed = :now, #ttl = :ttl",
                         "attribute_not_exists(leader)", {**first, **ttl}, {"#ttl": "ttl"})  # fmt: skip
            return True
        except ClientError as error:
            aws.refused_item(error)
        try:
            self._update(session_key, message, "SET parts.#turn = :part, changed = :now",
                         "attribute_not_exists(closed)", part, {"#turn": turn_id})  # fmt: skip
        except ClientError as error:
            item = aws.refused_item(error)
            return item["leader"]["S"] == turn_id or turn_id not in item["parts"]["M"]
        album = self.read(session_key, str(message.album))
        return album is None or album.leader == turn_id

    def read(self, session_key: str, album: str) -> Album | None:
        """The album, or None when there is none."""
        item = self._dynamodb.get_item(TableName=self._table, Key=_key(session_key, album), ConsistentRead=True)
        return _album(item["Item"]) if "Item" in item else None

    def close(self, session_key: str, message: Message) -> Album | None:
        """Let nothing more in; the album as it is then, or None when it is gone."""
        try:
            values = {":true": {"BOOL": True}}
            item = self._update(session_key, message, "SET closed = :true", "attribute_exists(leader)", values, {})
            return _album(item)
        except ClientError as error:
            aws.refused_item(error)
            return None

    def _update(
        self, session_key: str, message: Message, change: str, condition: str, values: dict[str, Any],
        names: dict[str, str],
    ) -> dict[str, Any]:  # fmt: skip
        given: dict[str, Any] = {"ExpressionAttributeNames": names} if names else {}
        answer = self._dynamodb.update_item(
            TableName=self._table,
            Key=_key(session_key, str(message.album)),
            UpdateExpression=change,
            ConditionExpression=condition,
            ExpressionAttributeValues=values,
            ReturnValues="ALL_NEW",
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
            **given,
        )
        return dict(answer.get("Attributes", {}))


def _album(item: dict[str, Any]) -> Album:
    parts = [Message.model_validate_json(part["S"]) for part in item["parts"]["M"].values()]
    return Album(
        leader=item["leader"]["S"],
        parts=tuple(sorted(parts, key=lambda part: part.id)),
        closed="closed" in item,
        quiet=time.time_ns() // 1_000_000 - int(item["changed"]["N"]) >= QUIET_MS,
    )


def _key(session_key: str, album: str) -> dict[str, Any]:
    return {"pk": {"S": session_key}, "sk": {"S": f"album#{album}"}}
