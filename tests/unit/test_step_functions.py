"""What the embedded stack adds to moto's Step Functions, through the API that boto3 calls."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from stepgram.embedded.client import client
from stepgram.embedded.iam import role_name
from stepgram.embedded.stack import EmbeddedStack
from tests.conftest import until

ROLE = "arn:aws:iam::123456789012:role/test"
PASS = {"Type": "Pass", "End": True}
Create = Callable[..., str]


@pytest.fixture
def sfn(stack: EmbeddedStack) -> Any:
    return client("stepfunctions", stack.addresses.aws)


@pytest.fixture
def create(stack: EmbeddedStack, sfn: Any) -> Create:
    """Create a state machine of its own, which may do anything; returns its ARN."""
    anything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    stack.access.policies.setdefault(role_name(ROLE), [anything])

    def make(states: dict[str, Any], kind: str = "STANDARD", **top: Any) -> str:
        definition = json.dumps({"StartAt": next(iter(states)), "States": states, **top})
        name = f"test-{uuid.uuid4()}"
        arn: str = sfn.create_state_machine(name=name, definition=definition, roleArn=ROLE, type=kind)[
            "stateMachineArn"
        ]
        return arn

    return make


def run(sfn: Any, machine: str, given: Any = None) -> dict[str, Any]:
    """Start an execution and wait for its end."""
    arn = sfn.start_execution(stateMachineArn=machine, name=str(uuid.uuid4()), input=json.dumps(given or {}))[
        "executionArn"
    ]
    return ended(sfn, arn)


def ended(sfn: Any, arn: str) -> dict[str, Any]:
    until(lambda: sfn.describe_execution(executionArn=arn)["status"] != "RUNNING")
    found: dict[str, Any] = sfn.describe_execution(executionArn=arn)
    return found


def waiting(sfn: Any, create: Create) -> tuple[str, str]:
    """An execution that waits for a long time: its ARN and its machine's."""
    machine = create({"Wait": {"Type": "Wait", "Seconds": 600, "End": True}})
    arn = sfn.start_execution(stateMachineArn=machine, name=str(uuid.uuid4()))["executionArn"]
    return arn, machine


def error_of(call: Callable[..., Any], **arguments: Any) -> str:
    with pytest.raises(ClientError) as error:
        call(**arguments)
    return str(error.value.response["Error"]["Code"])


def test_a_nested_start_names_the_execution_and_answers_in_the_state_languages_casing(sfn: Any, create: Create) -> None:
    inner = create({"Done": PASS})
    parameters = {"StateMachineArn": inner, "Name.$": "$.name", "Input": {"text.$": "$.text"}}
    start = {
        "Type": "Task",
        "Resource": "arn:aws:states:::states:startExecution",
        "Parameters": parameters,
        "End": True,
    }
    text = 'quotes " and {% %} and $.path and \n'

    found = run(sfn, create({"Start": start}), {"name": "inner-1", "text": text})

    output = json.loads(found["output"])
    assert output["ExecutionArn"].endswith(":inner-1")
    assert isinstance(output["StartDate"], str)
    assert json.loads(ended(sfn, output["ExecutionArn"])["input"]) == {"text": text}


def test_a_name_that_is_taken_is_caught_by_its_own_error(sfn: Any, create: Create) -> None:
    inner = create({"Done": PASS})
    run_once = {"StateMachineArn": inner, "Name": "once", "Input.$": "$"}
    start = {
        "Type": "Task", "Resource": "arn:aws:states:::states:startExecution", "Parameters": run_once, "End": True,
        "Catch": [{"ErrorEquals": ["StepFunctions.ExecutionAlreadyExistsException"], "Next": "Taken"}],
    }  # fmt: skip
    machine = create({"Start": start, "Taken": {"Type": "Pass", "Result": "taken", "End": True}})

    run(sfn, machine, {"n": 1})
    again = run(sfn, machine, {"n": 2})

    assert json.loads(again["output"]) == "taken"


def test_many_starts_with_one_name_are_one_execution(sfn: Any, create: Create) -> None:
    machine = create({"Wait": {"Type": "Wait", "Seconds": 600, "End": True}})
    outcomes: list[str] = []

    def start(number: int) -> None:
        try:
            sfn.start_execution(stateMachineArn=machine, name="same", input=json.dumps({"n": number}))
            outcomes.append("started")
        except ClientError as error:
            outcomes.append(error.response["Error"]["Code"])

    threads = [threading.Thread(target=start, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["ExecutionAlreadyExists"] * 7 + ["started"]
    sfn.stop_execution(executionArn=sfn.list_executions(stateMachineArn=machine)["executions"][0]["executionArn"])


def test_a_synchronous_execution_answers_200_also_when_it_fails(sfn: Any, create: Create) -> None:
    good = sfn.start_sync_execution(stateMachineArn=create({"Done": PASS}, "EXPRESS"), input='{"a": 1}')
    fail = {"Type": "Fail", "Error": "Mine", "Cause": "because"}
    bad = sfn.start_sync_execution(stateMachineArn=create({"Broken": fail}, "EXPRESS"))

    assert (good["status"], json.loads(good["output"])) == ("SUCCEEDED", {"a": 1})
    assert ":express:" in good["executionArn"]
    assert good["billingDetails"]["billedMemoryUsedInMB"] == 64
    assert (bad["status"], bad["error"], bad["cause"]) == ("FAILED", "Mine", "because")


def test_a_standard_machine_has_no_synchronous_execution(sfn: Any, create: Create) -> None:
    machine = create({"Done": PASS})

    assert error_of(sfn.start_sync_execution, stateMachineArn=machine) == "StateMachineTypeNotSupported"


def test_a_redrive_goes_on_at_the_failed_state_and_counts_and_a_fail_state_fails_again(
    sfn: Any, create: Create
) -> None:
    machine = create({"First": {"Type": "Pass", "Next": "Broken"}, "Broken": {"Type": "Fail", "Error": "Mine"}})
    failed = run(sfn, machine, {"given": 1})

    sfn.redrive_execution(executionArn=failed["executionArn"])
    found = ended(sfn, failed["executionArn"])

    events = sfn.get_execution_history(executionArn=failed["executionArn"])["events"]
    entered = [e["stateEnteredEventDetails"]["name"] for e in events if "stateEnteredEventDetails" in e]
    assert (failed["redriveCount"], failed["redriveStatus"]) == (0, "REDRIVABLE")
    assert (found["status"], found["redriveCount"]) == ("FAILED", 1)
    assert entered == ["First", "Broken", "Broken"]
    assert [e["id"] for e in events] == list(range(1, len(events) + 1))


def test_what_cannot_be_redriven_says_so(sfn: Any, create: Create) -> None:
    done = run(sfn, create({"Done": PASS}))
    running, _ = waiting(sfn, create)

    assert error_of(sfn.redrive_execution, executionArn=done["executionArn"]) == "ExecutionNotRedrivable"
    assert error_of(sfn.redrive_execution, executionArn=running) == "ExecutionNotRedrivable"
    assert error_of(sfn.redrive_execution, executionArn=running + "x") == "ExecutionDoesNotExist"
    sfn.stop_execution(executionArn=running)


def test_a_stopped_execution_has_its_error_and_cause_at_once(sfn: Any, create: Create) -> None:
    arn, _ = waiting(sfn, create)

    sfn.stop_execution(executionArn=arn, error="Operator", cause="enough")

    found = sfn.describe_execution(executionArn=arn)
    assert (found["status"], found["error"], found["cause"]) == ("ABORTED", "Operator", "enough")
    sfn.stop_execution(executionArn=arn, error="Again")
    assert sfn.describe_execution(executionArn=arn)["error"] == "Operator"


def test_a_task_token_works_once(sfn: Any) -> None:
    error_of(sfn.send_task_success, taskToken="a token", output="{}")

    assert error_of(sfn.send_task_success, taskToken="a token", output="{}") == "TaskTimedOut"


def test_a_saved_execution_is_restored_with_its_history(stack: EmbeddedStack, sfn: Any, create: Create) -> None:
    machine = create({"First": {"Type": "Pass", "Next": "Second"}, "Second": PASS})
    done = run(sfn, machine, {"a": 1})
    execution = stack.step_functions._execution(done["executionArn"])
    document = json.loads(json.dumps(stack.step_functions.dump(execution)))
    events = sfn.get_execution_history(executionArn=done["executionArn"])["events"]
    backend = next(m for m in stack.step_functions._backend.state_machines if m.arn == machine)
    backend.executions[:] = [e for e in backend.executions if e.exec_arn != done["executionArn"]]

    stack.step_functions.restore(document)

    again = sfn.describe_execution(executionArn=done["executionArn"])
    assert {k: again[k] for k in ("status", "input", "output")} == {k: done[k] for k in ("status", "input", "output")}
    assert sfn.get_execution_history(executionArn=done["executionArn"])["events"] == events
