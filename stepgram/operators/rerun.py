"""Run executions again: a redrive keeps name, history and idempotency; from the start is a new execution."""

from __future__ import annotations

import getpass
import json
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from botocore.exceptions import ClientError

from functions.common.envelope import NAME_LIMIT
from stepgram.operators.executions import UNANSWERED, ExecutionDetail, Turns, Wanted, detail
from stepgram.operators.stack import Stack

POLL_SECONDS = 0.2
CHATS_AT_ONCE = 8
STOPPED = "StoppedByOperator"
"""The error of an execution that an operator ended; the chat gets the notice of a failure, with its button."""


class RerunError(Exception):
    """An execution cannot be run again; the message says what can be done instead."""


def redrive(stack: Stack, name: str) -> str:
    """Restart a failed, stopped or timed-out execution at the state that failed; returns its ARN."""
    arn, step_functions = stack.execution_arn(name), stack.client("stepfunctions")
    try:
        step_functions.redrive_execution(executionArn=arn)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ExecutionNotRedrivable":
            raise
        raise RerunError(
            f"{name} cannot be redriven ({error.response['Error']['Message']}); "
            "`stepgram rerun --from-start` makes a new execution of it"
        ) from error
    return arn


def rerun_from_start(stack: Stack, name: str) -> str:
    """A new execution with the same input, named after the old one; returns its ARN."""
    step_functions = stack.client("stepfunctions")
    old = step_functions.describe_execution(executionArn=stack.execution_arn(name))
    suffix = f"-r{int(time.time())}"
    new = old["name"].split("-r")[0][: NAME_LIMIT - len(suffix)] + suffix
    document = {**json.loads(old["input"]), "turn_id": new, "rerun_of": old["name"]}
    started = step_functions.start_execution(
        stateMachineArn=stack.outputs["TurnArn"], name=new, input=json.dumps(document)
    )
    return str(started["executionArn"])


def stop(stack: Stack, name: str) -> str:
    """End a running execution at once; its lock is released by the rule on ended Turns. Returns its ARN."""
    arn, step_functions = stack.execution_arn(name), stack.client("stepfunctions")
    if step_functions.describe_execution(executionArn=arn)["status"] != "RUNNING":
        raise RerunError(f"{name} does not run (any more)")
    step_functions.stop_execution(executionArn=arn, error=STOPPED, cause=f"stopped by {getpass.getuser()}")
    return arn


def failed_since(stack: Stack, since: datetime) -> list[str]:
    """Names of the turns that did not succeed since then, oldest first."""
    turns = Turns(stack.client("stepfunctions"), stack.outputs["TurnArn"])
    rows = list(turns.rows(Wanted(status=UNANSWERED, since=since)))
    return [row["name"] for row in reversed(rows)]


def rerun_all(
    stack: Stack, names: list[str], progress: Callable[[ExecutionDetail, int, int], None], from_start: bool = False
) -> list[ExecutionDetail]:
    """Run turns again: those of one chat one after another in message order, chats side by side.

    `progress` hears of each ended execution, how many have ended, and of how many. Raises RerunError for the first that
    cannot be run again, after the others of the other chats.
    """
    chats: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names, key=_order):
        chats[name.rpartition("-u")[0]].append(name)
    ended: list[ExecutionDetail] = []
    told = threading.Lock()

    def run(turns: list[str]) -> None:
        for name in turns:
            arn = rerun_from_start(stack, name) if from_start else redrive(stack, name)
            found = wait_until_ended(stack, arn)
            with told:
                ended.append(found)
                progress(found, len(ended), len(names))

    with ThreadPoolExecutor(CHATS_AT_ONCE) as pool:
        for future in [pool.submit(run, turns) for turns in chats.values()]:
            future.result()
    return ended


def _order(name: str) -> tuple[int, str]:
    """The update of a turn's name: people's messages come in that order."""
    number = name.rpartition("-u")[2].split("-")[0]
    return (int(number) if number.isdigit() else 0, name)


def wait_until_ended(stack: Stack, arn: str, seconds: float = math.inf) -> ExecutionDetail:
    """Wait for an execution's end, `seconds` at most, and return it."""
    step_functions, until = stack.client("stepfunctions"), time.monotonic() + seconds
    while step_functions.describe_execution(executionArn=arn)["status"] == "RUNNING" and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
    return detail(step_functions, arn)
