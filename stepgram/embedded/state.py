"""What the embedded stack keeps under `.stepgram/` between runs, so that a `kill -9` at any moment loses nothing.

state.db     everything below, in one SQLite database      files/       what was sent into chats, each file once
stack.json   where `stepgram local` is                     lock         held while a stack uses the folder

Every change is written **before its answer leaves**, in one transaction with all that changed by it:

item                              DynamoDB's items
object, body                      S3's objects
execution, definition, event      executions, with each event of their histories
ending, invocation                status events and asynchronous calls that are still to deliver
chat, message, update, telegram   the chats, what is said in them, updates, the next update's id
taken, kms, model, offset         keys of roles and KMS, the demo model's failures, where long polling is

Why that is enough. (1) A transaction is whole or not there, also when the process dies in it (SQLite's write-ahead
log; pages that were written are the kernel's, so a killed process needs no fsync: https://sqlite.org/wal.html,
https://sqlite.org/pragma.html#pragma_synchronous). (2) Who was answered can build on what is kept: DynamoDB, S3 and the
chats write under the lock that their readers take, an execution its event before it goes on, its end before anybody
is told. So if B happened because of A, A is kept whenever B is: the database is a moment of the whole stack. (3) What
was not answered is asked again by whoever asked: Telegram delivers an update until its 2xx, an execution that ran
enters its last state again, and both are safe to repeat, as on AWS. (4) Ids are kept with what they were given to, or
are random, so none is given out twice. What a disk refuses is written with the next change, or not answered.

Messages of the bot are the one thing that cannot be asked twice (docs/reliability.md, "The one window").
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import stat
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from functions.common.folders import remove

FORMAT = 1
"""Of the database; grows when an older Stepgram could not read it."""

EARLIER = ("table.json", "telegram.json", "bucket", "executions")
"""What a folder has that was kept before there was a database."""


class StateError(Exception):
    """What is kept cannot be read; the message says which file, why, and what to do."""


class Closed(StateError):
    """The stack stops: what is not kept by now was never done."""


class Change(NamedTuple):
    """One row: what it is, whose, its number among them. `value` is a JSON document or bytes; None removes the row."""

    kind: str
    owner: str
    number: int
    value: Any


class Row(NamedTuple):
    """A kept row, without its kind."""

    owner: str
    number: int
    value: Any


class Keep(Protocol):
    """Writes changes, all or none, before it returns."""

    def __call__(self, *changes: Change) -> None:
        """Raises StateError: then nobody may be told that it was done."""


def nothing_is_kept(*changes: Change) -> None:
    """For what is used without a store."""


def read_json(path: Path) -> Any:
    """The document in a file, or None when there is no file. Raises StateError for anything else than JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StateError(f"{path} is damaged ({error}); remove it and start again") from error


def write_json(path: Path, document: Any) -> None:
    """Write a document so that a reader sees the old or the new one, never half of it."""
    private(path.parent)
    draft = path.with_name(f".{path.name[:100]}.{os.getpid()}")
    draft.touch(0o600)
    draft.write_text(json.dumps(document, ensure_ascii=True), encoding="utf-8")
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


class Store:
    """The database. It belongs to one process; anybody may read it meanwhile and sees one moment of it."""

    def __init__(self, home: Path) -> None:
        """Open or make `state.db` in `home`. Raises StateError, and leaves as it is what it cannot read."""
        self._path = home / "state.db"
        self._writing = threading.Lock()
        self._closed = False
        self._owed: list[tuple[Any, ...]] = []
        earlier = [name for name in EARLIER if (home / name).exists()]
        if earlier and not self._path.exists():
            raise self._error(f"{home} was kept by an earlier Stepgram ({', '.join(earlier)}), which wrote no moment")
        try:
            self._path.touch(0o600)
            self._connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            self._open()
        except (sqlite3.DatabaseError, ValueError) as error:
            raise self._error(f"{self._path} is damaged or in use ({error})") from error

    def _open(self) -> None:
        execute = self._connection.execute
        written = execute("PRAGMA user_version").fetchone()[0]
        tables = execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if tables and written != FORMAT:
            raise self._error(f"{self._path} has format {written}, this Stepgram reads format {FORMAT}")
        wrong = [line for (line,) in execute("PRAGMA integrity_check(3)") if line != "ok"]
        if wrong:
            raise self._error(f"{self._path} is damaged ({'; '.join(wrong)})")
        if tables:
            self._check()
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = NORMAL")
        if not tables:
            with self._connection:
                execute("BEGIN IMMEDIATE")
                execute(
                    "CREATE TABLE kept (kind TEXT NOT NULL, owner TEXT NOT NULL, number INTEGER NOT NULL, "
                    "value BLOB NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY (kind, owner, number))"
                )
                execute(f"PRAGMA user_version = {FORMAT}")

    def _check(self) -> None:
        """SQLite sees whether its pages hang together; whether a value is the one that was written, only its sum says.

        Raises StateError.
        """
        for kind, owner, number, value, crc in self._connection.execute("SELECT * FROM kept"):
            if crc != _crc([kind, owner, number], value):
                raise self._error(f"{self._path} is damaged ({kind} {owner} {number} is not what was written)")

    @staticmethod
    def _error(what: str) -> StateError:
        return StateError(
            f"{what}; nothing was changed. Move it away to keep it, or start anew with `stepgram ask --fresh`"
        )

    def keep(self, *changes: Change) -> None:
        """Write changes, all or none. What a disk refused is written with the next ones, ahead of them.

        Raises StateError, Closed: then nobody may be told that it was done.
        """
        rows = [
            (one.kind, one.owner, one.number, one.value if one.value is None or isinstance(one.value, bytes) else
             json.dumps(one.value, ensure_ascii=False, separators=(",", ":")))
            for one in changes
        ]  # fmt: skip
        with self._writing:
            if self._closed:
                raise Closed("the stack stops")
            self._owed += rows
            try:
                self._write(self._owed)
            except sqlite3.Error as error:
                raise StateError(f"{self._path} cannot be written ({error})") from error
            self._owed = []

    def _write(self, rows: list[tuple[Any, ...]]) -> None:
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        with self._connection:
            for *row, value in rows:
                if value is None:
                    execute("DELETE FROM kept WHERE (kind, owner, number) = (?, ?, ?)", row)
                else:
                    execute(
                        "INSERT INTO kept VALUES (?, ?, ?, ?, ?) "
                        "ON CONFLICT DO UPDATE SET value = excluded.value, crc = excluded.crc",
                        (*row, value, _crc(row, value)),
                    )

    def rows(self, kind: str) -> Iterator[Row]:
        """All of a kind, by owner and number; documents are parsed."""
        query = "SELECT owner, number, value FROM kept WHERE kind = ? ORDER BY owner, number"
        try:
            for owner, number, value in self._connection.execute(query, (kind,)):
                yield Row(owner, number, value if isinstance(value, bytes) else json.loads(value))
        except (sqlite3.DatabaseError, ValueError) as error:
            raise self._error(f"{self._path} is damaged ({kind}: {error})") from error

    def close(self) -> None:
        """Nothing more is kept: for the next run, the stack ended here."""
        with self._writing:
            self._closed = True
            self._connection.close()


def _crc(row: list[Any], value: Any) -> int:
    """The sum (CRC-32) of a row: kind, owner, number, and its value with its type."""
    head = "\0".join(map(str, (*row, type(value).__name__, "")))
    whole = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
    return zlib.crc32(whole, zlib.crc32(head.encode("utf-8", "surrogatepass")))


def forget(home: Path) -> None:
    """Remove all that is kept, except the lock that says who uses the folder. Raises NotCleaned."""
    for path in home.glob("*") if home.is_dir() else []:
        if path.name != "lock":
            remove(path)
