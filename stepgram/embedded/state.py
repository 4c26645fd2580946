"""What the embedded stack keeps under `.stepgram/` between runs: table, bucket, chats, executions with histories.

table.json            the DynamoDB items          telegram.json  chats and updates
bucket/<key>          the S3 objects              model.json     the failures the demo model was asked for
executions/<name>     one document each           files/         documents sent into chats
"""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from functions.common.folders import remove

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client

SAVE_SECONDS = 1.0


def read_json(path: Path) -> Any:
    """The document in a file, or None when there is no file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def write_json(path: Path, document: Any) -> None:
    """Write a document so that a reader sees the old or the new one, never half of it."""
    _replace(path, json.dumps(document, ensure_ascii=True).encode())


def _replace(path: Path, content: bytes) -> None:
    private(path.parent)
    draft = path.with_name(f".{path.name[:100]}.{os.getpid()}")
    draft.touch(0o600)
    draft.write_bytes(content)
    draft.replace(path)


def private(folder: Path) -> None:
    """Make a folder its owner's alone, be it there or not. Raises OSError when it is another's or everybody's."""
    if not folder.parent.is_dir():
        private(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    mode = folder.stat().st_mode
    if mode & stat.S_ISVTX:
        raise OSError(errno.EPERM, "it is a folder for everybody", str(folder))
    if mode & 0o077:
        folder.chmod(0o700)


class TableFile:
    """The table's items in one file."""

    def __init__(self, path: Path, dynamodb: DynamoDBClient, table: str) -> None:
        self._path = path
        self._dynamodb = dynamodb
        self._table = table

    def load(self) -> None:
        """Put the kept items into the table."""
        for item in read_json(self._path) or []:
            self._dynamodb.put_item(TableName=self._table, Item=item)

    def save(self) -> None:
        """Write all items."""
        pages = self._dynamodb.get_paginator("scan").paginate(TableName=self._table)
        write_json(self._path, [item for page in pages for item in page["Items"]])


class BucketFolder:
    """The bucket's objects in a folder, one file each; only what changed is written."""

    def __init__(self, folder: Path, s3: S3Client, bucket: str) -> None:
        self._folder = folder
        self._s3 = s3
        self._bucket = bucket
        self._known: dict[str, str] = {}

    def load(self) -> None:
        """Put the kept objects into the bucket."""
        for path in sorted(self._folder.glob("*")) if self._folder.is_dir() else []:
            if path.name.startswith("."):
                continue
            key = unquote(path.name)
            tag = self._s3.put_object(Bucket=self._bucket, Key=key, Body=path.read_bytes())["ETag"]
            self._known[key] = tag

    def save(self) -> None:
        """Write objects that are new or changed, remove those that are gone."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket)
        present = {item["Key"]: item["ETag"] for page in pages for item in page.get("Contents", [])}
        for key, tag in present.items():
            if self._known.get(key) != tag:
                try:
                    body = self._s3.get_object(Bucket=self._bucket, Key=key)["Body"].read()
                except self._s3.exceptions.NoSuchKey:
                    continue
                _replace(self._folder / quote(key, safe=""), body)
        for key in self._known.keys() - present.keys():
            (self._folder / quote(key, safe="")).unlink(missing_ok=True)
        self._known = present


class Saver:
    """Saves in the background while something changed, and once more when stopped.

    About once a second; less often when there is so much to save that it would take more than a tenth of the time.
    """

    def __init__(self, save: Callable[[], None]) -> None:
        self._save = save
        self._changed = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="saver")
        self._thread.start()

    def changed(self) -> None:
        """Something is worth saving."""
        self._changed.set()

    def stop(self) -> None:
        """Save once more and end."""
        self._stopped.set()
        self._changed.set()
        self._thread.join()
        self._save()

    def _run(self) -> None:
        pause = SAVE_SECONDS
        while not self._stopped.is_set():
            self._changed.wait()
            self._changed.clear()
            if not self._stopped.wait(pause):
                started = time.monotonic()
                self._save()
                pause = max(SAVE_SECONDS, 9 * (time.monotonic() - started))


def forget(home: Path) -> None:
    """Remove all that is kept, except the lock that says who uses the folder. Raises NotCleaned."""
    for path in home.glob("*") if home.is_dir() else []:
        if path.name != "lock":
            remove(path)
