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
from moto.dynamodb.models import dynamodb_backends
from moto.s3.models import s3_backends

from stepgram.embedded.client import ACCOUNT, REGION, client

if TYPE_CHECKING:
    from stepgram.embedded.stack import EmbeddedStack


def expire(stack: EmbeddedStack) -> None:
    """Delete what is over: items past their `ttl`, objects older than the bucket's lifecycle allows."""
    outputs, endpoint = stack.deployment.outputs, stack.addresses.aws
    dynamodb, s3 = client("dynamodb", endpoint), client("s3", endpoint)
    for item in _expiring(outputs["SessionTable"]):
        if int(item["ttl"].value) < time.time():
            key = {name: {"S": item[name].value} for name in ("pk", "sk")}
            dynamodb.delete_item(TableName=outputs["SessionTable"], Key=key)
    days = int(stack.deployment.functions["stepgram-TurnFunction"].environment["SESSION_DATA_DAYS"])
    for name, found in _objects(outputs["SessionBucket"]).items():
        if found.last_modified < utcnow() - timedelta(days=days):
            s3.delete_object(Bucket=outputs["SessionBucket"], Key=name)


def pass_time(stack: EmbeddedStack, passed: timedelta) -> None:
    """Make everything that is kept so much older, as if the clock had moved on."""
    outputs = stack.deployment.outputs
    for item in _expiring(outputs["SessionTable"]):
        item["ttl"].value = str(int(item["ttl"].value) - int(passed.total_seconds()))
    for found in _objects(outputs["SessionBucket"]).values():
        found.last_modified -= passed


def _expiring(table: str) -> list[dict[str, Any]]:
    """moto's own items that have a `ttl`, by their attributes: through the API, thousands of them take long."""
    items = dynamodb_backends[ACCOUNT][REGION].tables[table].all_items()
    return [item.attrs for item in items if "ttl" in item.attrs]


def _objects(bucket: str) -> dict[str, Any]:
    """moto's own objects, whose dates no API can set."""
    return dict(s3_backends[ACCOUNT]["aws"].buckets[bucket].keys.items())
