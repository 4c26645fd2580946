"""The template is valid, builds, and deploys: SAM's own command line against MiniStack, an AWS emulator.

Only the agent's image is replaced by a zip, since images need Docker, and an alarm on a sum of metrics by one on its
first, since the emulator knows no metric math.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
import requests
from samtranslator.yaml_helper import yaml_parse

from stepgram.executions import Turns, Wanted
from tests.conftest import ROOT

HERE = Path(__file__).parent
START_SECONDS = 60.0
PRUNED = shutil.ignore_patterns("__pycache__")


def tool(constraints: str, package: str, *command: str) -> list[str]:
    """A command of a package in an environment of its own, with pinned versions."""
    return [
        *("uv", "tool", "run", "--no-config", "--constraints", str(HERE / constraints), "--from", package),
        *command,
    ]


def sam(folder: Path, *arguments: str, **environment: str) -> str:
    """Run SAM; returns what it printed. Fails with all of it."""
    done = subprocess.run(
        tool("constraints-sam.txt", "aws-sam-cli", "sam", *arguments),
        cwd=folder,
        env={**os.environ, "SAM_CLI_TELEMETRY": "0", "AWS_DEFAULT_REGION": "us-east-1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with a zip in place of the agent's image, built."""
    folder = tmp_path_factory.mktemp("app")
    for name in ("functions", "statemachine"):
        shutil.copytree(ROOT / name, folder / name, ignore=PRUNED)
    shutil.copy(ROOT / "samconfig.toml", folder)
    template = yaml_parse((ROOT / "template.yaml").read_text())
    agent = template["Resources"]["AgentFunction"]
    agent["Metadata"] = {"BuildMethod": "makefile"}
    del agent["Properties"]["PackageType"]
    agent["Properties"] |= {
        "Runtime": "python3.13",
        "CodeUri": "functions/",
        "Handler": "functions.agent.handler.handler",
    }
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::CloudWatch::Alarm" and "Metrics" in resource["Properties"]:
            _, first, *_ = resource["Properties"].pop("Metrics")
            resource["Properties"] |= {**first["MetricStat"]["Metric"], "Period": 300, "Statistic": "Sum"}
    (folder / "template.yaml").write_text(json.dumps(template))
    sam(folder, "build")
    return folder


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MiniStack on a free loopback port; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    log = tmp_path_factory.mktemp("ministack") / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            tool("constraints-ministack.txt", "ministack[full]", "ministack"),
            env={**os.environ, "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port)},
            stdout=output,
            stderr=output,
        )
    try:
        _wait(f"{address}/_ministack/health", process, log)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        try:
            requests.get(url, timeout=2).raise_for_status()
        except requests.RequestException:
            time.sleep(0.2)
        else:
            return


def test_sam_finds_nothing_wrong_with_the_template() -> None:
    assert "is a valid SAM Template" in sam(ROOT, "validate", "--lint")


def test_the_zip_of_the_small_functions_holds_what_they_import(built: Path) -> None:
    package = built / ".aws-sam" / "build" / "WebhookFunction"

    assert (package / "functions" / "webhook" / "handler.py").is_file()
    assert (package / "telegramify_markdown").is_dir()
    assert not (package / "functions" / "agent").exists()
    assert not (package / "claude_agent_sdk").exists()


def test_the_zip_is_for_lambdas_processor(built: Path) -> None:
    package = built / ".aws-sam" / "build" / "WebhookFunction"
    binaries = [path.name for path in package.rglob("*.so")]

    assert binaries
    assert all("aarch64" in name or "abi3" in name for name in binaries)


@pytest.mark.timeout(300)
def test_every_resource_is_created(built: Path, emulator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"AWS_ENDPOINT_URL": emulator, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    for name, value in {**environment, "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    parameters = ("--parameter-overrides", "TelegramBotToken=1:x", "AllowedUsers=1", "AlarmEmail=a@example.com")

    sam(built, "deploy", "--no-confirm-changeset", "--no-progressbar", *parameters, **environment)

    session = boto3.session.Session(region_name="us-east-1")
    cloudformation = session.client("cloudformation")
    resources = cloudformation.describe_stack_resources(StackName="stepgram")["StackResources"]
    outputs = cloudformation.describe_stacks(StackName="stepgram")["Stacks"][0]["Outputs"]
    machine = next(o["OutputValue"] for o in outputs if o["OutputKey"] == "TurnArn")
    assert {r["ResourceStatus"] for r in resources} == {"CREATE_COMPLETE"}
    assert {r["ResourceType"] for r in resources} >= {
        "AWS::ApiGatewayV2::Api",
        "AWS::CloudWatch::Alarm",
        "AWS::DynamoDB::Table",
        "AWS::Events::Rule",
        "AWS::IAM::Role",
        "AWS::Lambda::Function",
        "AWS::S3::Bucket",
        "AWS::S3::BucketPolicy",
        "AWS::SecretsManager::Secret",
        "AWS::SNS::Topic",
        "AWS::StepFunctions::StateMachine",
    }
    assert list(Turns(session.client("stepfunctions"), machine).rows(Wanted(), 5)) == []


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(built: Path, emulator: str) -> Command:
    """Runs `stepgram` as an operator of the emulator's stack does."""
    environment = {
        "AWS_ENDPOINT_URL": emulator,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "stepgram.cli", *arguments, "--stack", "stepgram", "--json"],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def test_the_command_line_works_on_the_deployed_stack(command: Command, emulator: str) -> None:
    """An execution that waits for its lock there (the emulator does not answer task tokens) is seen, and stopped."""
    credentials = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    step_functions = boto3.session.Session(region_name="us-east-1", **credentials).client(
        "stepfunctions", endpoint_url=emulator
    )
    machines = step_functions.list_state_machines()["stateMachines"]
    turn = next(m["stateMachineArn"] for m in machines if m["name"] == "stepgram-turn")
    given = {
        **{"turn_id": "c1-t0-u1", "session_key": "1:0", "ttl": 2_000_000_000},
        "chat": {"id": 1, "type": "private", "thread_id": 0},
        "user": {"id": 1, "name": "You", "language": "en"},
        "message": {"id": 1, "update_id": 1, "date": 0, "text": "hi"},
    }
    step_functions.start_execution(stateMachineArn=turn, name="c1-t0-u1", input=json.dumps(given))

    listed = json.loads(command("executions").stdout)
    shown = json.loads(command("show", "c1-t0-u1").stdout)
    stopped = json.loads(command("stop", "c1-t0-u1").stdout)
    explained = json.loads(command("show", "c1-t0-u1").stdout)["explanation"]
    unanswered = json.loads(command("executions", "--status", "UNANSWERED", "--text", "operator").stdout)
    conversations = json.loads(command("sessions").stdout)
    rerun = command("rerun", "c1-t0-u1")

    assert [(row["name"], row["status"]) for row in listed] == [("c1-t0-u1", "RUNNING")]
    assert shown["states"][0]["name"] == "ResolveSession"
    assert [(row["status"], row["error"]) for row in stopped] == [("ABORTED", "StoppedByOperator")]
    assert explained["state"] == "AcquireLock"
    assert [row["name"] for row in unanswered] == ["c1-t0-u1"]
    assert [one["key"] for one in conversations] == ["1:0"]
    assert (rerun.returncode, "RedriveExecution" in rerun.stderr) == (1, True)


def test_the_doctor_finds_what_the_emulator_lacks(command: Command) -> None:
    done = command("doctor")
    found = {check["name"]: check for check in json.loads(done.stdout)}
    right = {name for name, check in found.items() if check["verdict"] == "ok"}

    assert done.returncode == 1
    assert {"credentials", "outputs", "state machines", "who may write", "quotas", "alarms", "clock"} <= right
    assert found["bot token"]["verdict"] == found["webhook registration"]["verdict"] == "failed"
    assert all(check["remedy"] for check in found.values() if check["verdict"] != "ok")


def test_the_console_page_of_a_deployed_stack_is_served_here(built: Path, emulator: str) -> None:
    environment = {"AWS_ENDPOINT_URL": emulator, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    serving = subprocess.Popen(
        [sys.executable, "-m", "stepgram.cli", "console", "--stack", "stepgram"],
        cwd=ROOT,
        env={**os.environ, **environment, "AWS_DEFAULT_REGION": "us-east-1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert serving.stdout is not None
        address = serving.stdout.readline().split()[-1]
        listed = requests.get(f"{address}api/turns", timeout=30).json()["rows"]
        shown = requests.get(f"{address}api/turns/{listed[0]['name']}", timeout=30).json()
    finally:
        serving.terminate()
        status = serving.wait(30)

    assert address.startswith("http://127.0.0.1:")
    assert [(row["name"], row["error"]) for row in listed] == [("c1-t0-u1", "StoppedByOperator")]
    assert '"AcquireLock"' in shown["definition"]
    assert status == 0
