"""The template is valid, builds and deploys, and an operator's tools work on what is deployed."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import pytest
import requests

from tests.conftest import ROOT
from tests.deploy.conftest import STACK, Deployed, tree
from tests.deploy.tools import sam

pytestmark = pytest.mark.timeout(600)


def test_sam_finds_nothing_wrong_with_the_template() -> None:
    assert "is a valid SAM Template" in sam(ROOT, "validate", "--lint")


def test_the_zip_of_the_small_functions_holds_what_they_import(built: Path) -> None:
    package = built / ".aws-sam" / "build" / "WebhookFunction"

    assert (package / "functions" / "telegram" / "webhook.py").is_file()
    assert (package / "telegramify_markdown").is_dir()
    assert not (package / "functions" / "agent").exists()
    assert not (package / "claude_agent_sdk").exists()


def test_the_zip_is_for_lambdas_processor(tmp_path: Path) -> None:
    """Without the variables that a test sets to run it."""
    subprocess.run(["make", "build-WebhookFunction", f"ARTIFACTS_DIR={tmp_path}"], cwd=ROOT / "functions", check=True)
    binaries = [path.name for path in tmp_path.rglob("*.so")]

    assert binaries
    assert all("aarch64" in name or "abi3" in name for name in binaries)


def test_every_resource_is_created(deployed: Deployed) -> None:
    cloudformation = deployed.emulator.client("cloudformation")
    resources = cloudformation.describe_stack_resources(StackName=STACK)["StackResources"]

    assert {r["ResourceStatus"] for r in resources} <= {"CREATE_COMPLETE", "UPDATE_COMPLETE"}
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


def test_the_command_line_works_on_the_deployed_stack(deployed: Deployed, chat: int) -> None:
    """A turn that waits for a person is seen, and stopped."""
    name = deployed.say(chat, "!bash true")
    deployed.question(chat)

    listed = deployed.read("executions", "--status", "RUNNING")
    stopped = deployed.read("stop", name)
    shown = deployed.read("show", name)
    unanswered = deployed.read("executions", "--status", "UNANSWERED", "--text", "operator")
    conversations = deployed.read("sessions")
    rerun = deployed.command("rerun", name)

    assert name in [row["name"] for row in listed]
    assert [state["name"] for state in shown["states"]][:2] == ["ResolveSession", "AcquireLock"]
    assert [(row["status"], row["error"]) for row in stopped] == [("ABORTED", "StoppedByOperator")]
    assert shown["explanation"]["state"] == "AskApproval"
    assert name in [row["name"] for row in unanswered]
    assert f"{chat}:0" in [one["key"] for one in conversations]
    assert (rerun.returncode, "RedriveExecution" in rerun.stderr) == (1, True)


def test_a_turn_that_is_stopped_leaves_nothing_behind(deployed: Deployed, chat: int) -> None:
    """The rule of EventBridge lets go of its lock, so the next message is answered."""
    name = deployed.say(chat, "!bash true")
    deployed.question(chat)
    deployed.read("stop", name)
    turn = deployed.turn(deployed.say(chat, "And now?"))

    assert turn.status == "SUCCEEDED"


def test_the_doctor_finds_what_the_emulator_lacks(deployed: Deployed) -> None:
    """It keeps neither a table's TTL nor a bucket's lifecycle of a template; all else is right."""
    found = {check["name"]: check for check in deployed.read("doctor")}
    wrong = {name for name, check in found.items() if check["verdict"] != "ok"}

    assert wrong == {"table", "bucket"}
    assert all(found[name]["remedy"] for name in wrong)


def test_the_console_page_of_a_deployed_stack_is_served_here(deployed: Deployed, chat: int) -> None:
    name = deployed.say(chat, "Hello")
    deployed.turn(name)
    serving = subprocess.Popen(
        [sys.executable, "-m", "stepgram.cli", "console", "--stack", STACK],
        cwd=ROOT,
        env={**os.environ, **deployed.emulator.environment, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert serving.stdout is not None
        address = serving.stdout.readline().split()[-1]
        listed = requests.get(f"{address}api/turns", timeout=60).json()["rows"]
        shown = requests.get(f"{address}api/turns/{name}", timeout=60).json()
    finally:
        serving.terminate()
        status = serving.wait(60)

    assert address.startswith("http://127.0.0.1:")
    assert (name, "SUCCEEDED") in [(row["name"], row["status"]) for row in listed]
    assert '"AcquireLock"' in shown["definition"]
    assert status == 0


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="sockets are read from Linux's /proc")
def test_nothing_listens_beyond_loopback(deployed: Deployed, chat: int) -> None:
    """Neither the emulator nor a function, nor what a function started: the Claude CLI here waits for its next turn."""
    deployed.turn(deployed.say(chat, "Hello"))
    listening = listeners(tree(deployed.emulator.process.pid))

    assert len(listening) > 1
    assert [address for address in listening if not ip_address(address).is_loopback] == []


def listeners(processes: list[int]) -> list[str]:
    """The addresses on which processes listen, from proc(5): tables in /proc/net, sockets among open files."""
    own = set()
    for process in processes:
        with suppress(OSError):  # it ended meanwhile
            own |= {os.readlink(file) for file in Path(f"/proc/{process}/fd").iterdir()}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            address, state, inode = fields[1].partition(":")[0], fields[3], fields[9]
            if state == "0A" and f"socket:[{inode}]" in own:
                words = [bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8)]
                found.append(str(ip_address(b"".join(words))))
    return found
