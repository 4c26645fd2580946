"""Who may talk to the bot: the template's lists, and what operators added since; and how often.

pk = "access"       sk = "user#<id>", "chat#<id>"    by, name: allowed
                    sk = "code#<code>"               user, name, ttl: somebody who waits to be allowed
                    sk = "pairing#<user id>"         code, ttl: the code this person was given
pk = "rate#<user>"  sk = "<minute>"                  updates (their ids), ttl: messages in this minute
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any, Literal

from botocore.exceptions import ClientError
from pydantic import BaseModel

from functions.common import aws

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

Kind = Literal["user", "chat"]

CODE_SECONDS = 3600
"""How long a pairing code can be used; a person gets one code in this time."""

ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
"""Letters and digits nobody confuses."""

CODE_CHARACTERS = 8


class Guest(BaseModel):
    """Somebody, or a chat, that an operator allowed."""

    kind: Kind
    id: int
    name: str = ""
    by: str = ""


class Admission:
    """The access list of one stack."""

    def __init__(self, table: str, dynamodb: DynamoDBClient) -> None:
        self._table = table
        self._dynamodb = dynamodb

    def allowed(self, kind: Kind, number: int) -> bool:
        """Whether an operator allowed this user or chat."""
        return self._get("access", f"{kind}#{number}") is not None

    def add(self, guest: Guest) -> None:
        """Allow a user or a chat."""
        item = {"name": {"S": guest.name}, "by": {"S": guest.by}}
        self._dynamodb.put_item(
            TableName=self._table, Item={**aws.item_key("access", f"{guest.kind}#{guest.id}"), **item}
        )

    def remove(self, kind: Kind, number: int) -> bool:
        """Take the permission back; False when there was none."""
        answer = self._dynamodb.delete_item(
            TableName=self._table, Key=aws.item_key("access", f"{kind}#{number}"), ReturnValues="ALL_OLD"
        )
        return "Attributes" in answer

    def guests(self) -> list[Guest]:
        """Everybody an operator allowed."""
        found = []
        for kind in ("user", "chat"):
            pages = self._dynamodb.get_paginator("query").paginate(
                TableName=self._table,
                KeyConditionExpression="pk = :pk AND begins_with(sk, :kind)",
                ExpressionAttributeValues={":pk": {"S": "access"}, ":kind": {"S": f"{kind}#"}},
            )
            for page in pages:
                for item in page["Items"]:
                    fields = {name: item[name]["S"] for name in ("name", "by") if name in item}
                    found.append(Guest(kind=kind, id=int(item["sk"]["S"].partition("#")[2]), **fields))
        return found

    def pair(self, user: int, name: str) -> str | None:
        """A code for a person who may not talk yet; None when one that still works was given."""
        now, code = int(time.time()), "".join(secrets.choice(ALPHABET) for _ in range(CODE_CHARACTERS))
        ttl = {"ttl": {"N": str(now + CODE_SECONDS)}}
        try:
            self._dynamodb.put_item(
                TableName=self._table,
                Item={**aws.item_key("access", f"pairing#{user}"), "code": {"S": code}, **ttl},
                ConditionExpression="attribute_not_exists(pk) OR #ttl < :now",
                ExpressionAttributeNames={"#ttl": "ttl"},
                ExpressionAttributeValues={":now": {"N": str(now)}},
            )
        except ClientError as error:
            aws.refused_item(error)
            return None
        person = {"user": {"N": str(user)}, "name": {"S": name}}
        self._dynamodb.put_item(TableName=self._table, Item={**aws.item_key("access", f"code#{code}"), **person, **ttl})
        return code

    def redeem(self, code: str, by: str) -> Guest | None:
        """Allow the person with this code; None when nobody has it (any more). DynamoDB removes old items late."""
        item = self._get("access", f"code#{code.strip().upper()}")
        if item is None or int(item["ttl"]["N"]) < time.time():
            return None
        guest = Guest(kind="user", id=int(item["user"]["N"]), name=item["name"]["S"], by=by)
        self.add(guest)
        for sort_key in (item["sk"]["S"], f"pairing#{guest.id}"):
            self._dynamodb.delete_item(TableName=self._table, Key=aws.item_key("access", sort_key))
        return guest

    def count(self, user: int, update_id: int) -> int:
        """How many messages of this user came in this minute, this one included; one delivered again is one."""
        minute = int(time.time()) // 60
        answer = self._dynamodb.update_item(
            TableName=self._table,
            Key=aws.item_key(f"rate#{user}", str(minute)),
            UpdateExpression="ADD updates :update SET #ttl = if_not_exists(#ttl, :ttl)",
            ExpressionAttributeNames={"#ttl": "ttl"},
            ExpressionAttributeValues={":update": {"NS": [str(update_id)]}, ":ttl": {"N": str((minute + 5) * 60)}},
            ReturnValues="ALL_NEW",
        )
        return len(answer["Attributes"]["updates"]["NS"])

    def _get(self, partition: str, sort_key: str) -> dict[str, Any] | None:
        found = self._dynamodb.get_item(
            TableName=self._table, Key=aws.item_key(partition, sort_key), ConsistentRead=True
        )
        item: dict[str, Any] | None = found.get("Item")
        return item
