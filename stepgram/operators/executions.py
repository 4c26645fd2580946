"""Reading executions: from Step Functions' history to what an operator wants to know. Works on AWS and locally."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from functions.common.execution import readable_cause

if TYPE_CHECKING:
    from mypy_boto3_stepfunctions import SFNClient

NOT_ANSWERED = ("FAILED", "TIMED_OUT", "ABORTED")
"""Statuses of a turn whose message may have no answer."""

UNANSWERED = "UNANSWERED"
"""Any of them, as a filter."""

PAGE_SIZE = 100
PAGES_AT_ONCE = 10
READERS = 8
"""Executions whose error is read at a time."""

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
    """One execution. `states` are those of the last attempt, `attempts` those of each (a redrive starts another).

    `not_redrivable` says why it cannot be redriven; None when it can, or need not.
    """

    execution: str
    name: str
    status: str
    started: datetime
    stopped: datetime | None
    states: list[State]
    attempts: list[list[State]]
    input: Any
    output: Any = None
    error: str | None = None
    cause: str | None = None
    failed_state: State | None = None
    not_redrivable: str | None = None
    definition: str = ""

    def document(self) -> dict[str, Any]:
        """The JSON that `show --json` prints."""
        document: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        del document["definition"]
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


def failure_route(definition: str) -> list[str]:
    """The states that handle a failure, in order: those in which one of them waits, then from where the first state's
    errors are caught up to the way back, which is a state of the main path."""
    document = json.loads(definition)
    states = document["States"]
    main = _onward(states, document["StartAt"], [])
    catchers = states[document["StartAt"]].get("Catch", [])
    first = next((catcher["Next"] for catcher in catchers if "States.ALL" in catcher["ErrorEquals"]), None)
    route = [name for name in _onward(states, first, main) if name not in main]
    caught = [catcher["Next"] for name in route for catcher in states[name].get("Catch", [])]
    return [name for start in caught for name in _onward(states, start, [*main, *route])] + route


def _onward(states: dict[str, Any], name: str | None, known: Sequence[str]) -> list[str]:
    """A state and what follows when nothing fails, up to states that are `known`."""
    found: list[str] = []
    look = [name]
    while look:
        here = look.pop(0)
        if here is not None and here not in found and here not in known:
            found.append(here)
            choices = [choice["Next"] for choice in states[here].get("Choices", [])]
            look += [states[here].get("Next"), states[here].get("Default"), *choices]
    return found


def failed_state(attempt: list[State], route: list[str]) -> State | None:
    """The state that failed, not those of the `route` that handled it."""
    broken = [state for state in attempt if state.status in ("caught", "failed", "aborted", "timed out")]
    own = [state for state in broken if state.name not in route]
    candidates = own or broken
    return candidates[-1] if candidates else None


def follow(step_functions: SFNClient, arn: str, pause: float) -> Iterator[tuple[list[State], list[State]]]:
    """Until an execution ends: at each look, `pause` seconds apart, the states left since the last, and all states."""
    told = 0
    while True:
        status = step_functions.describe_execution(executionArn=arn)["status"]
        states = [s for attempt in attempts_of(history(step_functions, arn), datetime.now(UTC)) for s in attempt]
        left = [state for state in states if state.status != "running"]
        yield left[told:], states
        told = max(told, len(left))
        if status != "RUNNING":
            return
        time.sleep(pause)


def detail(step_functions: SFNClient, arn: str, definition: str | None = None) -> ExecutionDetail:
    """Everything about one execution; its `definition` never changes, so who looks again gives it along."""
    described = step_functions.describe_execution(executionArn=arn)
    attempts = attempts_of(history(step_functions, arn), datetime.now(described["startDate"].tzinfo))
    status = str(described["status"])
    if definition is None:
        definition = step_functions.describe_state_machine_for_execution(executionArn=arn)["definition"]
    failed = failed_state(attempts[-1], failure_route(definition)) if status in NOT_ANSWERED else None
    if failed is not None and failed.status == "caught":
        failed.status = "failed"
    refused = status in NOT_ANSWERED and described.get("redriveStatus") == "NOT_REDRIVABLE"
    return ExecutionDetail(
        execution=arn,
        name=described["name"],
        status=status,
        started=described["startDate"],
        stopped=described.get("stopDate"),
        states=attempts[-1],
        attempts=attempts,
        input=_json(described.get("input")),
        output=_json(described.get("output")),
        error=described.get("error"),
        cause=readable_cause(described.get("cause") or "") or None,
        failed_state=failed,
        not_redrivable=described.get("redriveStatusReason", "the time for it is over") if refused else None,
        definition=definition,
    )


@dataclass(frozen=True)
class Wanted:
    """Which turns to list. `status` is Step Functions', or UNANSWERED; `text` is in error, cause or name.

    `since` and `until` are about the start; `until` itself is not meant.
    """

    status: str | None = None
    chat: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    text: str = ""


class Turns:
    """The executions of one state machine, newest first, a page at a time; errors are read once and remembered."""

    def __init__(self, step_functions: SFNClient, machine: str) -> None:
        self._step_functions = step_functions
        self._machine = machine
        self._errors: dict[tuple[str, datetime], tuple[str | None, str]] = {}

    def page(self, wanted: Wanted, size: int, token: str | None = None) -> tuple[list[dict[str, Any]], str | None]:
        """At least `size` rows where there are so many, and the token that continues after them (None: no more).

        A row: name, status, chat, started (ISO), seconds, error, cause. Only so many pages are read at a time that
        somebody who filters is not kept waiting: a page may have few rows, or none, and go on.
        """
        rows: list[dict[str, Any]] = []
        with ThreadPoolExecutor(READERS) as pool:
            for _ in range(PAGES_AT_ONCE):
                given: dict[str, Any] = {"maxResults": PAGE_SIZE, **({"nextToken": token} if token else {})}
                if wanted.status and wanted.status != UNANSWERED:
                    given["statusFilter"] = wanted.status
                answer = self._step_functions.list_executions(stateMachineArn=self._machine, **given)
                items, token = answer["executions"], answer.get("nextToken")
                found = [dict(item) for item in items if _is_wanted(dict(item), wanted)]
                rows += [row for row in pool.map(self._row, found) if _has_text(row, wanted.text)]
                if wanted.since is not None and items and items[-1]["startDate"] < wanted.since:
                    token = None
                if token is None or len(rows) >= size:
                    break
        return rows, token

    def rows(self, wanted: Wanted, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Rows as `page` gives them, `limit` at most."""
        token: str | None = None
        left = limit if limit is not None else sys.maxsize
        while True:
            rows, token = self.page(wanted, min(left, PAGE_SIZE), token)
            yield from rows[:left]
            left -= len(rows)
            if token is None or left <= 0:
                return

    def _row(self, item: dict[str, Any]) -> dict[str, Any]:
        started, stopped = item["startDate"], item.get("stopDate")
        error, cause = self._error(item) if item["status"] in NOT_ANSWERED else (None, "")
        return {
            "name": item["name"],
            "status": item["status"],
            "chat": chat_of(item["name"]),
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(_seconds(started, stopped or datetime.now(started.tzinfo)), 2),
            "error": error,
            "cause": cause,
        }

    def _error(self, item: dict[str, Any]) -> tuple[str | None, str]:
        key = (item["executionArn"], item["stopDate"])
        if key not in self._errors:
            described = self._step_functions.describe_execution(executionArn=item["executionArn"])
            self._errors[key] = described.get("error"), readable_cause(described.get("cause") or "")
        return self._errors[key]


def _is_wanted(item: dict[str, Any], wanted: Wanted) -> bool:
    """Whether what the list says of an execution is what is looked for; its text is looked at later."""
    return (
        (wanted.status != UNANSWERED or item["status"] in NOT_ANSWERED)
        and (not wanted.text or wanted.text.lower() in item["name"].lower() or item["status"] in NOT_ANSWERED)
        and (wanted.chat is None or chat_of(item["name"]) == wanted.chat)
        and (wanted.since is None or item["startDate"] >= wanted.since)
        and (wanted.until is None or item["startDate"] < wanted.until)
    )


def _has_text(row: dict[str, Any], text: str) -> bool:
    return not text or any(text.lower() in str(row[field]).lower() for field in ("name", "error", "cause"))


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
