"""Reply: the answer into the chat, in the best form Telegram takes, every part once."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from pydantic import BaseModel

from functions.channel import SentFile, channel, closing
from functions.common import aws
from functions.common.envelope import Place
from functions.common.errors import SnapshotMissing
from functions.common.execution import redrive_count
from functions.common.observability import StepRequest, logger, step
from functions.common.settings import BucketSettings
from functions.conversation.files.documents import LeftOut, OutboxFile, RunResult
from functions.conversation.files.snapshots import Snapshots
from functions.conversation.lock import Held
from functions.conversation.texts import say
from functions.turn.persist import Budget

LEFT_OUT_SHOWN = 5
"""Files that could not be kept and are named; of more, the number is said."""


class Request(StepRequest):
    """Where to, what (the result of part `part` of the turn), and in whose language."""

    chat: Place
    message_id: int
    language: str
    session_id: str
    part: int
    lock: Held
    execution: dict[str, Any]
    notice: Literal["session_lost"] | None = None
    budgets: tuple[Budget, ...] = ()


class Result(BaseModel):
    """The form the answer took and the messages it became."""

    outcome: Literal["DELIVERED", "STOPPED"]
    form: str
    message_ids: list[int]


@step(Request)
def handler(request: Request) -> Result:
    """Send what the ledger does not hold yet. Raises the ChannelError that stopped it; a retry resumes there."""
    request.lock.check(redrive_count(request.execution))
    settings = BucketSettings.load()
    snapshots = Snapshots(settings.bucket, aws.s3())
    run = snapshots.result(request.session_id, request.turn_id, request.part)
    delivery = closing(request, request.chat, request.message_id, redrive_count(request.execution))
    if request.notice is not None:
        delivery.text("notice", say(request.notice, request.language))
    form = delivery.answer(answer(run, request.language), say("answer_as_document", request.language))
    limit = channel(request.chat).sent_bytes
    small = [file for file in run.files if 0 < file.size <= limit and is_there(snapshots, file)]
    refused = delivery.files(
        "file", [SentFile(file.name, file.size, partial(snapshots.get, file.key, limit), file.key) for file in small]
    )
    for number, file in enumerate(run.files):
        if file.size and (file not in small or any(file.name == one.name for one in refused)):
            why = "not_sent_too_large" if file.size > limit else "not_sent_refused"
            megabytes = f"{file.size / 1024**2:,.0f}"
            delivery.text(f"large{number}", say(why, request.language, name=file.name, megabytes=megabytes))
    if run.left_out:
        delivery.text("left_out", left_out(run.left_out, request.language, run.left_out_more))
    for budget in request.budgets:
        which = say(budget.name, request.language)
        amounts = {"spent": f"{budget.spent_usd:.2f}", "limit": f"{budget.limit_usd:.2f}"}
        delivery.text(budget.name, say("budget_warning", request.language, budget=which, **amounts))
    delivery.complete()
    outcome: Literal["DELIVERED", "STOPPED"] = "STOPPED" if run.summary.stopped else "DELIVERED"
    return Result(outcome=outcome, form=form, message_ids=delivery.message_ids)


def answer(run: RunResult, language: str) -> str:
    """What the agent said, and a sentence why when that is not its whole answer."""
    why = "stopped" if run.summary.stopped else run.summary.ended and f"ended_{run.summary.ended}"
    if why is not None:
        return "\n\n".join(part for part in (run.text.strip(), say(why, language)) if part)
    return run.text if run.text.strip() else say("empty_answer", language)


def is_there(snapshots: Snapshots, file: OutboxFile) -> bool:
    """Whether the file is in the bucket as the agent says: no other is sent."""
    try:
        size = snapshots.size(file.key)
    except SnapshotMissing:
        size = -1
    if size != file.size:
        logger.warning("a file is not as the agent says", key=file.key, told=file.size, bytes=size)
    return size == file.size


def left_out(paths: tuple[LeftOut, ...], language: str, more: int = 0) -> str:
    """Which files of the workspace will be missing in the next turn, and why; `more` are not among them."""
    shown = [
        say(f"left_out_{path.reason}", language, path=path.path, megabytes=f"{path.size / 1024**2:,.1f}")
        for path in paths[:LEFT_OUT_SHOWN]
    ]
    unnamed = len(paths) - len(shown) + more
    rest = [say("left_out_more", language, count=unnamed)] if unnamed else []
    return "\n".join([say("left_out", language), *shown, *rest])
