"""StopTurn: /stop and the Stop button under a draft end the conversation's running turn.

The turn is asked: the agent hears it within a second, is interrupted, and what it said so far is delivered. A turn that
was asked before and still runs is stopped by force; the rule on ended Turns frees its lock.
"""

from __future__ import annotations

from botocore.exceptions import ClientError

from functions.channel import channel
from functions.common import aws
from functions.common.execution import STOPPED_BY_USER
from functions.conversation.approvals import ApprovalTable, Decision, Question
from functions.conversation.lock_table import LockTable
from functions.conversation.progress import ProgressTable, draft_id
from functions.conversation.sessions import SessionTable
from functions.conversation.verdict import settle
from functions.intake.request import IntakeSettings, Outcome, Request, tell

STOPS, FORCED = "stops ", "forced"
"""The ledger's names for the turn that this update stops, and for stopping its execution since it does not hear."""


def run(request: Request) -> Outcome:
    """Ask the owner of the lock to stop. A redelivered update must not stop the turn after it; one that died half way
    goes on with the turn it was meant for.
    """
    settings, step_functions = IntakeSettings.load(), aws.step_functions()
    table = SessionTable(settings.table, aws.dynamodb(), settings.session_ttl_days)
    noted = table.turn(request.session_key, request.turn_id).delivered
    lock, _ = LockTable(settings.table, aws.dynamodb(), step_functions).read(request.session_key)
    owner, draft = lock.owner, request.envelope.draft
    if noted and (owner is None or STOPS + owner.turn_id not in noted):
        return Outcome(outcome="stopped before")
    if owner is None or (draft is not None and draft != draft_id(owner.turn_id)):
        if draft is None:
            tell(request, "nothing_to_stop")
        return Outcome(outcome="nothing to stop")
    if not noted:
        table.delivered(request.session_key, request.turn_id, STOPS + owner.turn_id, 0)
    if lock.approval is not None and request.envelope.chat is not None:
        asked = Question(request.session_key, owner.turn_id, lock.approval.number, request.envelope.chat)
        by = request.envelope.user.name if request.envelope.user else ""
        approvals = ApprovalTable(settings.table, aws.dynamodb(), step_functions)
        shows = channel(asked.chat).verdict
        settle(approvals, table, shows, asked, Decision(choice="stop", by=by), request.language)
    progress = ProgressTable(settings.table, aws.dynamodb(), table.expiry())
    asked_before = not progress.stop(request.session_key, owner.turn_id, owner.sequence[0])
    if FORCED not in noted and (noted or not asked_before):
        return Outcome(outcome=f"stopping {owner.turn_id}")
    table.delivered(request.session_key, request.turn_id, FORCED, 0)
    try:
        step_functions.stop_execution(
            executionArn=owner.execution_arn, error=STOPPED_BY_USER, cause=f"/stop in {request.turn_id}"
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != "ExecutionDoesNotExist":
            raise
    return Outcome(outcome=f"stopped {owner.turn_id}")
