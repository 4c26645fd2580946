"""Snapshots in S3: immutable manifests, the transcript segments they name, and what a turn produced.

    sessions/<session_id>/manifests/<version>-<run>.json
    sessions/<session_id>/transcript/<version>-<run>/<subpath>.jsonl    only what this turn appended
    sessions/<session_id>/turns/<turn_id>/result.json                   the answer, kept under the turn's name
    sessions/<session_id>/turns/<turn_id>/claim.json                    the run that works on the turn
    sessions/<session_id>/turns/<turn_id>/outbox/<name>                 files for the chat

The run is in the names because an earlier run of the same turn may still be alive: two runs never write the same key.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from botocore.exceptions import ClientError
from pydantic import BaseModel, ConfigDict

from functions.common.errors import SnapshotMissing

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PARALLEL = 8
"""Requests to S3 at a time."""

ABSENT = ("NoSuchKey", "404")


class Frozen(BaseModel):
    """An immutable document in the bucket."""

    model_config = ConfigDict(frozen=True)


class Segment(Frozen):
    """Transcript entries one turn appended to one file; `subpath` is empty for the main transcript."""

    key: str
    subpath: str = ""
    size: int


class Manifest(Frozen):
    """One version of a session: everything needed to go on from it. `parent` is the manifest before it.

    `cost_usd` is what the whole session has cost so far, since the CLI's figure is cumulative over resumes.
    """

    session_id: str
    version: int
    turn_id: str
    parent: str | None = None
    cost_usd: float = 0.0
    segments: tuple[Segment, ...] = ()


class OutboxFile(Frozen):
    """A file the agent made for the chat; `size` in bytes."""

    key: str
    name: str
    size: int


class RunSummary(Frozen):
    """What RunAgent puts into the state: short enough to read at a glance. Costs in US dollars."""

    status: str
    result: str
    manifest: str
    preview: str
    characters: int
    cost_usd: float
    session_cost_usd: float
    input_tokens: int
    output_tokens: int
    model_turns: int
    model: str
    seconds: float


class RunResult(Frozen):
    """The stored outcome of a turn's run. `base_version` is the version it went on from."""

    base_version: int
    summary: RunSummary
    text: str
    files: tuple[OutboxFile, ...] = ()


DocumentT = TypeVar("DocumentT", bound=BaseModel)


def session_prefix(session_id: str) -> str:
    """The folder of one session; the agent is given this and nothing else."""
    return f"sessions/{session_id}/"


def turn_prefix(session_id: str, turn_id: str) -> str:
    """The folder of what one turn produced."""
    return f"{session_prefix(session_id)}turns/{turn_id}/"


class Snapshots:
    """The snapshots in one bucket."""

    def __init__(self, bucket: str, s3: S3Client) -> None:
        self._bucket = bucket
        self._s3 = s3

    def get(self, key: str) -> bytes:
        """The object's bytes. Raises SnapshotMissing that names the key."""
        try:
            return self._s3.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] in ABSENT:
                raise SnapshotMissing(f"s3://{self._bucket}/{key} does not exist") from error
            raise

    def get_all(self, keys: Iterable[str]) -> list[bytes]:
        """Several objects, in the order of `keys`, fetched in parallel."""
        with ThreadPoolExecutor(PARALLEL) as pool:
            return list(pool.map(self.get, keys))

    def put(self, key: str, body: bytes, content_type: str = "application/json") -> None:
        """Write one object."""
        self._s3.put_object(Bucket=self._bucket, Key=key, Body=body, ContentType=content_type)

    def read(self, key: str, model: type[DocumentT]) -> DocumentT:
        """A JSON document."""
        return model.model_validate_json(self.get(key))

    def write(self, key: str, document: BaseModel) -> None:
        """Write a JSON document."""
        self.put(key, document.model_dump_json().encode())

    def check(self, key: str) -> Manifest:
        """The manifest, after seeing that every object it names exists. Raises SnapshotMissing."""
        manifest = self.read(key, Manifest)
        present = self.keys(f"{session_prefix(manifest.session_id)}transcript/")
        missing = [segment.key for segment in manifest.segments if segment.key not in present]
        if missing:
            raise SnapshotMissing(f"{key} names {missing[0]}, which does not exist")
        return manifest

    def keys(self, prefix: str) -> frozenset[str]:
        """The keys under a prefix."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
        return frozenset(item["Key"] for page in pages for item in page.get("Contents", []))
