"""The table and the bucket, as moto has them, in the store (`state.py`): written at each request that changes them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from moto.dynamodb.models import dynamodb_backends
from moto.dynamodb.models.utilities import dynamo_json_dump
from moto.s3.models import s3_backends

from stepgram.embedded.client import ACCOUNT, REGION
from stepgram.embedded.state import Change, Store


class Items:
    """The table's items, kept at each request that may change them."""

    def __init__(self, store: Store, table: str) -> None:
        self._store = store
        self._dynamodb = dynamodb_backends[ACCOUNT][REGION]
        self._table = table

    def load(self) -> None:
        """Put the kept items into the table."""
        for row in self._store.rows("item"):
            self._dynamodb.put_item(self._table, row.value)

    def keep(self, written: list[tuple[str, dict[str, Any]]]) -> None:
        """Keep items as they are now, by table and key."""
        changes = []
        for table, key in written:
            if table == self._table:
                item = self._dynamodb.get_item(table, key)
                value = None if item is None else json.loads(dynamo_json_dump(item.describe_attrs()))["Item"]
                changes.append(Change("item", json.dumps(key, sort_keys=True), 0, value))
        if changes:
            self._store.keep(*changes)


class Objects:
    """The bucket's objects, kept at each request that may change them."""

    def __init__(self, store: Store, bucket: str) -> None:
        self._store = store
        self._s3 = s3_backends[ACCOUNT]["aws"]
        self._bucket = bucket
        self._kept: dict[str, dict[str, Any]] = {}

    def load(self) -> None:
        """Put the kept objects into the bucket, as old as they are."""
        heads = {row.owner: row.value for row in self._store.rows("object")}
        for row in self._store.rows("body"):
            head = heads[row.owner]
            made = self._s3.put_object(self._bucket, row.owner, row.value)
            made.last_modified = datetime.fromisoformat(head["modified"])
            made._metadata.update(head["metadata"])
        self._kept = heads

    def keep(self, bucket: str, key: str) -> None:
        """Keep an object as it is now; without a key, all that changed."""
        if bucket != self._bucket:
            return
        now = self._s3.buckets[bucket].keys
        changes: list[Change] = []
        for name in [key] if key else {*self._kept, *now.keys()}:
            found = now.get(name)
            head = None if found is None else _head(found)
            if head == self._kept.get(name):
                continue
            changes.append(Change("object", name, 0, head))
            if found is None or head is None:
                del self._kept[name]
                changes.append(Change("body", name, 0, None))
                continue
            if self._kept.get(name, {}).get("etag") != head["etag"]:
                changes.append(Change("body", name, 0, found.value))
            self._kept[name] = head
        if changes:
            self._store.keep(*changes)


def _head(found: Any) -> dict[str, Any]:
    modified = found.last_modified.isoformat()
    return {"etag": found.etag, "modified": modified, "metadata": dict(found.metadata)}
