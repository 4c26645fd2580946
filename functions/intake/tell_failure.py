"""TellFailure: what was asked for failed (a command, a button, a stop), and the chat is told so, once."""

from __future__ import annotations

from functions.common.errors import BadInput, ChannelRefused
from functions.common.execution import readable_cause
from functions.common.observability import logger
from functions.intake.request import Outcome, Request, tell


def run(request: Request) -> Outcome:
    """Tell the chat; one that refuses to hear it is left alone."""
    failure = request.envelope.error
    if failure is None:
        raise BadInput("envelope.error: nothing failed")
    cause = readable_cause(failure.Cause)
    logger.error("not carried out", route=request.envelope.route, error=failure.Error, cause=cause)
    told(request, failure.Error)
    return Outcome(outcome="told")


def told(request: Request, error: str) -> None:
    """Say in the chat that it did not work, and the error's name."""
    try:
        tell(request, "not_carried_out", error=error)
    except ChannelRefused as refusal:
        logger.warning("the failure cannot be told", cause=str(refusal))
