"""Every state of the Turn with every fault, on the real definition: what must hold afterwards, and after a redrive.

`docs/reliability.md` holds the table; `STEPGRAM_WRITE_DOCS=1 make test ARGS=tests/workflow/test_fault_matrix.py` writes
it anew.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from functions.common.errors import LockContended
from functions.conversation.files.documents import Manifest
from functions.conversation.files.snapshots import Snapshots
from functions.conversation.lock import Lock
from functions.conversation.lock_table import LockTable
from functions.conversation.sessions import SessionTable
from stepgram.embedded.answers import Answer, failure
from stepgram.embedded.client import client
from stepgram.embedded.functions import InvokeError, Invoker
from stepgram.embedded.stack import EmbeddedStack
from stepgram.embedded.template import FunctionSpec
from tests.conftest import ROOT, Person, until
from tests.workflow.fast_agent import answer_to, fast_agent

DOCUMENT = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- the fault matrix -->\n", "<!-- its end -->"
CELLS_AT_ONCE = 16
_chats = itertools.count(900_001)

STATES = (
    *("AcquireLock", "Hydrate", "RunAgent", "Agent", "Persist", "Reply", "ReleaseLock"),
    *("ReportFailure", "ReleaseFailedLock", "TurnFailed"),
)
FAILURE_ROUTE = ("ReportFailure", "ReleaseFailedLock", "TurnFailed")
FAULTS = [
    "error before its work",
    "error after its work",
    "timeout",
    "throttled",
    "platform error",
    "killed before its answer",
    "delivered twice",
    "stopped",
]


@dataclass
class Cell:
    """One state with one fault, in a chat of its own."""

    state: str
    fault: str
    chat: int = field(default_factory=lambda: next(_chats))
    struck: bool = False


class Harness:
    """Strikes each cell's chat once, in its state."""

    def __init__(self, stack: EmbeddedStack, cells: list[Cell]) -> None:
        self._person = Person(stack)
        self._by_chat = {cell.chat: cell for cell in cells}
        self._lock = threading.Lock()

    def around(self, spec: FunctionSpec, event: dict[str, Any], run: Invoker) -> Answer:
        cell = self._by_chat.get(int(str(event.get("session_key", "0:0")).split(":")[0]))
        if cell is None:
            return run(spec, event)
        names = {"CallbackFunction": "the callback", "AgentFunction": "Agent"}
        state = names.get(spec.logical_id, str(event.get("state")))
        first = str(event.get("turn_id", "")).endswith(f"u{self.first_update(cell)}")
        if state == "RunAgent" and first and cell.state in FAILURE_ROUTE and not cell.struck:
            return failure("ModelRejected", "so that the failure route is taken")
        with self._lock:
            strikes = first and state == cell.state and not cell.struck
            cell.struck = cell.struck or strikes
        return self._strike(cell.fault, spec, event, run) if strikes else run(spec, event)

    def first_update(self, cell: Cell) -> int:
        found = self._person.stack.telegram.state["updates"].items()
        return min(int(number) for number, record in found if record["chat"] == cell.chat)

    def _strike(self, fault: str, spec: FunctionSpec, event: dict[str, Any], run: Invoker) -> Answer:
        if fault == "error before its work":
            return failure("RuntimeError", "injected")
        if fault == "throttled":
            raise InvokeError(429, "TooManyRequestsException", "injected")
        if fault == "platform error":
            raise InvokeError(500, "ServiceException", "injected")
        if fault == "stopped":
            name = event["turn_id"]
            arn = self._person.arn(name)
            self._person.step_functions.stop_execution(executionArn=arn, error="Operator", cause="injected")
            until(lambda: not any(thread.name == f"event-{name}" for thread in threading.enumerate()))
        answer = run(spec, event)
        if fault == "delivered twice":
            return run(spec, event)
        if fault == "error after its work":
            return failure("RuntimeError", "injected")
        if fault == "timeout":
            return failure("Sandbox.Timedout", "injected")
        if fault == "killed before its answer":
            return failure("Runtime.ExitError", "injected")
        return answer


class Outcome:
    """What became of a cell, and whether it may be so."""

    def __init__(self, stack: EmbeddedStack, cell: Cell) -> None:
        self._person = Person(stack)
        self._stack = stack
        self._cell = cell
        outputs, endpoint = stack.deployment.outputs, stack.addresses.aws
        self._sessions = SessionTable(outputs["SessionTable"], client("dynamodb", endpoint))
        self._locks = LockTable(
            outputs["SessionTable"], client("dynamodb", endpoint), client("stepfunctions", endpoint)
        )
        self._snapshots = Snapshots(outputs["SessionBucket"], client("s3", endpoint))

    def run(self) -> str:
        """Two messages; the fault strikes the first. Returns the words of the table."""
        person, cell = self._person, self._cell
        first = person.say(cell.chat, "first")
        second = person.say(cell.chat, "second")
        one, two = person.wait(first), person.wait(second)
        assert cell.struck, "the fault never struck"
        self._settled()
        words = self._told(one.status)
        assert two.status == "SUCCEEDED", two.error
        self._check_order()
        self._check_session()
        if one.status != "SUCCEEDED":
            again = person.redrive(first)
            assert again.status == "SUCCEEDED", f"{again.error} {again.cause}"
            self._settled()
            assert (self._count("answer"), self._count("notice")) == (1, 0), person.texts(cell.chat)
            self._check_session()
            words += "; a rerun answers" if "notice" in words else "; a rerun ends it"
        return words

    def _told(self, status: str) -> str:
        answers, notices = self._count("answer"), self._count("notice")
        assert (answers, notices) in ((1, 0), (0, 1)), self._person.texts(self._cell.chat)
        if status == "SUCCEEDED":
            assert answers == 1
            return "answered"
        return f"{status.lower()}, {'answered' if answers else 'notice'}"

    def _count(self, kind: str) -> int:
        texts = self._person.texts(self._cell.chat)
        if kind == "answer":
            return texts.count(answer_to("first"))
        return sum("was not answered" in text for text in texts)

    def _check_order(self) -> None:
        """The second answer comes after whatever the first message got."""
        assert self._person.texts(self._cell.chat)[-1] == answer_to("second"), self._person.texts(self._cell.chat)

    def _settled(self) -> None:
        """Soon after the end, by status events alone, the lock is free and the chat is told."""
        key = f"{self._cell.chat}:0"
        until(lambda: _is_free(self._locks.read(key)[0]), 20)
        until(lambda: self._count("answer") + self._count("notice") > 0, 20)

    def _check_session(self) -> None:
        """The pointer names the newest committed version, whose objects are all there."""
        key = f"{self._cell.chat}:0"
        pointer = self._sessions.pointer(key)
        assert pointer is not None and pointer.manifest is not None
        manifest: Manifest = self._snapshots.check(pointer.manifest)
        assert pointer.version == manifest.version == pointer.turns == len(manifest.segments)


def _is_free(lock: Lock) -> bool:
    return lock.owner is None and not lock.waiters


@pytest.fixture
def quick(stack: EmbeddedStack) -> Iterator[None]:
    with fast_agent(stack):
        yield


@pytest.mark.timeout(600)
def test_every_state_survives_every_fault(stack: EmbeddedStack, quick: None) -> None:
    cells = [Cell(state, fault) for state in STATES for fault in FAULTS]
    stack.functions.around = Harness(stack, cells).around
    failures: list[str] = []

    def run(cell: Cell) -> str:
        try:
            return Outcome(stack, cell).run()
        except (AssertionError, LockContended, KeyError) as error:
            failures.append(f"{cell.state} {cell.fault} (chat {cell.chat}): {error}")
            return "BROKEN"

    try:
        with ThreadPoolExecutor(CELLS_AT_ONCE) as pool:
            words = dict(zip([(c.state, c.fault) for c in cells], pool.map(run, cells), strict=True))
    finally:
        stack.functions.around = None

    assert not failures, "\n".join(failures)
    compare(table(words))


def table(words: dict[tuple[str, str], str]) -> str:
    """The matrix as Markdown."""
    head = f"| State | {' | '.join(FAULTS)} |\n| --- | {' | '.join('---' for _ in FAULTS)} |\n"
    rows = (f"| `{state}` | {' | '.join(words[state, fault] for fault in FAULTS)} |\n" for state in STATES)
    return head + "".join(rows)


def compare(matrix: str) -> None:
    """The document holds this matrix."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    if os.environ.get("STEPGRAM_WRITE_DOCS"):
        DOCUMENT.write_text(f"{before}{BEGIN}\n{matrix}\n{END}{after}")
    assert f"{BEGIN}\n{matrix}\n{END}" in DOCUMENT.read_text()


@pytest.mark.parametrize("error", ["DynamoDB.ThrottlingException", "InternalServerError"])
def test_the_session_is_resolved_again_when_dynamodb_is_busy(
    stack: EmbeddedStack, person: Person, chat: int, quick: None, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original: Callable[..., Any] = stack.aws._moto
    refused: list[str] = []

    def moto(environ: Any, start_response: Any) -> Any:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        ours = b'"session"' in body and f"{chat}:0".encode() in body and b"if_not_exists(session_id" in body
        if ours and not refused:
            refused.append(error)
            name = error.rpartition(".")[2]
            headers = [("Content-Type", "application/x-amz-json-1.0"), ("x-amzn-RequestId", "injected")]
            start_response("400 Bad Request", headers)
            return [json.dumps({"__type": f"com.amazonaws.dynamodb.v20120810#{name}", "message": "busy"}).encode()]
        return original(environ, start_response)

    monkeypatch.setattr(stack.aws, "_moto", moto)

    found = person.ask(chat, "hello")

    assert refused == [error]
    assert (found.error, found.status, found.states[0].tries) == (None, "SUCCEEDED", 2)
