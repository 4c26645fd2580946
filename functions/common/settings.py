"""Settings: what `template.yaml` puts into a function's environment, as models that fail at once and by name.

Every function has its own environment. On AWS that is `os.environ`; on the embedded stack several functions share
one process, so the host sets `environment` for each invocation. Nothing reads `os.environ` directly.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from functions.common.errors import ConfigurationError

_environment: ContextVar[Mapping[str, str] | None] = ContextVar("environment", default=None)


def environment() -> Mapping[str, str]:
    """The environment of the function that runs now."""
    own = _environment.get()
    return os.environ if own is None else own


def own_environment() -> Mapping[str, str] | None:
    """The environment a function was given that shares its process with others; None for the process's own."""
    return _environment.get()


def use_environment(values: Mapping[str, str] | None) -> None:
    """Give the present context an environment of its own (None: the process's)."""
    _environment.set(values)


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


NameList = Annotated[tuple[str, ...], BeforeValidator(_split)]


class Settings(BaseModel):
    """The base of all settings: fields are environment variables by their alias."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    @classmethod
    def load(cls) -> Self:
        """Read the function's environment. Raises ConfigurationError that names every bad variable."""
        try:
            return cls.model_validate({name: value for name, value in environment().items() if value != ""})
        except ValidationError as error:
            problems = "; ".join(f"{item['loc'][0]}: {item['msg']}" for item in error.errors())
            raise ConfigurationError(f"{cls.__name__} cannot be read from the environment: {problems}") from error


class AwsSettings(Settings):
    """Where AWS is; the endpoint is set on the embedded stack only."""

    region: str = Field(alias="AWS_REGION", description="AWS region")
    endpoint: str | None = Field(None, alias="AWS_ENDPOINT_URL", description="AWS endpoint; only off AWS")
    access_key: str | None = Field(None, alias="AWS_ACCESS_KEY_ID", exclude=True)
    """Tells the clients of functions apart that share a process."""


class TableSettings(Settings):
    """Functions that read or write sessions and the lock."""

    table: str = Field(alias="SESSION_TABLE", description="Name of the DynamoDB table")


class BucketSettings(Settings):
    """Functions that read or write snapshots."""

    bucket: str = Field(alias="SESSION_BUCKET", description="Name of the S3 bucket of sessions")


class LedgerSettings(TableSettings, BucketSettings):
    """Whoever counts what the agent's runs have cost."""


class TicketSettings(Settings):
    """Functions that let the agent speak in the chat through the callback."""

    session_key_arn: str = Field(alias="SESSION_KEY_ARN", description="KMS key that seals what the agent is given")


class AccessSettings(BucketSettings, TicketSettings):
    """Functions that give the agent access to a session."""

    session_role_arn: str = Field(alias="SESSION_ROLE_ARN", description="Role narrowed to one session for the agent")


class SessionSettings(TableSettings):
    """Whoever moves a conversation's pointer."""

    session_ttl_days: int = Field(25, alias="SESSION_TTL_DAYS", ge=1, description="Days until an idle session expires")


class BudgetSettings(TableSettings):
    """Whoever looks at what may be spent, in US dollars; 0 is no limit."""

    daily_usd: float = Field(
        20, alias="DAILY_BUDGET_USD", ge=0, description="US dollars a day, all conversations; 0: any"
    )
    monthly_usd: float = Field(
        200, alias="MONTHLY_BUDGET_USD", ge=0, description="US dollars a month, all conversations; 0: any"
    )
    chat_daily_usd: float = Field(
        10, alias="CHAT_DAILY_BUDGET_USD", ge=0, description="US dollars a day for one conversation; 0: any"
    )
    chat_monthly_usd: float = Field(
        100, alias="CHAT_MONTHLY_BUDGET_USD", ge=0, description="US dollars a month for one conversation; 0: any"
    )


class ReserveSettings(BudgetSettings, LedgerSettings):
    """Whoever starts a run of the agent."""

    max_budget_usd: float = Field(5.0, alias="MAX_BUDGET_USD", gt=0, description="US dollars at most in one turn")


class ModelSettings(Settings):
    """Which models may answer, by their ids."""

    model: str = Field(alias="MODEL_ID", description="Model that answers")
    opus: str = Field(alias="ANTHROPIC_DEFAULT_OPUS_MODEL", description="What `opus` means to the CLI")
    sonnet: str = Field(alias="ANTHROPIC_DEFAULT_SONNET_MODEL", description="What `sonnet` means to the CLI")
    haiku: str = Field(alias="ANTHROPIC_DEFAULT_HAIKU_MODEL", description="What `haiku` means to the CLI")

    @property
    def models(self) -> tuple[str, ...]:
        """Their ids."""
        return self.model, self.opus, self.sonnet, self.haiku


class ApprovalSettings(LedgerSettings, SessionSettings):
    """Whoever asks a person, and whoever hears the answer."""

    approvers: NameList = Field(
        ("requester",),
        alias="APPROVERS",
        description="Who may decide on a tool call: `requester`, `anyone` who may talk to the bot, or user ids",
    )
    approval_hours: float = Field(
        72, alias="APPROVAL_HOURS", gt=0, description="Hours until a question nobody answered counts as denied"
    )
