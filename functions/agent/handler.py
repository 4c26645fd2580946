"""RunAgent: one run of the Claude agent for one turn, in this container and nowhere else.

The container is treated as hostile, since a prompt can make it run anything: it has no Telegram token and no rights
in DynamoDB, and its folders are fresh for every run and gone afterwards. When a process of a run cannot be ended, this
one ends itself, so that the next invocation gets a fresh container: an end that was handed in stands, and a run without
one ends as `Runtime.ExitError` and is made again.
"""

from __future__ import annotations

import json
import os
import threading
import time
from typing import Any, Literal

from claude_agent_sdk import ClaudeSDKError
from pydantic import BaseModel

from functions.agent.approve import fingerprint
from functions.agent.callback import Callback
from functions.agent.closed import close_to_children
from functions.agent.conversation import Conversation
from functions.agent.inbox import Prompt, prompt, take_in
from functions.agent.model.spending import Spending
from functions.agent.options import Approval
from functions.agent.processes import StillRunning, adopt, end_leftovers
from functions.agent.reporter import Reporter
from functions.agent.settings import AgentSettings
from functions.agent.speech import paragraphs
from functions.common import aws
from functions.common.errors import AgentCrashed, AgentTimedOut, StepgramError, located
from functions.common.folders import NotCleaned
from functions.common.observability import StepRequest, logger, parse, working
from functions.conversation.access import unseal
from functions.conversation.approvals import Decision
from functions.conversation.files.documents import (
    ANSWER_CHARACTERS,
    LEFT_OUT,
    OUTBOX_FILES,
    PREVIEW_CHARACTERS,
    InboxFile,
    LeftOut,
    OutboxFile,
    RunResult,
    RunSummary,
    ToolCall,
    result_key,
    turn_prefix,
)
from functions.conversation.files.snapshots import Snapshots
from functions.conversation.files.workspace import Captured
from functions.conversation.progress import Heard

CLOSING_SECONDS, CLOSING_SHARE = 10.0, 0.05
"""The agent is interrupted so long before Lambda's deadline, or this share of its time: its work is uploaded then."""

GO_ON = (
    "[Your time in this container ran out and you were interrupted; a tool that was running was stopped. "
    "Go on from where you were. The user sees nothing of this message.]"
)
OUTBOX = "outbox/"

_kept: Conversation | None = None
"""The conversation of the last turn in this container, when it is kept open."""

_rested = time.time()
"""When the last invocation ended, by wall time: the monotonic clock may stand still while the container is frozen."""

adopt()
close_to_children()


class SessionState(BaseModel):
    """The session as Hydrate found it; `going_on` is the snapshot this part of the turn goes on from."""

    session_id: str
    version: int
    manifest: str | None
    part: int
    going_on: str | None
    allowed: tuple[str, ...] = ()
    decision: Decision | None = None
    model: Literal["haiku", "sonnet", "opus"] | None = None


class Request(StepRequest):
    """The message and what came along, the session to continue, and what the run may use (`turn/run_agent.py`).

    `access` are sealed credentials for the session's folder, `ticket` opens the callback, `run` is the run's number
    in its turn, `attempt` the execution's redrive count, `budget_usd` what this run may spend.
    """

    run: int
    attempt: int
    budget_usd: float
    text: str
    inbox: tuple[InboxFile, ...] = ()
    captions: tuple[str, ...] = ()
    session: SessionState
    access: str
    ticket: str


class Gone(Exception):
    """The run was given up, or its turn ended: nothing of it counts any more."""


class Stop:
    """Asks a conversation to stop, also one that is not there yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = False
        self._conversation: Conversation | None = None

    def ask(self) -> None:
        """Stop. From any thread."""
        with self._lock:
            self._asked = True
            if self._conversation is not None:
                self._conversation.stop()

    def of(self, conversation: Conversation) -> None:
        """This is the conversation that is meant."""
        with self._lock:
            self._conversation = conversation
            if self._asked:
                conversation.stop()


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Run the agent once for this turn, and hand in how the run ended; the answer is for the log alone.

    What is no error of ours fails the function, which Lambda's on-failure destination tells.
    """
    global _rested
    request = parse(Request, event)
    settings = AgentSettings.load().choosing(request.session.model)
    if time.time() - _rested >= settings.keep_open_idle_seconds:
        renew_connections()
    keys = {name: getattr(request, name) for name in ("turn_id", "session_key", "state", "ticket")}
    callback = Callback(settings.callback_function, keys)
    with working(request), aws.translated():
        heard = callback.begin()
        if heard.gone:
            logger.info("another delivery has this run, or nobody waits for it any more")
            return {"outcome": "not wanted"}
        try:
            with located(request.state), aws.translated():
                run_once(request, settings, callback, heard, context.get_remaining_time_in_millis() / 1000)
        except Gone as error:
            logger.warning("the run is given up", cause=str(error))
            return {"outcome": "given up"}
        except (StillRunning, NotCleaned) as error:
            logger.critical("the container ends", cause=str(error))
            os._exit(1)
        except StepgramError as error:
            callback.failed(type(error).__name__, str(error))
            return {"outcome": type(error).__name__}
        finally:
            _rested = time.time()
        return {"outcome": "handed in"}


def renew_connections() -> None:
    """Let the clients that outlive an invocation connect anew (S3's does not): after a long freeze their connections
    are dead, and one whose end was not heard of costs its timeout, 20 seconds."""
    aws.forget_clients()


def run_once(request: Request, settings: AgentSettings, callback: Callback, heard: Heard, seconds: float) -> None:
    """Make this part of the turn in `seconds`, and hand it in. Raises Gone when nobody wants it any more.

    `heard` is what the callback said when the run began.
    """
    session = request.session
    s3 = aws.s3(unseal(request.access, session.session_id, request.turn_id))
    snapshots = Snapshots(settings.bucket, s3)
    spending = Spending(snapshots, session.session_id, request.turn_id, request.run, settings.model)
    started = time.monotonic()
    until = started + seconds - max(CLOSING_SECONDS, CLOSING_SHARE * seconds)
    stop = Stop()
    with Reporter(callback, stop.ask) as reporter:
        reporter.hears(heard)
        earlier = snapshots.result(session.session_id, request.turn_id, session.part - 1) if session.part else None
        conversation = _open(request, settings, snapshots, earlier)
        stop.of(conversation)
        try:
            result = _run(request, settings, conversation, spending, earlier, started, until, reporter)
            spending.keep()
            if reporter.gone.is_set():
                raise Gone("another run took its place while its work was kept")
            snapshots.write(result.summary.result, result)
            reporter.made()
            callback.done(result.summary)
        except BaseException:
            spending.keep()
            _close(conversation)
            raise
    _keep_or_close(conversation, settings, result.summary)


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
    try:
        return Conversation(settings, snapshots, session.session_id, session.going_on, approval)
    except ClaudeSDKError as error:
        raise AgentCrashed(str(error)) from error


def _keep_or_close(conversation: Conversation, settings: AgentSettings, summary: RunSummary) -> None:
    """Keep it for the conversation's next message while it is young and small."""
    global _kept
    conversation.rested = time.time()
    young = conversation.may_go_on(settings)
    small = conversation.memory < settings.keep_open_mb * 1024 * 1024
    done = summary.status == "done" and summary.ended is None and not conversation.stopping
    if done and young and small and not conversation.unsettled:
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
    reporter: Reporter,
) -> RunResult:
    session = request.session
    decided = earlier is not None and earlier.waiting is not None and session.decision is not None
    text: Prompt | None = None if decided else GO_ON
    if earlier is None:
        taken = take_in(request.inbox, conversation.snapshots, conversation.workspace.folder)
        text = prompt(request.text, request.captions, request.inbox, taken)
    before = earlier.summary if earlier else None
    spending.budget_usd = max(min(settings.max_budget_usd, request.budget_usd), 0.01)
    with reporter.shows():
        run = conversation.ask(text, until - time.monotonic(), reporter, spending)
    if reporter.gone.is_set():
        raise Gone("the callback says so, or was not reached")
    stopped = run.interrupted and reporter.stopped.is_set()
    status: Literal["done", "continue", "approval"] = "continue" if run.interrupted and not stopped else "done"
    waiting = run.waiting and ToolCall(id=run.waiting.id, name=run.waiting.name, input=whole(run.waiting.input))
    if waiting is not None:
        status = "approval"
    if status == "continue" and session.part + 1 >= settings.max_parts:
        raise AgentTimedOut(f"no answer after {session.part + 1} runs of up to 15 minutes")
    cost = spending.cost_usd + (before.cost_usd if before else 0.0)
    captured = conversation.stage(request.turn_id, session.version + 1, session.manifest, spending.cost_usd)
    folder = turn_prefix(session.session_id, request.turn_id)
    files = {
        file.name: file for file in (*(earlier.files if earlier else ()), *_outbox(conversation, captured, folder))
    }
    unsent = tuple(LeftOut(path=f"{OUTBOX}{name}", reason="too_many") for name in list(files)[OUTBOX_FILES:])
    left_out = (*unsent, *captured.left_out)
    answered = status == "done" and not stopped and run.ended is None
    everything = run.text if answered else paragraphs(earlier.text if earlier else "", run.text)
    answer = everything[:ANSWER_CHARACTERS]
    summary = RunSummary(
        status=status,
        result=result_key(session.session_id, request.turn_id, session.part),
        manifest=str(conversation.manifest),
        preview=answer[:PREVIEW_CHARACTERS],
        characters=len(answer),
        cost_usd=round(cost, 6),
        session_cost_usd=conversation.base.cost_usd if conversation.base else 0.0,
        input_tokens=spending.input_tokens + (before.input_tokens if before else 0),
        output_tokens=spending.output_tokens + (before.output_tokens if before else 0),
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
        attempt=request.attempt,
        summary=summary,
        text=answer,
        files=tuple(files.values())[:OUTBOX_FILES],
        left_out=left_out[:LEFT_OUT],
        left_out_more=max(0, len(left_out) - LEFT_OUT),
        waiting=waiting,
    )


def whole(arguments: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments as they will run: the CLI's transcript holds no half of a surrogate pair."""
    text = json.dumps(arguments, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    arguments = json.loads(text)
    return arguments


def _approval(session: SessionState, settings: AgentSettings, earlier: RunResult | None) -> Approval:
    """What asks in this run, and what was decided of the call that the last one waited with."""
    decided = {}
    if earlier is not None and earlier.waiting is not None and session.decision is not None:
        decision = session.decision
        reason = decision.reason or ("" if decision.allows else "The user said no.")
        call = fingerprint(earlier.waiting.name, earlier.waiting.input)
        decided = {earlier.waiting.id: {"allow": decision.allows, "reason": reason, "call": call}}
    return Approval(ask=settings.approval_tools, allowed=session.allowed, decided=decided)


def _outbox(conversation: Conversation, captured: Captured, folder: str) -> list[OutboxFile]:
    """Keep what is new or changed in the workspace's outbox for the chat."""
    files = []
    for number, path in enumerate(sorted(path for path in captured.changed if path.startswith(OUTBOX))):
        key = f"{folder}{OUTBOX}{conversation.started:.0f}-{number}"
        with conversation.workspace.open(path) as content:
            conversation.snapshots.put(key, content, "application/octet-stream")
            size = content.tell()
        files.append(OutboxFile(key=key, name=path.rpartition("/")[2], size=size))
    return files
