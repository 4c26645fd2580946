"""What the agent's function makes of the SDK's messages; the SDK itself is in the workflow tests."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from claude_agent_sdk import (
    AssistantMessage,
    DeferredToolUse,
    MirrorErrorMessage,
    ResultMessage,
    StreamEvent,
    SystemMessage,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage,
)

from functions.agent.container import clean, fresh_folders
from functions.agent.conversation import DEBUG_BYTES, Conversation
from functions.agent.model.metering import Spent
from functions.agent.model.spending import Spending
from functions.agent.store import SnapshotStore
from functions.common.errors import (
    AgentCrashed,
    AgentTimedOut,
    ModelAccessDenied,
    ModelRejected,
    ModelThrottled,
    ModelUnavailable,
    StepgramError,
)
from functions.common.folders import NotCleaned


class Client:
    """Plays one run: the messages, or silence."""

    def __init__(self, *messages: Any, silent: bool = False, ends_with: ResultMessage | None = None) -> None:
        self._messages, self._silent, self._ends_with = messages, silent, ends_with
        self._interrupted = asyncio.Event()
        self.then: tuple[Any, ...] | None = None
        self.asked = 0

    async def query(self, text: str) -> None:
        self.asked += 1
        if self.asked > 1 and self.then is not None:
            self._messages = self.then

    async def interrupt(self) -> None:
        self._interrupted.set()

    async def receive_response(self) -> AsyncIterator[Any]:
        for message in self._messages:
            yield message
        if self._silent:
            await (self._interrupted if self._ends_with else asyncio.Event()).wait()
            yield self._ends_with


class Serving:
    """Stands for the model's endpoint: nothing passes."""

    def serving(self, spending: Any) -> AbstractContextManager[None]:
        return nullcontext()


def conversation(client: Client) -> Conversation:
    made = Conversation.__new__(Conversation)
    made._client = client  # type: ignore[assignment]
    made._stop = asyncio.Event()
    made._stderr, made._endpoint = ["last words"], Serving()  # type: ignore[assignment]
    made.store = SnapshotStore(None, "s")  # type: ignore[arg-type]
    made.busy_seconds, made._debug = 60.0, Path(os.devnull)
    return made


def result(**fields: Any) -> ResultMessage:
    return ResultMessage(**{"subtype": "success", "duration_ms": 0, "duration_api_ms": 0, "is_error": False,
                            "num_turns": 1, "session_id": "s", **fields})  # fmt: skip


def test_a_transcript_that_was_not_kept_fails_the_turn() -> None:
    lost = MirrorErrorMessage(subtype="mirror_error", data={}, key=None, error="S3 is away")

    with pytest.raises(AgentCrashed, match=r"not kept: S3 is away"):
        conversation(Client(lost, result())).ask("hello", 5)


def test_a_run_that_ends_without_a_result_tells_what_the_cli_said() -> None:
    with pytest.raises(AgentCrashed, match="last words"):
        conversation(Client()).ask("hello", 5)


def test_an_agent_that_cannot_be_interrupted_timed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("functions.agent.conversation.INTERRUPT_SECONDS", 0.01)

    with pytest.raises(AgentTimedOut, match="could not be interrupted"):
        conversation(Client(silent=True)).ask("hello", 0.01)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"api_error_status": 429, "terminal_reason": "api_error", "result": "busy"}, ModelThrottled),
        ({"api_error_status": 400, "terminal_reason": "api_error", "result": "too long"}, ModelRejected),
        ({"subtype": "error_during_execution", "errors": ["boom"]}, AgentCrashed),
    ],
)
def test_a_failed_result_has_its_name(fields: dict[str, Any], error: type[StepgramError]) -> None:
    with pytest.raises(error):
        conversation(Client(result(is_error=True, **fields))).ask("hello", 5)


class Watcher:
    """Notes what it sees."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def said(self, text: str) -> None:
        self.seen.append(text)

    def uses(self, name: str, arguments: dict[str, Any]) -> None:
        self.seen.append(name)

    def busy(self, is_busy: bool) -> None:
        if is_busy:
            self.seen.append("busy")


def stream(kind: str, parent: str | None = None, **event: Any) -> StreamEvent:
    return StreamEvent(uuid="u", session_id="s", event={"type": kind, **event}, parent_tool_use_id=parent)


def spoken(text: str, parent: str | None = None) -> StreamEvent:
    return stream("content_block_delta", parent, delta={"type": "text_delta", "text": text})


def begins(message: str) -> StreamEvent:
    return stream("message_start", message={"id": message})


def block(message: str, text: str, error: Any = None) -> AssistantMessage:
    return AssistantMessage(content=[TextBlock(text)], model="m", message_id=message, error=error)


def retry(seconds: float, status: int | None) -> SystemMessage:
    data = {"attempt": 1, "max_retries": 10, "retry_delay_ms": seconds * 1000, "error_status": status, "error": "why"}
    return SystemMessage(subtype="api_retry", data=data)


ENDS = stream("message_delta", delta={"stop_reason": "end_turn"})
TOOL = AssistantMessage(content=[ToolUseBlock(id="t", name="Bash", input={"command": "ls"})], model="m", message_id="a")
ANSWERED = UserMessage(content=[ToolResultBlock(tool_use_id="t", content="done")])


def test_what_the_agent_says_and_does_is_seen_and_an_interrupted_run_keeps_it() -> None:
    messages = (
        begins("a"), spoken("I "), spoken("look."), spoken("hidden", "subagent"), block("a", "I look."), TOOL, ENDS,
        begins("b"), spoken("Found"), result(is_error=True, terminal_reason="aborted_streaming"),
    )  # fmt: skip
    watcher = Watcher()

    run = conversation(Client(*messages)).ask("hello", 5, watcher)

    assert watcher.seen == ["I ", "I look.", "Bash", "Found"]
    assert run.interrupted
    assert run.text == "I look.\n\nFound"


def test_a_run_stopped_before_it_began_asks_the_model_nothing() -> None:
    made = conversation(Client())
    made._stop.set()

    run = made.ask("hello", 5)

    assert (run.text, run.final, run.interrupted) == ("", None, True)


def test_what_broke_off_in_its_first_block_is_said_once() -> None:
    broken = (begins("a"), spoken("The ans"), stream("message_stop"), retry(0.5, None))
    again = (begins("b"), spoken("The answer."), result(is_error=True, terminal_reason="aborted_streaming"))
    watcher = Watcher()

    run = conversation(Client(*broken, *again)).ask("hello", 5, watcher)

    assert run.text == "The answer."
    assert watcher.seen == ["The ans", "busy", "The answer."]


def test_an_answer_that_broke_off_after_a_block_is_whole_though_the_result_has_its_rest_alone() -> None:
    lost = block("x", "API Error: Connection lost mid-response.", error="server_error")
    first = (begins("a"), spoken("Look"), block("a", "Look."), ANSWERED, begins("b"), block("b", "One."), spoken("Tw"))
    rest = (lost, begins("c"), spoken("Two."), block("c", "Two."), ENDS, result(result="Two."))
    watcher = Watcher()

    run = conversation(Client(*first, *rest)).ask("hello", 5, watcher)

    assert run.text == "One.\n\nTwo."
    assert watcher.seen[-1] == "One.\n\nTwo."


def test_an_answer_that_came_without_a_stream_takes_the_place_of_what_broke_off() -> None:
    messages = (begins("a"), spoken("The ans"), stream("message_stop"), block("b", "The answer."))

    run = conversation(Client(*messages, result(result="The answer."))).ask("hello", 5)

    assert run.text == "The answer."


def test_an_answer_of_two_blocks_is_whole() -> None:
    messages = (begins("a"), block("a", "One, "), block("a", "two."), ENDS, result(result="two."))

    assert conversation(Client(*messages)).ask("hello", 5).text == "One, two."


SAID = (begins("a"), block("a", "I look."), TOOL, ENDS, ANSWERED, begins("b"), block("b", "Found."), ENDS)
REFUSED = result(is_error=True, terminal_reason="api_error", api_error_status=402, result="API Error: 402")


def spending(refused: bool = False, cost_usd: float = 0.0, budget_usd: float = 1.0) -> Spending:
    made = Spending(None, "s", "t", 1, "m")  # type: ignore[arg-type]
    made._requests["request"] = Spent(cost_usd)
    made.refused, made.budget_usd = refused, budget_usd
    return made


def test_a_run_that_came_to_its_limit_of_model_calls_keeps_all_it_said() -> None:
    run = conversation(Client(*SAID, result(subtype="error_max_turns", is_error=True, errors=["limit"]))).ask("a", 5)

    assert (run.ended, run.text) == ("max_turns", "I look.\n\nFound.")


@pytest.mark.parametrize(
    ("paid", "final"),
    [(spending(refused=True), REFUSED), (spending(cost_usd=1.0), result(result="Found."))],
    ids=["a request was refused", "the last request spent it"],
)
def test_a_run_that_spent_its_budget_keeps_all_it_said(paid: Spending, final: ResultMessage) -> None:
    run = conversation(Client(*SAID, final)).ask("hello", 5, spending=paid)

    assert (run.ended, run.text) == ("budget", "I look.\n\nFound.")


def test_a_run_that_was_stopped_or_waits_for_a_person_did_not_come_to_its_budget() -> None:
    stopped = result(is_error=True, terminal_reason="aborted_streaming")
    waits = result(deferred_tool_use=DeferredToolUse(id="t", name="Bash", input={}))

    for final in (stopped, waits):
        assert conversation(Client(*SAID, final)).ask("a", 5, spending=spending(cost_usd=1.0)).ended is None


@pytest.mark.parametrize(
    ("status", "seconds", "error"),
    [(429, 61, ModelThrottled), (None, 61, ModelUnavailable), (403, 0.5, ModelAccessDenied)],
)
def test_a_model_that_asks_for_too_much_patience_ends_the_run_under_its_name(
    status: int | None, seconds: float, error: type[StepgramError]
) -> None:
    client = Client(
        retry(seconds, status),
        silent=True,
        ends_with=result(is_error=True, terminal_reason="aborted_streaming"),
    )
    made = conversation(client)

    with pytest.raises(error, match=r"MODEL_BUSY_SECONDS|why"):
        made.ask("hello", 5)


def test_patience_is_for_each_request_anew() -> None:
    waits = (retry(40, 429), begins("a"), block("a", "Looking."), ENDS, ANSWERED, retry(40, 429), begins("b"))

    run = conversation(Client(*waits, block("b", "Found."), ENDS, result(result="Found."))).ask("hello", 5)

    assert run.text == "Found."


def test_an_error_of_the_endpoints_in_the_middle_of_an_answer_asks_for_its_rest() -> None:
    failed = result(is_error=True, terminal_reason="api_error", result="API Error: throttled")
    cut = stream("message_delta", delta={"stop_reason": None})
    client = Client(begins("a"), block("a", "One."), block("x", "API Error", error="unknown"), cut, failed)
    client.then = (begins("b"), block("b", "Two."), ENDS, result(result="Two."))

    assert conversation(client).ask("hello", 5).text == "One.\n\nTwo."


def test_an_answer_that_breaks_off_again_and_again_is_given_up() -> None:
    failed = result(is_error=True, terminal_reason="api_error", result="API Error: throttled")
    client = Client(begins("a"), block("a", "One."), failed)
    client.then = (failed,)

    with pytest.raises(ModelUnavailable, match="throttled"):
        conversation(client).ask("hello", 5)
    assert client.asked == 4


@pytest.mark.parametrize(
    ("environment", "left"),
    [
        ({"AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9001"}, []),
        ({"STEPGRAM_OWN_TMP": "this"}, []),
        ({"STEPGRAM_OWN_TMP": "/tmp"}, ["somebody's"]),
        ({}, ["somebody's"]),
    ],
)
def test_only_a_tmp_that_is_the_containers_own_is_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], left: list[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("functions.agent.container.TMP", tmp_path)
    monkeypatch.setattr("functions.agent.container.ROOT", tmp_path / "stepgram")
    for name, value in environment.items():
        monkeypatch.setenv(name, str(tmp_path) if value == "this" else value)
    (tmp_path / "somebody's").touch()
    (tmp_path / "stepgram" / "session").mkdir(parents=True)

    clean()

    assert os.listdir(tmp_path) == left


def test_a_folder_that_cannot_be_made_ends_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("functions.agent.container.clean", lambda: None)
    (tmp_path / "stepgram").touch()

    with pytest.raises(NotCleaned, match="Not a directory"):
        fresh_folders(tmp_path / "stepgram" / "session")


@pytest.mark.parametrize("what", ["nothing", "link", "pipe"])
def test_what_the_agent_put_in_the_logs_place_is_not_read(tmp_path: Path, what: str) -> None:
    (tmp_path / "secret").write_text("secret")
    made = conversation(Client())
    made._debug, made._debug_sent = tmp_path / "debug.txt", 0
    if what == "link":
        made._debug.symlink_to("secret")
    elif what == "pipe":
        os.mkfifo(made._debug)

    assert made._debug_log() == b""


def test_of_a_long_log_the_end_is_kept_once(tmp_path: Path) -> None:
    made = conversation(Client())
    made._debug, made._debug_sent = tmp_path / "debug.txt", 0
    made._debug.write_bytes(b"x" * DEBUG_BYTES + b"end")

    assert (len(made._debug_log()), made._debug_log()) == (DEBUG_BYTES, b"")
    with made._debug.open("ab") as log:
        log.write(b"more")
    assert made._debug_log() == b"more"
