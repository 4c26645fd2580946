"""What a turn is doing, in its chat; the answer says whether somebody pressed Stop."""

from __future__ import annotations

from functions.channel import channel
from functions.common import aws
from functions.common.errors import ChannelError, ChannelLimited
from functions.common.execution import seconds_since
from functions.common.observability import logger, measure, step
from functions.common.settings import SessionSettings
from functions.conversation.progress import ATTEMPT, Heard, ProgressTable, Report, redeem
from functions.conversation.sessions import SessionTable

EARLY = 0.8
"""A report that comes after this share of the pause is shown; an earlier one is not, whoever sends it."""


@step(Report)
def handler(report: Report) -> Heard:
    """Show what is new. What the chat refuses is no failure of the turn: there is only less to see."""
    ticket = redeem(report)
    settings, dynamodb, where = SessionSettings.load(), aws.dynamodb(), channel(ticket.chat)
    table = ProgressTable(settings.table, dynamodb, SessionTable(settings.table, dynamodb).expiry())
    sequence = ticket.attempt * ATTEMPT + report.time
    pause = where.pause(ticket.chat)
    run = ticket.run.number if ticket.run else None
    shown = table.begin(report.session_key, report.turn_id, sequence, run, pause * EARLY)
    heard = Heard(
        stop=shown.run.stop >= ticket.attempt, gone=run is not None and not shown.run.is_run(run), pause=pause
    )
    if shown.stale:
        return heard
    sign = where.sign(ticket, report, table)
    message_id: int | None = None
    try:
        if not heard.stop:
            message_id = sign.show(shown)
            if ticket.started is not None and not ticket.attempt:
                measure(FirstSignSeconds=seconds_since(ticket.started))
    except ChannelLimited as error:
        heard = heard.model_copy(update={"pause": max(pause, float(error.retry_after))})
    except ChannelError as error:
        logger.warning("the chat does not show progress", cause=str(error))
        measure(ProgressFailures=1)
    if not table.end(report.session_key, report.turn_id, sequence, message_id, bool(report.waiting)) and message_id:
        sign.delete(message_id)
    return heard
