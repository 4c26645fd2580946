"""What the functions logged for one turn: from CloudWatch Logs, or from the local stack's file."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from stepgram.operators.stack import Stack, home

BEFORE = timedelta(minutes=1)
"""Clocks of Lambda and Step Functions differ a little."""


def logs_of(stack: Stack, name: str) -> list[dict[str, Any]]:
    """The log lines of a turn, oldest first; each has `timestamp`, `level`, `state` and `message`."""
    if stack.is_local:
        path = home() / "functions.log"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        lines = (_parsed(line) for line in text.splitlines())
        return [line for line in lines if line is not None and line.get("turn_id") == name]
    described = stack.client("stepfunctions").describe_execution(executionArn=stack.execution_arn(name))
    pages = (
        stack.client("logs")
        .get_paginator("filter_log_events")
        .paginate(
            logGroupName=stack.outputs["FunctionLogs"],
            filterPattern=f'{{ $.turn_id = "{name}" }}',
            startTime=int((described["startDate"] - BEFORE).timestamp() * 1000),
        )
    )
    events = sorted((event for page in pages for event in page["events"]), key=lambda event: event["timestamp"])
    return [line for line in (_parsed(event["message"]) for event in events) if line is not None]


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        document = json.loads(line)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
