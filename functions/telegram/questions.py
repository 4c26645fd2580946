"""The question whether a tool call may run, as a message with buttons."""

from __future__ import annotations

from telegramify_markdown import utf16_len

from functions.channel import Asking
from functions.conversation.approvals import BUTTONS
from functions.conversation.texts import say
from functions.telegram.buttons import answer_data
from functions.telegram.rendering import Classic

SHOWN_UNITS = 3000
"""UTF-16 units of a call that are shown in the message; a longer one goes along whole as a document."""


def is_cut(asking: Asking) -> bool:
    """Whether the message holds only the beginning of the call."""
    return utf16_len(asking.call) > SHOWN_UNITS


def asked(asking: Asking) -> Classic:
    """The question: the tool, the call, who may decide and until when."""
    language = asking.language
    head = say("approval_ask", language, tool=asking.tool) + "\n\n"
    shown = _cut(asking.call)
    cut = "" if shown == asking.call else "\n\n" + say("approval_cut", language)
    foot = cut + "\n\n" + say("approval_foot", language, who=asking.who, hours=f"{asking.hours:g}")
    block = {"type": "pre", "offset": utf16_len(head), "length": utf16_len(shown)}
    return Classic(head + shown + foot, (block,) if shown.strip() else ())


def choices(asking: Asking, turn_id: str) -> dict[str, object]:
    """A button for each choice, one below the other."""
    return {
        "inline_keyboard": [
            [
                {
                    "text": say(f"approval_{choice}", asking.language),
                    "callback_data": answer_data(choice, turn_id, asking.number),
                }
            ]
            for choice in BUTTONS
        ]
    }


def _cut(text: str) -> str:
    """At most SHOWN_UNITS of a text, whole characters."""
    if utf16_len(text) <= SHOWN_UNITS:
        return text
    units = text.encode("utf-16-le")[: 2 * SHOWN_UNITS]
    return units.decode("utf-16-le", "ignore") + " …"
