"""The pinned models: the template, the documentation and the shipped CLI agree with `functions/common/models.toml`."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import claude_agent_sdk
import pytest
from samtranslator.yaml_helper import yaml_parse

from functions.common.errors import ConfigurationError
from functions.common.models import ID, Usage, known
from functions.conversation.sessions import MODELS
from stepgram.embedded import bedrock
from stepgram.embedded.stack import EmbeddedStack
from stepgram.server import Server
from tests.conftest import ROOT

CLI = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"
PARAMETERS = yaml_parse((ROOT / "template.yaml").read_text())["Parameters"]
PINNED = {"ModelId": "sonnet", "OpusModelId": "opus", "SonnetModelId": "sonnet", "HaikuModelId": "haiku"}
RETIRED = "retired on"
"""What the CLI's warning says, of the future ("will be ...") and of the past ("was ...")."""

SHORT = {
    "input_tokens": 1_000,
    "cache_read_input_tokens": 20_000,
    "cache_creation_input_tokens": 7_000,
    "cache_creation": {"ephemeral_5m_input_tokens": 4_000, "ephemeral_1h_input_tokens": 3_000},
}
LONG = {**SHORT, "cache_read_input_tokens": 150_000}
WRITTEN = 500

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Runs the shipped CLI once, without a tool; the model is where `environment` says."""

    def run(model: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        quiet = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "CLAUDE_CODE_MAX_RETRIES": "0"}
        home = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "CLAUDE_CONFIG_DIR": str(tmp_path / "config")}
        return subprocess.run(
            [CLI, "--print", "hello", "--model", model, "--tools", "", *arguments],
            env={**home, **quiet, **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, Any]], str]]:
    """Starts the Bedrock stand-in, which says its answers took these tokens; returns its address."""
    servers = []

    def start(usage: dict[str, Any]) -> str:
        events = bedrock.events

        def with_usage(*given: Any) -> Iterator[dict[str, Any]]:
            for event in events(*given):
                if event["type"] == "message_start":
                    event["message"]["usage"] |= usage
                if event["type"] == "message_delta":
                    event["usage"]["output_tokens"] = WRITTEN
                yield event

        monkeypatch.setattr(bedrock, "events", with_usage)
        servers.append(Server(bedrock.Bedrock().app()))
        return servers[0].url

    yield start
    for server in servers:
        server.stop()


def notices(cli: Cli, model: str, provider: dict[str, str]) -> list[str]:
    """What the CLI warns of on its standard error; it does so before it asks the model, so none needs to answer."""
    done = cli(model, **provider)
    assert "ECONNREFUSED" in done.stdout + done.stderr, done
    return [line for line in done.stderr.splitlines() if RETIRED in line]


NOBODY = "http://127.0.0.1:9"
ANTHROPIC = {"ANTHROPIC_BASE_URL": NOBODY, "ANTHROPIC_API_KEY": "none"}
BEDROCK = {
    "CLAUDE_CODE_USE_BEDROCK": "1",
    "CLAUDE_CODE_SKIP_BEDROCK_AUTH": "1",
    "AWS_REGION": "us-east-1",
    "ANTHROPIC_BEDROCK_BASE_URL": NOBODY,
}


def test_the_file_has_the_models_that_a_conversation_can_choose() -> None:
    assert set(known().models) == set(MODELS)


@pytest.mark.parametrize("parameter", PINNED)
def test_the_template_pins_the_models_of_the_file(parameter: str) -> None:
    assert PARAMETERS[parameter]["Default"] == known().models[PINNED[parameter]].bedrock


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md", ".env.example", "docs/configuration.md"])
def test_no_page_names_another_model_than_those_of_the_file(name: str) -> None:
    pages = (ROOT / name).read_text()
    ids = {word.strip("`") for word in pages.replace("=", " ").split() if ".anthropic.claude-" in word}

    assert ids <= {model.bedrock for model in known().models.values()}


@pytest.mark.parametrize("name", known().models)
def test_the_cli_announces_no_retirement_of_a_pinned_model(cli: Cli, name: str) -> None:
    model = known().models[name]

    assert notices(cli, model.anthropic, ANTHROPIC) == []
    assert notices(cli, model.bedrock, BEDROCK) == []


def test_the_cli_announces_the_retirement_of_a_model_that_goes(cli: Cli) -> None:
    """Were the CLI to fall silent, the test above would prove nothing."""
    assert "Claude Sonnet 4.5" in notices(cli, "claude-sonnet-4-5-20250929", ANTHROPIC)[0]


@pytest.mark.parametrize("usage", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("name", known().models)
def test_the_cli_knows_the_model_and_reckons_with_the_same_prices(
    cli: Cli, counted: Callable[[dict[str, Any]], str], name: str, usage: dict[str, Any]
) -> None:
    model = known().models[name]
    base = counted(usage)

    done = cli(model.bedrock, "--output-format", "json", **{**BEDROCK, "ANTHROPIC_BEDROCK_BASE_URL": base})
    told = json.loads(done.stdout)["modelUsage"][model.bedrock]

    assert (told["canonicalModel"], told["costBasis"]) == (model.anthropic, "list")
    cost = model.cost(Usage.model_validate({**usage, "output_tokens": WRITTEN}))
    assert told["costUSD"] == pytest.approx(cost, abs=1e-9)


def test_a_long_prompt_of_haiku_costs_five_times_as_much() -> None:
    haiku = known().models["haiku"]
    line = Usage(input_tokens=100_000)
    beyond = Usage(input_tokens=60_000, cache_read_input_tokens=40_001)

    assert haiku.cost(line) == pytest.approx(0.01)
    assert haiku.cost(beyond) == pytest.approx((60_000 * 0.5 + 40_001 * 0.05) / 1e6)


@pytest.mark.parametrize(
    "model_id",
    [
        "claude-opus-5-5",
        "claude-opus-5-5[1m]",
        "eu.anthropic.claude-opus-5-5",
        "arn:aws:bedrock:us-east-1:1:inference-profile/global.anthropic.claude-opus-5-5",
    ],
)
def test_a_model_is_known_by_any_of_its_ids(model_id: str) -> None:
    assert known().named(model_id) is known().models["opus"]


def test_the_date_and_version_of_an_older_id_are_no_part_of_its_name() -> None:
    found = ID.search("global.anthropic.claude-haiku-4-5-20251001-v1:0")

    assert found is not None
    assert found[1] == "claude-haiku-4-5"


def test_an_unknown_model_counts_as_the_dearest_one() -> None:
    usage = Usage(input_tokens=10, output_tokens=10)

    assert known().named("anthropic.claude-opus-4-8") is None
    assert known().cost("anthropic.claude-opus-4-8", usage) == known().models["opus"].cost(usage)


def test_a_file_that_is_wrong_is_named(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text('date = "2026"\n[models.x]\nname = "X"\n')

    with pytest.raises(ConfigurationError, match=r"(?s)models\.toml: .*models\.x\.input"):
        known(path)


class Secrets:
    """Secrets Manager, as far as a stack that starts here needs it."""

    def create_secret(self, **given: str) -> dict[str, str]:
        return {"ARN": f"arn:of:{given['Name']}"}


@pytest.mark.parametrize(("chosen", "answers"), [({}, "claude-sonnet-5-5"), ({"MODEL_ID": "claude-x"}, "claude-x")])
def test_a_local_stack_on_the_anthropic_api_takes_its_ids(tmp_path: Path, chosen: dict[str, str], answers: str) -> None:
    environment = {"STEPGRAM_MODEL": "anthropic", "ANTHROPIC_API_KEY": "k", **chosen}
    given = EmbeddedStack(tmp_path, environment=environment).model_parameters(Secrets())

    assert given["ModelId"] == answers
    assert given["HaikuModelId"] == "claude-haiku-5-5"


def test_a_local_stack_on_bedrock_keeps_the_templates_ids(tmp_path: Path) -> None:
    environment = {"STEPGRAM_MODEL": "bedrock", "AWS_ACCESS_KEY_ID": "k"}
    given = EmbeddedStack(tmp_path, environment=environment).model_parameters(Secrets())

    assert not [name for name in given if name.endswith("ModelId")]
