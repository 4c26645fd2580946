"""A run of the agent, from its claim to its end; the state that waits for it is answered here and nowhere else."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from functions.common import aws
from functions.common.errors import ResultRefused
from functions.common.execution import Failure
from functions.common.observability import logger, parse, step
from functions.common.settings import TableSettings
from functions.conversation.files.documents import Expected, RunSummary
from functions.conversation.progress import Call, Heard, ProgressTable, redeem
from functions.conversation.runs import Answers, RunTable, Seat

REPORTED = frozenset(
    {
        *("AgentCrashed", "AgentTimedOut", "AwsUnavailable", "BadInput", "ConfigurationError", "SnapshotMissing"),
        *("ModelThrottled", "ModelUnavailable", "ModelAccessDenied", "ModelRejected", "ResultRefused"),
        *("Runtime.ExitError", "Runtime.OutOfMemory", "Sandbox.Timedout", "Lambda.Unknown"),
    }
)
"""The errors an agent's run may end by. Any other name, which might lead the turn somewhere, is said in the cause."""

NOT_STARTED = "Lambda.TooManyRequestsException"
"""The error of a run that Lambda did not start in time: it is tried again as a throttled one."""

TIMED_OUT = re.compile(r"Task timed out after [\d.]+ seconds")
NAME = re.compile(r"[A-Za-z][\w.]{0,99}")


class Begin(Call):
    """One delivery of a run's event, under a name of its own."""

    delivery: str = Field(pattern=r"^[0-9a-f]{32}$")


class Listen(Call):
    """`beat`: say to the state that waits that the run lives."""

    beat: bool = False


class End(Call):
    """What the run made, as a RunSummary, or the error that ended it."""

    summary: dict[str, Any] | None = None
    failure: Failure | None = None


@step(Begin)
def begin(call: Begin) -> Heard:
    """Claim the run for this delivery: another one of the same event is told that the run is gone."""
    ticket, runs = redeem(call), RunTable(TableSettings.load().table, aws.dynamodb())
    claimed = runs.claim(call.session_key, call.turn_id, _seat(ticket.run).number, call.delivery)
    wanted = bool(claimed.number) and Answers(aws.step_functions()).alive(claimed.token)
    return Heard(stop=claimed.stop >= ticket.attempt, gone=not wanted)


@step(Listen)
def listen(call: Listen) -> Heard:
    """Whether to stop, and whether the run is still wanted."""
    ticket, settings = redeem(call), TableSettings.load()
    table = ProgressTable(settings.table, aws.dynamodb(), 0)
    shown = table.shown(call.session_key, call.turn_id)
    gone = not shown.run.is_run(_seat(ticket.run).number)
    if call.beat and not gone:
        gone = not Answers(aws.step_functions()).alive(shown.run.token)
    return Heard(stop=shown.run.stop >= ticket.attempt, gone=gone)


@step(End)
def end(call: End) -> Heard:
    """Answer the state that waits, once: with what was made, if it may be believed, or with the error."""
    seat, settings = _seat(redeem(call).run), TableSettings.load()
    ended = RunTable(settings.table, aws.dynamodb()).end(call.session_key, call.turn_id, seat.number)
    if not ended.number:
        logger.info("an end of a run that is over is refused", run=seat.number)
        return Heard(gone=True)
    answers = Answers(aws.step_functions())
    if call.failure is not None or call.summary is None:
        failure = call.failure or Failure(Error="AgentCrashed", Cause="the run handed in nothing")
        return Heard(gone=not answers.failed(ended.token, *_reported(failure)))
    try:
        summary = checked(call.summary, seat, call.turn_id)
    except ResultRefused as error:
        logger.error("what the run handed in is refused", cause=str(error))
        return Heard(gone=not answers.failed(ended.token, type(error).__name__, str(error)))
    return Heard(gone=not answers.succeeded(ended.token, summary))


def checked(given: dict[str, Any], seat: Seat, turn_id: str) -> RunSummary:
    """The summary, when it can be that of this run. Raises ResultRefused that names the field."""
    try:
        summary = RunSummary.model_validate(given)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ResultRefused(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from error
    known = seat.model_dump(include=set(Expected.model_fields))
    return summary.checked(Expected(turn_id=turn_id, **known))


class Died(BaseModel):
    """Lambda's record of an asynchronous invocation that failed
    (https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html)."""

    class Context(BaseModel):
        """Why Lambda gave it up: RetriesExhausted, EventAgeExceeded."""

        condition: str

    class Response(BaseModel):
        """What the function, or its platform, said."""

        errorType: str = ""
        errorMessage: str = ""

    requestContext: Context
    requestPayload: dict[str, Any]
    responsePayload: Response | None = None


def died(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """End the run that a record of Lambda's names."""
    record = parse(Died, event)
    given = record.requestPayload
    keys = {name: given.get(name) for name in ("turn_id", "session_key", "state", "ticket")}
    failure = _platform(record).model_dump()
    answer: dict[str, Any] = end({**keys, "what": "end", "failure": failure}, context)
    return answer


def _platform(record: Died) -> Failure:
    said = record.responsePayload
    if said is None:
        cause = f"Lambda gave the run up before its function answered: {record.requestContext.condition}"
        return Failure(Error=NOT_STARTED, Cause=cause)
    name = said.errorType or ("Sandbox.Timedout" if TIMED_OUT.search(said.errorMessage) else "Lambda.Unknown")
    return Failure(Error=name, Cause=said.errorMessage)


def _reported(failure: Failure) -> tuple[str, str]:
    """The name and the cause of a failed run, as the definition may hear them."""
    if failure.Error in REPORTED or failure.Error == NOT_STARTED:
        return failure.Error, failure.Cause
    name = failure.Error if NAME.fullmatch(failure.Error) else "an error without a name"
    return "AgentCrashed", f"{name}: {failure.Cause}"


def _seat(seat: Seat | None) -> Seat:
    if seat is None:
        raise ResultRefused("ticket: it was issued for no run")
    return seat
