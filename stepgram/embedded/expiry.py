"""Time on the embedded stack: DynamoDB's TTL and the bucket's lifecycle, which moto stores but does not carry out.

Both delete somewhat late on AWS (TTL within days, the lifecycle at midnight UTC); here they are exact.
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/TTL.html
https://docs.aws.amazon.com/AmazonS3/latest/userguide/lifecycle-expire-general-considerations.html
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from moto.core.utils import utcnow
from moto.s3.models import s3_backends

from stepgram.embedded.client import ACCOUNT, client

if TYPE_CHECKING:
    from stepgram.embedded.stack import EmbeddedStack


def expire(stack: EmbeddedStack) -> None:
    """Delete what is over: items past their `ttl`, objects older than the bucket's lifecycle allows."""
    outputs, endpoint = stack.deployment.outputs, stack.addresses.aws
    dynamodb, s3 = client("dynamodb", endpoint), client("s3", endpoint)
    for item in _items(dynamodb, outputs["SessionTable"]):
        if "ttl" in item and int(item["ttl"]["N"]) < time.time():
            key = {"pk": item["pk"], "sk": item["sk"]}
            dynamodb.delete_item(TableName=outputs["SessionTable"], Key=key)
    days = int(stack.deployment.functions["stepgram-HydrateFunction"].environment["SESSION_DATA_DAYS"])
    for name, found in list(_objects(outputs["SessionBucket"]).items()):
        if found.last_modified < utcnow() - timedelta(days=days):
            s3.delete_object(Bucket=outputs["SessionBucket"], Key=name)


def pass_time(stack: EmbeddedStack, passed: timedelta) -> None:
    """Make everything that is kept so much older, as if the clock had moved on."""
    outputs = stack.deployment.outputs
    dynamodb = client("dynamodb", stack.addresses.aws)
    for item in _items(dynamodb, outputs["SessionTable"]):
        if "ttl" in item:
            dynamodb.update_item(
                TableName=outputs["SessionTable"],
                Key={"pk": item["pk"], "sk": item["sk"]},
                UpdateExpression="ADD #ttl :passed",
                ExpressionAttributeNames={"#ttl": "ttl"},
                ExpressionAttributeValues={":passed": {"N": str(-int(passed.total_seconds()))}},
            )
    for found in _objects(outputs["SessionBucket"]).values():
        found.last_modified -= passed


def _items(dynamodb: Any, table: str) -> list[dict[str, Any]]:
    pages = dynamodb.get_paginator("scan").paginate(TableName=table)
    return [item for page in pages for item in page["Items"]]


def _objects(bucket: str) -> dict[str, Any]:
    """moto's own objects, whose dates no API can set."""
    return dict(s3_backends[ACCOUNT]["aws"].buckets[bucket].keys.items())
