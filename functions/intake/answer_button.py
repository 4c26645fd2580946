"""AnswerButton: a pressed inline button.

"Run again" under a failure notice redrives the turn that failed. The buttons under a question decide on a tool call.
"""

from __future__ import annotations

from botocore.exceptions import ClientError

from functions.channel import Answer, Rerun, channel
from functions.common import aws
from functions.common.envelope import Button, Place, User
from functions.common.errors import BadInput
from functions.conversation.approvals import ApprovalTable, Decision, Question, may_decide
from functions.conversation.sessions import SessionTable
from functions.conversation.verdict import settle
from functions.intake.request import IntakeSettings, Outcome, Request

PART = "rerun"
"""The ledger's name for a press that was carried out; Telegram may deliver it again."""


def run(request: Request) -> Outcome:
    """Carry the button out and say what became of it, so that the client stops its spinner."""
    button, chat, user = request.envelope.button, request.envelope.chat, request.envelope.user
    if button is None or chat is None or user is None:
        raise BadInput("envelope: a button needs button, chat and user")
    settings, source = IntakeSettings.load(), channel(chat)
    pressed = source.press(button, chat)
    if isinstance(pressed, Answer):
        text, values = _decide(request, settings, chat, user, pressed)
    else:
        text, values = "button_gone" if pressed is None else _run_again(request, settings, pressed, button), {}
    if text in ("running_again", "already_answered", "button_gone"):
        source.withdraw(button, chat)
    source.acknowledge(button, request.say(text, **values), alert=text in ("too_old", "not_yours"))
    return Outcome(outcome=f"button {text}")


def _decide(
    request: Request, settings: IntakeSettings, chat: Place, user: User, asked: Answer
) -> tuple[str, dict[str, object]]:
    """Decide on the tool call that waits; returns the text that says what holds, and its values."""
    approvals = ApprovalTable(settings.table, aws.dynamodb(), aws.step_functions())
    waits = approvals.opened(request.session_key, asked.turn_id, asked.number)
    if waits is None and approvals.decided(request.session_key, asked.turn_id, asked.number) is None:
        return "button_gone", {}
    if waits is not None and not may_decide(settings.approvers, user.id, waits):
        return "not_yours", {}
    table = SessionTable(settings.table, aws.dynamodb(), settings.session_ttl_days)
    question = Question(request.session_key, asked.turn_id, asked.number, chat)
    decision = Decision(choice=asked.choice, by=user.name, tool=waits.tool if waits else "")
    held = settle(approvals, table, channel(chat).verdict, question, decision, request.language)
    return f"approved_{held.choice}", {"by": held.by}


def _run_again(request: Request, settings: IntakeSettings, wanted: Rerun, button: Button) -> str:
    """Redrive the turn, once for this press; returns the text that says what became of it."""
    table = SessionTable(settings.table, aws.dynamodb())
    if PART in table.turn(request.session_key, request.turn_id).delivered:
        return "running_again"
    arn = f"{settings.turn_arn.replace(':stateMachine:', ':execution:')}:{wanted.turn_id}"
    step_functions = aws.step_functions()
    try:
        step_functions.redrive_execution(executionArn=arn)
    except ClientError as error:
        if error.response["Error"]["Code"] == "ExecutionDoesNotExist":
            return "too_old"
        if error.response["Error"]["Code"] != "ExecutionNotRedrivable":
            raise
        status = step_functions.describe_execution(executionArn=arn)["status"]
        return {"RUNNING": "already_running", "SUCCEEDED": "already_answered"}.get(status, "too_old")
    table.delivered(request.session_key, request.turn_id, PART, button.message_id)
    return "running_again"
