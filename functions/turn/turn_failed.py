"""TurnFailed: end the execution with the error that stopped the turn, unless it was redriven since.

A `Fail` state would fail again at once when Step Functions restarts it. This Task raises the original error by name;
a redrive restarts it with a larger `$$.Execution.RedriveCount`, and then it lets the turn flow to AcquireLock.
Source: https://docs.aws.amazon.com/step-functions/latest/dg/redrive-executions.html
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from functions.common import errors
from functions.common.errors import NEXT, remedy_of
from functions.common.execution import Failure, readable_cause, redrive_count
from functions.common.observability import StepRequest, step


class Noted(BaseModel):
    """What ReportFailure, or an earlier pass through here, noted."""

    redrive_count: int = 0


class Turn(BaseModel):
    """The state of the turn; `failure` is absent when the notice itself failed."""

    error: Failure
    failure: Noted = Noted()


class Request(StepRequest):
    """The turn as it failed, and the execution as it is now (`$$.Execution`)."""

    turn: Turn
    execution: dict[str, Any]


class Result(BaseModel):
    """The redrive under which the turn runs again."""

    redrive_count: int


@step(Request)
def handler(request: Request) -> Result:
    """Raise the original error, or pass when the execution was redriven after the failure."""
    redrives = redrive_count(request.execution)
    if redrives > request.turn.failure.redrive_count:
        return Result(redrive_count=redrives)
    error, cause = request.turn.error.Error, readable_cause(request.turn.error.Cause)
    raise named(error, cause if NEXT in cause else f"{cause.rstrip('.')}{NEXT}{remedy_of(error)}")


def named(name: str, cause: str) -> Exception:
    """An exception whose class name is `name`, so that Lambda reports it as the error type."""
    known = getattr(errors, name, None)
    base = known if isinstance(known, type) and issubclass(known, Exception) else errors.StepgramError
    original: type[Exception] = type(name, (base,), {"__init__": Exception.__init__})
    return original(cause)
