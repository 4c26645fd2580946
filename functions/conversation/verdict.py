"""The verdict on a tool call: what somebody decided is noted, wakes the turn that asked, and is shown in the chat."""

from __future__ import annotations

from collections.abc import Callable

from functions.conversation.approvals import ApprovalTable, Decision, Question
from functions.conversation.sessions import QUESTION, SessionTable
from functions.conversation.texts import say

Shows = Callable[[Question, int, str], None]
"""Lets the message that asked a question show what was decided, if it still can."""


def remember(table: SessionTable, session_key: str, session_id: str | None, held: Decision) -> None:
    """Let the tool ask no more in the session the turn works in, if that was decided."""
    if held.choice == "always" and session_id is not None:
        table.choose(session_key, lambda chosen: chosen.allow(held.tool, session_id))


def settle(
    approvals: ApprovalTable,
    table: SessionTable,
    shows: Shows,
    question: Question,
    decision: Decision,
    language: str,
) -> Decision:
    """Carry a decision out, once: note it, wake the turn, let the question show it. Returns the one that holds.

    A press that died half way is made good by the next: each step does nothing when it was done. The token is read
    after the decision was written, and `ask` reads decisions after it wrote its token: one of the two meets the other.
    What follows from it (the tool that asks no more, too) follows from the one that holds.
    """
    held = approvals.decide(question.session_key, question.turn_id, question.number, decision)
    opened = approvals.opened(question.session_key, question.turn_id, question.number)
    turn = table.turn(question.session_key, question.turn_id)
    if opened is not None:
        remember(table, question.session_key, turn.session_id, held)
        approvals.answer(opened.token, held)
    message = turn.delivered.get(f"{QUESTION}{question.number}")
    if message is not None:
        shows(question, message, say(f"approved_{held.choice}", language, by=held.by))
    if opened is not None:
        approvals.close(question.session_key, opened)
    return held
