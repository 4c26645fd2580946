"""The claim: a turn's run is announced by a conditional write, since an earlier run may still be alive.

`Lambda.ClientExecutionTimeoutException` and `Lambda.SdkClientException` can mean that the first run goes on. The
claim is an S3 object (the agent has no rights in DynamoDB) that the run renews while it lives; a silent one is taken
over. Conditional writes: https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html; of them S3
refuses 412 (another object is there, or none that matches), 409 (another write or delete is under way) and, with
If-Match, 404 (the object was deleted meanwhile).
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self

from botocore.exceptions import BotoCoreError, ClientError

from functions.common.errors import AgentBusy
from functions.common.observability import logger
from functions.common.snapshots import ABSENT

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

RENEW_SECONDS = 5.0
SILENT = timedelta(seconds=15)
"""A claim not renewed for so long belongs to a run that died."""

LOST = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
ENDED = "an earlier run of this turn ended just now"


class RunClaim:
    """Holds the claim of one turn while its run lives. Raises AgentBusy on entry when another run does."""

    def __init__(self, s3: S3Client, bucket: str, key: str, alive: Callable[[], None] = lambda: None) -> None:
        """`alive` is called at every renewal."""
        self._s3 = s3
        self._bucket = bucket
        self._key = key
        self._alive = alive
        self.body = uuid.uuid4().hex.encode()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> Self:
        self._take()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self._s3.delete_object(Bucket=self._bucket, Key=self._key)

    def _take(self) -> None:
        try:
            self._s3.put_object(Bucket=self._bucket, Key=self._key, Body=self.body, IfNoneMatch="*")
            return
        except ClientError as error:
            if error.response["Error"]["Code"] not in LOST:
                raise
        try:
            found = self._s3.head_object(Bucket=self._bucket, Key=self._key)
        except ClientError as error:
            if error.response["Error"]["Code"] in (*ABSENT, "403"):
                raise AgentBusy(ENDED) from error
            raise
        if datetime.now(UTC) - found["LastModified"] < SILENT:
            raise AgentBusy(f"an earlier run of this turn is alive (seen {found['LastModified']:%H:%M:%S} UTC)")
        try:
            self._s3.put_object(Bucket=self._bucket, Key=self._key, Body=self.body, IfMatch=found["ETag"])
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in ABSENT:
                raise AgentBusy(ENDED) from error
            if code in LOST:
                raise AgentBusy("another run of this turn took over first") from error
            raise

    def _renew(self) -> None:
        while not self._done.wait(RENEW_SECONDS):
            try:
                self._s3.put_object(Bucket=self._bucket, Key=self._key, Body=self.body)
            except (ClientError, BotoCoreError) as error:
                logger.warning("the claim could not be renewed", cause=str(error))
            self._alive()
