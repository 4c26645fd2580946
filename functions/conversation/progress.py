"""What the chat sees while a turn is at work, and what the turn hears back: whether somebody pressed Stop.

The agent's container holds no Telegram token. It calls the callback with a *ticket*: who is told, and for which run,
sealed by whoever prepared it, so that a hostile agent can speak in its own turn's chat only, and only while its run
lasts. A call that is lost, late or doubled harms nothing: each has a sequence number on the turn's item, a turn that
replies closes its own, and two of them are at least a moment apart.

    pk = session_key, sk = "turn#<id>"    progress (sequence), progress_at (ms), progress_busy, progress_message,
                                          progress_waiting, stop; and the run's (`runs.py`)
"""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from botocore.exceptions import BotoCoreError, ClientError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from functions.common import aws
from functions.common.envelope import Place
from functions.common.errors import BadInput
from functions.common.observability import StepRequest, logger, measure
from functions.conversation.access import NotSealed, decrypt, encrypt
from functions.conversation.runs import CURRENT, Running, Seat, running

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

ATTEMPT = 10**13
"""Sequence numbers of one attempt (an execution's redrive): milliseconds since 1970; the last of them closes it."""

SHOWN_CHARACTERS = 3500
"""Of the answer so far, the end is shown while it grows."""


TICKET_SECONDS = 900
"""How long a ticket without a run holds: it shows once that a message is taken up."""


class Ticket(BaseModel):
    """Whom the callback may tell of this turn, and how much, `until` when, in seconds since 1970.

    `run` is the run of the agent that it was made for; `started` is in the ticket of a turn's first sign, without one.
    """

    model_config = ConfigDict(frozen=True)

    chat: Place
    message_id: int
    language: str
    until: int
    verbose: int = 1
    attempt: int = 0
    started: str | None = None
    run: Seat | None = None


def _unicode(text: Any) -> Any:
    """Without lone surrogates, which are no text, and which pydantic refuses."""
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else text


Shown500 = Annotated[str, Field(max_length=500), BeforeValidator(_unicode)]
ShownText = Annotated[str, Field(max_length=4 * SHOWN_CHARACTERS), BeforeValidator(_unicode)]


class Tool(BaseModel):
    """The tool that runs: `brief` says what for, `detail` with what."""

    model_config = ConfigDict(frozen=True)

    name: Shown500
    brief: Shown500 = ""
    detail: Shown500 = ""


class Call(StepRequest):
    """A call of the callback: what it is for, and the ticket."""

    what: Literal["begin", "listen", "show", "end"]
    ticket: str = Field(max_length=16_384)


class Report(Call):
    """Where the turn stands at `time`, in milliseconds since 1970; `waiting` turns are before this one.

    `alive` renews what fades; without it there is something new to show. `busy`: the model is, and its request is
    repeated.
    """

    what: Literal["show"] = "show"
    time: int = Field(ge=0, lt=ATTEMPT - 1)
    alive: bool = False
    waiting: int | None = Field(None, ge=0, le=1000)
    text: ShownText = ""
    tool: Tool | None = None
    busy: bool = False


class Heard(BaseModel):
    """The callback's answer: stop; the run is `gone`, so nothing of it counts any more; and how many seconds until the
    next report with news is welcome."""

    stop: bool = False
    gone: bool = False
    pause: float = 1.0


def issue(key_arn: str, turn_id: str, session_key: str, ticket: Ticket) -> str:
    """The sealed ticket of one turn."""
    return encrypt(key_arn, ticket.model_dump_json().encode(), _context(turn_id, session_key))


def redeem(call: Call) -> Ticket:
    """The ticket of a call. Raises BadInput when it was not issued for this turn, or holds no longer."""
    ticket = _redeemed(call.ticket, call.turn_id, call.session_key)
    if ticket.until < time.time():
        raise BadInput(f"ticket: it held until {ticket.until}")
    return ticket


@lru_cache(maxsize=256)
def _redeemed(sealed: str, turn_id: str, session_key: str) -> Ticket:
    try:
        return Ticket.model_validate_json(decrypt(sealed, _context(turn_id, session_key)))
    except (NotSealed, ValidationError) as error:
        raise BadInput(f"ticket: not issued for turn {turn_id}") from error


def draft_id(turn_id: str) -> int:
    """The id of the turn's draft, which must not be 0 (Bot API, sendMessageDraft)."""
    return zlib.crc32(turn_id.encode()) >> 1 or 1


def _context(turn_id: str, session_key: str) -> dict[str, str]:
    return {"purpose": "callback", "turn_id": turn_id, "session_key": session_key}


def tell(function: str, report: Report) -> None:
    """Report and do not wait for it."""
    try:
        aws.lambda_().invoke(FunctionName=function, InvocationType="Event", Payload=report.model_dump_json().encode())
    except (ClientError, BotoCoreError) as error:
        logger.warning("progress was not shown", cause=str(error))
        measure(ProgressFailures=1)


@dataclass(frozen=True)
class Shown:
    """What the turn's item says: `message_id` is the message that shows progress; `busy`: one is being shown now.

    `waiting`: the message says that others come first. `stale`: a later report came first, it was too early, or the
    turn ended. `run`: the turn's present run, and whether it was asked to stop. `delivered`: the ids of the messages
    that are in the chat, by the names of their parts.
    """

    message_id: int | None
    busy: bool = False
    waiting: bool = False
    stale: bool = False
    run: Running = field(default_factory=Running)
    delivered: dict[str, int] = field(default_factory=dict)


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

    def begin(self, session_key: str, turn_id: str, sequence: int, run: int | None = None, pause: float = 0.0) -> Shown:
        """Take a sequence number, unless a higher one is taken, or one was less than `pause` seconds ago.

        With a `run`, only while that is the turn's present one.
        """
        now = time.time_ns() // 1_000_000
        values = {
            ":n": {"N": str(sequence)},
            ":ttl": {"N": str(self._ttl)},
            ":now": {"N": str(now)},
            ":latest": {"N": str(now - round(pause * 1000))},
        }
        condition = (
            "(attribute_not_exists(progress) OR progress < :n) "
            "AND (attribute_not_exists(progress_at) OR progress_at <= :latest)"
        )
        if run is not None:
            condition, values[":run"] = f"{condition} AND {CURRENT}", {"N": str(run)}
        try:
            return _shown(
                self._update(
                    session_key,
                    turn_id,
                    "SET progress = :n, progress_at = :now, progress_busy = :n, #ttl = if_not_exists(#ttl, :ttl)",
                    values,
                    {"#ttl": "ttl"},
                    condition,
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
        last: dict[str, Any] = {":n": {"N": str((attempt + 1) * ATTEMPT - 1)}, ":ttl": {"N": str(self._ttl)}}
        last[":none"] = {"M": {}}  # what follows writes into it
        change = "SET progress = :n, delivered = if_not_exists(delivered, :none), #ttl = if_not_exists(#ttl, :ttl)"
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
        busy="progress_busy" in item,
        waiting=item.get("progress_waiting", {}).get("BOOL", False),
        stale=stale,
        run=running(item),
        delivered={part: int(message["N"]) for part, message in item.get("delivered", {}).get("M", {}).items()},
    )
