"""RunCommand: the bot's own commands."""

from __future__ import annotations

from collections.abc import Callable

from functions.common.errors import BadInput
from functions.intake import time_travel
from functions.intake.request import Outcome, Request, tell

MOVES: dict[str, Callable[[Request], None]] = {
    "new": time_travel.new,
    "newchat": time_travel.new,
    "undo": time_travel.undo,
    "fork": time_travel.fork_here,
    "debug": time_travel.debug,
}


def run(request: Request) -> Outcome:
    """Run the envelope's command; an unknown one is answered with the help."""
    command, user, chat = request.envelope.command, request.envelope.user, request.envelope.chat
    if command is None or user is None or chat is None:
        raise BadInput("envelope: a command needs command, user and chat")
    if command.name in MOVES:
        MOVES[command.name](request)
    elif command.name == "start":
        tell(request, "start", name=user.name)
    elif command.name == "help":
        tell(request, "help")
    elif command.name == "whoami":
        tell(request, "whoami", user=user.id, chat=chat.id, thread=chat.thread_id)
    else:
        tell(request, "unknown_command", command=command.name)
        tell(request, "help")
    return Outcome(outcome=f"command {command.name}")
