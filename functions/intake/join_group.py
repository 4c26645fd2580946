"""JoinGroup: the bot was added to a group or its rights changed: leave, or say what is still missing."""

from __future__ import annotations

from functions.channel import channel
from functions.common.errors import BadInput, ChannelRefused
from functions.common.observability import logger
from functions.intake.request import Outcome, Request, tell


def run(request: Request) -> Outcome:
    """Say where the group stands: topics off, not an admin, a missing right, or ready. Not allowed: leave."""
    membership, chat = request.envelope.membership, request.envelope.chat
    if membership is None or chat is None:
        raise BadInput("envelope: a membership needs membership and chat")
    if request.envelope.reason == "not_allowed":
        if not membership.joined:
            return Outcome(outcome="membership changed by a stranger")
        say(request, "group_left")
        channel(chat).leave(chat)
        return Outcome(outcome="left the group")
    if not chat.forum:
        text = "group_without_topics"
    elif not membership.admin:
        text = "group_not_admin"
    else:
        text = "group_ready" if membership.topics else "group_without_right"
    say(request, text)
    return Outcome(outcome=f"membership {text}")


def say(request: Request, text: str) -> None:
    """Say it; a group that does not let the bot write is left alone."""
    try:
        tell(request, text)
    except ChannelRefused as error:
        logger.warning("the group cannot be told", cause=str(error))
