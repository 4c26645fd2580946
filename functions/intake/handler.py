"""The Intake's one function: what needs an answer but no agent. Each state of the Intake is a module here."""

from __future__ import annotations

from functions.common.observability import step
from functions.intake import answer_button, answer_question, join_album, join_group, refuse, run_command, stop_turn
from functions.intake.request import Outcome, Request

STATES = {
    "JoinAlbum": join_album.run,
    "JoinGroup": join_group.run,
    "RunCommand": run_command.run,
    "AnswerButton": answer_button.run,
    "AnswerQuestion": answer_question.run,
    "StopTurn": stop_turn.run,
    "Refuse": refuse.run,
}


@step(Request)
def handler(request: Request) -> Outcome:
    """Run the module of the state that calls."""
    return STATES[request.state](request)
