"""What the agent's function makes of the SDK's messages; the SDK itself is in the workflow tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from claude_agent_sdk import AssistantMessage, MirrorErrorMessage, ResultMessage, StreamEvent, ToolUseBlock

from functions.agent.conversation import Conversation
from functions.common.errors import AgentCrashed, AgentTimedOut, ModelRejected, ModelThrottled, StepgramError


class Client:
    """Plays one run: the messages, or silence."""

    def __init__(self, *messages: Any, silent: bool = False) -> None:
        self._messages, self._silent = messages, silent

    async def query(self, text: str) -> None:
        pass

    async def interrupt(self) -> None:
        pass

    async def receive_response(self) -> AsyncIterator[Any]:
        for message in self._messages:
            yield message
        if self._silent:
            await asyncio.Event().wait()


def conversation(client: Client) -> Conversation:
    made = Conversation.__new__(Conversation)
    made._client = client  # type: ignore[assignment]
    made._stop = asyncio.Event()
    made._stderr, made._spent_usd, made.run_usd = ["last words"], 1.0, 0.0
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
        ({"subtype": "error_max_budget_usd", "errors": ["spent"]}, ModelRejected),
        ({"subtype": "error_during_execution", "errors": ["boom"]}, AgentCrashed),
    ],
)
def test_a_failed_result_has_its_name(fields: dict[str, Any], error: type[StepgramError]) -> None:
    with pytest.raises(error):
        conversation(Client(result(is_error=True, **fields))).ask("hello", 5)


def test_costs_are_differences_and_never_negative() -> None:
    made = conversation(Client(result(total_cost_usd=1.25)))

    assert made.ask("hello", 5).cost_usd == 0.25
    made._client = Client(result(total_cost_usd=0.5))  # type: ignore[assignment]
    assert made.ask("again", 5).cost_usd == 0.0
    assert made.run_usd == 0.25


class Watcher:
    """Notes what it sees."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def said(self, text: str) -> None:
        self.seen.append(text)

    def uses(self, name: str, arguments: dict[str, Any]) -> None:
        self.seen.append(name)


def stream(kind: str, parent: str | None = None, **event: Any) -> StreamEvent:
    return StreamEvent(uuid="u", session_id="s", event={"type": kind, **event}, parent_tool_use_id=parent)


def spoken(text: str, parent: str | None = None) -> StreamEvent:
    return stream("content_block_delta", parent, delta={"type": "text_delta", "text": text})


def test_what_the_agent_says_and_does_is_seen_and_an_interrupted_run_keeps_it() -> None:
    tool = AssistantMessage(content=[ToolUseBlock(id="t", name="Bash", input={"command": "ls"})], model="m")
    messages = (
        stream("message_start"), spoken("I "), spoken("look."), spoken("hidden", "subagent"), tool,
        stream("message_start"), spoken("Found"), result(is_error=True, terminal_reason="aborted_streaming"),
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
