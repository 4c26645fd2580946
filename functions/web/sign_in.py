"""Who is signed in: a code that works once becomes a session, whose cookie the browser alone holds.

    pk = "signin", sk = "code#<sum>"       person (JSON), ttl
                   sk = "session#<sum>"    person (JSON), ttl

The table holds SHA-256 sums of codes and tokens, so that whoever reads it can sign in as nobody.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError
from pydantic import BaseModel, ConfigDict

from functions.common import aws

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

CODE_SECONDS = 900
SESSION_SECONDS = 30 * 86_400


class Person(BaseModel):
    """Somebody who is signed in. `id` is Telegram's where the person came by Telegram."""

    model_config = ConfigDict(frozen=True)

    id: int
    name: str
    language: str = "en"

    @property
    def owner(self) -> str:
        """Whose the conversations are that this person begins."""
        return str(self.id)


class SignIns:
    """The codes and sessions of one stack."""

    def __init__(self, table: str, dynamodb: DynamoDBClient) -> None:
        self._table = table
        self._dynamodb = dynamodb

    def offer(self, person: Person) -> str:
        """A code with which this person signs in, once, within 15 minutes."""
        return self._keep("code", person, CODE_SECONDS)

    def redeem(self, code: str) -> str | None:
        """The token of a new session; None for a code that was used, is too old, or never was."""
        person = self._take("code", code)
        return None if person is None else self._keep("session", person, SESSION_SECONDS)

    def person(self, token: str) -> Person | None:
        """Who has this session; None when it ended."""
        found = self._dynamodb.get_item(TableName=self._table, Key=_key("session", token), ConsistentRead=True)
        return _valid(dict(found.get("Item", {})))

    def end(self, token: str) -> None:
        """Sign out."""
        self._take("session", token)

    def _keep(self, kind: str, person: Person, seconds: int) -> str:
        token = secrets.token_urlsafe(32)
        item = {"person": {"S": person.model_dump_json()}, "ttl": {"N": str(int(time.time()) + seconds)}}
        self._dynamodb.put_item(TableName=self._table, Item={**_key(kind, token), **item})
        return token

    def _take(self, kind: str, token: str) -> Person | None:
        try:
            answer = self._dynamodb.delete_item(
                TableName=self._table,
                Key=_key(kind, token),
                ConditionExpression="attribute_exists(pk)",
                ReturnValues="ALL_OLD",
            )
        except ClientError as error:
            aws.refused_item(error)
            return None
        return _valid(dict(answer.get("Attributes", {})))


def _valid(item: dict[str, Any]) -> Person | None:
    """DynamoDB removes old items late."""
    if not item or int(item["ttl"]["N"]) < time.time():
        return None
    return Person.model_validate_json(item["person"]["S"])


def _key(kind: str, token: str) -> dict[str, Any]:
    return aws.item_key("signin", f"{kind}#{hashlib.sha256(token.encode()).hexdigest()}")
