"""moto's DynamoDB as the embedded stack makes it: a failed transaction changes nothing, what is gone is not kept."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto.dynamodb.models.dynamo_type import Item

from stepgram.embedded.client import client
from stepgram.embedded.stack import EmbeddedStack


def key(chat: int, sort_key: str) -> dict[str, Any]:
    return {"pk": {"S": f"{chat}:0"}, "sk": {"S": sort_key}}


@pytest.mark.parametrize("good", [False, True])
def test_a_transaction_is_whole_or_changes_nothing(stack: EmbeddedStack, chat: int, good: bool) -> None:
    table, dynamodb = stack.deployment.outputs["SessionTable"], client("dynamodb", stack.addresses.aws)
    for name in ("changed", "deleted", "replaced", "aside"):
        dynamodb.put_item(TableName=table, Item={**key(chat, name), "tags": {"SS": ["a"]}, "n": {"N": "1"}})
    change = {
        "UpdateExpression": "ADD n :n, tags :t",
        "ExpressionAttributeValues": {":n": {"N": "5"}, ":t": {"SS": ["b"]}},
    }
    made = "attribute_exists(pk)" if good else "attribute_not_exists(pk)"

    def all_of_them() -> list[Any]:
        values = {":pk": {"S": f"{chat}:0"}}
        found = dynamodb.query(TableName=table, KeyConditionExpression="pk = :pk", ExpressionAttributeValues=values)
        return list(found["Items"])

    before = all_of_them()
    writes: list[Any] = [
        {"Update": {"TableName": table, "Key": key(chat, "changed"), **change}},
        {"Update": {"TableName": table, "Key": key(chat, "made"), **change}},
        {"Delete": {"TableName": table, "Key": key(chat, "deleted")}},
        {"Put": {"TableName": table, "Item": key(chat, "replaced")}},
        {"Put": {"TableName": table, "Item": key(chat, "new")}},
        {"ConditionCheck": {"TableName": table, "Key": key(chat, "aside"), "ConditionExpression": made}},
    ]
    if good:
        dynamodb.transact_write_items(TransactItems=writes)
        names = {item["sk"]["S"]: item for item in all_of_them()}
        assert names.keys() == {"changed", "made", "replaced", "aside", "new"}
        assert (names["changed"]["n"], names["replaced"].get("n")) == ({"N": "6"}, None)
    else:
        with pytest.raises(ClientError, match="TransactionCanceledException"):
            dynamodb.transact_write_items(TransactItems=writes)
        assert all_of_them() == before


def test_items_that_are_gone_are_not_kept(stack: EmbeddedStack) -> None:
    assert Item.instances_tracked == []  # type: ignore[attr-defined]
