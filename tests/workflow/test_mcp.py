"""MCP servers of the agent's configuration, by command and over HTTP, with the real CLI as their client."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from functions.agent.options import CONFIG
from stepgram.embedded.stack import EmbeddedStack
from tests.conftest import Person, until

SERVER = Path(__file__).parent / "mcp_server.py"


@pytest.fixture
def http_server() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(SERVER), str(port)], stderr=subprocess.DEVNULL)
    until(lambda: _listens(port))
    yield f"http://127.0.0.1:{port}/mcp"
    process.kill()  # it would wait for the agent, which is kept open with its connection
    process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def configured(stack: EmbeddedStack, tmp_path: Path, http_server: str) -> Iterator[None]:
    """The agent with a configuration folder of this test."""
    folder = tmp_path / "config"
    shutil.copytree(CONFIG, folder)
    servers = {
        "by-http": {"type": "http", "url": http_server},
        "by-command": {"command": sys.executable, "args": [str(SERVER)], "env": {"VOICE": "the command"}},
        "unwanted": {"command": "/does/not/exist"},
    }
    (folder / "mcp.json").write_text(json.dumps({"mcpServers": servers}))
    specs = stack.functions.specs
    spec = specs["stepgram-AgentFunction"]
    own = {"AGENT_CONFIG_DIR": str(folder), "MCP_SERVERS": "by-http,by-command"}
    specs[spec.name] = replace(spec, environment={**spec.environment, **own})
    yield
    specs[spec.name] = spec


@pytest.mark.parametrize(("server", "voice"), [("by-http", "HTTP"), ("by-command", "the command")])
def test_a_tool_of_an_mcp_server_is_called(
    person: Person, chat: int, configured: None, server: str, voice: str
) -> None:
    found = person.ask(chat, f'!tool mcp__{server}__add {{"a": 2, "b": 40}}')

    assert found.status == "SUCCEEDED"
    assert f"2 + 40 = 42, said {voice}" in person.texts(chat)[0]


def test_a_server_that_is_not_wanted_is_not_started(person: Person, chat: int, configured: None) -> None:
    person.ask(chat, "hello")

    offered = [tool["name"] for tool in person.stack.bedrock.requests[-1]["body"]["tools"]]
    assert not any("unwanted" in name for name in offered)
