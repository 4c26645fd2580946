"""RunCommand: the bot's own commands, and those of `commands.toml`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from functions.common.errors import BadInput
from functions.conversation.commands import configured, in_language
from functions.conversation.texts import say
from functions.intake import ask_state, time_travel
from functions.intake.request import Outcome, Request, tell

MENU = ("help", "new", "newchat", "stop", "status", "undo", "fork", "model", "cost", "verbose", "debug", "whoami")
"""What Telegram's menu shows, in this order."""


def start(request: Request) -> None:
    """The first thing people see."""
    tell(request, "start", name=request.envelope.user.name if request.envelope.user else "")


def help_text(request: Request) -> None:
    """Every command with its line."""
    lines = [f"/{name} - {text}" for name, text in menu(request.language)]
    tell(request, "help", commands="\n".join(lines))


def menu(language: str) -> list[tuple[str, str]]:
    """The commands and what they do, as Telegram's menu shows them."""
    found = configured()
    own = [(name, say(f"menu_{name}", language)) for name in MENU]
    added = {name: command.menu for name, command in found.local.items()}
    added |= {name: command.menu for name, command in found.agent.items()}
    return own + [(name, in_language(texts, language)) for name, texts in added.items()]


def whoami(request: Request) -> None:
    """The ids an operator needs."""
    user, chat = request.envelope.user, request.envelope.chat
    if user is not None and chat is not None:
        tell(request, "whoami", user=user.id, chat=chat.id, thread=chat.thread_id)


COMMANDS: dict[str, Callable[[Request], None]] = {
    "start": start,
    "help": help_text,
    "new": time_travel.new,
    "newchat": time_travel.new_chat,
    "status": ask_state.status,
    "undo": time_travel.undo,
    "fork": time_travel.fork_here,
    "model": ask_state.model,
    "cost": ask_state.cost,
    "verbose": ask_state.verbose,
    "debug": time_travel.debug,
    "whoami": whoami,
}
"""Each command; its line of the menu is `menu_<name>` of the catalogue. `/stop` has a state of its own."""


class Started(Outcome):
    """A command that becomes a turn: `envelope` is the turn's."""

    envelope: dict[str, Any] | None = None


def run(request: Request) -> Started:
    """Run the envelope's command; an unknown one is answered with the help."""
    command, user, chat = request.envelope.command, request.envelope.user, request.envelope.chat
    if command is None or user is None or chat is None:
        raise BadInput("envelope: a command needs command, user and chat")
    local = configured().local.get(command.name)
    if command.name == "newchat" and command.argument:
        started = time_travel.new_chat_with(request)
        if started is not None:
            return Started(outcome="start", envelope=started.model_dump(mode="json", exclude_none=True))
    elif command.name in COMMANDS:
        COMMANDS[command.name](request)
    elif local is not None:
        tell(request, "lines", lines=in_language(local.text, request.language))
    else:
        tell(request, "unknown_command", command=command.name)
        help_text(request)
    return Started(outcome=f"command {command.name}")
