"""RunInBackground: a command that may take minutes, run by an asynchronous call after Telegram has its answer.

Lambda runs such a call again when it fails (twice) and may deliver it twice; the command's ledger makes it once.
"""

from __future__ import annotations

from functions.common import aws
from functions.common.errors import StepgramError
from functions.common.observability import logger
from functions.intake import run_command
from functions.intake.request import Outcome, Request
from functions.intake.tell_failure import told


def run(request: Request) -> Outcome:
    """Run the command; nobody else would hear of its failure, so the chat is told here. A bug is raised, too."""
    try:
        with aws.translated():
            return run_command.run(request)
    except BaseException as error:
        logger.error("not carried out", route=request.envelope.route, error=type(error).__name__, cause=str(error))
        told(request, type(error).__name__)
        if isinstance(error, StepgramError):
            return Outcome(outcome="told")
        raise
