"""How the Agent SDK is started: environment, tools and the configuration beside this file.

`config/` follows the folder layout of Claude Code: `system_prompt.md`, `agents.json` (subagents), `mcp.json` (MCP
servers over HTTP and by command), `skills/<name>/SKILL.md`. Skills reach the CLI as a local plugin, because
user-level ones vanish when a session is resumed from a store.
"""

from __future__ import annotations

import json
import shlex
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, cast

from claude_agent_sdk import (
    AgentDefinition,
    CanUseTool,
    CanUseToolShadowedWarning,
    ClaudeAgentOptions,
    PermissionResult,
    PermissionResultAllow,
    PermissionResultDeny,
    ToolPermissionContext,
)
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from functions.agent.approve import OUTSIDE, PATHS, VARIABLE, decide
from functions.agent.model.patience import CLI_RETRIES
from functions.agent.settings import AgentSettings
from functions.agent.store import SnapshotStore
from functions.common.errors import ConfigurationError

CONFIG = Path(__file__).parent / "config"

TOOLS = ["Bash", "Read", "Write", "Edit", "Glob", "Grep", "Skill", "Agent", "WebFetch"]
"""The built-in tools the agent is offered; each is also allowed without asking, unless it is configured to ask."""

SILENT_STREAM_SECONDS = 180
"""A stream that brings not one byte for so long is cut and the request repeated; thinking may be silent for a while."""

HOOK = Path(__file__).parent / "approve.py"

NOT_ASKED = "This needs a person's approval, and nobody could be asked."
NOT_OFFERED = "This tool is not offered here."

# That an allowed tool asks nobody is meant.
warnings.filterwarnings("ignore", category=CanUseToolShadowedWarning)

ALIASES = ("sonnet", "opus", "haiku", "inherit")
"""What a subagent's model may be called; anything else is an id."""

NO_KEY = "no-key-here"
"""The CLI wants one; the endpoint has it."""

GIT = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.bareRepository", "GIT_CONFIG_VALUE_0": "explicit"}
"""Files that were written without asking make no repository, whose configuration names commands that an allowed
`git status` runs (https://git-scm.com/docs/git-config, safe.bareRepository). Into `.git` nothing is written unasked."""

INHERITED = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE")
"""What the CLI, and so Bash and MCP servers, see of our environment; everything else is blanked."""


class Subagent(BaseModel):
    """One entry of `agents.json`; `prompt_file` is relative to the configuration's folder."""

    model_config = ConfigDict(extra="forbid")

    description: str
    prompt_file: str
    tools: list[str] | None = None
    model: str | None = None


@dataclass(frozen=True)
class Approval:
    """Which calls wait for a person: those of tools that `ask`, unless the name is `allowed` in this conversation.

    `decided` maps the id of a call that waited to what was decided: `allow`, the `reason`, the `call`'s fingerprint.
    """

    ask: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    decided: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def may_ask(self, tool: str) -> bool:
        """Whether a call of this tool, or of some tool of this MCP server (`mcp__name`), could wait for a person."""
        if OUTSIDE in self.ask and tool in PATHS:
            return True
        return any(fnmatchcase(tool, pattern) or pattern.startswith(f"{tool}__") for pattern in self.ask)

    def settings(self, tools: Sequence[str]) -> str:
        """The CLI's settings with the hook for these tools. No other CLI of this machine may send it a message."""
        own: dict[str, Any] = {"crossSessionInbound": "refuse"}
        if not tools:
            return json.dumps(own)
        command = shlex.join([sys.executable, "-I", "-S", str(HOOK)])
        matcher = "|".join(f"{tool}__.*" if tool.startswith("mcp__") else tool for tool in tools)
        hook = {"matcher": matcher, "hooks": [{"type": "command", "command": command, "timeout": 20}]}
        # Commands in a skill's text run without the hook.
        own |= {"hooks": {"PreToolUse": [hook]}, "disableSkillShellExecution": "Bash" in tools}
        return json.dumps(own)

    def rules(self, folders: Folders, skills: Path) -> dict[str, Any]:
        """What the hook goes by. Outside the workspace, the agent reads its skills and what the CLI keeps for it."""
        return {
            "ask": self.ask,
            "allowed": self.allowed,
            "workspace": str(folders.workspace),
            "readable": [str(skills), str(folders.config / "projects"), str(folders.scratch)],
            "decided": self.decided,
            "waits": str(folders.home.parent / "waits-"),
        }

    def environment(self, rules: dict[str, Any]) -> dict[str, str]:
        """The hook's part of the environment. A call of an earlier run is resumed only when it is decided."""
        resume = {} if self.decided else {"CLAUDE_CODE_DISABLE_DEFERRED_TOOL_RESUME": "1"}
        return {VARIABLE: json.dumps(rules), **resume}


@dataclass(frozen=True)
class Folders:
    """The folders of one run: all fresh, all gone afterwards."""

    home: Path
    config: Path
    workspace: Path
    scratch: Path

    @property
    def debug(self) -> Path:
        """The CLI's debug log."""
        return self.home.parent / "debug.txt"


def subagents(config: Path) -> dict[str, AgentDefinition]:
    """The subagents of `agents.json`. Raises ConfigurationError that names the file."""
    found = _document(config / "agents.json", TypeAdapter(dict[str, Subagent]))
    return {
        name: AgentDefinition(
            description=agent.description,
            prompt=_text(config / agent.prompt_file),
            tools=agent.tools,
            model=cast(Literal["sonnet", "opus", "haiku", "inherit"] | None, agent.model),
        )
        for name, agent in found.items()
    }


def config_folder(settings: AgentSettings) -> Path:
    """The folder of the agent's configuration."""
    return Path(settings.config_dir) if settings.config_dir else CONFIG


def mcp_servers(config: Path, wanted: tuple[str, ...]) -> dict[str, Any]:
    """The servers of `mcp.json` whose names are wanted (`*`: all)."""
    document = _document(config / "mcp.json", TypeAdapter(dict[str, dict[str, dict[str, Any]]]))
    servers = document.get("mcpServers", {})
    return {name: server for name, server in servers.items() if "*" in wanted or name in wanted}


def _document(path: Path, adapter: TypeAdapter[Any]) -> Any:
    try:
        return adapter.validate_json(_text(path))
    except ValidationError as error:
        raise ConfigurationError(f"{path.name}: {error}") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path.name} cannot be read: {error.strerror}") from error


def configured_models(settings: AgentSettings) -> frozenset[str]:
    """All models that a run may ask: those of the settings, and those that `agents.json` names by their ids."""
    named = {agent.model for agent in subagents(config_folder(settings)).values()} - {None, *ALIASES}
    return frozenset({settings.model, settings.opus, settings.sonnet, settings.haiku} | cast(set[str], named))


def cli_environment(
    settings: AgentSettings, endpoint: str, inherited: Mapping[str, str], folders: Folders, process: str
) -> dict[str, str]:
    """The CLI's environment, with `endpoint` as the model's address and no key to it.

    The SDK merges ours below it, so whatever we do not mean to give is blanked.
    """
    blank = {name: "" for name in inherited if name not in INHERITED}
    model = {
        "ANTHROPIC_DEFAULT_OPUS_MODEL": settings.opus,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": settings.sonnet,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": settings.haiku,
    }
    quiet = {
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
        "CLAUDE_CODE_DISABLE_BUNDLED_SKILLS": "1",
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_TELEMETRY": "1",
        "DISABLE_ERROR_REPORTING": "1",
    }
    retries = {
        "CLAUDE_CODE_MAX_RETRIES": str(CLI_RETRIES),
        "API_TIMEOUT_MS": "120000",
        "CLAUDE_ENABLE_BYTE_WATCHDOG": "1",
        "CLAUDE_ENABLE_BYTE_WATCHDOG_BEDROCK": "1",
        "CLAUDE_BYTE_STREAM_IDLE_TIMEOUT_MS": str(SILENT_STREAM_SECONDS * 1000),
    }
    places = {
        "HOME": str(folders.home),
        "CLAUDE_CONFIG_DIR": str(folders.config),
        "CLAUDE_CODE_TMPDIR": str(folders.scratch),
        "TMPDIR": str(folders.scratch),
    }
    return {
        **blank,
        **model,
        **quiet,
        **retries,
        **places,
        **GIT,
        **_endpoint(settings, endpoint, process),
    }


def _endpoint(settings: AgentSettings, endpoint: str, process: str) -> dict[str, str]:
    if settings.provider == "anthropic":
        return {"ANTHROPIC_BASE_URL": endpoint, "ANTHROPIC_API_KEY": NO_KEY}
    bedrock = {
        "CLAUDE_CODE_USE_BEDROCK": "1",
        "CLAUDE_CODE_SKIP_BEDROCK_AUTH": "1",
        "ANTHROPIC_BEDROCK_BASE_URL": endpoint,
        "AWS_REGION": settings.bedrock_region or settings.region,
    }
    return {**bedrock, "ANTHROPIC_CUSTOM_HEADERS": f"X-Stepgram-Process: {process}"} if settings.base_url else bedrock


def permission(offered: Sequence[str], rules: dict[str, Any]) -> CanUseTool:
    """What the CLI hears when its own safety check stops a call that the hook let through, or the hook did not answer.

    The check knows nothing of what a person allowed (writing `.claude/`, say, which has no effect here). The same rules
    hold; a person cannot be asked from here.
    """

    async def may(name: str, arguments: dict[str, Any], context: ToolPermissionContext) -> PermissionResult:
        known = any(name == tool or name.startswith(f"{tool}__") for tool in offered)
        call = {
            "tool_name": name,
            "tool_input": arguments,
            "tool_use_id": context.tool_use_id,
            "agent_id": context.agent_id,
        }
        decision, reason = decide(call, rules) if known else ("deny", "")
        if decision == "allow":
            return PermissionResultAllow()
        return PermissionResultDeny(message=NOT_ASKED if decision == "defer" else reason or NOT_OFFERED)

    return may


def agent_options(
    settings: AgentSettings,
    environment: dict[str, str],
    folders: Folders,
    session_id: str,
    is_new: bool,
    store: SnapshotStore,
    stderr: Callable[[str], None],
    approval: Approval,
) -> ClaudeAgentOptions:
    """The SDK's options for one run of one session.

    A tool that may wait for a person is not among the allowed ones: should the hook be missing, it does not run.
    """
    config = config_folder(settings)
    servers = mcp_servers(config, settings.mcp_servers)
    offered = [*TOOLS, *(f"mcp__{name}" for name in servers)]
    asking = [tool for tool in offered if approval.may_ask(tool)]
    rules = approval.rules(folders, config / "skills")
    return ClaudeAgentOptions(
        model=settings.model,
        system_prompt={"type": "custom", "prompt": _text(config / "system_prompt.md"), "snapshot": False},
        tools=TOOLS,
        allowed_tools=[tool for tool in offered if tool not in asking],
        settings=approval.settings(asking),
        agents=subagents(config),
        mcp_servers=servers,
        strict_mcp_config=True,
        plugins=[{"type": "local", "path": str(config)}],
        setting_sources=[],
        skills="all",
        verbatim_prompts=True,
        include_partial_messages=True,
        max_turns=settings.max_turns,
        cwd=folders.workspace,
        can_use_tool=permission(offered, rules),
        env={**environment, **approval.environment(rules)},
        session_store=cast(Any, store),
        session_store_flush="eager",
        session_id=session_id if is_new else None,
        resume=None if is_new else session_id,
        stderr=stderr,
        extra_args={"debug-file": str(folders.debug)},
    )
