"""The callback: the one door between the agent's container and the trusted world.

With its run's sealed ticket, the agent claims the run, shows progress, hears Stop, and hands in the end. Lambda itself
comes here, too, when it could not start a run or the run's function failed (the on-failure destination). A destination
is called by the agent's own role, so what it says is believed no more than the agent is: it ends the run whose ticket
it carries, by an error. Source: https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from functions.callback import run, show
from functions.channel import channel
from functions.common.errors import BadInput

channel(None)  # imported now: a function that starts has a whole processor, one that works its share

CALLS: dict[str, Callable[[dict[str, Any], Any], dict[str, Any]]] = {
    "begin": run.begin,
    "listen": run.listen,
    "show": show.handler,
    "end": run.end,
}


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Answer a call. Raises BadInput for anything else, and for a ticket that is not the turn's or holds no longer."""
    if not isinstance(event, dict):
        raise BadInput("event: it is no object")
    if "requestPayload" in event:
        return run.died(event, context)
    what = str(event.get("what"))
    if what not in CALLS:
        raise BadInput(f"what: {what!r} is none of {', '.join(CALLS)}")
    return CALLS[what](event, context)
