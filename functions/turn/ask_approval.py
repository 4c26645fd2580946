"""AskApproval and ApprovalTimedOut: a person decides whether a tool call may run; the turn sleeps till then.

What will run is shown in full. The turn wakes by its task token: a pressed button, a message typed instead, /stop, or
the time that is up. A question that was decided before (the turn was redriven) is not asked again.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from functions.channel import Asking, channel
from functions.common import aws
from functions.common.envelope import Place, User
from functions.common.errors import ChannelRefused, ResultRefused
from functions.common.execution import redrive_count
from functions.common.observability import StepRequest, logger, step
from functions.common.settings import ApprovalSettings
from functions.conversation.approvals import ApprovalTable, Decision, Question
from functions.conversation.files.documents import ToolCall
from functions.conversation.files.snapshots import Snapshots
from functions.conversation.ledger import settle as settle_costs
from functions.conversation.lock import Approval, Held
from functions.conversation.progress import ProgressTable
from functions.conversation.sessions import SessionTable
from functions.conversation.texts import say
from functions.conversation.verdict import settle
from functions.conversation.visible import visible

NAME_CHARACTERS = 64
"""Of a tool's name, which the model's endpoint bounds so."""


class Request(StepRequest):
    """Whom to ask, about what (the result of `part` tells), and the token that wakes the turn; none: time is up."""

    chat: Place
    message_id: int
    user: User
    session_id: str
    part: int
    token: str | None = None
    lock: Held
    execution: dict[str, Any]


class Result(BaseModel):
    """What the console shows of the submitted task."""

    asked: bool


@step(Request)
def handler(request: Request) -> Result | Decision:
    """Ask, or answer with what was decided. Raises LockLost when the turn no longer owns the lock."""
    request.lock.check(redrive_count(request.execution))
    settings = ApprovalSettings.load()
    approvals = ApprovalTable(settings.table, aws.dynamodb(), aws.step_functions())
    if request.token is None:
        return timed_out(request, settings, approvals)
    settle_costs(settings, request.session_key, request.turn_id, answered=True)
    run = Snapshots(settings.bucket, aws.s3()).result(request.session_id, request.turn_id, request.part)
    if run.waiting is None:
        raise ResultRefused(f"{run.summary.result} names no call that waits")
    question = Approval(
        turn_id=request.turn_id,
        number=request.part,
        token=request.token,
        user_id=request.user.id,
        tool=run.waiting.name,
    )
    if not approvals.ask(request.session_key, question):
        return Result(asked=False)
    try:
        show(request, settings, run.waiting)
    except ChannelRefused as error:
        logger.warning("nobody can be asked, which counts as no", cause=str(error))
        refusal = Decision(choice="deny", reason=f"The user cannot be asked: {error.description}")
        _settle(request, settings, approvals, refusal)
    return Result(asked=True)


def timed_out(request: Request, settings: ApprovalSettings, approvals: ApprovalTable) -> Decision:
    """Nobody decided in time, unless somebody did just now."""
    reason = f"Nobody answered within {settings.approval_hours:g} hours, which counts as no."
    return _settle(request, settings, approvals, Decision(choice="timeout", reason=reason))


def _settle(request: Request, settings: ApprovalSettings, approvals: ApprovalTable, decision: Decision) -> Decision:
    table = SessionTable(settings.table, aws.dynamodb(), settings.session_ttl_days)
    asked = Question(request.session_key, request.turn_id, request.part, request.chat)
    return settle(approvals, table, channel(request.chat).verdict, asked, decision, request.user.language)


def show(request: Request, settings: ApprovalSettings, call: ToolCall) -> None:
    """Put the question into the chat, once, in the place of what showed progress. Raises ChannelError."""
    table = SessionTable(settings.table, aws.dynamodb())
    progress = ProgressTable(settings.table, aws.dynamodb(), table.expiry())
    shown = progress.shown(request.session_key, request.turn_id)
    user = request.user
    channel(request.chat).delivery(request, request.chat, request.message_id, shown).question(
        Asking(
            number=request.part,
            tool=visible(call.name[:NAME_CHARACTERS]),
            call=readable(call),
            who=user.name if settings.approvers == ("requester",) else say("approval_others", user.language),
            hours=settings.approval_hours,
            language=user.language,
        )
    )
    progress.gone(request.session_key, request.turn_id)


def readable(call: ToolCall) -> str:
    """The call as a person reads it: a command as it is, other arguments as JSON; what hides is made visible."""
    if call.name == "Bash" and set(call.input) <= {"command", "description"} and "command" in call.input:
        return visible(str(call.input["command"]))
    return visible(json.dumps(call.input, ensure_ascii=False, indent=2))
