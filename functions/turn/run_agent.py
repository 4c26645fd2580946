"""RunAgent: start the agent in the conversation's own container, and sleep at no cost until its run has ended.

The run gets a number on the turn's item, where the task token is, a sealed ticket for the callback, and sealed
credentials for its session's folder. The agent's function is invoked asynchronously, for the tenant that is the
conversation: Lambda gives its containers to no other one
(https://docs.aws.amazon.com/lambda/latest/dg/tenant-isolation.html). The callback answers the token. A result that an
earlier run of this part left is taken, not made again.
"""

from __future__ import annotations

import time
from typing import Any, Literal

from botocore.exceptions import ClientError
from pydantic import BaseModel, Field

from functions.common import aws
from functions.common.envelope import Message, Place
from functions.common.errors import SnapshotMissing, StepgramError
from functions.common.execution import Entry, redrive_count
from functions.common.observability import StepRequest, logger, step
from functions.common.settings import AccessSettings, ModelSettings, ReserveSettings
from functions.conversation.access import SECONDS, seal
from functions.conversation.approvals import Decision
from functions.conversation.budget import granted_unlimited
from functions.conversation.files.documents import Expected, InboxFile, RunResult, RunSummary, result_key
from functions.conversation.files.snapshots import Snapshots
from functions.conversation.ledger import reserve, settle
from functions.conversation.lock import Held
from functions.conversation.progress import Ticket, issue
from functions.conversation.runs import Answers, RunTable, Seat

PASSING = (
    "TooManyRequestsException",
    "ServiceException",
    "ResourceNotReadyException",
    "ResourceConflictException",
    "CodeArtifactUserPendingException",
    "ENILimitReachedException",
    "EC2ThrottledException",
)
"""What Lambda refuses an invocation with for a while; under Step Functions' names for these, the definition waits."""


class RunAgentSettings(AccessSettings, ReserveSettings, ModelSettings):
    """What this state reads from its environment."""

    agent_function: str = Field(alias="AGENT_FUNCTION", description="The agent's name or ARN")
    agent_isolation: Literal["tenant", "none"] = Field(
        "tenant",
        alias="AGENT_ISOLATION",
        description="Whether each conversation has containers of its own (tenant), or conversations share them (none)",
    )


class SessionState(BaseModel):
    """`$.session`, as Hydrate or ContinueAgent made it."""

    session_id: str
    version: int
    manifest: str | None
    part: int
    going_on: str | None
    allowed: tuple[str, ...] = ()
    decision: Decision | None = None
    model: str | None
    verbose: int
    inbox: tuple[InboxFile, ...] = ()
    captions: tuple[str, ...] = ()


class Request(StepRequest):
    """The message, the session to continue, the lock for it, and the token that the run's end answers."""

    chat: Place
    message: Message
    language: str
    session: SessionState
    lock: Held
    execution: dict[str, Any]
    entry: Entry
    token: str

    @property
    def attempt(self) -> int:
        """The execution's redrive count."""
        return redrive_count(self.execution)

    @property
    def sequence(self) -> str:
        """Orders the tries of this state: a later one is larger."""
        return f"{self.attempt:06d} {self.entry.EnteredTime} {self.entry.RetryCount:06d}"


class Result(BaseModel):
    """What the console shows of the submitted task; the turn goes on when its token is answered.

    `outcome`: the run was started, was there already, or a later try of this state came first.
    """

    run: int
    outcome: str


class Event(BaseModel):
    """What the agent's function is given: the `run`'s number in its turn, the redrive count (`attempt`), and what
    this run may spend (`budget_usd`)."""

    turn_id: str
    session_key: str
    state: str
    run: int
    attempt: int
    budget_usd: float
    text: str
    inbox: tuple[InboxFile, ...]
    captions: tuple[str, ...]
    session: SessionState
    access: str
    ticket: str


@step(Request)
def handler(request: Request) -> Result:
    """Start a run, unless its result is there. Raises LockLost when the turn no longer owns the lock."""
    request.lock.check(request.attempt)
    settings, session = RunAgentSettings.load(), request.session
    runs, answers = RunTable(settings.table, aws.dynamodb()), Answers(aws.step_functions())
    keys = request.session_key, request.turn_id
    granted = granted_unlimited(settings)
    begun = runs.begin(*keys, request.attempt, request.sequence, request.token, granted)
    number, is_stopped = begun.number, begun.stop >= request.attempt
    if not number:
        logger.info("a later try of this state came first")
        return Result(run=0, outcome="a later try came first")
    known = found(settings, request) if number > 1 else None
    if known is not None:
        runs.end(request.session_key, request.turn_id, number)
        answers.succeeded(request.token, known)
        return Result(run=number, outcome="the stored result is taken")
    spent = settle(settings, request.session_key, request.turn_id) if number > 1 else 0.0
    wanted = settings.max_budget_usd - spent
    # One that is to stop asks the model nothing, and waits for no budget.
    budget = 0.0 if is_stopped else reserve(settings, *keys, number, wanted)
    known_of = session.model_dump(include={"session_id", "part", "version", "manifest", "going_on"})
    seat = Seat(number=number, budget_usd=spent + budget, models=frozenset(settings.models), **known_of)
    ticket = Ticket(
        chat=request.chat,
        message_id=request.message.id,
        language=request.language,
        until=int(time.time()) + SECONDS,
        verbose=session.verbose,
        attempt=request.attempt,
        run=seat,
    )
    event = Event(
        turn_id=request.turn_id,
        session_key=request.session_key,
        state=request.state,
        run=number,
        attempt=request.attempt,
        budget_usd=budget,
        text=request.message.text,
        inbox=session.inbox,
        captions=session.captions,
        session=session.model_copy(update={"inbox": (), "captions": ()}),
        access=seal(settings, session.session_id, request.turn_id),
        ticket=issue(settings.session_key_arn, request.turn_id, request.session_key, ticket),
    )
    invoke(settings, request.session_key, event)
    return Result(run=number, outcome="started")


def found(settings: RunAgentSettings, request: Request) -> RunSummary | None:
    """The result of an earlier run of this part, or that of a turn which was stopped while a call waited."""
    session, snapshots = request.session, Snapshots(settings.bucket, aws.s3())
    stored = _stored(settings, snapshots, request, session.part)
    if stored is not None and stored.answers(session.going_on, request.attempt):
        return stored.summary
    if session.decision is None or session.decision.choice != "stop":
        return None
    earlier = _stored(settings, snapshots, request, session.part - 1)
    if earlier is None:
        return None
    stopped = _stopped(earlier, request)
    snapshots.write(stopped.summary.result, stopped)
    return stopped.summary


def _stored(settings: RunAgentSettings, snapshots: Snapshots, request: Request, part: int) -> RunResult | None:
    """The result that one part of this turn left, if it did, and if it and its version can be."""
    session, turn_id = request.session, request.turn_id
    expected = Expected(
        session_id=session.session_id,
        turn_id=turn_id,
        part=part,
        version=session.version,
        budget_usd=settings.max_budget_usd,
        models=frozenset(settings.models),
    )
    if not snapshots.exists(result_key(session.session_id, turn_id, part)):
        return None
    try:
        result = snapshots.result(session.session_id, turn_id, part)
        result.summary.checked(expected)
        manifest = snapshots.manifest(result.summary.manifest)
        manifest.follows(session.session_id, session.version, session.manifest, turn_id)
    except SnapshotMissing as error:
        logger.error("a stored result is not believed, the run is made anew", cause=str(error))
        return None
    return result


def _stopped(earlier: RunResult, request: Request) -> RunResult:
    """The turn was stopped while a call waited: what was said until then is its answer."""
    session = request.session
    key = result_key(session.session_id, request.turn_id, session.part)
    update = {"status": "done", "stopped": True, "waiting": None, "part": session.part, "result": key}
    summary = earlier.summary.model_copy(update=update)
    return earlier.model_copy(
        update={"went_on_from": session.going_on, "attempt": request.attempt, "summary": summary, "waiting": None}
    )


def invoke(settings: RunAgentSettings, session_key: str, event: Event) -> None:
    """Hand the event to Lambda. Raises Lambda's passing refusals under the names Step Functions has for them."""
    tenant: Any = {"TenantId": session_key} if settings.agent_isolation == "tenant" else {}
    try:
        aws.lambda_().invoke(
            FunctionName=settings.agent_function,
            InvocationType="Event",
            Payload=event.model_dump_json().encode(),
            **tenant,
        )
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code not in PASSING:
            raise
        raise type(f"Lambda.{code}", (StepgramError,), {})(str(error)) from error
