"""The Intake's one function: what needs an answer but no agent. Each state of the Intake is a module here."""

from __future__ import annotations

from functions.channel import channel
from functions.common.errors import BadInput
from functions.common.observability import step
from functions.intake import (
    answer_button,
    answer_question,
    join_album,
    join_group,
    refuse,
    run_command,
    run_in_background,
    stop_turn,
    tell_failure,
)
from functions.intake.request import Outcome, Request

channel(None)  # imported now: a function that starts has a whole processor, one that works its share

STATES = {
    "JoinAlbum": join_album.run,
    "JoinGroup": join_group.run,
    "RunCommand": run_command.run,
    "RunInBackground": run_in_background.run,
    "AnswerButton": answer_button.run,
    "AnswerQuestion": answer_question.run,
    "StopTurn": stop_turn.run,
    "Refuse": refuse.run,
    "TellFailure": tell_failure.run,
}


@step(Request)
def handler(request: Request) -> Outcome:
    """Run the module of the state that calls."""
    if request.state not in STATES:
        raise BadInput(f"state: {request.state!r} is none of {', '.join(STATES)}")
    return STATES[request.state](request)
