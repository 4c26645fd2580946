"""The models of `models.toml`: their names, and what a request to one of them costs."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from functions.common.errors import ConfigurationError

PATH = Path(__file__).parent / "models.toml"

ID = re.compile(r"(claude-[a-z0-9-]+?)(-\d{8})?(-v\d+)?(:\d+)?(\[1m\])?$")
"""A model's own name in an id: without region, publisher, ARN, date, version and the CLI's mark of a long context."""

TOKENS = 1_000_000
"""Prices are for so many."""


Tokens = Annotated[int, Field(ge=0, le=100_000_000)]


class CacheWritten(BaseModel):
    """Tokens written to the prompt cache, by how long it keeps them."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    ephemeral_5m_input_tokens: Tokens = 0
    ephemeral_1h_input_tokens: Tokens = 0


class Usage(BaseModel):
    """Tokens of one request, as the Messages API counts them: https://platform.claude.com/docs/en/api/messages ."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    input_tokens: Tokens = 0
    output_tokens: Tokens = 0
    cache_read_input_tokens: Tokens | None = None
    cache_creation_input_tokens: Tokens | None = None
    cache_creation: CacheWritten | None = None

    @property
    def written(self) -> CacheWritten:
        """Tokens written to the cache; for 5 minutes where the answer does not tell how long."""
        told, written = self.cache_creation or CacheWritten(), self.cache_creation_input_tokens or 0
        short = max(written - told.ephemeral_1h_input_tokens, told.ephemeral_5m_input_tokens)
        return told.model_copy(update={"ephemeral_5m_input_tokens": short})

    @property
    def prompt(self) -> int:
        """Tokens of the whole prompt, cached or not."""
        written = self.written
        cached = (self.cache_read_input_tokens or 0) + written.ephemeral_5m_input_tokens
        return self.input_tokens + cached + written.ephemeral_1h_input_tokens


class Price(BaseModel):
    """US dollars per million tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: float = Field(gt=0)
    output: float = Field(gt=0)
    cache_write: float = Field(gt=0)
    cache_write_hour: float = Field(gt=0)
    cache_read: float = Field(gt=0)

    def of(self, usage: Usage) -> float:
        """US dollars for these tokens."""
        written = usage.written
        return (
            usage.input_tokens * self.input
            + usage.output_tokens * self.output
            + (usage.cache_read_input_tokens or 0) * self.cache_read
            + written.ephemeral_5m_input_tokens * self.cache_write
            + written.ephemeral_1h_input_tokens * self.cache_write_hour
        ) / TOKENS


class LongPrompt(Price):
    """What a request costs whose prompt has more than `above_tokens` tokens."""

    above_tokens: int = Field(gt=0)


class Model(Price):
    """One model: its name, its global inference profile on Bedrock, its id at the Anthropic API, its price."""

    name: str
    bedrock: str
    anthropic: str
    long_prompt: LongPrompt | None = None

    def cost(self, usage: Usage) -> float:
        """US dollars for one request."""
        long = self.long_prompt
        return (long if long is not None and usage.prompt > long.above_tokens else self).of(usage)


class Models(BaseModel):
    """The file: `models` by what the CLI and `/model` call them; `date` is when names and prices were read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    date: str
    models: dict[str, Model] = Field(min_length=1)

    def named(self, model_id: str) -> Model | None:
        """The model of an id of Bedrock (any region's profile, an ARN) or of the Anthropic API; None when unknown."""
        own = ID.search(model_id)
        return next((m for m in self.models.values() if own is not None and m.anthropic == own[1]), None)

    def cost(self, model_id: str, usage: Usage) -> float:
        """US dollars for one request; a model that is not in the file counts as the dearest that is."""
        known = self.named(model_id)
        return known.cost(usage) if known else max(model.cost(usage) for model in self.models.values())


@cache
def known(path: Path = PATH) -> Models:
    """The models of the file. Raises ConfigurationError that names what is wrong."""
    try:
        return Models.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise ConfigurationError(f"{path.name}: {error}") from error
