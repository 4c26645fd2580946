"""How the CLI is started: what it is given, and above all what it is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from functions.agent import options
from functions.agent.options import CONFIG, Folders, agent_options, cli_environment, mcp_servers, subagents
from functions.common.errors import ConfigurationError
from functions.common.settings import AgentSettings

ENVIRONMENT = {
    "SESSION_BUCKET": "bucket",
    "MODEL_ID": "model",
    "ANTHROPIC_DEFAULT_OPUS_MODEL": "opus-id",
    "ANTHROPIC_DEFAULT_SONNET_MODEL": "sonnet-id",
    "ANTHROPIC_DEFAULT_HAIKU_MODEL": "haiku-id",
    "AWS_REGION": "eu-west-1",
}
ROLE = {"AWS_ACCESS_KEY_ID": "role-key", "AWS_SECRET_ACCESS_KEY": "role-secret", "AWS_SESSION_TOKEN": "role-token"}
FOLDERS = Folders(home=Path("/h"), config=Path("/c"), workspace=Path("/w"), scratch=Path("/s"))


def settings(**more: str) -> AgentSettings:
    return AgentSettings.model_validate({**ENVIRONMENT, **more})


def cli(given: AgentSettings, inherited: dict[str, str] | None = None) -> dict[str, str]:
    return cli_environment(given, {**ENVIRONMENT, **ROLE}, {**ROLE, **(inherited or {})}, FOLDERS, "process")


def test_on_bedrock_the_cli_signs_with_the_functions_role() -> None:
    found = cli(settings())

    assert found["CLAUDE_CODE_USE_BEDROCK"] == "1"
    assert found["AWS_SESSION_TOKEN"] == "role-token"
    assert found["AWS_REGION"] == "eu-west-1"
    assert cli(settings(BEDROCK_REGION="us-west-2"))["AWS_REGION"] == "us-west-2"


def test_models_are_pinned_retries_are_the_workflows_and_nothing_phones_home() -> None:
    found = cli(settings())

    assert found["ANTHROPIC_DEFAULT_HAIKU_MODEL"] == "haiku-id"
    assert found["CLAUDE_CODE_MAX_RETRIES"] == "0"
    assert found["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"] == "1"
    assert found["CLAUDE_CODE_DISABLE_BACKGROUND_TASKS"] == "1"


def test_what_is_not_meant_for_the_cli_is_blanked() -> None:
    found = cli(settings(), {"PATH": "/bin", "SESSION_BUCKET": "bucket", "SOMETHING_SECRET": "x"})

    assert found["SOMETHING_SECRET"] == ""
    assert found["SESSION_BUCKET"] == ""
    assert "PATH" not in found


def test_with_the_anthropic_api_the_role_stays_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "secret", lambda name: json.dumps({"ANTHROPIC_API_KEY": "sk"}))
    found = cli(settings(MODEL_PROVIDER="anthropic", MODEL_SECRET_ID="arn"))

    assert found["ANTHROPIC_API_KEY"] == "sk"
    assert found["AWS_ACCESS_KEY_ID"] == ""
    assert "CLAUDE_CODE_USE_BEDROCK" not in found


def test_another_accounts_keys_replace_the_role(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "other", "AWS_SECRET_ACCESS_KEY": "other-secret"}
    monkeypatch.setattr(options, "secret", lambda name: json.dumps(keys))
    found = cli(settings(MODEL_SECRET_ID="arn"))

    assert (found["AWS_ACCESS_KEY_ID"], found["AWS_SECRET_ACCESS_KEY"]) == ("other", "other-secret")
    assert found["AWS_SESSION_TOKEN"] == ""


@pytest.mark.parametrize("value", ["not json", "[]", "{}", '{"PATH": "/evil"}', '"text"'])
def test_a_model_secret_of_another_shape_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "secret", lambda name: value)

    with pytest.raises(ConfigurationError, match="secret arn"):
        cli(settings(MODEL_SECRET_ID="arn"))


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
    first = agent_options(given, {}, FOLDERS, "id", True, None, print, 1.5)  # type: ignore[arg-type]
    later = agent_options(given, {}, FOLDERS, "id", False, None, print, 1.5)  # type: ignore[arg-type]

    assert first.verbatim_prompts
    assert first.strict_mcp_config
    assert first.setting_sources == []
    assert (first.session_id, first.resume) == ("id", None)
    assert (later.session_id, later.resume) == (None, "id")
