"""The Turn's one function: every state is a module here; and the net under turns that ended.

One function keeps one container warm for all steps of a turn, and a turn of a bot that slept starts it once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from functions.channel import channel
from functions.common.errors import BadInput
from functions.turn import (
    acquire_lock,
    ask_approval,
    continue_agent,
    hydrate,
    persist,
    release_lock,
    reply,
    report_failure,
    run_agent,
    turn_ended,
    turn_failed,
)

channel(None)  # imported now: a function that starts has a whole processor, one that works its share

Handler = Callable[[dict[str, Any], Any], dict[str, Any]]

STATES: dict[str, Handler] = {
    "AcquireLock": acquire_lock.handler,
    "Hydrate": hydrate.handler,
    "RunAgent": run_agent.handler,
    "AskApproval": ask_approval.handler,
    "ApprovalTimedOut": ask_approval.handler,
    "ContinueAgent": continue_agent.handler,
    "Persist": persist.handler,
    "Reply": reply.handler,
    "ReleaseLock": release_lock.handler,
    "ReleaseFailedLock": release_lock.handler,
    "ReportFailure": report_failure.handler,
    "TurnFailed": turn_failed.handler,
}

STATUS_CHANGE = "Step Functions Execution Status Change"
"""The `detail-type` of the events of the rule TurnEnded, which come from no state."""


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Run the module of the state that calls, or look after a turn that ended. Raises BadInput for anything else."""
    if event.get("detail-type") == STATUS_CHANGE:
        return turn_ended.handler(event, context)
    state = str(event.get("state"))
    if state not in STATES:
        raise BadInput(f"state: {state!r} is none of {', '.join(STATES)}")
    return STATES[state](event, context)
