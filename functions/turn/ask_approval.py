"""AskApproval and ApprovalTimedOut: a person decides whether a tool call may run; the turn sleeps till then.

What will run is shown in full. The turn wakes by its task token: a pressed button, a message typed instead, /stop, or
the time that is up. A question that was decided before (the turn was redriven) is not asked again.
"""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Any

from pydantic import BaseModel
from telegramify_markdown import utf16_len

from functions.common import aws
from functions.common.envelope import Chat, User
from functions.common.errors import ResultRefused, TelegramRefused
from functions.common.execution import redrive_count
from functions.common.observability import StepRequest, logger, step
from functions.common.settings import ApprovalSettings
from functions.conversation.approvals import BUTTONS, ApprovalTable, Decision, Question, button_data
from functions.conversation.files.documents import ToolCall
from functions.conversation.files.snapshots import Snapshots
from functions.conversation.ledger import settle as settle_costs
from functions.conversation.lock import Approval, Held
from functions.conversation.progress import ProgressTable
from functions.conversation.sessions import QUESTION, SessionTable
from functions.conversation.texts import say
from functions.conversation.verdict import settle
from functions.telegram.bot_api import bot_api
from functions.telegram.delivery import Delivery, show_verdict
from functions.telegram.rendering import Classic, visible

SHOWN_UNITS = 3000
"""UTF-16 units of a call that are shown in the message; a longer one goes along whole as a document."""

NAME_CHARACTERS = 64
"""Of a tool's name, which the model's endpoint bounds so."""


class Request(StepRequest):
    """Whom to ask, about what (the result of `part` tells), and the token that wakes the turn; none: time is up."""

    chat: Chat
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
    except TelegramRefused as error:
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
    return settle(approvals, table, partial(show_verdict, bot_api(settings)), asked, decision, request.user.language)


def show(request: Request, settings: ApprovalSettings, call: ToolCall) -> None:
    """Put the question into the chat, once, in the place of what showed progress. Raises TelegramError."""
    table = SessionTable(settings.table, aws.dynamodb())
    progress = ProgressTable(settings.table, aws.dynamodb(), table.expiry())
    shown = progress.shown(request.session_key, request.turn_id)
    delivery = Delivery(
        bot_api(settings), table, request.session_key, request.turn_id, request.chat, request.message_id, shown
    )
    language, part = request.user.language, f"{QUESTION}{request.part}"
    whole = readable(call)
    if utf16_len(whole) > SHOWN_UNITS:
        name = re.sub(r"\W", "_", call.name[:NAME_CHARACTERS])
        delivery.document(f"{part}.call", f"{name}.txt", whole.encode())
    keyboard = [
        [
            {
                "text": say(f"approval_{choice}", language),
                "callback_data": button_data(choice, request.turn_id, request.part),
            }
        ]
        for choice in BUTTONS
    ]
    delivery.question(part, question(request.user, settings, call, whole), {"inline_keyboard": keyboard})
    progress.gone(request.session_key, request.turn_id)


def readable(call: ToolCall) -> str:
    """The call as a person reads it: a command as it is, other arguments as JSON; what hides is made visible."""
    if call.name == "Bash" and set(call.input) <= {"command", "description"} and "command" in call.input:
        return visible(str(call.input["command"]))
    return visible(json.dumps(call.input, ensure_ascii=False, indent=2))


def question(user: User, settings: ApprovalSettings, call: ToolCall, whole: str) -> Classic:
    """The question: the tool, the call, who may decide and until when."""
    head = say("approval_ask", user.language, tool=visible(call.name[:NAME_CHARACTERS])) + "\n\n"
    shown = _cut(whole)
    who = user.name if settings.approvers == ("requester",) else say("approval_others", user.language)
    hours = f"{settings.approval_hours:g}"
    cut = "" if shown == whole else "\n\n" + say("approval_cut", user.language)
    foot = cut + "\n\n" + say("approval_foot", user.language, who=who, hours=hours)
    block = {"type": "pre", "offset": utf16_len(head), "length": utf16_len(shown)}
    return Classic(head + shown + foot, (block,) if shown.strip() else ())


def _cut(text: str) -> str:
    """At most SHOWN_UNITS of a text, whole characters."""
    if utf16_len(text) <= SHOWN_UNITS:
        return text
    units = text.encode("utf-16-le")[: 2 * SHOWN_UNITS]
    return units.decode("utf-16-le", "ignore") + " …"
