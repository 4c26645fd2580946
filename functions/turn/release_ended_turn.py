"""The net under ReleaseLock: a Turn that was stopped, timed out or failed before its release gives the lock back.

Called by the EventBridge rule on *Step Functions Execution Status Change*
(https://docs.aws.amazon.com/step-functions/latest/dg/eventbridge-integration.html). Delivery is best effort: the event
may come twice, late (when the execution was redriven since and rightly owns the lock again) or not at all.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from functions.common import aws
from functions.common.errors import BadInput
from functions.common.observability import parse
from functions.turn import release_lock

TURN_NAME = re.compile(r"^c(-?\d+)-t(\d+)-u\d+")


class StatusChange(BaseModel):
    """The event's detail; `stopDate` in milliseconds since 1970."""

    executionArn: str
    name: str
    stopDate: int


class Event(BaseModel):
    """The event."""

    detail: StatusChange


def session_key(turn_id: str) -> str:
    """The conversation a turn belongs to, read from its name. Raises BadInput for any other name."""
    match = TURN_NAME.match(turn_id)
    if match is None:
        raise BadInput(f"detail.name: {turn_id!r} is not a turn's name")
    return f"{match[1]}:{match[2]}"


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Release what the ended attempt of the turn held."""
    detail = parse(Event, event).detail
    request = {
        "turn_id": detail.name,
        "session_key": session_key(detail.name),
        "state": "ReleaseEndedTurn",
        "execution": {"RedriveCount": ended_redrive(detail.executionArn, detail.stopDate)},
    }
    return release_lock.handler(request, context)


def ended_redrive(execution_arn: str, stopped_at: int) -> int:
    """The redrive count of the attempt that stopped at `stopped_at`: one less when a redrive came after it."""
    execution = aws.step_functions().describe_execution(executionArn=execution_arn)
    count = execution.get("redriveCount", 0)
    redriven = execution.get("redriveDate")
    stopped = datetime.fromtimestamp(stopped_at / 1000, UTC)
    return count - 1 if redriven is not None and redriven > stopped else count
