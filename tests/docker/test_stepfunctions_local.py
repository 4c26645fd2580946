"""The same definitions on AWS's `stepfunctions-local` image, with mocked services (`make test-docker`).

Source of the mock file's form: "Configuration file for mocked service integrations" in the Step Functions developer
guide (https://docs.aws.amazon.com/step-functions/latest/dg/sfn-local-mock-cfg-file.html).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests

from tests.conftest import ROOT

HERE = Path(__file__).parent
MOCK = json.loads((HERE / "mock.json").read_text())
ENDPOINT = "http://127.0.0.1:8083"
COMPOSE = ["docker", "compose", "--file", str(HERE / "compose.yaml")]
END_SECONDS = 60.0
TURN = {
    "turn_id": "c1-t0-u1",
    "session_key": "1:0",
    "chat": {"id": 1, "thread_id": 0, "type": "private"},
    "user": {"id": 1, "name": "You", "language": "en"},
    "message": {"id": 1, "update_id": 1, "date": 1, "text": "hello"},
    "ttl": 1800000000,
}
STEPS = ["ResolveSession", "AcquireLock", "Hydrate", "RunAgent", "AgentDone", "Persist", "Reply"]
PATHS = [
    ("turn", "Answered", TURN, "SUCCEEDED", [*STEPS, "ReleaseLock", "TurnDone"]),
    ("turn", "AnsweredAfterThrottling", TURN, "SUCCEEDED", [*STEPS, "ReleaseLock", "TurnDone"]),
    (
        "turn",
        "Continued",
        TURN,
        "SUCCEEDED",
        [*STEPS[:5], "ContinueAgent", "RunAgent", *STEPS[4:], "ReleaseLock", "TurnDone"],
    ),
    (
        "turn",
        "AnsweredAfterRateLimit",
        TURN,
        "SUCCEEDED",
        [*STEPS, "ReadRetryAfter", "WaitForTelegram", "Reply", "ReleaseLock", "TurnDone"],
    ),
    ("turn", "Undeliverable", TURN, "SUCCEEDED", [*STEPS, "Undeliverable", "ReleaseLock", "TurnDone"]),
    ("turn", "Failed", TURN, "FAILED", [*STEPS[:4], "ReportFailure", "ReleaseFailedLock", "TurnFailed"]),
    ("intake", "Started", {**TURN, "route": "message"}, "SUCCEEDED", ["Route", "Announce", "StartTurn"]),
    ("intake", "Duplicate", {**TURN, "route": "message"}, "SUCCEEDED", ["Route", "Announce", "StartTurn", "Duplicate"]),
    ("intake", "Command", {**TURN, "route": "command"}, "SUCCEEDED", ["Route", "RunCommand"]),
]


def definition(machine: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((ROOT / "statemachine" / f"{machine}.asl.json").read_text())
    return document


@pytest.mark.parametrize(("machine", "case", "given", "status", "path"), PATHS, ids=[p[1] for p in PATHS])
def test_the_mock_answers_every_task_of_the_path(
    machine: str, case: str, given: dict[str, Any], status: str, path: list[str]
) -> None:
    """Needs no Docker: the mock file, the paths below and the definitions belong together."""
    states = definition(machine)["States"]
    mocked = MOCK["StateMachines"][f"stepgram-{machine}"]["TestCases"][case]

    assert {name for name in path if states[name]["Type"] == "Task"} == set(mocked)
    assert set(mocked.values()) <= set(MOCK["MockedResponses"])


def engine_problem() -> str | None:
    """Why there is no Docker engine to use, or None."""
    if shutil.which("docker") is None:
        return "Docker is not installed"
    found = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False)
    return None if found.returncode == 0 else f"no Docker engine answers: {found.stderr.strip()}"


@pytest.fixture(scope="module")
def machines() -> Iterator[dict[str, str]]:
    """The state machines of both definitions on the image, by name: their ARNs."""
    if problem := engine_problem():
        pytest.skip(f"stepfunctions-local needs a Docker engine: {problem}")
    subprocess.run([*COMPOSE, "up", "--detach"], check=True)
    try:
        yield _create_machines()
    finally:
        subprocess.run([*COMPOSE, "down"], check=True)


def client() -> Any:
    return boto3.client(
        "stepfunctions",
        endpoint_url=ENDPOINT,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
    )


def _create_machines() -> dict[str, str]:
    end = time.monotonic() + END_SECONDS
    while True:
        try:
            requests.get(ENDPOINT, timeout=2)
            break
        except requests.RequestException:
            assert time.monotonic() < end, "stepfunctions-local does not answer"
            time.sleep(0.5)
    step_functions = client()
    return {
        machine: step_functions.create_state_machine(
            name=f"stepgram-{machine}",
            definition=json.dumps(definition(machine)),
            roleArn="arn:aws:iam::123456789012:role/local",
        )["stateMachineArn"]
        for machine in ("turn", "intake")
    }


@pytest.mark.docker
@pytest.mark.parametrize(("machine", "case", "given", "status", "path"), PATHS, ids=[p[1] for p in PATHS])
def test_the_definition_takes_its_path_on_stepfunctions_local(
    machines: dict[str, str], machine: str, case: str, given: dict[str, Any], status: str, path: list[str]
) -> None:
    step_functions = client()
    started = step_functions.start_execution(
        stateMachineArn=f"{machines[machine]}#{case}", name=str(uuid.uuid4()), input=json.dumps(given)
    )["executionArn"]

    end = time.monotonic() + END_SECONDS
    while (found := step_functions.describe_execution(executionArn=started))["status"] == "RUNNING":
        assert time.monotonic() < end, "the execution does not end"
        time.sleep(0.2)
    events = step_functions.get_execution_history(executionArn=started, maxResults=1000)["events"]
    visited = [e["stateEnteredEventDetails"]["name"] for e in events if "stateEnteredEventDetails" in e]
    assert found["status"] == status
    assert visited == path
