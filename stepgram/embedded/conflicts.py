"""DynamoDB's transaction conflicts on the embedded stack: moto carries out one request after another and knows none.

A transaction that meets another one under way on one of its items is cancelled, a single write that meets one is
refused, and a transactional read is cancelled by any write under way. A request is under way from its arrival to its
answer. https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis.html, "Transaction conflict
handling in DynamoDB"
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

WRITES = ("PutItem", "UpdateItem", "DeleteItem")
TRANSACTION = "TransactWriteItems"
Item = tuple[str, str]


class Conflict(Exception):
    """The request is refused; `document` is DynamoDB's answer, with HTTP status 400."""

    def __init__(self, document: dict[str, Any]) -> None:
        super().__init__(document["__type"])
        self.document = document


class Conflicts:
    """The items that transactions and writes under way have in their hands."""

    def __init__(self) -> None:
        self._transactions: Counter[Item] = Counter()
        self._writes: Counter[Item] = Counter()
        self._looking = threading.Lock()

    @contextmanager
    def under_way(self, operation: str, body: bytes) -> Iterator[None]:
        """Carry out one request. Raises Conflict when it meets one that is under way."""
        if operation not in (*WRITES, TRANSACTION, "TransactGetItems"):
            yield
            return
        touched = [(table, json.dumps(key, sort_keys=True)) for table, key in items(json.loads(body))]
        mine = self._writes if operation in WRITES else self._transactions
        with self._looking:
            met = [
                self._transactions[item] > 0 or (operation == "TransactGetItems" and self._writes[item] > 0)
                for item in touched
            ]
            if any(met):
                raise Conflict(_refusal(operation, met))
            mine.update(touched)
        try:
            yield
        finally:
            with self._looking:
                mine.subtract(touched)


def items(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The table and key of each item of a request; a whole item holds its key."""
    given = [one for entry in document["TransactItems"] for one in entry.values()] if "TransactItems" in document else [
        document
    ]  # fmt: skip
    for one in given:
        key = one.get("Key") or {name: one["Item"][name] for name in ("pk", "sk") if name in one["Item"]}
        yield one["TableName"], key


def _refusal(operation: str, met: list[bool]) -> dict[str, Any]:
    if operation in WRITES:
        kind = "com.amazonaws.dynamodb.v20120810#TransactionConflictException"
        return {"__type": kind, "message": "Transaction is ongoing for the item"}
    reasons = [
        {"Code": "TransactionConflict", "Message": "Transaction is ongoing for the item"} if one else {"Code": "None"}
        for one in met
    ]
    codes = ", ".join(reason["Code"] for reason in reasons)
    return {
        "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
        "Message": f"Transaction cancelled, please refer cancellation reasons for specific reasons [{codes}]",
        "CancellationReasons": reasons,
    }
