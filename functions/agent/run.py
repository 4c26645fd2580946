"""How a run of the CLI ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from claude_agent_sdk import DeferredToolUse, ResultError, ResultMessage

from functions.agent.model.spending import Spending
from functions.common.errors import AgentCrashed, model_error

MAX_TURNS = "error_max_turns"
"""The result of a run that came to its limit of model calls."""


@dataclass(frozen=True)
class Run:
    """How one run of the CLI ended: `text` is the answer, or all that was said when it ended before its answer.

    `final` is absent when it was stopped before it began. `waiting` is a tool call that waits for a person. `ended` is
    the limit it came to, which is no failure: of model calls, or of money.
    """

    text: str
    final: ResultMessage | None = None
    interrupted: bool = False
    waiting: DeferredToolUse | None = None
    ended: Literal["max_turns", "budget"] | None = None


def ended(final: ResultMessage, interrupted: bool, spending: Spending | None) -> Literal["max_turns", "budget"] | None:
    """The limit a run came to: a request was refused for it, or its last one, which was answered, spent the budget."""
    if final.subtype == MAX_TURNS:
        return "max_turns"
    if spending is None or interrupted or final.deferred_tool_use is not None:
        return None
    return "budget" if spending.refused or (spending.is_over and not final.is_error) else None


def named(failed: ResultError | ResultMessage) -> Exception:
    """The error's name in the workflow, from what the CLI says of a failed run."""
    if failed.api_error_status is not None or failed.terminal_reason == "api_error":
        return model_error(failed.api_error_status, str(failed.result or failed.subtype))
    return AgentCrashed(f"{failed.subtype}: {'; '.join(failed.errors or [])}")
