"""AnswerQuestion: a message while the agent waits for a yes or no is a no, with its text as the reason.

Somebody who may not decide, and a message without text, just queue behind the turn that asks.
"""

from __future__ import annotations

from collections.abc import Iterable

from functions.channel import channel
from functions.common import aws
from functions.common.errors import BadInput
from functions.conversation.approvals import ApprovalTable, Decision, Question, may_decide
from functions.conversation.lock import Announcement
from functions.conversation.lock_table import LockTable
from functions.conversation.sessions import SessionTable
from functions.conversation.verdict import settle
from functions.intake.request import IntakeSettings, Outcome, Request

ANSWERS = "answers "
"""What the ledger's name for a message that is an answer begins with; the turn and the number of the question follow.

It is noted first, so that a message delivered again becomes no turn when its question is closed; and it names the
question, so that an answer that died half way is given again.
"""

QUEUED = "queued"


def run(request: Request) -> Outcome:
    """Answer the open question, or take the message's place in the queue."""
    message, user, chat = request.envelope.message, request.envelope.user, request.envelope.chat
    if message is None or user is None or chat is None:
        raise BadInput("envelope: an answer needs message, user and chat")
    settings = IntakeSettings.load()
    table = SessionTable(settings.table, aws.dynamodb(), settings.session_ttl_days)
    locks = LockTable(settings.table, aws.dynamodb(), aws.step_functions())
    meant = _noted(table.turn(request.session_key, request.turn_id).delivered)
    if meant is None:
        lock, _ = locks.read(request.session_key)
        asked = lock.approval
        if asked is not None and message.text and may_decide(settings.approvers, user.id, asked):
            meant = (asked.turn_id, asked.number)
            table.delivered(request.session_key, request.turn_id, f"{ANSWERS}{asked.turn_id} {asked.number}", 0)
    if meant is not None:
        question = Question(request.session_key, *meant, chat)
        decision = Decision(choice="deny", by=user.name, reason=message.text, update=request.turn_id)
        approvals = ApprovalTable(settings.table, aws.dynamodb(), aws.step_functions())
        shows = channel(chat).verdict
        if settle(approvals, table, shows, question, decision, request.language) == decision:
            return Outcome(outcome=f"answered {meant[0]}")
    # Nothing is asked of this person, or somebody decided first: the message is one like any other.
    order = (message.id, message.update_id)
    locks.announce(request.session_key, Announcement(turn_id=request.turn_id, order=order))
    return Outcome(outcome=QUEUED)


def _noted(delivered: Iterable[str]) -> tuple[str, int] | None:
    """The turn and number of the question this message was taken for, when it came before."""
    part = next((part for part in delivered if part.startswith(ANSWERS)), None)
    if part is None:
        return None
    turn, number = part.removeprefix(ANSWERS).split(" ")
    return turn, int(number)
