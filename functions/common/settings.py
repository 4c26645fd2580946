"""Settings: what `template.yaml` puts into a function's environment, as models that fail at once and by name.

Every function has its own environment. On AWS that is `os.environ`; on the embedded stack several functions share
one process, so the host sets `environment` for each invocation. Nothing reads `os.environ` directly.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

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


class MetricSettings(Settings):
    """Whoever measures."""

    service: str = Field(
        "stepgram", alias="POWERTOOLS_SERVICE_NAME", description="The stack's name, the dimension `service` of metrics"
    )


class WebhookSettings(Settings):
    """The webhook's environment."""

    table: str = Field(alias="SESSION_TABLE", description="Name of the DynamoDB table")
    messages_per_minute: int = Field(
        20, alias="MESSAGES_PER_MINUTE", ge=0, description="Messages one user may send in a minute; 0: any number"
    )
    group_messages: Literal["mention", "all"] = Field(
        "mention",
        alias="GROUP_MESSAGES",
        description="Which messages of a group, outside topics, are for the bot: mention (and replies) or all",
    )
    bot_username: str = Field(
        "", alias="BOT_USERNAME", description="The bot's name, without @; empty: any name that ends in `bot` means it"
    )

    intake_arn: str = Field(alias="INTAKE_ARN", description="ARN of the Intake state machine")
    secret_id: str = Field(alias="WEBHOOK_SECRET_ID", description="Secrets Manager id of Telegram's webhook secret")
    allowed_users: NameList = Field(
        (), alias="ALLOWED_USERS", description="Telegram user ids who may talk to the bot, by commas; `*` for all"
    )
    allowed_chats: NameList = Field(
        (), alias="ALLOWED_CHATS", description="Telegram chat ids in which everyone may talk to the bot"
    )
    session_ttl_days: int = Field(25, alias="SESSION_TTL_DAYS", ge=1, description="Days until an idle session expires")


class TableSettings(Settings):
    """Functions that read or write sessions and the lock."""

    table: str = Field(alias="SESSION_TABLE", description="Name of the DynamoDB table")


class BucketSettings(Settings):
    """Functions that read or write snapshots."""

    bucket: str = Field(alias="SESSION_BUCKET", description="Name of the S3 bucket of sessions")


class LedgerSettings(TableSettings, BucketSettings):
    """Whoever counts what the agent's runs have cost."""


class LinkSettings(BucketSettings):
    """Whoever tells an operator where to look."""

    region: str = Field(alias="AWS_REGION", description="AWS region")
    log_group: str = Field(alias="FUNCTION_LOGS", description="The log group of all functions")
    console_url: str = Field(
        "", alias="CONSOLE_URL", description="Where an operator sees an execution: an address with {arn} or {name}"
    )


class TicketSettings(Settings):
    """Functions that let the agent speak in the chat through the callback."""

    session_key_arn: str = Field(alias="SESSION_KEY_ARN", description="KMS key that seals what the agent is given")


class AccessSettings(BucketSettings, TicketSettings):
    """Functions that give the agent access to a session."""

    session_role_arn: str = Field(alias="SESSION_ROLE_ARN", description="Role narrowed to one session for the agent")


class SessionSettings(TableSettings):
    """Whoever moves a conversation's pointer."""

    session_ttl_days: int = Field(25, alias="SESSION_TTL_DAYS", ge=1, description="Days until an idle session expires")


class ContinueSettings(LedgerSettings, SessionSettings):
    """ContinueAgent."""


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


class TelegramSettings(Settings):
    """Functions that talk to the Bot API."""

    token_secret_id: str = Field(alias="BOT_TOKEN_SECRET_ID", description="Secrets Manager id of the bot token")
    api_url: str = Field("https://api.telegram.org", alias="TELEGRAM_API_URL", description="Root of the Bot API")


class HydrateSettings(SessionSettings, BucketSettings, TelegramSettings, BudgetSettings):
    """Hydrate."""

    approval_hours: float = Field(
        72, alias="APPROVAL_HOURS", gt=0, description="Hours until a question nobody answered counts as denied"
    )

    transcription: Literal["amazon", "off"] = Field(
        "off", alias="TRANSCRIPTION", description="What makes text of voice messages: amazon or off"
    )
    session_data_days: int = Field(30, alias="SESSION_DATA_DAYS", ge=2, description="Days until S3 removes objects")

    @property
    def renew_after(self) -> timedelta:
        """The age from which an object is renewed: a younger one outlives the mapping, with a day to spare."""
        return timedelta(days=max(0, self.session_data_days - self.session_ttl_days - 1))


class PersistSettings(SessionSettings, BudgetSettings, LedgerSettings):
    """Persist."""


class ReplySettings(TelegramSettings, TableSettings, BucketSettings):
    """Reply."""

    rich: Literal["auto", "always", "never"] = Field(
        "auto", alias="RICH_MESSAGES", description="When answers are sent as rich messages: auto, always or never"
    )


class NoticeSettings(TelegramSettings, TableSettings):
    """A short text with a delivery ledger."""


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


class CallbackSettings(NoticeSettings, SessionSettings):
    """The callback."""


class ApprovalSettings(NoticeSettings, LedgerSettings, SessionSettings):
    """Whoever asks a person, and whoever hears the answer."""

    approvers: NameList = Field(
        ("requester",),
        alias="APPROVERS",
        description="Who may decide on a tool call: `requester`, `anyone` who may talk to the bot, or user ids",
    )
    approval_hours: float = Field(
        72, alias="APPROVAL_HOURS", gt=0, description="Hours until a question nobody answered counts as denied"
    )


class IntakeSettings(ApprovalSettings, BudgetSettings):
    """The Intake's function."""

    turn_arn: str = Field(alias="TURN_ARN", description="ARN of the Turn state machine")
    console_url: str = Field(
        "stepgram show {name}",
        alias="CONSOLE_URL",
        description="Where an operator sees an execution: an address with {arn} or {name}",
    )


class AgentSettings(BucketSettings, ModelSettings):
    """The agent's environment."""

    callback_function: str = Field(alias="CALLBACK_FUNCTION", description="The callback's name or ARN")

    provider: Literal["bedrock", "anthropic"] = Field(
        "bedrock", alias="MODEL_PROVIDER", description="Where the model is: bedrock or anthropic"
    )
    region: str = Field(alias="AWS_REGION", description="AWS region")
    bedrock_region: str | None = Field(
        None, alias="BEDROCK_REGION", description="Region of the model, when it is another"
    )
    model_secret_id: str | None = Field(
        None,
        alias="MODEL_SECRET_ID",
        description="Secret with another account's keys or an API key for the model; without it, the function's role",
    )
    base_url: str | None = Field(None, alias="MODEL_BASE_URL", description="Root of a gateway in front of the model")
    max_turns: int = Field(50, alias="MAX_MODEL_TURNS", ge=1, description="Model calls at most in one turn")
    max_budget_usd: float = Field(5.0, alias="MAX_BUDGET_USD", gt=0, description="US dollars at most in one turn")
    model_busy_seconds: float = Field(
        60,
        alias="MODEL_BUSY_SECONDS",
        ge=0,
        description="Seconds a request to a busy or broken model is repeated inside a run; then the workflow's Retry",
    )
    approval_tools: NameList = Field(
        ("Bash", "outside"),
        alias="APPROVAL_TOOLS",
        description="Tools that ask a person first, as patterns of names; `outside`: reading or writing files outside "
        "the workspace; `none`",
    )
    keep_open_seconds: int = Field(
        1800,
        alias="KEEP_OPEN_SECONDS",
        ge=0,
        description="Seconds a conversation may stay open in a container; 0: never",
    )
    keep_open_idle_seconds: int = Field(
        50,
        alias="KEEP_OPEN_IDLE_SECONDS",
        ge=0,
        description="Seconds between two messages after which an open conversation is not gone on with: its "
        "connections are dead",
    )
    keep_open_mb: int = Field(
        768, alias="KEEP_OPEN_MB", ge=0, description="MB of memory above which an open conversation is closed"
    )
    max_parts: int = Field(16, alias="MAX_PARTS", ge=1, description="Runs of up to 15 minutes that one turn may take")
    workspace_files: int = Field(20_000, alias="WORKSPACE_FILES", ge=0, description="Files a workspace may hold")
    workspace_file_mb: int = Field(100, alias="WORKSPACE_FILE_MB", ge=0, description="MB of one file at most")
    workspace_mb: int = Field(1024, alias="WORKSPACE_MB", ge=0, description="MB of all files of a workspace at most")
    config_dir: str | None = Field(
        None, alias="AGENT_CONFIG_DIR", description="Folder of the agent's configuration, when it is another"
    )
    mcp_servers: NameList = Field(
        ("*",), alias="MCP_SERVERS", description="Names of the MCP servers of `mcp.json` to use; `*` for all"
    )

    def choosing(self, model: str | None) -> Self:
        """The same with another model: `haiku`, `sonnet` or `opus`; None leaves it."""
        known = {"haiku": self.haiku, "sonnet": self.sonnet, "opus": self.opus}
        return self if model is None else self.model_copy(update={"model": known[model]})


class LockSettings(TableSettings):
    """AcquireLock and ReleaseLock."""


class AcquireLockSettings(LockSettings, TicketSettings):
    """AcquireLock, which also tells the chat that the message is taken up."""

    callback_function: str = Field(alias="CALLBACK_FUNCTION", description="The callback's name or ARN")


class RunAgentSettings(AccessSettings, ReserveSettings, ModelSettings):
    """RunAgent."""

    agent_function: str = Field(alias="AGENT_FUNCTION", description="The agent's name or ARN")
    agent_isolation: Literal["tenant", "none"] = Field(
        "tenant",
        alias="AGENT_ISOLATION",
        description="Whether each conversation has containers of its own (tenant), or conversations share them (none)",
    )
