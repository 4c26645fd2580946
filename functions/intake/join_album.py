"""JoinAlbum: messages that were sent as one album become one turn, the first one's."""

from __future__ import annotations

from functions.channel import channel
from functions.common.errors import BadInput
from functions.intake.request import Outcome, Request


def run(request: Request) -> Outcome:
    """Add the message to its album; `leads` when its own turn must run."""
    message, chat = request.envelope.message, request.envelope.chat
    if message is None or chat is None:
        raise BadInput("envelope: an album needs its message and chat")
    leads = channel(chat).joins(request.session_key, request.turn_id, message)
    return Outcome(outcome="leads" if leads else "joined")
