"""RunAgent: one run of the Claude agent for one turn, in this container and nowhere else.

The container is treated as hostile, since a prompt can make it run anything: it has no Telegram token and no rights
in DynamoDB, and its folders are fresh for every run and gone afterwards. When a process of a run cannot be ended, this
one ends itself, so that the next invocation gets a fresh container: Step Functions sees `Runtime.ExitError` and tries
again. A result that was kept already is returned then, so the answer is late by one cold start and the model is not
asked twice; before that, the run is made again.
"""

from __future__ import annotations

import os
import time
from functools import partial
from typing import Any, Literal

from claude_agent_sdk import ClaudeSDKError, ResultMessage
from pydantic import BaseModel

from functions.agent.claim import RunClaim
from functions.agent.conversation import Conversation
from functions.agent.inbox import Prompt, prompt, take_in
from functions.agent.options import Approval
from functions.agent.processes import StillRunning, adopt, end_leftovers
from functions.agent.reporter import Reporter
from functions.agent.speech import paragraphs
from functions.agent.spending import Spending
from functions.common import aws
from functions.common.access import unseal
from functions.common.approvals import Decision
from functions.common.errors import AgentCrashed, AgentTimedOut, located
from functions.common.execution import redrive_count
from functions.common.lock import Held
from functions.common.observability import StepRequest, logger, parse, working
from functions.common.progress import Report, ask
from functions.common.settings import AgentSettings
from functions.common.snapshots import InboxFile, OutboxFile, RunResult, RunSummary, Snapshots, ToolCall, turn_prefix
from functions.common.workspace import Captured

CLOSING_SECONDS, CLOSING_SHARE = 10.0, 0.05
"""The agent is interrupted so long before Lambda's deadline, or this share of its time: its work is uploaded then."""

GO_ON = (
    "[Your time in this container ran out and you were interrupted; a tool that was running was stopped. "
    "Go on from where you were. The user sees nothing of this message.]"
)
PREVIEW_CHARACTERS = 200
OUTBOX = "outbox/"

_kept: Conversation | None = None
"""The conversation of the last turn in this container, when it is kept open."""

_rested = time.time()
"""When the last invocation ended, by wall time: the monotonic clock may stand still while the container is frozen."""

adopt()


class SessionState(BaseModel):
    """The session as Hydrate found it; `going_on` is the snapshot this part of the turn goes on from."""

    session_id: str
    version: int
    manifest: str | None
    part: int
    going_on: str | None
    access: str
    progress: str
    allowed: tuple[str, ...] = ()
    decision: Decision | None = None
    budget_usd: float
    model: Literal["haiku", "sonnet", "opus"] | None = None


class Request(StepRequest):
    """The message and what came along, the session to continue, and the lock for it (`$$.Execution` checks it)."""

    text: str
    inbox: tuple[InboxFile, ...] = ()
    captions: tuple[str, ...] = ()
    session: SessionState
    lock: Held
    execution: dict[str, Any]


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Run the agent once for this turn; a result it already has is returned as it is."""
    global _rested
    request = parse(Request, event)
    settings = AgentSettings.load().choosing(request.session.model)
    if time.time() - _rested >= settings.keep_open_idle_seconds:
        renew_connections()
    with working(request), located(request.state), aws.translated():
        request.lock.check(redrive_count(request.execution))
        try:
            summary = run_once(request, settings, context.get_remaining_time_in_millis() / 1000)
        except StillRunning as error:
            # The claim is given back by now: the next try need not wait until it is silent.
            logger.critical("the container ends", cause=str(error))
            os._exit(1)
        finally:
            _rested = time.time()
        return summary.model_dump(mode="json")


def renew_connections() -> None:
    """Let the clients that outlive an invocation connect anew (S3's does not): after a long freeze their connections
    are dead, and one whose end was not heard of costs its timeout, 20 seconds."""
    aws.forget_clients()


def run_once(request: Request, settings: AgentSettings, seconds: float) -> RunSummary:
    """The stored result of this part of the turn, or that of a run made now under a claim; `seconds` are left."""
    session = request.session
    s3 = aws.s3(unseal(session.access, session.session_id, request.turn_id))
    snapshots = Snapshots(settings.bucket, s3)
    folder = turn_prefix(session.session_id, request.turn_id)
    spending = Spending(snapshots, session.session_id, request.turn_id, settings.model)
    with RunClaim(s3, settings.bucket, f"{folder}claim.json", spending.keep):
        stored = stored_result(snapshots, result_key(folder, session.part))
        attempt = redrive_count(request.execution)
        if stored is not None and stored.answers(session.going_on, attempt):
            logger.info("the stored result is returned")
            return stored.summary
        started = time.monotonic()
        until = started + seconds - max(CLOSING_SECONDS, CLOSING_SHARE * seconds)
        earlier = snapshots.read(result_key(folder, session.part - 1), RunResult) if session.part else None
        if earlier is not None and session.decision is not None and session.decision.choice == "stop":
            result = _stopped(earlier, session)
            snapshots.write(result.summary.result, result)
            return result.summary
        conversation = _open(request, settings, snapshots, earlier)
        try:
            result = _run(request, settings, conversation, spending, earlier, started, until)
        except BaseException:
            spending.keep()
            _close(conversation)
            raise
        spending.keep()
        snapshots.write(result.summary.result, result)
        _keep_or_close(conversation, settings, result.summary)
        return result.summary


def stored_result(snapshots: Snapshots, key: str) -> RunResult | None:
    """The result an earlier run of this turn left, if one did."""
    return snapshots.read(key, RunResult) if snapshots.exists(key) else None


def result_key(folder: str, part: int) -> str:
    """Where the result of one part of a turn is kept."""
    return f"{folder}result.json" if part == 0 else f"{folder}result-{part}.json"


def _open(request: Request, settings: AgentSettings, snapshots: Snapshots, earlier: RunResult | None) -> Conversation:
    """The conversation that was kept open, when it is this very one; else a new one, with nothing left of the old."""
    global _kept
    kept, _kept = _kept, None
    session, approval = request.session, _approval(request.session, settings, earlier)
    this = (session.session_id, session.going_on, approval, settings.model)
    same = kept is not None and (kept.session_id, kept.manifest, kept.approval, kept.model) == this
    if kept is not None and same and kept.may_go_on(settings):
        kept.snapshots.use(snapshots)
        logger.info("the open conversation is used")
        return kept
    if kept is not None:
        _close(kept)
    end_leftovers()
    budget = min(settings.max_budget_usd, session.budget_usd) - (earlier.summary.cost_usd if earlier else 0.0)
    try:
        return Conversation(settings, snapshots, session.session_id, session.going_on, max(budget, 0.01), approval)
    except ClaudeSDKError as error:
        raise AgentCrashed(str(error)) from error


def _keep_or_close(conversation: Conversation, settings: AgentSettings, summary: RunSummary) -> None:
    """Keep it for the conversation's next message while it is young, small and has most of its budget left.

    The CLI counts its budget by process, and its model credentials are those of its start.
    """
    global _kept
    conversation.rested = time.time()
    young = conversation.may_go_on(settings)
    small = conversation.memory < settings.keep_open_mb * 1024 * 1024
    done = summary.status == "done" and summary.ended is None and not conversation.stopping
    if done and young and small and not conversation.unsettled and conversation.run_usd < settings.max_budget_usd / 10:
        _kept = conversation
    else:
        _close(conversation)


def _close(conversation: Conversation) -> None:
    """Close it; a CLI that is dead already is no failure of the turn that comes after it."""
    try:
        conversation.close()
    except ClaudeSDKError as error:
        logger.warning("the conversation did not close cleanly", cause=str(error))


def _run(
    request: Request,
    settings: AgentSettings,
    conversation: Conversation,
    spending: Spending,
    earlier: RunResult | None,
    started: float,
    until: float,
) -> RunResult:
    session = request.session
    text: Prompt | None = GO_ON if earlier is None or earlier.waiting is None else None
    if earlier is None:
        taken = take_in(request.inbox, conversation.snapshots, conversation.workspace.folder)
        text = prompt(request.text, request.captions, request.inbox, taken)
    first = Report(
        turn_id=request.turn_id, session_key=request.session_key, state=request.state, ticket=session.progress, time=0
    )
    with Reporter(partial(ask, settings.progress_function), first, conversation.stop) as reporter:
        run = conversation.ask(text, until - time.monotonic(), reporter, spending)
    stopped = run.interrupted and reporter.stopped.is_set()
    status: Literal["done", "continue", "approval"] = "continue" if run.interrupted and not stopped else "done"
    waiting = run.waiting and ToolCall(id=run.waiting.id, name=run.waiting.name, input=run.waiting.input)
    if waiting is not None:
        status = "approval"
    if status == "continue" and session.part + 1 >= settings.max_parts:
        raise AgentTimedOut(f"no answer after {session.part + 1} runs of up to 15 minutes")
    before = earlier.summary if earlier else None
    cost = run.cost_usd + (before.cost_usd if before else 0.0)
    captured = conversation.stage(request.turn_id, session.version + 1, session.manifest, run.cost_usd)
    folder = turn_prefix(session.session_id, request.turn_id)
    files = {
        file.name: file for file in (*(earlier.files if earlier else ()), *_outbox(conversation, captured, folder))
    }
    answered = status == "done" and not stopped and run.ended is None
    answer = run.text if answered else paragraphs(earlier.text if earlier else "", run.text)
    summary = RunSummary(
        status=status,
        result=result_key(folder, session.part),
        manifest=str(conversation.manifest),
        preview=answer[:PREVIEW_CHARACTERS],
        characters=len(answer),
        cost_usd=round(cost, 6),
        session_cost_usd=conversation.base.cost_usd if conversation.base else 0.0,
        input_tokens=_tokens(run.final, "input_tokens") + (before.input_tokens if before else 0),
        output_tokens=_tokens(run.final, "output_tokens") + (before.output_tokens if before else 0),
        model_turns=(run.final.num_turns if run.final else 0) + (before.model_turns if before else 0),
        model=settings.model,
        seconds=round(time.monotonic() - started + (before.seconds if before else 0.0), 2),
        part=session.part,
        stopped=stopped,
        waiting=waiting.name if waiting else None,
        ended=run.ended,
    )
    return RunResult(
        went_on_from=session.going_on,
        attempt=redrive_count(request.execution),
        summary=summary,
        text=answer,
        files=tuple(files.values()),
        left_out=captured.left_out,
        waiting=waiting,
    )


def _approval(session: SessionState, settings: AgentSettings, earlier: RunResult | None) -> Approval:
    """What asks in this run, and what was decided of the call that the last one waited with."""
    decided = {}
    if earlier is not None and earlier.waiting is not None and session.decision is not None:
        decision = session.decision
        reason = decision.reason or ("" if decision.allows else "The user said no.")
        decided = {earlier.waiting.id: {"allow": decision.allows, "reason": reason}}
    return Approval(ask=settings.approval_tools, allowed=session.allowed, decided=decided)


def _stopped(earlier: RunResult, session: SessionState) -> RunResult:
    """The turn was stopped while a call waited: what was said until then is its answer."""
    folder = earlier.summary.result.rpartition("/")[0] + "/"
    update = {"status": "done", "stopped": True, "waiting": None, "part": session.part}
    summary = earlier.summary.model_copy(update={**update, "result": result_key(folder, session.part)})
    return earlier.model_copy(update={"went_on_from": session.going_on, "summary": summary, "waiting": None})


def _tokens(final: ResultMessage | None, kind: str) -> int:
    usage = (final.usage if final else None) or {}
    return sum(int(usage.get(name) or 0) for name in usage if name.endswith(kind))


def _outbox(conversation: Conversation, captured: Captured, folder: str) -> list[OutboxFile]:
    """Keep what is new or changed in the workspace's outbox for the chat."""
    files = []
    for number, path in enumerate(sorted(path for path in captured.changed if path.startswith(OUTBOX))):
        key = f"{folder}{OUTBOX}{conversation.started:.0f}-{number}"
        with (conversation.workspace.folder / path).open("rb") as content:
            conversation.snapshots.put(key, content, "application/octet-stream")
            size = content.tell()
        files.append(OutboxFile(key=key, name=path.rpartition("/")[2], size=size))
    return files
