"""JoinAlbum: messages that were sent as one album become one turn, the first one's."""

from __future__ import annotations

from functions.common import aws
from functions.common.errors import BadInput
from functions.common.settings import IntakeSettings
from functions.intake.request import Outcome, Request
from functions.telegram.albums import AlbumTable


def run(request: Request) -> Outcome:
    """Add the message to its album; `leads` when its own turn must run."""
    if request.envelope.message is None:
        raise BadInput("envelope: an album needs its message")
    albums = AlbumTable(IntakeSettings.load().table, aws.dynamodb())
    leads = albums.join(request.session_key, request.turn_id, request.envelope.message)
    return Outcome(outcome="leads" if leads else "joined")
