"""Sessions in DynamoDB: the pointer to a conversation's newest snapshot, and one record for each turn.

    pk = <chat_id>:<thread_id>   sk = "session"    session_id, version, manifest, cost_usd, turns, preferences, ttl
                                 sk = "turn#<id>"  status, version, session_id, base_manifest, delivered, failed, ttl

A snapshot becomes visible by moving the pointer, in one transaction with the lock's fence and the turn's record.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.exceptions import ClientError
from pydantic import BaseModel, ConfigDict

from functions.common import aws
from functions.common.errors import LockLost

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

DAY_SECONDS = 86_400

COMPLETE = "complete"
"""The ledger's last entry: nothing of the answer is missing."""

NOTICE, QUESTION = "failure", "approval"
"""What the ledger's names of failure notices, and of questions, begin with."""


class Pointer(BaseModel):
    """Where a conversation stands: `version` turns are committed, `manifest` is the S3 key of the newest."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    session_id: str
    version: int = 0
    manifest: str | None = None
    cost_usd: float = 0.0
    turns: int = 0
    ttl: int = 0


MODELS = ("haiku", "sonnet", "opus")
"""What people may choose; which model each is, the template's parameters say."""


class Preferences(BaseModel):
    """What people chose for a conversation. `verbose`: how much is shown of the tools that run, from 0 to 2.

    `allowed`: tools that do not ask (any more) in the session `allowed_in`. `model`: one of MODELS.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    verbose: int = 1
    allowed: tuple[str, ...] = ()
    allowed_in: str | None = None
    model: str | None = None

    def allowed_tools(self, session_id: str) -> tuple[str, ...]:
        """The tools that do not ask in this session."""
        return self.allowed if self.allowed_in == session_id else ()

    def allow(self, tool: str, session_id: str) -> Preferences:
        """The same, with one more tool that does not ask in this session."""
        allowed = {*self.allowed_tools(session_id), tool}
        return self.model_copy(update={"allowed": tuple(sorted(allowed)), "allowed_in": session_id})


class TurnRecord(BaseModel):
    """What a turn has done already. `delivered` maps a part's name to the message id Telegram gave it.

    `moved_to` is the session a command pointed the conversation at; `lost`: the turn found its session's data gone.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    status: str | None = None
    session_id: str | None = None
    version: int | None = None
    base_manifest: str | None = None
    delivered: dict[str, int] = {}
    moved_to: str | None = None
    lost: bool = False

    @property
    def answered(self) -> bool:
        """Whether the whole answer is in the chat."""
        return COMPLETE in self.delivered

    @property
    def committed(self) -> bool:
        """Whether the turn's snapshot is visible."""
        return self.version is not None


def answer_messages(delivered: dict[str, int]) -> list[int]:
    """The ids of the messages of an answer, of all that a turn's ledger names."""
    others = (COMPLETE, NOTICE, QUESTION)
    return [message for part, message in delivered.items() if not part.startswith(others)]


class Commit(BaseModel):
    """What Persist makes visible: `manifest` as version `base.version + 1`, if owner and fence still hold."""

    model_config = ConfigDict(frozen=True)

    turn_id: str
    fence: int
    base: Pointer
    manifest: str
    cost_usd: float
    execution_arn: str


class SessionTable:
    """The session and turn items of one table."""

    def __init__(self, table: str, dynamodb: DynamoDBClient, ttl_days: int = 25) -> None:
        self._table = table
        self._dynamodb = dynamodb
        self._ttl_seconds = ttl_days * DAY_SECONDS

    def pointer(self, session_key: str) -> Pointer | None:
        """The conversation's pointer, or None when it has none (any more)."""
        return self.session(session_key)[0]

    def preferences(self, session_key: str) -> Preferences:
        """What was chosen for this conversation."""
        return self.session(session_key)[1]

    def session(self, session_key: str) -> tuple[Pointer | None, Preferences]:
        """The pointer and the preferences, in one read."""
        return _session(self._get(session_key, "session") or {})

    def for_turn(self, session_key: str, turn_id: str) -> tuple[TurnRecord, Pointer | None, Preferences]:
        """What is recorded of a turn, and the session it finds, in one read."""
        keys = [(session_key, f"turn#{turn_id}"), (session_key, "session")]
        turn, session = (_plain(item) for item in aws.items(self._dynamodb, self._table, keys))
        return TurnRecord.model_validate(turn), *_session(session)

    def choose(self, session_key: str, change: Callable[[Preferences], Preferences]) -> Preferences:
        """Change what is chosen, from what it is by then; returns what it is now.

        It outlives the session, as long as the conversation is remembered.
        """
        while True:
            before = (self._get(session_key, "session") or {}).get("preferences")
            chosen = change(Preferences.model_validate(before or {}))
            values = {":chosen": chosen.model_dump(mode="json", exclude_none=True), ":ttl": self.expiry()}
            try:
                self._update(
                    session_key,
                    "session",
                    "SET preferences = :chosen, #ttl = :ttl",
                    names={"#ttl": "ttl"},
                    values=values if before is None else {**values, ":before": before},
                    condition="attribute_not_exists(preferences)" if before is None else "preferences = :before",
                )
            except ClientError as error:
                aws.refused_item(error)
                continue
            return chosen

    def start_over(self, session_key: str) -> Pointer:
        """Give the conversation a new, empty session."""
        fresh = Pointer(session_id=str(uuid.uuid4()), ttl=self.expiry())
        self._update(session_key, "session", **_pointer_update(fresh))
        return fresh

    def move(self, session_key: str, turn_id: str, before: Pointer | None, after: Pointer) -> bool:
        """Point the conversation at another snapshot, once for the update `turn_id`.

        False when it was done already, or when the conversation is not at `before` (any more); then nothing changes. A
        turn that runs meanwhile cannot commit afterwards.
        """
        after = after.model_copy(update={"ttl": self.expiry()})
        condition, names, values = _at(before)
        update = _pointer_update(after)
        update = {**update, "names": {**update["names"], **names}, "values": {**update["values"], **values}}
        items = [
            self._item(session_key, "session", **update, condition=condition),
            self._item(
                session_key,
                f"turn#{turn_id}",
                expression="SET moved_to = :id, #ttl = :ttl",
                names={"#ttl": "ttl"},
                values={":id": after.session_id, ":ttl": after.ttl},
                condition="attribute_not_exists(moved_to)",
            ),
        ]
        try:
            self._dynamodb.transact_write_items(TransactItems=[{"Update": item} for item in items])
        except ClientError as error:
            if "ConditionalCheckFailed" not in _reasons(error):
                raise
            return False
        return True

    def turn(self, session_key: str, turn_id: str) -> TurnRecord:
        """What is recorded of a turn; an empty record when nothing is."""
        return TurnRecord.model_validate(self._get(session_key, f"turn#{turn_id}") or {})

    def commit(self, session_key: str, commit: Commit) -> Literal["committed", "superseded"]:
        """Make a snapshot visible, once. Returns `superseded` when the conversation was reset meanwhile.

        Raises LockLost when the turn does not own the lock with this fence; then nothing is written.
        """
        turn_key = f"turn#{commit.turn_id}"
        version, ttl = commit.base.version + 1, self.expiry()
        condition, names, values = _at(commit.base)
        try:
            self._dynamodb.transact_write_items(
                TransactItems=[
                    {
                        "ConditionCheck": {
                            "TableName": self._table,
                            "Key": aws.item_key(session_key, "lock"),
                            "ConditionExpression": "#owner = :turn AND fence = :fence",
                            "ExpressionAttributeNames": {"#owner": "owner"},
                            "ExpressionAttributeValues": _values({":turn": commit.turn_id, ":fence": commit.fence}),
                        }
                    },
                    {
                        "Update": {
                            "TableName": self._table,
                            "Key": aws.item_key(session_key, "session"),
                            "ConditionExpression": condition,
                            "UpdateExpression": "SET version = :version, manifest = :manifest, cost_usd = :cost, "
                            "#ttl = :ttl ADD turns :one",
                            "ExpressionAttributeNames": {"#ttl": "ttl", **names},
                            "ExpressionAttributeValues": _values(
                                {
                                    **values,
                                    ":version": version,
                                    ":manifest": commit.manifest,
                                    ":cost": commit.cost_usd,
                                    ":ttl": ttl,
                                    ":one": 1,
                                }
                            ),
                        }
                    },
                    {
                        "Update": {
                            "TableName": self._table,
                            "Key": aws.item_key(session_key, turn_key),
                            "ConditionExpression": "attribute_not_exists(version)",
                            "UpdateExpression": "SET #status = :status, version = :version, session_id = :id, "
                            "base_manifest = :base, execution_arn = :arn, #ttl = :ttl",
                            "ExpressionAttributeNames": {"#status": "status", "#ttl": "ttl"},
                            "ExpressionAttributeValues": _values(
                                {
                                    ":status": "committed",
                                    ":version": version,
                                    ":id": commit.base.session_id,
                                    ":base": commit.base.manifest,
                                    ":arn": commit.execution_arn,
                                    ":ttl": ttl,
                                }
                            ),
                        }
                    },
                ]
            )
        except ClientError as error:
            codes = _reasons(error)
            if "ConditionalCheckFailed" in codes and self.turn(session_key, commit.turn_id).committed:
                return "committed"
            if codes[0] == "ConditionalCheckFailed":
                raise LockLost(f"{commit.turn_id} does not own {session_key} with fence {commit.fence}") from error
            if codes[1] == "ConditionalCheckFailed":
                return "superseded"
            raise
        return "committed"

    def works_in(self, session_key: str, turn_id: str, session_id: str, lost: bool) -> None:
        """Note on the turn's item which session it works in: its costs are counted from there, however it ends.

        `lost`: it is a fresh one since another's data was gone, which a retry could not see any more.
        """
        self._update(
            session_key,
            f"turn#{turn_id}",
            "SET session_id = :id, lost = :lost, #ttl = if_not_exists(#ttl, :ttl)",
            names={"#ttl": "ttl"},
            values={":id": session_id, ":lost": lost, ":ttl": self.expiry()},
        )

    def delivered(self, session_key: str, turn_id: str, part: str, message_id: int) -> None:
        """Note that a part of the turn's answer is in the chat."""
        key = f"turn#{turn_id}"
        part_of: dict[str, Any] = {
            "expression": "SET delivered.#part = :id",
            "names": {"#part": part},
            "values": {":id": message_id},
        }
        try:
            self._update(session_key, key, **part_of, condition="attribute_exists(delivered)")
        except ClientError as error:
            aws.refused_item(error)
            ledger = "SET delivered = if_not_exists(delivered, :none), #ttl = :ttl"
            none = {"names": {"#ttl": "ttl"}, "values": {":none": {}, ":ttl": self.expiry()}}
            self._update(session_key, key, ledger, **none)
            self._update(session_key, key, **part_of)

    def expiry(self) -> int:
        """When what is written now expires, in seconds since 1970."""
        return int(time.time()) + self._ttl_seconds

    def _get(self, session_key: str, sort_key: str) -> dict[str, Any] | None:
        found = self._dynamodb.get_item(
            TableName=self._table, Key=aws.item_key(session_key, sort_key), ConsistentRead=True
        ).get("Item")
        return None if found is None else _plain(found)

    def _update(self, session_key: str, sort_key: str, expression: str, **how: Any) -> None:
        self._dynamodb.update_item(**self._item(session_key, sort_key, expression, **how))

    def _item(
        self,
        session_key: str,
        sort_key: str,
        expression: str,
        names: dict[str, str],
        values: dict[str, Any],
        condition: str | None = None,
    ) -> Any:
        """The parameters of one update."""
        return {
            "TableName": self._table,
            "Key": aws.item_key(session_key, sort_key),
            "UpdateExpression": expression,
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": _values(values),
            **({"ConditionExpression": condition} if condition else {}),
        }


def _plain(item: dict[str, Any]) -> dict[str, Any]:
    read = TypeDeserializer().deserialize
    return {name: read(value) for name, value in item.items()}


def _session(item: dict[str, Any]) -> tuple[Pointer | None, Preferences]:
    pointer = Pointer.model_validate(item) if "session_id" in item else None  # preferences may come first
    return pointer, Preferences.model_validate(item.get("preferences", {}))


def _pointer_update(pointer: Pointer) -> dict[str, Any]:
    """Make the session item what `pointer` says."""
    values = {
        ":to_id": pointer.session_id,
        ":to_version": pointer.version,
        ":to_cost": pointer.cost_usd,
        ":to_turns": pointer.turns,
        ":to_ttl": pointer.ttl,
    }
    expression = (
        "SET session_id = :to_id, version = :to_version, cost_usd = :to_cost, turns = :to_turns, #ttl = :to_ttl"
    )
    if pointer.manifest is None:
        return {"expression": f"{expression} REMOVE manifest", "names": {"#ttl": "ttl"}, "values": values}
    values[":to_manifest"] = pointer.manifest
    return {"expression": f"{expression}, manifest = :to_manifest", "names": {"#ttl": "ttl"}, "values": values}


def _at(pointer: Pointer | None) -> tuple[str, dict[str, str], dict[str, Any]]:
    """The condition that a conversation is at `pointer` (None: it has no session)."""
    if pointer is None:
        return "attribute_not_exists(session_id)", {}, {}
    condition, names = "session_id = :at_id AND #version = :at_version AND ", {"#version": "version"}
    values: dict[str, Any] = {":at_id": pointer.session_id, ":at_version": pointer.version}
    if pointer.manifest is None:
        return condition + "attribute_not_exists(manifest)", names, values
    return condition + "manifest = :at_manifest", names, {**values, ":at_manifest": pointer.manifest}


def _reasons(error: ClientError) -> list[str]:
    """Why a transaction was cancelled, item by item. Raises any other error."""
    if error.response["Error"]["Code"] != "TransactionCanceledException":
        raise error
    reasons: Any = error.response.get("CancellationReasons", [])
    return [str(reason.get("Code")) for reason in reasons]


def _values(values: dict[str, Any]) -> dict[str, Any]:
    write = TypeSerializer().serialize
    return {name: write(Decimal(str(v)) if isinstance(v, float) else v) for name, v in values.items()}
