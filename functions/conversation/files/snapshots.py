"""Snapshots in S3: immutable documents (`documents.py`), read within bounds and written once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from botocore.exceptions import ClientError
from pydantic import BaseModel

from functions.common.beliefs import (
    DOCUMENT_BYTES,
    DocumentT,
    below,
    parsed,
    shown,
)
from functions.common.errors import ResultRefused, SnapshotMissing
from functions.conversation.files.documents import Manifest, RunResult, Segment, manifests_prefix, result_key

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef

PARALLEL = 8
"""Requests to S3 at a time."""

ABSENT = ("NoSuchKey", "404")


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

    def get(self, key: str, at_most: int | None = None) -> bytes:
        """The object's bytes. Raises SnapshotMissing that names the key, ResultRefused for more than `at_most`."""
        return self._open(key, at_most).read()

    def _open(self, key: str, at_most: int | None = None) -> StreamingBody:
        try:
            found = self._s3.get_object(Bucket=self.bucket, Key=key)
            if at_most is not None and found["ContentLength"] > at_most:
                found["Body"].close()
                raise ResultRefused(f"{self.uri(key)} has {found['ContentLength']:,} bytes, more than {at_most:,}")
            return found["Body"]
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

    def get_all(self, segments: Iterable[Segment]) -> list[bytes]:
        """Several segments, in their order, fetched in parallel. Raises SnapshotMissing, ResultRefused."""
        with ThreadPoolExecutor(PARALLEL) as pool:
            return list(pool.map(lambda segment: self.get(segment.key, segment.size), segments))

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
        self._has(key, written, size)

    def put(self, key: str, body: bytes | BinaryIO, content_type: str = "application/json") -> None:
        """Write one object."""
        self._s3.put_object(Bucket=self.bucket, Key=key, Body=body, ContentType=content_type)

    def read(self, key: str, model: type[DocumentT]) -> DocumentT:
        """A JSON document. Raises SnapshotMissing, ResultRefused."""
        return parsed(self.get(key, DOCUMENT_BYTES), model, self.uri(key))

    def manifest(self, key: str) -> Manifest:
        """A version, by a key that is the session's own. Raises SnapshotMissing, ResultRefused."""
        manifest = self.read(key, Manifest)
        if not below(manifests_prefix(manifest.session_id), key):
            raise ResultRefused(f"{self.uri(key)} is of another session, {manifest.session_id}")
        return manifest

    def result(self, session_id: str, turn_id: str, part: int) -> RunResult:
        """The result of one part of a turn. Raises SnapshotMissing, ResultRefused."""
        key = result_key(session_id, turn_id, part)
        result = self.read(key, RunResult)
        if (result.summary.result, result.summary.part) != (key, part):
            raise ResultRefused(f"{self.uri(key)} is of another run: {shown(result.summary.result)}")
        return result

    def write(self, key: str, document: BaseModel) -> None:
        """Write a JSON document."""
        self.put(key, document.model_dump_json().encode())

    def check(self, key: str) -> Manifest:
        """The manifest, after seeing that every object it names is there. Raises SnapshotMissing, ResultRefused."""
        manifest = self.manifest(key)
        self._heads(key, manifest)
        return manifest

    def renew(self, key: str, older_than: timedelta) -> Manifest:
        """The manifest, complete, none of its objects older than that: an old one is copied onto itself, whole.

        S3's lifecycle counts from an object's creation, and a copy is created now. Raises SnapshotMissing,
        ResultRefused.
        """
        manifest = self.manifest(key)
        limit = datetime.now(UTC) - older_than
        old = [name for name, head in self._heads(key, manifest).items() if head["LastModified"] < limit]
        with ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(lambda name: self.copy(name, name), old))
        return manifest

    def _heads(self, key: str, manifest: Manifest) -> dict[str, HeadObjectOutputTypeDef]:
        """What S3 says of the manifest and of each object it names.

        Raises SnapshotMissing for one that is gone, or a segment that is not as long as its manifest says.
        """
        names = (key, *manifest.objects)
        with ThreadPoolExecutor(PARALLEL) as pool:
            heads = dict(zip(names, pool.map(self._head, names), strict=True))
        for segment in manifest.segments:
            self._has(segment.key, heads[segment.key]["ContentLength"], segment.size)
        return heads

    def _head(self, key: str) -> HeadObjectOutputTypeDef:
        try:
            return self._s3.head_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            raise self._missing(key, error) from error

    def _has(self, key: str, size: int, told: int) -> None:
        if size != told:
            raise SnapshotMissing(f"{self.uri(key)} has {size} bytes, its manifest says {told}")

    def size(self, key: str) -> int:
        """Bytes of an object. Raises SnapshotMissing."""
        return self._head(key)["ContentLength"]

    def copy(self, source: str, target: str) -> None:
        """Copy an object inside S3; onto itself it becomes a new one (CopyObject wants its metadata replaced then)."""
        self._s3.copy_object(
            Bucket=self.bucket,
            Key=target,
            CopySource={"Bucket": self.bucket, "Key": source},
            MetadataDirective="REPLACE",
        )
