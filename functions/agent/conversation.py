"""One conversation in this container: its folders, its transcript and its CLI process, for one turn or several.

The container is treated as hostile, since a prompt can make it run anything: folders are fresh and gone afterwards, no
process outlives the conversation, and its store reaches only the session's own objects. A conversation may be kept
open: a later turn of the *same* session that goes on from the version it is at finds all of it in place.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncIterator, Coroutine
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from claude_agent_sdk import (
    AssistantMessage,
    ClaudeSDKClient,
    ClaudeSDKError,
    CLIConnectionError,
    MirrorErrorMessage,
    ProcessError,
    ResultError,
    ResultMessage,
    StreamEvent,
    SystemMessage,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage,
    project_key_for_directory,
)

from functions.agent.container import ROOM, ROOT, SOCKET, TMP, clean, fresh_folders, limits
from functions.agent.inbox import Prompt
from functions.agent.model.endpoint import Endpoint
from functions.agent.model.patience import Patience
from functions.agent.model.spending import Spending
from functions.agent.options import Approval, agent_options, cli_environment, configured_models
from functions.agent.processes import Process, StillRunning, below, end_leftovers
from functions.agent.reporter import Silent, Watch
from functions.agent.run import Run, ended, named
from functions.agent.settings import AgentSettings
from functions.agent.speech import Speech
from functions.agent.store import RestoredStore
from functions.common.errors import AgentCrashed, AgentTimedOut, ModelError
from functions.common.folders import open_file, opened
from functions.common.observability import logger
from functions.conversation.files.documents import Manifest, session_prefix
from functions.conversation.files.snapshots import Snapshots
from functions.conversation.files.versions import debug_key
from functions.conversation.files.workspace import Captured, Workspace

WORDS_SECONDS, WORDS_LOOKS = 2.0, 20
"""How long, and how often, a refusal's words are looked for in the CLI's log."""

INTERRUPT_SECONDS = 4.0
"""How long the CLI may take to end a run that was interrupted; it takes some 20 ms."""

API_ERROR = re.compile(rb"\[ERROR\] API error \(attempt [^)]*\): (?:\d+ )?(.*)")
"""The line of the CLI's debug log with the endpoint's words, which its messages lack (seen with CLI 2.1.329)."""

BROKE_OFF = (
    "Your response above was cut off mid-stream. Resume directly from where it stops - no apology, no recap. "
    "The user sees nothing of this message."
)
"""After a broken connection the CLI itself asks so. An error that Bedrock ends a stream with, after a complete block,
ends the CLI's run (seen with 2.1.329): then it is asked from here, and the next run goes on where that one was."""

BROKE_OFF_TIMES = 3

Result = TypeVar("Result")

STDERR_LINES = 20
DEBUG_BYTES, DEBUG_TAIL_BYTES = 1024 * 1024, 16 * 1024


class Conversation:
    """A session's CLI process, going on from the snapshot `manifest` (None: a new session). Close it after use."""

    def __init__(
        self,
        settings: AgentSettings,
        snapshots: Snapshots,
        session_id: str,
        manifest: str | None,
        approval: Approval = Approval(),  # noqa: B008 - frozen
    ) -> None:
        self.session_id = session_id
        self.manifest = manifest
        self.snapshots = snapshots
        self.approval = approval
        self.model = settings.model
        self.busy_seconds = settings.model_busy_seconds
        self.started = time.time()
        self.rested = self.started
        self.base = snapshots.read(manifest, Manifest) if manifest else None
        self._stderr: list[str] = []
        self._root = ROOT / session_id
        folders = fresh_folders(self._root)
        tempfile.tempdir = str(folders.scratch)
        self._debug, self._debug_sent = folders.debug, 0
        self.workspace = Workspace(folders.workspace, snapshots, session_id, limits(settings))
        self.store = RestoredStore(snapshots, session_id, self.base)
        with contextlib.ExitStack() as undo:
            undo.callback(clean)
            try:
                self.workspace.restore(self.base.tree if self.base else None)
                self.store.restore(folders.config, project_key_for_directory(folders.workspace))
            except OSError as error:
                raise AgentCrashed(f"the session's files cannot be put into the container: {error}") from error
            self._endpoint = Endpoint(settings, configured_models(settings))
            undo.callback(self._endpoint.close)
            cli = cli_environment(settings, self._endpoint.url, os.environ, folders, uuid.uuid4().hex[:8])
            options = agent_options(
                settings,
                cli,
                folders,
                session_id,
                not self._has_transcript,
                self.store,
                self._stderr.append,
                approval,
            )
            undo.pop_all()
        self._client = ClaudeSDKClient(options)
        self._stop = asyncio.Event()
        self.process: Process | None = None
        self.unsettled = False
        try:
            self._do(self._client.connect())
        except (ClaudeSDKError, RuntimeError):
            self.close()
            raise
        self.process = next(iter(below(os.getpid())), None)

    def ask(
        self, text: Prompt | None, seconds: float, watch: Watch | None = None, spending: Spending | None = None
    ) -> Run:
        """Give the agent a message and wait for the end of its run; it is interrupted after `seconds` or by `stop`.

        Without a message it goes on with the tool call that was decided. `spending` pays, and has the budget; without
        it the model is not reached.

        Raises AgentCrashed, AgentTimedOut, ModelThrottled, ModelUnavailable, ModelAccessDenied, ModelRejected.
        """
        self._speech = Speech()
        self._patience = Patience(self.busy_seconds)
        self._given_up: ModelError | None = None
        self._resumed = 0
        try:
            with self._endpoint.serving(spending):
                final = self._do(self._ask(text, seconds, watch or Silent()))
        except ResultError as error:
            raise named(error) from error
        except (ProcessError, CLIConnectionError) as error:
            raise AgentCrashed(f"{error}; {' | '.join(self._stderr[-STDERR_LINES:])}") from error
        if final is None:
            return Run("", interrupted=True)
        interrupted = (final.terminal_reason or "").startswith("aborted")
        limit = ended(final, interrupted, spending)
        if self._given_up is not None and final.is_error and not self.stopping:
            raise self._given_up
        if final.is_error and not interrupted and limit is None:
            raise named(final)
        if final.deferred_tool_use is not None:
            self.store.ends_with(final.deferred_tool_use.id)
        whole = interrupted or limit is not None or final.deferred_tool_use is not None
        said = self._speech.everything if whole else self._speech.passage or final.result or ""
        return Run(said, final, interrupted, final.deferred_tool_use, limit)

    def stop(self) -> None:
        """Interrupt the run, or the one that is about to begin. From any thread."""
        _loop().call_soon_threadsafe(self._stop.set)

    def stage(self, turn_id: str, version: int, parent: str | None, cost_usd: float) -> Captured:
        """Upload what this turn changed and a candidate manifest, which becomes `self.manifest`.

        `cost_usd` is of the turn. Nothing of it can be seen before Persist moves the pointer.
        """
        self.settle()
        name = f"{version}-{uuid.uuid4().hex[:8]}"
        captured = self.workspace.capture()
        self.base = Manifest(
            session_id=self.session_id,
            version=version,
            turn_id=turn_id,
            parent=parent,
            cost_usd=round((self.base.cost_usd if self.base else 0.0) + cost_usd, 6),
            segments=self.store.stage(name),
            tree=captured.tree,
        )
        self.manifest = f"{session_prefix(self.session_id)}manifests/{name}.json"
        self.snapshots.write(self.manifest, self.base)
        self.snapshots.put(debug_key(self.session_id, turn_id), self._debug_log(), "text/plain")
        return captured

    def may_go_on(self, settings: AgentSettings) -> bool:
        """Whether it is young enough, and its last turn not long ago.

        Lambda freezes the container between turns. The CLI's connection to the model is dead after a while (many
        servers and load balancers forget one after a minute), and the CLI hears nothing of it and waits. By wall time,
        since the monotonic clock may stand still meanwhile; one that was set back says nothing.
        """
        now = time.time()
        young = 0 <= now - self.started < settings.keep_open_seconds
        return young and 0 <= now - self.rested < settings.keep_open_idle_seconds

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called; such a conversation takes no further message."""
        return self._stop.is_set()

    @property
    def _has_transcript(self) -> bool:
        """Whether there is something to resume; a turn stopped before it began leaves nothing."""
        return self.base is not None and any(not segment.subpath for segment in self.base.segments)

    def settle(self) -> None:
        """End what tools left running, so that nothing changes while the workspace is read.

        What cannot be ended costs the container, not the answer: the conversation is `unsettled`, and is closed when
        the answer is kept. So is one that has filled the disk.
        """
        self.unsettled = shutil.disk_usage(TMP).free < ROOM
        try:
            end_leftovers(keep=self.process)
        except StillRunning as error:
            self.unsettled = True
            logger.error("the workspace is read while something runs", cause=str(error))

    def _debug_log(self) -> bytes:
        """What the CLI wrote into its debug log since the last time, the end of it when it is long."""
        with self._log() as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._debug_sent, size - DEBUG_BYTES))
            self._debug_sent = size
            return log.read(DEBUG_BYTES)

    def _log(self) -> BinaryIO:
        """The CLI's debug log, to be read; an empty one when the agent put something else in its place."""
        try:
            with opened(self._debug.parent) as here:
                return os.fdopen(open_file(self._debug.name, here), "rb")
        except OSError as error:
            logger.info("the CLI's log cannot be read", cause=str(error))
            return io.BytesIO()

    @property
    def memory(self) -> int:
        """Bytes the CLI process has in memory."""
        pages = Path(f"/proc/{self.process.id if self.process else 0}/statm")
        return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if pages.exists() else 0

    def close(self) -> None:
        """End the CLI and every process it left, and remove the files. What is worth keeping is staged already.

        Raises StillRunning when a process cannot be ended, NotCleaned when a file cannot be removed.
        """
        self._endpoint.close()
        try:
            if self.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.process.id, signal.SIGKILL)
            self._do(self._client.disconnect())
        finally:
            try:
                end_leftovers()
            finally:
                clean()
                if self.process is not None:
                    Path(SOCKET.format(user=os.getuid(), process=self.process.id)).unlink(missing_ok=True)

    async def _ask(self, text: Prompt | None, seconds: float, watch: Watch) -> ResultMessage | None:
        if self._stop.is_set():
            return None
        if text is not None:
            await self._client.query(text if isinstance(text, str) else _message(text))
        over = asyncio.Event()
        answer = asyncio.ensure_future(self._receive(watch, over))
        stop = asyncio.ensure_future(self._stop.wait())
        give_up = asyncio.ensure_future(over.wait())
        try:
            await asyncio.wait((answer, stop, give_up), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                logger.info("the agent is interrupted", stopped=stop.done(), gave_up=give_up.done())
                with contextlib.suppress(TimeoutError):  # a CLI that was made to hang hears nothing
                    await asyncio.wait_for(self._client.interrupt(), INTERRUPT_SECONDS)
                await asyncio.wait((answer,), timeout=INTERRUPT_SECONDS)
            if not answer.done():
                raise self._given_up or AgentTimedOut(
                    f"no answer within {seconds:.0f} seconds, and the agent could not be interrupted"
                )
            return answer.result()
        finally:
            for waited_for in (answer, stop, give_up):
                waited_for.cancel()

    async def _receive(self, watch: Watch, over: asyncio.Event) -> ResultMessage:
        """The run's result; `over` is set when the model has been busy for too long."""
        async for message in self._client.receive_response():
            if isinstance(message, MirrorErrorMessage):
                raise AgentCrashed(f"the transcript was not kept: {message.error}")
            if isinstance(message, ResultMessage):
                if not self._resumes(message):
                    return message
                await self._client.query(BROKE_OFF)
                return await self._receive(watch, over)
            if isinstance(message, SystemMessage) and message.subtype == "api_retry":
                watch.busy(True)
                self._given_up = self._patience.ends(message.data, self._endpoints_words(message))
                if self._given_up is not None:
                    await self._heard_words(message)
                    self._given_up = self._patience.ends(message.data, self._endpoints_words(message))
                    over.set()
            if isinstance(message, StreamEvent | AssistantMessage | UserMessage) and not message.parent_tool_use_id:
                self._hear(message, watch)
        raise AgentCrashed(f"the run ended without a result; {' | '.join(self._stderr[-STDERR_LINES:])}")

    def _resumes(self, final: ResultMessage) -> bool:
        """Whether the run ended by an error in the middle of an answer, and may go on from there."""
        broken = final.is_error and final.terminal_reason == "api_error" and final.api_error_status is None
        if not (broken and self._speech.broke_off and self._given_up is None and self._resumed < BROKE_OFF_TIMES):
            return False
        logger.info("the answer broke off and is asked for again", cause=str(final.result))
        self._resumed += 1
        return True

    def _hear(self, message: StreamEvent | AssistantMessage | UserMessage, watch: Watch) -> None:
        """What the agent itself says and does, subagents apart. An error the CLI tells of here is not the run's."""
        if isinstance(message, StreamEvent):
            self._hear_event(message.event, watch)
        elif isinstance(message, UserMessage):
            if isinstance(message.content, list) and any(isinstance(b, ToolResultBlock) for b in message.content):
                self._speech.ends()
        elif message.error is None:
            self._answered(watch)
            for block in message.content:
                if isinstance(block, TextBlock):
                    self._speech.block(message.message_id, block.text)
                elif isinstance(block, ToolUseBlock):
                    watch.uses(block.name, block.input)

    def _hear_event(self, event: dict[str, Any], watch: Watch) -> None:
        """One event of the model's stream, as the Messages API names them."""
        if event["type"] == "message_start":
            self._answered(watch)
            self._speech.begins(event["message"]["id"])
        elif event["type"] == "content_block_delta" and event["delta"]["type"] == "text_delta":
            self._speech.grows(event["delta"]["text"])
            watch.said(self._speech.passage)
        elif event["type"] == "message_delta" and event["delta"]["stop_reason"] is not None:
            self._speech.ends()

    def _answered(self, watch: Watch) -> None:
        self._patience.answered()
        watch.busy(False)

    async def _heard_words(self, retry: SystemMessage) -> None:
        """Wait a moment for the words of a refusal: the CLI's log may come after its message."""
        for _ in range(WORDS_LOOKS):
            if self._endpoints_words(retry) or not retry.data.get("error_status"):
                return
            await asyncio.sleep(WORDS_SECONDS / WORDS_LOOKS)

    def _endpoints_words(self, retry: SystemMessage) -> str:
        """What the model's endpoint said last in a refusal; empty when there is nothing, or was no answer."""
        if not retry.data.get("error_status"):
            return ""
        with self._log() as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - DEBUG_TAIL_BYTES))
            found = API_ERROR.findall(log.read())
        return found[-1].decode("utf-8", "replace").strip() if found else ""

    @staticmethod
    def _do(coroutine: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(coroutine, _loop()).result()


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """The event loop in which CLI processes live: a turn ends, a conversation may stay."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="conversations", daemon=True).start()
    return loop


async def _message(blocks: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    """A user's message of several blocks, as the CLI reads it."""
    yield {"type": "user", "message": {"role": "user", "content": blocks}, "parent_tool_use_id": None}
