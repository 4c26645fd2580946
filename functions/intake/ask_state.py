"""/status, /cost, /model and /verbose: where the conversation stands, and what people choose for it."""

from __future__ import annotations

from functions.common import aws
from functions.common.errors import SnapshotMissing
from functions.common.observability import logger
from functions.conversation.budget import Spent, session_sort_key, spent, sums
from functions.conversation.files.snapshots import Snapshots
from functions.conversation.files.versions import newest
from functions.conversation.lock_table import LockTable
from functions.conversation.sessions import MODELS, SessionTable
from functions.intake.request import IntakeSettings, Request, tell

VERBOSE = ("0", "1", "2")


def status(request: Request) -> None:
    """Session, version, model, the queue, and the last execution with its place in the console."""
    settings = IntakeSettings.load()
    table = _table(settings)
    pointer, chosen = table.session(request.session_key)
    lock, _ = LockTable(settings.table, aws.dynamodb(), aws.step_functions()).read(request.session_key)
    last = lock.owner.turn_id if lock.owner else ""
    gone = False
    if not last and pointer is not None:
        try:
            manifest = newest(Snapshots(settings.bucket, aws.s3()), pointer)
            last = manifest.turn_id if manifest else ""
        except SnapshotMissing as error:
            logger.warning("the snapshot is gone or none", cause=str(error))
            gone = True
    lines = [
        request.say(
            "status_session", session=pointer.session_id if pointer else "-", version=pointer.version if pointer else 0
        ),
        request.say("status_model", model=chosen.model or request.say("model_default"), verbose=chosen.verbose),
        request.say("status_queue" if lock.owner else "status_idle", waiting=len(lock.waiters)),
    ]
    if gone:
        lines.append(request.say("lost"))
    if last:
        arn = f"{settings.turn_arn.replace(':stateMachine:', ':execution:')}:{last}"
        lines.append(request.say("status_last", turn=last, link=settings.console_url.format(arn=arn, name=last)))
    tell(request, "lines", lines="\n".join(lines))


def cost(request: Request) -> None:
    """What this session, this day and this month have cost, and what may be spent."""
    settings = IntakeSettings.load()
    pointer = _table(settings).pointer(request.session_key)
    key = (request.session_key, session_sort_key(pointer.session_id if pointer else ""))
    lines = [request.say("cost_session", cost=f"{sums(settings.table, aws.dynamodb(), [key])[key]:.4f}")]
    lines += [_line(request, budget) for budget in spent(settings, aws.dynamodb(), request.session_key)]
    tell(request, "lines", lines="\n".join(lines))


def _line(request: Request, budget: Spent) -> str:
    limit = f"${budget.limit:.2f}" if budget.limit else request.say("no_limit")
    return request.say("cost_budget", budget=request.say(budget.name), spent=f"{budget.spent:.4f}", limit=limit)


def model(request: Request) -> None:
    """Choose the model of this conversation, or see which it is."""
    wanted = _argument(request).lower()
    table = _table(IntakeSettings.load())
    if wanted in (*MODELS, "default"):
        update = {"model": None if wanted == "default" else wanted}
        chosen = table.choose(request.session_key, lambda before: before.model_copy(update=update))
    else:
        chosen = table.preferences(request.session_key)
    tell(request, "model", model=chosen.model or request.say("model_default"), choices=", ".join((*MODELS, "default")))


def verbose(request: Request) -> None:
    """Choose how much is shown of the tools that run, or see how much it is."""
    wanted = _argument(request)
    table = _table(IntakeSettings.load())
    if wanted in VERBOSE:
        update = {"verbose": int(wanted)}
        chosen = table.choose(request.session_key, lambda before: before.model_copy(update=update))
    else:
        chosen = table.preferences(request.session_key)
    tell(request, "verbose", verbose=chosen.verbose)


def _argument(request: Request) -> str:
    return request.envelope.command.argument if request.envelope.command else ""


def _table(settings: IntakeSettings) -> SessionTable:
    return SessionTable(settings.table, aws.dynamodb(), settings.session_ttl_days)
