"""RunCommand: the bot's own commands."""

from __future__ import annotations

from functions.common import aws
from functions.common.errors import BadInput
from functions.common.sessions import SessionTable
from functions.common.settings import IntakeSettings
from functions.intake.request import Outcome, Request, tell


def run(request: Request) -> Outcome:
    """Run the envelope's command; an unknown one is answered with the help."""
    command, user, chat = request.envelope.command, request.envelope.user, request.envelope.chat
    if command is None or user is None or chat is None:
        raise BadInput("envelope: a command needs command, user and chat")
    if command.name == "start":
        tell(request, "start", name=user.name)
    elif command.name == "help":
        tell(request, "help")
    elif command.name == "whoami":
        tell(request, "whoami", user=user.id, chat=chat.id, thread=chat.thread_id)
    elif command.name == "new":
        _start_over(request)
    else:
        tell(request, "unknown_command", command=command.name)
        tell(request, "help")
    return Outcome(outcome=f"command {command.name}")


def _start_over(request: Request) -> None:
    """Once for this update: a redelivery must not forget what was said since."""
    settings = IntakeSettings.load()
    table = SessionTable(settings.table, aws.dynamodb(), settings.session_ttl_days)
    if not table.turn(request.session_key, request.turn_id).delivered:
        table.start_over(request.session_key)
    tell(request, "new")
