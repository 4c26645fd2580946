"""How the CLI is started: what it is given, and above all what it is not."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from claude_agent_sdk import PermissionResult, ToolPermissionContext

from functions.agent import options
from functions.agent.approve import fingerprint
from functions.agent.model import upstream
from functions.agent.options import (
    CONFIG,
    Approval,
    Folders,
    agent_options,
    cli_environment,
    configured_models,
    mcp_servers,
    permission,
    subagents,
)
from functions.agent.settings import AgentSettings
from functions.common.errors import ConfigurationError

ENVIRONMENT = {
    "SESSION_BUCKET": "bucket",
    "CALLBACK_FUNCTION": "progress",
    "MODEL_ID": "model",
    "ANTHROPIC_DEFAULT_OPUS_MODEL": "opus-id",
    "ANTHROPIC_DEFAULT_SONNET_MODEL": "sonnet-id",
    "ANTHROPIC_DEFAULT_HAIKU_MODEL": "haiku-id",
    "AWS_REGION": "eu-west-1",
}
ROLE = {"AWS_ACCESS_KEY_ID": "role-key", "AWS_SECRET_ACCESS_KEY": "role-secret", "AWS_SESSION_TOKEN": "role-token"}
ENDPOINT = "http://127.0.0.1:1/key"
FOLDERS = Folders(home=Path("/h"), config=Path("/c"), workspace=Path("/w"), scratch=Path("/s"))


def settings(**more: str) -> AgentSettings:
    return AgentSettings.model_validate({**ENVIRONMENT, **more})


def cli(given: AgentSettings, inherited: dict[str, str] | None = None) -> dict[str, str]:
    return cli_environment(given, ENDPOINT, {**ROLE, **(inherited or {})}, FOLDERS, "process")


def test_the_cli_has_the_endpoint_and_no_key() -> None:
    bedrock, gateway = cli(settings()), cli(settings(MODEL_BASE_URL="https://gateway"))
    anthropic = cli(settings(MODEL_PROVIDER="anthropic", MODEL_SECRET_ID="arn"))

    assert (bedrock["CLAUDE_CODE_USE_BEDROCK"], bedrock["CLAUDE_CODE_SKIP_BEDROCK_AUTH"]) == ("1", "1")
    assert (bedrock["ANTHROPIC_BEDROCK_BASE_URL"], bedrock["AWS_REGION"]) == (ENDPOINT, "eu-west-1")
    assert cli(settings(BEDROCK_REGION="us-west-2"))["AWS_REGION"] == "us-west-2"
    assert gateway["ANTHROPIC_BEDROCK_BASE_URL"] == ENDPOINT
    assert (anthropic["ANTHROPIC_BASE_URL"], anthropic["ANTHROPIC_API_KEY"]) == (ENDPOINT, options.NO_KEY)
    assert "CLAUDE_CODE_USE_BEDROCK" not in anthropic
    for given in (bedrock, gateway, anthropic):
        assert [given[name] for name in ROLE] == ["", "", ""]


def test_the_models_a_run_may_ask_are_those_that_are_configured(tmp_path: Path) -> None:
    agents = {name: {"description": "x", "prompt_file": "p", "model": name} for name in ("sonnet", "inherit", "own-id")}
    (tmp_path / "agents.json").write_text(json.dumps({**agents, "none": {"description": "x", "prompt_file": "p"}}))
    (tmp_path / "p").write_text("")

    found = configured_models(settings(AGENT_CONFIG_DIR=str(tmp_path)))

    assert found == {"model", "opus-id", "sonnet-id", "haiku-id", "own-id"}


def test_models_are_pinned_a_request_is_repeated_and_nothing_phones_home() -> None:
    found = cli(settings())

    assert found["ANTHROPIC_DEFAULT_HAIKU_MODEL"] == "haiku-id"
    assert found["CLAUDE_CODE_MAX_RETRIES"] == "10"
    assert found["CLAUDE_BYTE_STREAM_IDLE_TIMEOUT_MS"] == "180000"
    assert found["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"] == "1"
    assert found["CLAUDE_CODE_DISABLE_BACKGROUND_TASKS"] == "1"


def test_what_is_not_meant_for_the_cli_is_blanked() -> None:
    found = cli(settings(), {"PATH": "/bin", "SESSION_BUCKET": "bucket", "SOMETHING_SECRET": "x"})

    assert found["SOMETHING_SECRET"] == ""
    assert found["SESSION_BUCKET"] == ""
    assert "PATH" not in found


@pytest.mark.parametrize("value", ["not json", "[]", "{}", '{"PATH": "/evil"}', '"text"'])
def test_a_model_secret_of_another_shape_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "secret", lambda name: value)

    with pytest.raises(ConfigurationError, match="secret arn"):
        upstream.model_keys("arn")


def test_the_shipped_configuration_is_readable() -> None:
    assert set(subagents(CONFIG)) == {"aws-support"}
    assert set(mcp_servers(CONFIG, ("*",))) == {"aws-knowledge", "aws-documentation"}
    assert set(mcp_servers(CONFIG, ("aws-knowledge",))) == {"aws-knowledge"}
    assert mcp_servers(CONFIG, ("none",)) == {}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("agents.json", "not json", "agents.json"),
        ("agents.json", '{"a": {"description": "x"}}', "prompt_file"),
        ("agents.json", '{"a": {"description": "x", "prompt_file": "gone.md"}}', "gone.md"),
        ("mcp.json", '{"mcpServers": []}', "mcp.json"),
    ],
)
def test_a_broken_configuration_names_the_file(tmp_path: Path, file: str, content: str, message: str) -> None:
    (tmp_path / "agents.json").write_text("{}")
    (tmp_path / "mcp.json").write_text("{}")
    (tmp_path / file).write_text(content)

    with pytest.raises(ConfigurationError, match=message):
        subagents(tmp_path)
        mcp_servers(tmp_path, ("*",))


def test_chat_text_is_never_read_as_a_command_and_a_resume_names_the_session() -> None:
    given = settings(MCP_SERVERS="none")
    first = agent_options(given, {}, FOLDERS, "id", True, None, print, Approval())  # type: ignore[arg-type]
    later = agent_options(given, {}, FOLDERS, "id", False, None, print, Approval())  # type: ignore[arg-type]

    assert first.verbatim_prompts
    assert first.strict_mcp_config
    assert first.setting_sources == []
    assert (first.session_id, first.resume) == ("id", None)
    assert (later.session_id, later.resume) == (None, "id")
    assert json.loads(str(first.settings)) == {"crossSessionInbound": "refuse"}
    assert set(options.TOOLS) <= set(first.allowed_tools)


def hook(given: Approval, tool: str, folders: Folders = FOLDERS, **arguments: str) -> str:
    """What the hook says to a call, run as the CLI runs it."""
    offered = tool.rpartition("__")[0] if tool.startswith("mcp__") else tool
    document = json.loads(given.settings([offered]) or "{}")["hooks"]["PreToolUse"][0]
    assert re.fullmatch(document["matcher"], tool)
    call = {"tool_name": tool, "tool_input": arguments, "tool_use_id": "t1", "prompt_id": "p1"}
    if arguments.pop("agent_id", None):
        call["agent_id"] = "sub"
    environment = {**given.environment(given.rules(folders, Path("/skills"))), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        document["hooks"][0]["command"], shell=True, input=json.dumps(call), capture_output=True, env=environment,
        text=True, check=True,
    )  # fmt: skip
    return str(json.loads(done.stdout)["hookSpecificOutput"]["permissionDecision"])


@pytest.mark.parametrize(
    ("tool", "arguments", "decision"),
    [
        ("Bash", {"command": "ls"}, "defer"),
        ("Bash", {"command": "ls", "agent_id": "x"}, "deny"),
        ("Write", {"file_path": "notes/a.txt"}, "allow"),
        ("Edit", {"file_path": "/etc/passwd"}, "defer"),
        ("mcp__aws__delete", {}, "defer"),
        ("mcp__docs__read", {}, "allow"),
    ],
)
def test_the_hook_asks_for_the_tools_that_are_named_and_outside(
    tmp_path: Path, tool: str, arguments: dict[str, str], decision: str
) -> None:
    folders = Folders(tmp_path / "home", tmp_path / "config", tmp_path / "workspace", tmp_path / "scratch")

    assert hook(Approval(ask=("Bash", "outside", "mcp__aws__*")), tool, folders, **arguments) == decision


def test_only_the_first_call_of_a_message_waits_and_none_when_that_cannot_be_noted(tmp_path: Path) -> None:
    asks = Approval(ask=("Bash",))
    folders = Folders(tmp_path / "home", tmp_path / "config", tmp_path / "workspace", tmp_path / "scratch")
    nowhere = Folders(tmp_path / "no" / "home", tmp_path, tmp_path, tmp_path)

    assert hook(asks, "Bash", folders, command="one") == "defer"
    assert hook(asks, "Bash", folders, command="two") == "deny"
    assert hook(asks, "Bash", nowhere, command="one") == "deny"


def test_the_hook_lets_through_what_was_decided_and_no_other_call(tmp_path: Path) -> None:
    folders = Folders(tmp_path / "home", tmp_path / "config", tmp_path / "workspace", tmp_path / "scratch")
    ls = fingerprint("Bash", {"command": "ls"})
    yes, no = {"allow": True, "reason": "", "call": ls}, {"allow": False, "reason": "no", "call": ls}

    assert hook(Approval(ask=("Bash",), decided={"t1": yes}), "Bash", command="ls") == "allow"
    assert hook(Approval(ask=("Bash",), decided={"t1": yes}), "Bash", command="ls /") == "deny"
    assert hook(Approval(ask=("Bash", "Write"), decided={"t1": yes}), "Write", command="ls") == "deny"
    assert hook(Approval(ask=("Bash",), decided={"t1": no}), "Bash", command="ls") == "deny"
    assert hook(Approval(ask=("Bash",), decided={"t2": yes}), "Bash", folders, command="ls") == "defer"
    assert hook(Approval(ask=("Bash",), allowed=("Bash",)), "Bash", command="ls") == "allow"


def asked_of_us(approval: Approval, tool: str, call_id: str = "t1", **arguments: str) -> PermissionResult:
    """What the CLI hears when its own check stops a call."""
    may = permission(["Bash", "Write", "mcp__docs"], approval.rules(FOLDERS, Path("/skills")))
    return asyncio.run(may(tool, arguments, ToolPermissionContext(tool_use_id=call_id)))


def test_the_clis_own_check_stops_nothing_that_is_allowed_and_lets_nothing_else_through() -> None:
    asks = Approval(ask=("Bash", "outside"))
    call = fingerprint("Bash", {"command": "ls"})
    decided = Approval(ask=("Bash",), decided={"t1": {"allow": True, "reason": "", "call": call}})

    assert asked_of_us(decided, "Bash", command="ls").behavior == "allow"
    assert asked_of_us(decided, "Bash", "t2", command="ls").behavior == "deny"
    assert asked_of_us(decided, "Bash", command="ls /").behavior == "deny"
    assert asked_of_us(asks, "Bash", command="ls").behavior == "deny"
    assert asked_of_us(asks, "Write", file_path=".bashrc").behavior == "allow"
    assert asked_of_us(asks, "Write", file_path="/etc/passwd").behavior == "deny"
    assert asked_of_us(asks, "mcp__docs__read").behavior == "allow"
    assert asked_of_us(asks, "SomethingElse").behavior == "deny"


def test_what_may_ask_is_not_allowed_beforehand() -> None:
    """A hook that is missing must end in no, not in yes."""
    given = settings(MCP_SERVERS="*")
    approval = Approval(ask=("Bash", "outside", "mcp__aws-knowledge__*"))
    found = agent_options(given, {}, FOLDERS, "id", True, None, print, approval)  # type: ignore[arg-type]

    assert not {"Bash", "Write", "Edit", "Read", "Glob", "Grep"} & set(found.allowed_tools)
    assert "WebFetch" in found.allowed_tools
    assert json.loads(str(found.settings))["disableSkillShellExecution"]
    servers = {name for name in found.allowed_tools if name.startswith("mcp__")}
    assert servers == {f"mcp__{name}" for name in mcp_servers(CONFIG, ("*",))} - {"mcp__aws-knowledge"}
    assert found.env["CLAUDE_CODE_DISABLE_DEFERRED_TOOL_RESUME"] == "1"
