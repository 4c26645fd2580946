"""StopTurn: stop the turn that owns the conversation's lock; the rule on ended Turns frees the lock."""

from __future__ import annotations

from botocore.exceptions import ClientError

from functions.common import aws
from functions.common.lock_table import LockTable
from functions.common.sessions import SessionTable
from functions.common.settings import IntakeSettings
from functions.intake.request import Outcome, Request, tell

STOPPED_BY_USER = "StoppedByUser"
"""The error of an execution that /stop ended: the chat was told, so it gets no failure notice."""


def run(request: Request) -> Outcome:
    """Stop the owner's execution, if one runs. A redelivered update must not stop the turn after it."""
    table, step_functions = IntakeSettings.load().table, aws.step_functions()
    if SessionTable(table, aws.dynamodb()).turn(request.session_key, request.turn_id).delivered:
        return Outcome(outcome="stopped before")
    lock, _ = LockTable(table, aws.dynamodb(), step_functions).read(request.session_key)
    if lock.owner is None:
        tell(request, "nothing_to_stop")
        return Outcome(outcome="nothing to stop")
    try:
        step_functions.stop_execution(
            executionArn=lock.owner.execution_arn, error=STOPPED_BY_USER, cause=f"/stop in {request.turn_id}"
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != "ExecutionDoesNotExist":
            raise
    tell(request, "stopped")
    return Outcome(outcome=f"stopped {lock.owner.turn_id}")
