"""What the agent's function reads from its environment."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field

from functions.common.settings import BucketSettings, ModelSettings, NameList


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
