"""Hydrate: under the lock, find the snapshot to go on from and see that it is all there."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from functions.common import aws
from functions.common.errors import SnapshotMissing
from functions.common.observability import StepRequest, logger, step
from functions.common.sessions import Pointer, SessionTable
from functions.common.settings import SessionSettings
from functions.common.snapshots import Snapshots


class Result(BaseModel):
    """The session as the agent must continue it; `committed` when this turn's snapshot is visible already."""

    session_id: str
    version: int
    manifest: str | None
    segments: int
    committed: bool
    notice: Literal["session_lost"] | None = None


@step(StepRequest)
def handler(request: StepRequest) -> Result:
    """Read the pointer again (it may have moved while the turn waited) and check its snapshot."""
    settings = SessionSettings.load()
    table = SessionTable(settings.table, aws.dynamodb(), settings.session_ttl_days)
    record = table.turn(request.session_key, request.turn_id)
    if record.committed and record.version is not None and record.session_id is not None:
        return Result(
            session_id=record.session_id,
            version=record.version - 1,
            manifest=record.base_manifest,
            segments=0,
            committed=True,
        )
    pointer = table.pointer(request.session_key) or table.start_over(request.session_key)
    try:
        return _result(pointer, _segments(settings.bucket, pointer))
    except SnapshotMissing as error:
        logger.warning("the snapshot is gone, a fresh session starts", cause=str(error))
        return _result(table.start_over(request.session_key), 0, "session_lost")


def _segments(bucket: str, pointer: Pointer) -> int:
    if pointer.manifest is None:
        return 0
    return len(Snapshots(bucket, aws.s3()).check(pointer.manifest).segments)


def _result(pointer: Pointer, segments: int, notice: Literal["session_lost"] | None = None) -> Result:
    return Result(
        session_id=pointer.session_id,
        version=pointer.version,
        manifest=pointer.manifest,
        segments=segments,
        committed=False,
        notice=notice,
    )
