"""Snapshots in S3: immutable manifests, the transcript segments they name, and what a turn produced.

    sessions/<session_id>/manifests/<version>-<run>.json
    sessions/<session_id>/transcript/<version>-<run>/<subpath>.jsonl    only what this turn appended
    sessions/<session_id>/trees/, blobs/                                the workspace (`workspace.py`)
    sessions/<session_id>/turns/<turn_id>/result.json                   the answer, kept under the turn's name
    sessions/<session_id>/turns/<turn_id>/costs/<run>.json              what one run of the agent cost, however it ended
    sessions/<session_id>/turns/<turn_id>/inbox/<n>-<name>              what people attached
    sessions/<session_id>/turns/<turn_id>/outbox/<name>                 files for the chat

The run is in the names because an earlier run of the same turn may still be alive: two runs never write the same key.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeVar

from botocore.exceptions import ClientError
from pydantic import BaseModel, ConfigDict, Field

from functions.common.errors import SnapshotMissing

if TYPE_CHECKING:
    from botocore.response import StreamingBody
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


class TreeReference(Frozen):
    """The workspace of one version: the key of its list of files, and all objects they need. `bytes` of all files."""

    key: str
    files: int
    bytes: int
    objects: tuple[str, ...]


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
    tree: TreeReference | None = None

    @property
    def objects(self) -> tuple[str, ...]:
        """The keys of everything this version needs besides itself."""
        tree = (self.tree.key, *self.tree.objects) if self.tree else ()
        return (*(segment.key for segment in self.segments), *tree)


class OutboxFile(Frozen):
    """A file the agent made for the chat; `size` in bytes."""

    key: str
    name: str
    size: int


class InboxFile(Frozen):
    """A file a person attached, in the turn's inbox; `missing` is why Telegram did not give it."""

    key: str
    name: str
    kind: str
    mime: str
    size: int
    transcript: str | None = None
    missing: str | None = None


Reason = Literal["too_large", "too_many", "no_room", "outside", "not_a_file", "bad_name", "too_deep", "unreadable"]


class LeftOut(Frozen):
    """A path of the workspace that is not kept, and why; the user is told. `size` in bytes."""

    path: str
    reason: Reason
    size: int = 0


class ToolCall(Frozen):
    """A tool call that waits for a person."""

    id: str
    name: str
    input: dict[str, Any]


class RunSummary(Frozen):
    """What RunAgent puts into the state: short enough to read at a glance. Costs in US dollars.

    `continue` means that Lambda's time was up, `approval` that a call of the tool `waiting` needs a person: part `part`
    of the turn is staged, and the next one goes on from it.
    Costs, tokens, model turns and seconds are of all parts so far. `stopped`: somebody pressed Stop. `ended` is the
    limit the last part came to: of model calls, or of money.
    """

    status: Literal["done", "continue", "approval"]
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
    part: int = 0
    stopped: bool = False
    waiting: str | None = None
    ended: Literal["max_turns", "budget"] | None = None


class RunResult(Frozen):
    """The stored outcome of a run: `text` is its answer, or all that was said in the turn when there is none yet.

    `went_on_from` is the manifest it went on from; a call is `waiting` for a person.
    `attempt` is the execution's redrive count when it ran.
    """

    went_on_from: str | None
    attempt: int = 0
    summary: RunSummary
    text: str
    files: tuple[OutboxFile, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    waiting: ToolCall | None = None

    def answers(self, going_on: str | None, attempt: int) -> bool:
        """Whether it is the result of a run from there; what was stopped is run anew by a later attempt."""
        return self.went_on_from == going_on and (not self.summary.stopped or self.attempt == attempt)


class RunCost(Frozen):
    """What one run of the agent has cost so far, in US dollars; written however the run ends."""

    run: str = Field(pattern=r"^[0-9a-f]{12}$")
    model: str = Field(max_length=256)
    cost_usd: float = Field(ge=0, le=10_000, allow_inf_nan=False)


DocumentT = TypeVar("DocumentT", bound=BaseModel)


def session_prefix(session_id: str) -> str:
    """The folder of one session; the agent is given this and nothing else."""
    return f"sessions/{session_id}/"


def turn_prefix(session_id: str, turn_id: str) -> str:
    """The folder of what one turn produced."""
    return f"{session_prefix(session_id)}turns/{turn_id}/"


def result_key(session_id: str, turn_id: str, part: int) -> str:
    """Where the result of one part of a turn is kept."""
    return f"{turn_prefix(session_id, turn_id)}{'result' if part == 0 else f'result-{part}'}.json"


def costs_prefix(session_id: str, turn_id: str) -> str:
    """The folder of what the runs of one turn have cost."""
    return f"{turn_prefix(session_id, turn_id)}costs/"


class Snapshots:
    """The snapshots in one bucket."""

    def __init__(self, bucket: str, s3: S3Client) -> None:
        self.bucket = bucket
        self._s3 = s3

    def use(self, other: Snapshots) -> None:
        """Go on with another one's client, whose credentials are newer."""
        self._s3 = other._s3

    def uri(self, key: str) -> str:
        """The object's address for other services."""
        return f"s3://{self.bucket}/{key}"

    def get(self, key: str) -> bytes:
        """The object's bytes. Raises SnapshotMissing that names the key."""
        return self._open(key).read()

    def _open(self, key: str) -> StreamingBody:
        try:
            return self._s3.get_object(Bucket=self.bucket, Key=key)["Body"]
        except ClientError as error:
            raise self._missing(key, error) from error

    def _missing(self, key: str, error: ClientError) -> Exception:
        if error.response["Error"]["Code"] in ABSENT:
            return SnapshotMissing(f"s3://{self.bucket}/{key} does not exist")
        return error

    def exists(self, key: str) -> bool:
        """Whether there is such an object. By listing: with rights in one folder only, S3 answers a missing object with
        403 (https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadObject.html, Permissions)."""
        found = self._s3.list_objects_v2(Bucket=self.bucket, Prefix=key, MaxKeys=1)
        return any(item["Key"] == key for item in found.get("Contents", []))

    def keys(self, prefix: str) -> list[str]:
        """The keys of the objects in a folder, a thousand at most."""
        found = self._s3.list_objects_v2(Bucket=self.bucket, Prefix=prefix)
        return [item["Key"] for item in found.get("Contents", [])]

    def get_all(self, keys: Iterable[str]) -> list[bytes]:
        """Several objects, in the order of `keys`, fetched in parallel."""
        with ThreadPoolExecutor(PARALLEL) as pool:
            return list(pool.map(self.get, keys))

    def download(self, key: str, path: Path) -> None:
        """Write the object's bytes into a file, without holding them in memory. Raises SnapshotMissing."""
        with path.open("wb") as file:
            shutil.copyfileobj(self._open(key), file, 1024 * 1024)

    def join(self, parts: Iterable[tuple[str, int]], path: Path) -> None:
        """Write objects (key, size in bytes) one after another into one file, fetched in parallel, not held in memory.

        Raises SnapshotMissing for one that is gone or not as long as its manifest says.
        """
        with path.open("wb") as file, ThreadPoolExecutor(PARALLEL) as pool:
            places, offset = [], 0
            for key, size in parts:
                places.append((key, offset, size))
                offset += size
            list(pool.map(lambda place: self._write_at(file.fileno(), *place), places))

    def _write_at(self, file: int, key: str, offset: int, size: int) -> None:
        written = 0
        for chunk in self._open(key).iter_chunks(1024 * 1024):
            written += os.pwrite(file, chunk, offset + written)
        if written != size:
            raise SnapshotMissing(f"s3://{self.bucket}/{key} has {written} bytes, its manifest says {size}")

    def put(self, key: str, body: bytes | BinaryIO, content_type: str = "application/json") -> None:
        """Write one object."""
        self._s3.put_object(Bucket=self.bucket, Key=key, Body=body, ContentType=content_type)

    def read(self, key: str, model: type[DocumentT]) -> DocumentT:
        """A JSON document."""
        return model.model_validate_json(self.get(key))

    def write(self, key: str, document: BaseModel) -> None:
        """Write a JSON document."""
        self.put(key, document.model_dump_json().encode())

    def check(self, key: str) -> Manifest:
        """The manifest, after seeing that every object it names exists. Raises SnapshotMissing."""
        manifest = self.read(key, Manifest)
        self.dates(key, manifest)
        return manifest

    def renew(self, key: str, older_than: timedelta) -> Manifest:
        """The manifest, complete, none of its objects older than that: an old one is copied onto itself, whole.

        S3's lifecycle counts from an object's creation, and a copy is created now. Raises SnapshotMissing.
        """
        manifest = self.read(key, Manifest)
        limit = datetime.now(UTC) - older_than
        old = [name for name, date in self.dates(key, manifest).items() if date < limit]
        with ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(lambda name: self.copy(name, name), old))
        return manifest

    def dates(self, key: str, manifest: Manifest) -> dict[str, datetime]:
        """When the manifest and each object it names were created. Raises SnapshotMissing for one that is gone."""
        names = (key, *manifest.objects)
        with ThreadPoolExecutor(PARALLEL) as pool:
            return dict(zip(names, pool.map(self._date, names), strict=True))

    def _date(self, key: str) -> datetime:
        try:
            return self._s3.head_object(Bucket=self.bucket, Key=key)["LastModified"]
        except ClientError as error:
            raise self._missing(key, error) from error

    def copy(self, source: str, target: str) -> None:
        """Copy an object inside S3; onto itself it becomes a new one (CopyObject wants its metadata replaced then)."""
        self._s3.copy_object(
            Bucket=self.bucket,
            Key=target,
            CopySource={"Bucket": self.bucket, "Key": source},
            MetadataDirective="REPLACE",
        )
