"""Inline buttons: what their data says. 64 bytes hold no chat, but the button's message is in it.

Source: InlineKeyboardButton, callback_data in https://core.telegram.org/bots/api.
"""

from __future__ import annotations

import re
from typing import cast

from functions.channel import Answer, Rerun
from functions.common.envelope import Chat
from functions.conversation.approvals import Choice

DONE = "done"
"""The data of a button that only shows what was decided."""

RERUN = re.compile(r"rerun:(\d+(?:-r\d+)?)")
ANSWER = re.compile(r"(allow|always|deny):(\d+(?:-r\d+)?):(\d+)")


def rerun_data(turn: str) -> str:
    """The data of a button that runs a turn again."""
    return f"rerun:{_update(turn)}"


def answer_data(choice: str, turn: str, number: int) -> str:
    """The data of a button that decides on the call that part `number` of a turn waits with."""
    return f"{choice}:{_update(turn)}:{number}"


def press(data: str, chat: Chat) -> Rerun | Answer | None:
    """What a button of this chat stands for; None: nothing."""
    if rerun := RERUN.fullmatch(data):
        return Rerun(chat.turn_id(rerun[1]))
    if answer := ANSWER.fullmatch(data):
        return Answer(cast(Choice, answer[1]), chat.turn_id(answer[2]), int(answer[3]))
    return None


def _update(turn: str) -> str:
    return turn.split("-u", 1)[1]
