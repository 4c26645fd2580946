"""The net under ReleaseLock: a Turn that was stopped, timed out or failed before its release gives the lock back.

Called by the EventBridge rule on *Step Functions Execution Status Change*
(https://docs.aws.amazon.com/step-functions/latest/dg/eventbridge-integration.html); it may come twice or not at all.
"""

from __future__ import annotations

import re
from typing import Any

from functions.common.errors import BadInput
from functions.common.observability import StepRequest
from functions.turn import release_lock

TURN_NAME = re.compile(r"^c(-?\d+)-t(\d+)-u\d+")


def session_key(turn_id: str) -> str:
    """The conversation a turn belongs to, read from its name. Raises BadInput for any other name."""
    match = TURN_NAME.match(turn_id)
    if match is None:
        raise BadInput(f"detail.name: {turn_id!r} is not a turn's name")
    return f"{match[1]}:{match[2]}"


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Release the lock of the turn whose execution ended."""
    name = str(event["detail"]["name"])
    request = StepRequest(turn_id=name, session_key=session_key(name), state="ReleaseEndedTurn")
    return release_lock.handler(request.model_dump(), context)
