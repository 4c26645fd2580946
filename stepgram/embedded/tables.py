"""moto's DynamoDB without what grows with every request.

moto 5.2.5 copies a whole table for each transaction, to put it back when the transaction fails, and notes every item
and table that it ever made (`moto/dynamodb/models/__init__.py`, `moto/core/common_models.py`): after some hundred turns
that was gigabytes. Here a transaction copies the items it names, and what is gone is not noted.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

from moto.dynamodb.models import DynamoDBBackend, Table
from moto.dynamodb.models.dynamo_type import DynamoType, Item


class _Forgetful(list[Any]):
    """Where moto notes instances until it is reset."""

    def append(self, _: Any) -> None:
        """Not noted."""


def lighten() -> None:
    """Make moto so; to be said again after each of its resets."""
    for model in (Item, Table):
        model.instances_tracked = _Forgetful()
    _copy_less()


@cache
def _copy_less() -> None:
    original = DynamoDBBackend.transact_write_items

    def transact_write_items(self: Any, transact_items: list[dict[str, Any]]) -> None:
        before = [(*place, copy.deepcopy(_at(*place))) for place in _places(self.tables, transact_items)]
        done = False
        try:
            original(self, transact_items)
            done = True
        finally:
            for table, partition, sort_key, item in [] if done else before:
                if item is not None:
                    table.items[partition][sort_key] = item
                else:
                    table.items[partition].pop(sort_key, None)

    DynamoDBBackend.transact_write_items = transact_write_items
    Table.__deepcopy__ = lambda self, memo: self


Place = tuple[Table, DynamoType, DynamoType]


def _places(tables: dict[str, Table], transact_items: list[dict[str, Any]]) -> Iterator[Place]:
    """Where a transaction writes. (Tables here have a sort key.)"""
    for entry in transact_items:
        for request in entry.values():
            table = tables.get(request.get("TableName", ""))
            key = request.get("Item", request.get("Key", {}))
            if table is not None and {table.hash_key_attr, table.range_key_attr} <= key.keys():
                yield table, DynamoType(key[table.hash_key_attr]), DynamoType(key[table.range_key_attr])


def _at(table: Table, partition: DynamoType, sort_key: DynamoType) -> Item | None:
    found: Item | None = table.items[partition].get(sort_key) if partition in table.items else None
    return found
