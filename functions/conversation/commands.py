"""The commands an operator adds in `commands.toml`: texts that are answered at once, and prompts for the agent."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from functions.common.errors import ConfigurationError

PATH = Path(__file__).parent / "commands.toml"
IN_BACKGROUND = ("debug", "fork")
"""Commands that may take longer than Telegram waits for an answer: they read and copy all of a conversation."""

NAME = r"^[a-z0-9_]{1,32}$"
"""What a command may be called (Bot API, BotCommand)."""


class Local(BaseModel):
    """Answered with a text, by language."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    menu: dict[str, str] = Field(min_length=1)
    text: dict[str, str] = Field(min_length=1)


class ForAgent(BaseModel):
    """Answered by the agent; `{argument}` in the prompt is what was written after the command."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    menu: dict[str, str] = Field(min_length=1)
    prompt: str = Field(min_length=1)


class Commands(BaseModel):
    """The file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    local: dict[str, Local] = {}
    agent: dict[str, ForAgent] = {}


@cache
def configured(path: Path = PATH) -> Commands:
    """The commands of the file. Raises ConfigurationError that names what is wrong."""
    try:
        return Commands.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise ConfigurationError(f"{path.name}: {error}") from error


def in_language(texts: dict[str, str], language: str) -> str:
    """The text in the user's language, else in English, else in the first there is."""
    return texts.get(language.split("-")[0].lower()) or texts.get("en") or next(iter(texts.values()))
