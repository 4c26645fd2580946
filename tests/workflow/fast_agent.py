"""The agent's function without the CLI: all around the run is real (claim, snapshot, result, hand-in)."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from claude_agent_sdk import DeferredToolUse, ResultMessage

from functions.agent import handler
from functions.agent.conversation import Conversation
from functions.agent.inbox import Prompt
from functions.agent.model.metering import Spent
from functions.agent.model.spending import Spending
from functions.agent.reporter import Watch
from functions.agent.run import Run
from functions.agent.store import RestoredStore
from functions.conversation.files.documents import Manifest
from functions.conversation.files.workspace import Workspace
from stepgram.embedded.stack import EmbeddedStack

ASKS, SLOW = "!asks", "!slow"
"""Messages it treats as what they say: it asks for approval, or takes a while and can be stopped."""

SLOW_SECONDS = 0.4
COST_USD = 0.001
"""What each of its runs costs."""


def answer_to(text: str) -> str:
    return f"Answer to: {text}"


class FastConversation(Conversation):
    """One entry in the transcript, one line of answer; no process, and nothing is kept open."""

    def __init__(self, request: Any, settings: Any, snapshots: Any, earlier: Any) -> None:
        self.session_id, self.manifest = request.session.session_id, request.session.going_on
        self.snapshots = snapshots
        self._stopped = threading.Event()
        self.started = time.time()
        self.base = snapshots.read(self.manifest, Manifest) if self.manifest else None
        self.store = RestoredStore(snapshots, self.session_id, self.base)
        self.folder = tempfile.TemporaryDirectory()
        self.workspace = Workspace(Path(self.folder.name), snapshots, self.session_id)

    def ask(
        self, text: Prompt | None, seconds: float, watch: Watch | None = None, spending: Spending | None = None
    ) -> Run:
        if spending is not None:
            spending._requests["request"] = Spent(COST_USD, 1, 1)  # told, its record would be written meanwhile
        if text == SLOW and self._stopped.wait(SLOW_SECONDS):
            return Run("so far", interrupted=True)
        key = {"project_key": "fast", "session_id": self.session_id}
        asyncio.run(self.store.append(key, [{"uuid": str(uuid.uuid4()), "text": text}]))
        final = ResultMessage("success", 0, 0, False, 1, self.session_id, result=answer_to(str(text)))
        waiting = DeferredToolUse(id="call", name="Glob", input={"pattern": "*"}) if text == ASKS else None
        return Run(answer_to(str(text)), final, waiting=waiting)

    def stop(self) -> None:
        """End a slow answer."""
        self._stopped.set()

    @property
    def stopping(self) -> bool:
        """It is not kept open anyway."""
        return True

    def settle(self) -> None:
        """There are no processes, and those of the tests stay."""

    def _debug_log(self) -> bytes:
        return b""

    def close(self) -> None:
        self.folder.cleanup()


@contextmanager
def fast_agent(stack: EmbeddedStack) -> Iterator[None]:
    """The stack with this agent instead of the CLI's process."""
    opened, kept, specs = handler._open, handler._keep_or_close, stack.functions.specs
    spec = specs["stepgram-AgentFunction"]
    handler._open = FastConversation  # type: ignore[assignment]
    handler._keep_or_close = lambda conversation, settings, summary: conversation.close()
    specs[spec.name] = replace(spec, is_image=False)
    try:
        yield
    finally:
        handler._open, handler._keep_or_close = opened, kept
        specs[spec.name] = spec
