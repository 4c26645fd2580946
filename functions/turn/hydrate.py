"""Hydrate: under the lock, find the snapshot to go on from, and see that it is all there."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any, Literal

from pydantic import BaseModel, Field

from functions.channel import channel
from functions.common import aws
from functions.common.envelope import Message, Place
from functions.common.errors import BudgetSpent, SnapshotMissing
from functions.common.execution import redrive_count, seconds_since
from functions.common.observability import StepRequest, logger, measure, step
from functions.common.settings import BucketSettings, BudgetSettings, SessionSettings
from functions.conversation.budget import limited
from functions.conversation.files.documents import InboxFile, Manifest
from functions.conversation.files.inbox import fill
from functions.conversation.files.snapshots import Snapshots
from functions.conversation.files.trees import read_tree
from functions.conversation.files.versions import at
from functions.conversation.sessions import Pointer, SessionTable


class HydrateSettings(SessionSettings, BucketSettings, BudgetSettings):
    """What this state reads from its environment."""

    approval_hours: float = Field(
        72, alias="APPROVAL_HOURS", gt=0, description="Hours until a question nobody answered counts as denied"
    )

    transcription: Literal["amazon", "off"] = Field(
        "off", alias="TRANSCRIPTION", description="What makes text of voice messages: amazon or off"
    )
    session_data_days: int = Field(30, alias="SESSION_DATA_DAYS", ge=2, description="Days until S3 removes objects")

    @property
    def renew_after(self) -> timedelta:
        """The age from which an object is renewed: a younger one outlives the mapping, with a day to spare."""
        return timedelta(days=max(0, self.session_data_days - self.session_ttl_days - 1))


class Result(BaseModel):
    """The session as the agent must continue it; `committed` when this turn's snapshot is visible already.

    `going_on` is the snapshot that part `part` of the turn goes on from, `allowed` are tools that do not ask,
    `inbox` what was attached (`inbox.py`), `captions` what else was written, and `approval_seconds`
    is how long a question stays open. `model` and `verbose` is what was chosen.
    """

    session_id: str
    version: int
    manifest: str | None
    segments: int = 0
    files: int = 0
    committed: bool = False
    notice: Literal["session_lost"] | None = None
    part: int = 0
    going_on: str | None
    allowed: tuple[str, ...] = ()
    decision: None = None
    approval_seconds: int
    inbox: list[InboxFile]
    captions: list[str]
    model: str | None
    verbose: int


class Request(StepRequest):
    """The turn, its message, and where it was written (absent: the execution is older than this field)."""

    chat: Place | None = None
    message: Message
    execution: dict[str, Any]


@step(Request)
def handler(request: Request) -> Result:
    """Read the pointer again (it may have moved while the turn waited), check its snapshot and renew what is old."""
    settings = HydrateSettings.load()
    if not redrive_count(request.execution) and not request.retry:
        measure(QueueSeconds=seconds_since(request.execution["StartTime"]))
    table = SessionTable(settings.table, aws.dynamodb(), settings.session_ttl_days)
    snapshots = Snapshots(settings.bucket, aws.s3())
    record, current, preferences = table.for_turn(request.session_key, request.turn_id)
    for budget in limited(settings, request.session_key):
        if budget.unspent <= 0 and not record.committed:
            raise BudgetSpent(f"{budget.name}: ${budget.spent:.2f} of ${budget.limit:.2f} are spent")
    notice: Literal["session_lost"] | None = "session_lost" if record.lost else None
    manifest: Manifest | None = None
    if record.committed and record.version is not None and record.session_id is not None:
        pointer = Pointer(session_id=record.session_id, version=record.version - 1, manifest=record.base_manifest)
    else:
        pointer = current or table.start_over(request.session_key)
        try:
            if pointer.manifest is not None:
                manifest = at(pointer, snapshots.renew(pointer.manifest, settings.renew_after))
                read_tree(snapshots, manifest.tree)
        except SnapshotMissing as error:
            logger.warning("the snapshot is gone, a fresh session starts", cause=str(error))
            pointer, notice, manifest = table.start_over(request.session_key), "session_lost", None
    table.works_in(request.session_key, request.turn_id, pointer.session_id, notice is not None)
    source = channel(request.chat)
    messages = source.messages(request.session_key, request.turn_id, request.message)
    transcribes = settings.transcription != "off"
    fetch = partial(source.fetch, request.session_key)
    inbox = fill(snapshots, pointer.session_id, request.turn_id, messages, fetch, transcribes)
    return Result(
        session_id=pointer.session_id,
        version=pointer.version,
        manifest=pointer.manifest,
        segments=len(manifest.segments) if manifest else 0,
        files=manifest.tree.files if manifest and manifest.tree else 0,
        committed=record.committed,
        notice=notice,
        going_on=pointer.manifest,
        allowed=preferences.allowed_tools(pointer.session_id),
        inbox=inbox,
        model=preferences.model,
        verbose=preferences.verbose,
        captions=[message.text for message in messages if message.text and message.id != request.message.id],
        approval_seconds=round(settings.approval_hours * 3600),
    )
