"""The net under the Turn: whatever ended it, its lock is given back, and somebody is told when nothing was answered.

It is also where a turn is measured: every end passes here once (a doubled event counts twice, which is rare).

Called by the EventBridge rule on *Step Functions Execution Status Change*
(https://docs.aws.amazon.com/step-functions/latest/dg/eventbridge-integration.html). Delivery is best effort: the event
may come twice, late (when the execution was redriven since and rightly owns the lock again) or not at all.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from functions.common import aws
from functions.common.envelope import conversation_of
from functions.common.errors import BudgetReserved, BudgetSpent
from functions.common.execution import STOPPED_BY_USER
from functions.common.observability import StepRequest, logger, measure, parse, working
from functions.common.settings import LedgerSettings
from functions.conversation.ledger import Ledger
from functions.conversation.runs import RunTable
from functions.turn import release_lock, report_failure
from functions.turn.report_failure import FailedTurn

REFUSALS = (BudgetSpent.__name__, BudgetReserved.__name__)


class StatusChange(BaseModel):
    """The event's detail; `stopDate` in milliseconds since 1970."""

    executionArn: str
    name: str
    status: str
    stopDate: int


class Event(BaseModel):
    """The event."""

    detail: StatusChange


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Release what the ended attempt of the turn held, and report a failure that nobody reported."""
    with aws.translated():
        return look_after(parse(Event, event).detail, context)


def look_after(detail: StatusChange, context: Any) -> dict[str, Any]:
    """Release, report and measure one turn that ended."""
    key = conversation_of(detail.name)
    execution = dict(aws.step_functions().describe_execution(executionArn=detail.executionArn))
    redrives = ended_redrive(execution, detail.stopDate)
    keys = {"turn_id": detail.name, "session_key": key, "state": "TurnEnded"}
    RunTable(LedgerSettings.load().table, aws.dynamodb()).void(key, detail.name, redrives)
    result = release_lock.handler({**keys, "execution": {"RedriveCount": redrives}}, context)
    if redrives == execution.get("redriveCount", 0):
        with working(StepRequest(**keys)):
            try:
                if detail.status != "SUCCEEDED":
                    report(keys, execution, redrives)
            finally:  # nobody comes after this one: what cannot be counted raises, and Lambda runs the event again
                Ledger.of(LedgerSettings.load()).settle(key, detail.name, detail.status == "SUCCEEDED")
            count(execution)
    return result


def count(execution: dict[str, Any]) -> None:
    """Measure the turn by what it says of itself; how long it took only when it was never redriven."""
    if not execution.get("redriveCount", 0):
        measure(TurnSeconds=(execution["stopDate"] - execution["startDate"]).total_seconds())
    if execution["status"] != "SUCCEEDED":
        error = execution.get("error") or execution["status"]
        measure(error, TurnsFailed=1, **({"BudgetRefusals": 1} if error in REFUSALS else {}))
        return
    output = json.loads(execution["output"])
    measure(
        TurnsAnswered=1,
        AgentSeconds=output["agent_seconds"],
        InputTokens=output.get("input_tokens", 0),
        OutputTokens=output.get("output_tokens", 0),
        **({"Undeliverable": 1} if output["outcome"] == "UNDELIVERABLE" else {}),
    )


def ended_redrive(execution: dict[str, Any], stopped_at: int) -> int:
    """The redrive count of the attempt that stopped at `stopped_at`: one less when a redrive came after it."""
    count, redriven = int(execution.get("redriveCount", 0)), execution.get("redriveDate")
    stopped = datetime.fromtimestamp(stopped_at / 1000, UTC)
    return count - 1 if redriven is not None and redriven > stopped else count


def report(keys: dict[str, str], execution: dict[str, Any], redrives: int) -> None:
    """Tell the chat of a turn that was stopped, ran out of time or could not tell itself; a turn's own notice stays."""
    error = execution.get("error") or execution["status"]
    given = json.loads(execution["input"])
    turn = FailedTurn(**keys, chat=given["chat"], message_id=given["message"]["id"], language=given["user"]["language"])
    if error == STOPPED_BY_USER:
        report_failure.stopped(turn, redrives)
        return
    logger.info("the failure is reported", turn_id=turn.turn_id, message_ids=report_failure.tell(turn, error, redrives))
