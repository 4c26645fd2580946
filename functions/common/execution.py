"""What the context object and the Catch blocks of a definition say, as code reads it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

STOPPED_BY_USER = "StoppedByUser"
"""The error of an execution that /stop ended by force: the chat is told so, and gets no failure notice."""


class Entry(BaseModel):
    """This visit of a state (`$$.State`): when it was entered, and how often it was retried since."""

    EnteredTime: str
    RetryCount: int = 0


class Failure(BaseModel):
    """What a Catch puts into the state: Step Functions' own names."""

    Error: str
    Cause: str = ""


def redrive_count(execution: dict[str, Any]) -> int:
    """How often an execution (`$$.Execution`) was redriven; the field is absent before the first time."""
    return int(execution.get("RedriveCount", 0))


def seconds_since(time: str) -> float:
    """Seconds since a time of the context object, such as `$$.Execution.StartTime` (ISO 8601)."""
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds())


def readable_cause(cause: str) -> str:
    """The message inside a Lambda function's error document, or the cause as it is."""
    try:
        document = json.loads(cause)
    except ValueError:
        return cause
    return str(document.get("errorMessage", cause)) if isinstance(document, dict) else cause
