"""AnswerQuestion: a message while the agent waits for a yes or no is a no, with its text as the reason.

Somebody who may not decide, and a message without text, just queue behind the turn that asks.
"""

from __future__ import annotations

from functions.common import aws
from functions.common.approvals import ApprovalTable, Decision, Question, may_decide
from functions.common.errors import BadInput
from functions.common.lock import Announcement
from functions.common.lock_table import LockTable
from functions.common.sessions import SessionTable
from functions.common.settings import IntakeSettings
from functions.common.telegram import bot_api
from functions.common.verdict import settle
from functions.intake.request import Outcome, Request

PART = "answer"
"""The ledger's name for a message that was an answer; a step may run twice."""

QUEUED = "queued"


def run(request: Request) -> Outcome:
    """Answer the open question, or take the message's place in the queue."""
    message, user, chat = request.envelope.message, request.envelope.user, request.envelope.chat
    if message is None or user is None or chat is None:
        raise BadInput("envelope: an answer needs message, user and chat")
    settings = IntakeSettings.load()
    table = SessionTable(settings.table, aws.dynamodb(), settings.session_ttl_days)
    if PART in table.turn(request.session_key, request.turn_id).delivered:
        return Outcome(outcome="answered")
    locks = LockTable(settings.table, aws.dynamodb(), aws.step_functions())
    lock, _ = locks.read(request.session_key)
    asked = lock.approval
    if asked is None or not message.text or not may_decide(settings.approvers, user.id, asked):
        order = (message.id, message.update_id)
        locks.announce(request.session_key, Announcement(turn_id=request.turn_id, order=order))
        return Outcome(outcome=QUEUED)
    table.delivered(request.session_key, request.turn_id, PART, 0)
    question = Question(request.session_key, asked.turn_id, asked.number, chat)
    decision = Decision(choice="deny", by=user.name, reason=message.text)
    approvals = ApprovalTable(settings.table, aws.dynamodb(), aws.step_functions())
    settle(approvals, table, bot_api(settings), question, decision, request.language)
    return Outcome(outcome=f"answered {asked.turn_id}")
