"""Reading executions: from Step Functions' history to what an operator wants to know. Works on AWS and locally."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from functions.common.execution import readable_cause

if TYPE_CHECKING:
    from mypy_boto3_stepfunctions import SFNClient

FAILURE_ROUTE = ("ReportFailure", "ReleaseFailedLock", "TurnFailed")
"""States that handle a failure; the state that failed stands before them."""

FAILED_EVENTS = {
    "TaskFailed": "taskFailedEventDetails",
    "TaskTimedOut": "taskTimedOutEventDetails",
    "TaskStartFailed": "taskStartFailedEventDetails",
    "TaskSubmitFailed": "taskSubmitFailedEventDetails",
}
ENDS = {
    "ExecutionFailed": "failed",
    "ExecutionAborted": "aborted",
    "ExecutionTimedOut": "timed out",
}


@dataclass
class State:
    """One visit of a state. `status`: running, succeeded, caught, failed, aborted or timed out; `seconds` so far."""

    name: str
    attempt: int
    status: str
    entered: datetime
    seconds: float
    input: Any
    output: Any = None
    tries: int = 0
    error: str | None = None
    cause: str | None = None


@dataclass
class ExecutionDetail:
    """One execution. `states` are those of the last attempt, `attempts` those of each (a redrive starts another)."""

    execution: str
    name: str
    status: str
    states: list[State]
    attempts: list[list[State]]
    input: Any
    output: Any = None
    error: str | None = None
    cause: str | None = None
    failed_state: State | None = field(default=None)

    def document(self) -> dict[str, Any]:
        """The JSON that `show --json` prints."""
        document: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        document["failed_state"] = self.failed_state.name if self.failed_state else None
        return document


def history(step_functions: SFNClient, arn: str) -> list[dict[str, Any]]:
    """All events of an execution, oldest first."""
    pages = step_functions.get_paginator("get_execution_history").paginate(executionArn=arn)
    return [dict(event) for page in pages for event in page["events"]]


def attempts_of(events: Iterable[dict[str, Any]], now: datetime) -> list[list[State]]:
    """The visited states of each attempt; a redrive begins a new one at the state that failed."""
    attempts: list[list[State]] = [[]]
    current: State | None = None
    succeeded = False
    for event in events:
        kind = str(event["type"])
        if "stateEnteredEventDetails" in event:
            details = event["stateEnteredEventDetails"]
            if attempts[-1] and attempts[-1][-1].status == "running" and attempts[-1][-1].name == details["name"]:
                attempts[-1].pop()  # announced by the redrive; whether the state is entered again differs
            current = State(
                details["name"], len(attempts), "running", event["timestamp"], 0.0, _json(details.get("input"))
            )
            attempts[-1].append(current)
            succeeded = False
        elif kind == "ExecutionRedriven":
            attempts.append([])
            if current is not None:
                current = State(current.name, len(attempts), "running", event["timestamp"], 0.0, current.input)
                attempts[-1].append(current)
        elif kind in ENDS and current is not None and current.status == "running":
            current.status, current.seconds = ENDS[kind], _seconds(current.entered, event["timestamp"])
        elif current is None:
            continue
        elif kind in FAILED_EVENTS:
            details = event[FAILED_EVENTS[kind]]
            current.tries += 1
            current.error, current.cause = details.get("error", "States.Timeout"), details.get("cause")
            succeeded = False
        elif kind == "TaskSucceeded":
            succeeded = True
            current.tries += 1
        elif "stateExitedEventDetails" in event:
            current.output = _json(event["stateExitedEventDetails"].get("output"))
            current.status = "caught" if current.error is not None and not succeeded else "succeeded"
            current.seconds = _seconds(current.entered, event["timestamp"])
    if current is not None and current.status == "running":
        current.seconds = _seconds(current.entered, now)
    return [attempt for attempt in attempts if attempt] or [[]]


def failed_state(attempt: list[State]) -> State | None:
    """The state that failed, not the ones that handled it."""
    broken = [state for state in attempt if state.status in ("caught", "failed", "aborted", "timed out")]
    own = [state for state in broken if state.name not in FAILURE_ROUTE]
    candidates = own or broken
    return candidates[-1] if candidates else None


def detail(step_functions: SFNClient, arn: str) -> ExecutionDetail:
    """Everything about one execution."""
    described = step_functions.describe_execution(executionArn=arn)
    attempts = attempts_of(history(step_functions, arn), datetime.now(described["startDate"].tzinfo))
    status = str(described["status"])
    failed = failed_state(attempts[-1]) if status in ("FAILED", "ABORTED", "TIMED_OUT") else None
    if failed is not None and failed.status == "caught":
        failed.status = "failed"
    return ExecutionDetail(
        execution=arn,
        name=described["name"],
        status=status,
        states=attempts[-1],
        attempts=attempts,
        input=_json(described.get("input")),
        output=_json(described.get("output")),
        error=described.get("error"),
        cause=readable_cause(described.get("cause") or "") or None,
        failed_state=failed,
    )


def list_executions(
    step_functions: SFNClient, machine: str, status: str | None, chat: int | None, limit: int
) -> list[dict[str, Any]]:
    """Newest first: name, status, chat, started, seconds, error."""
    given: dict[str, Any] = {"statusFilter": status} if status else {}
    found: list[dict[str, Any]] = []
    for page in step_functions.get_paginator("list_executions").paginate(stateMachineArn=machine, **given):
        for item in page["executions"]:
            name = item["name"]
            if chat is not None and not name.startswith(f"c{chat}-"):
                continue
            found.append(_row(step_functions, dict(item)))
            if len(found) >= limit:
                return found
    return found


def _row(step_functions: SFNClient, item: dict[str, Any]) -> dict[str, Any]:
    started, stopped = item["startDate"], item.get("stopDate")
    failed = item["status"] in ("FAILED", "ABORTED", "TIMED_OUT")
    error = step_functions.describe_execution(executionArn=item["executionArn"]).get("error") if failed else None
    ended = stopped or datetime.now(started.tzinfo)
    return {
        "name": item["name"],
        "status": item["status"],
        "chat": chat_of(item["name"]),
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(_seconds(started, ended), 2),
        "error": error,
    }


def present_state(step_functions: SFNClient, arn: str) -> str | None:
    """The state a running execution is in, by the newest events of its history."""
    pages = step_functions.get_paginator("get_execution_history").paginate(executionArn=arn, reverseOrder=True)
    entered = (event for page in pages for event in page["events"] if "stateEnteredEventDetails" in event)
    newest = max(entered, key=lambda event: event["id"], default=None)
    return newest["stateEnteredEventDetails"]["name"] if newest else None


def chat_of(name: str) -> int | None:
    """The chat in an execution's name, `c<chat>-t<thread>-u<update>`."""
    head = name.split("-t")[0]
    try:
        return int(head.removeprefix("c"))
    except ValueError:
        return None


def _seconds(start: datetime, end: datetime) -> float:
    return round((end - start).total_seconds(), 3)


def _json(text: Any) -> Any:
    if not isinstance(text, str) or not text:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text
