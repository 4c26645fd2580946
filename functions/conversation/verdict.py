"""The verdict on a tool call: what somebody decided is noted, wakes the turn that asked, and is shown in the chat."""

from __future__ import annotations

from functions.common.errors import TelegramError
from functions.common.observability import logger
from functions.conversation.approvals import ApprovalTable, Decision, Question
from functions.conversation.sessions import SessionTable
from functions.conversation.texts import say
from functions.telegram.bot_api import BotApi
from functions.telegram.delivery import QUESTION

DONE = "done"
"""The data of a button that only shows what was decided."""


def remember(table: SessionTable, session_key: str, session_id: str | None, held: Decision) -> None:
    """Let the tool ask no more in the session the turn works in, if that was decided."""
    if held.choice == "always" and session_id is not None:
        table.choose(session_key, lambda chosen: chosen.allow(held.tool, session_id))


def settle(
    approvals: ApprovalTable,
    table: SessionTable,
    bot: BotApi,
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
        verdict = {"text": say(f"approved_{held.choice}", language, by=held.by), "callback_data": DONE}
        shown = {"chat_id": question.chat.id, "message_id": message, "reply_markup": {"inline_keyboard": [[verdict]]}}
        try:
            bot.call("editMessageReplyMarkup", shown)
        except TelegramError as error:
            # What was decided holds; how the question looks is worth no failed turn.
            logger.info("the question does not show the decision", cause=str(error))
    if opened is not None:
        approvals.close(question.session_key, opened)
    return held
