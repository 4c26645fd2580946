"""What the chat sees while a turn is at work, and what the turn hears back: whether somebody pressed Stop.

The agent's container holds no Telegram token. It calls the Progress function with a *ticket*: who is told, sealed by
whoever prepared the turn, so that a hostile agent can speak in its own turn's chat only. A call that is lost, late or
doubled harms nothing: each has a sequence number on the turn's item, and a turn that replies closes its own.

    pk = session_key, sk = "turn#<id>"    progress (sequence), progress_busy, progress_message, progress_waiting, stop
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from botocore.exceptions import BotoCoreError, ClientError
from pydantic import BaseModel, ConfigDict, ValidationError

from functions.common import aws
from functions.common.access import NotSealed, decrypt, encrypt
from functions.common.envelope import Chat
from functions.common.errors import BadInput
from functions.common.observability import StepRequest, logger, measure, parse

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

ATTEMPT = 10**13
"""Sequence numbers of one attempt (an execution's redrive): milliseconds since 1970; the last of them closes it."""

SHOWN_CHARACTERS = 3500
"""Of the answer so far, the end is shown while it grows."""


class Ticket(BaseModel):
    """Whom the Progress function may tell of this turn, and how much; `started` is in that of its first sign."""

    model_config = ConfigDict(frozen=True)

    chat: Chat
    message_id: int
    language: str
    verbose: int = 1
    attempt: int = 0
    started: str | None = None


class Tool(BaseModel):
    """The tool that runs: `brief` says what for, `detail` with what."""

    model_config = ConfigDict(frozen=True)

    name: str
    brief: str = ""
    detail: str = ""


class Report(StepRequest):
    """Where the turn stands at `time`, in milliseconds since 1970; `waiting` turns are before this one.

    `listen` shows nothing, it only asks whether to stop; `alive` renews what fades; `news` has something to show.
    `busy`: the model is, and its request is repeated.
    """

    ticket: str
    time: int
    show: Literal["listen", "alive", "news"] = "news"
    waiting: int | None = None
    text: str = ""
    tool: Tool | None = None
    busy: bool = False


class Heard(BaseModel):
    """The answer to a report: stop, and how many seconds until the next one with news is welcome."""

    stop: bool = False
    pause: float = 1.0


def issue(key_arn: str, turn_id: str, session_key: str, ticket: Ticket) -> str:
    """The sealed ticket of one turn."""
    return encrypt(key_arn, ticket.model_dump_json().encode(), _context(turn_id, session_key))


@lru_cache(maxsize=256)
def redeem(sealed: str, turn_id: str, session_key: str) -> Ticket:
    """The ticket. Raises BadInput when it was not issued for this turn."""
    try:
        return Ticket.model_validate_json(decrypt(sealed, _context(turn_id, session_key)))
    except (NotSealed, ValidationError) as error:
        raise BadInput(f"ticket: not issued for turn {turn_id}") from error


def draft_id(turn_id: str) -> int:
    """The id of the turn's draft, which must not be 0 (Bot API, sendMessageDraft)."""
    return zlib.crc32(turn_id.encode()) >> 1 or 1


def _context(turn_id: str, session_key: str) -> dict[str, str]:
    return {"purpose": "progress", "turn_id": turn_id, "session_key": session_key}


def ask(function: str, report: Report) -> Heard:
    """Report and hear the answer. A call that fails is a lost report, which the next one makes good."""
    try:
        answer = aws.lambda_().invoke(FunctionName=function, Payload=report.model_dump_json().encode())
        document = json.loads(answer["Payload"].read())
        if "FunctionError" in answer:
            _lost(document.get("errorMessage"))
            return Heard()
        return parse(Heard, document)
    except (ClientError, BotoCoreError) as error:
        _lost(error)
        return Heard()


def tell(function: str, report: Report) -> None:
    """Report and do not wait for it."""
    try:
        aws.lambda_().invoke(FunctionName=function, InvocationType="Event", Payload=report.model_dump_json().encode())
    except (ClientError, BotoCoreError) as error:
        _lost(error)


def _lost(cause: object) -> None:
    logger.warning("progress was not shown", cause=str(cause))
    measure(ProgressFailures=1)


@dataclass(frozen=True)
class Shown:
    """What the turn's item says: `message_id` is the message that shows progress; `busy`: one is being shown now.

    `stop` is the last attempt that was asked to stop (-1: none). `waiting`: the message says that others come first.
    `stale`: a later report came first, or the turn ended.
    """

    message_id: int | None
    stop: int
    busy: bool = False
    waiting: bool = False
    stale: bool = False


class ProgressTable:
    """The progress of turns, on their items. `ttl` is in seconds since 1970."""

    def __init__(self, table: str, dynamodb: DynamoDBClient, ttl: int) -> None:
        self._table = table
        self._dynamodb = dynamodb
        self._ttl = ttl

    def shown(self, session_key: str, turn_id: str) -> Shown:
        """What shows the turn's progress now."""
        key: dict[str, Any] = {"pk": {"S": session_key}, "sk": {"S": f"turn#{turn_id}"}}
        return _shown(self._dynamodb.get_item(TableName=self._table, Key=key, ConsistentRead=True).get("Item", {}))

    def begin(self, session_key: str, turn_id: str, sequence: int) -> Shown:
        """Take a sequence number, unless a higher one is taken."""
        try:
            return _shown(
                self._update(
                    session_key,
                    turn_id,
                    "SET progress = :n, progress_busy = :n, #ttl = if_not_exists(#ttl, :ttl)",
                    {":n": {"N": str(sequence)}, ":ttl": {"N": str(self._ttl)}},
                    {"#ttl": "ttl"},
                    "attribute_not_exists(progress) OR progress < :n",
                )
            )
        except ClientError as error:
            return _shown(aws.refused_item(error), stale=True)

    def end(self, session_key: str, turn_id: str, sequence: int, message_id: int | None, waiting: bool) -> bool:
        """Note what was shown under a number; False when the turn has been closed or another was shown meanwhile."""
        change, message = "REMOVE progress_busy", {}
        if message_id is not None:
            change = f"SET progress_message = :m, progress_waiting = :w {change}"
            message = {":m": {"N": str(message_id)}, ":w": {"BOOL": waiting}}
        values = {":n": {"N": str(sequence)}, **message}
        try:
            self._update(session_key, turn_id, change, values, {}, "progress_busy = :n AND progress = :n")
        except ClientError as error:
            aws.refused_item(error)
            return False
        return True

    def gone(self, session_key: str, turn_id: str) -> None:
        """The message that showed progress is deleted."""
        self._update(session_key, turn_id, "REMOVE progress_message, progress_waiting", {}, {}, None)

    def close(self, session_key: str, turn_id: str, attempt: int) -> Shown:
        """Let no report of this attempt, or of an earlier one, show anything from now on."""
        last = {":n": {"N": str((attempt + 1) * ATTEMPT - 1)}, ":ttl": {"N": str(self._ttl)}}
        change = "SET progress = :n, #ttl = if_not_exists(#ttl, :ttl)"
        try:
            return _shown(
                self._update(
                    session_key,
                    turn_id,
                    change,
                    last,
                    {"#ttl": "ttl"},
                    "attribute_not_exists(progress) OR progress < :n",
                )
            )
        except ClientError as error:
            return _shown(aws.refused_item(error))

    def stop(self, session_key: str, turn_id: str, attempt: int) -> bool:
        """Ask an attempt of the turn to stop; False when it was asked before. A later one runs again."""
        values = {":attempt": {"N": str(attempt)}, ":ttl": {"N": str(self._ttl)}}
        change = "SET stop = :attempt, #ttl = if_not_exists(#ttl, :ttl)"
        try:
            self._update(
                session_key, turn_id, change, values, {"#ttl": "ttl"}, "attribute_not_exists(stop) OR stop < :attempt"
            )
        except ClientError as error:
            aws.refused_item(error)
            return False
        return True

    def _update(
        self,
        session_key: str,
        turn_id: str,
        change: str,
        values: dict[str, Any],
        names: dict[str, str],
        condition: str | None,
    ) -> dict[str, Any]:
        given: dict[str, Any] = {
            "TableName": self._table,
            "Key": {"pk": {"S": session_key}, "sk": {"S": f"turn#{turn_id}"}},
            "UpdateExpression": change,
            "ReturnValues": "ALL_NEW",
            **({"ExpressionAttributeValues": values} if values else {}),
            **({"ExpressionAttributeNames": names} if names else {}),
            **(
                {"ConditionExpression": condition, "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
                if condition
                else {}
            ),
        }
        return dict(self._dynamodb.update_item(**given).get("Attributes", {}))


def _shown(item: dict[str, Any], stale: bool = False) -> Shown:
    message = item.get("progress_message")
    return Shown(
        message_id=int(message["N"]) if message else None,
        stop=int(item.get("stop", {"N": "-1"})["N"]),
        busy="progress_busy" in item,
        waiting=item.get("progress_waiting", {}).get("BOOL", False),
        stale=stale,
    )
