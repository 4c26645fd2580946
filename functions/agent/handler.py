"""RunAgent: one run of the Claude agent for one turn, in this container and nowhere else.

The container is treated as hostile, since a prompt can make it run anything: it has no Telegram token and no rights
in DynamoDB, and its folders are fresh for every run and gone afterwards.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from claude_agent_sdk import (
    CLIConnectionError,
    MirrorErrorMessage,
    ProcessError,
    ResultError,
    ResultMessage,
    query,
)
from pydantic import BaseModel

from functions.agent.claim import RunClaim
from functions.agent.options import Folders, agent_options, cli_environment
from functions.agent.store import SnapshotStore
from functions.common import aws
from functions.common.errors import AgentCrashed, AgentTimedOut, ModelRejected, SnapshotMissing, model_error
from functions.common.execution import redrive_count
from functions.common.lock import Held
from functions.common.observability import StepRequest, logger, parse
from functions.common.settings import AgentSettings, environment
from functions.common.snapshots import Manifest, OutboxFile, RunResult, RunSummary, Snapshots, turn_prefix

CLOSING_SECONDS = 10.0
"""The CLI takes 5 s to close; the run ends so long before Lambda's deadline."""

PREVIEW_CHARACTERS = 200
WORKSPACE = Path(tempfile.gettempdir()) / "stepgram"
STDERR_LINES = 20


class SessionState(BaseModel):
    """The session as Hydrate found it."""

    session_id: str
    version: int
    manifest: str | None


class Request(StepRequest):
    """The message, the session to continue, and the lock under which it is continued (`$$.Execution` checks it)."""

    text: str
    session: SessionState
    lock: Held
    execution: dict[str, Any]


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Run the agent once for this turn; a result it already has is returned as it is."""
    request = parse(Request, event)
    settings = AgentSettings.load()
    keys = {"turn_id": request.turn_id, "session_key": request.session_key, "state": request.state}
    logger.thread_safe_append_keys(**keys, session_id=request.session.session_id)
    try:
        request.lock.check(redrive_count(request.execution))
        return run_once(request, settings, context.get_remaining_time_in_millis() / 1000).model_dump(mode="json")
    finally:
        logger.thread_safe_clear_keys()


def run_once(request: Request, settings: AgentSettings, seconds: float) -> RunSummary:
    """The stored result of this turn, or that of a run made now under a claim; `seconds` are left to Lambda's end."""
    s3 = aws.s3()
    snapshots = Snapshots(settings.bucket, s3)
    folder = turn_prefix(request.session.session_id, request.turn_id)
    run_id = uuid.uuid4().hex[:8]
    with RunClaim(s3, settings.bucket, f"{folder}claim.json", run_id):
        stored = stored_result(snapshots, f"{folder}result.json")
        if stored is not None and stored.base_version == request.session.version:
            logger.info("the stored result is returned")
            return stored.summary
        started = time.monotonic()
        folders = _fresh_folders(request.session.session_id)
        try:
            result = _run(request, settings, snapshots, folders, run_id, seconds - CLOSING_SECONDS, started)
        finally:
            shutil.rmtree(folders.home.parent, ignore_errors=True)
        snapshots.write(result.summary.result, result)
        return result.summary


def stored_result(snapshots: Snapshots, key: str) -> RunResult | None:
    """The result an earlier run of this turn left, if one did."""
    try:
        return snapshots.read(key, RunResult)
    except SnapshotMissing:
        return None


def _fresh_folders(session_id: str) -> Folders:
    """Empty folders. The workspace's path is the same in every container: the CLI's transcript key comes from it."""
    root = WORKSPACE / session_id
    shutil.rmtree(root, ignore_errors=True)
    folders = Folders(
        home=root / "home", config=root / "config", workspace=root / "workspace", scratch=root / "scratch"
    )
    for folder in (folders.home, folders.config, folders.workspace, folders.scratch):
        folder.mkdir(parents=True)
    return folders


def _run(
    request: Request,
    settings: AgentSettings,
    snapshots: Snapshots,
    folders: Folders,
    run_id: str,
    seconds: float,
    started: float,
) -> RunResult:
    session = request.session
    base = snapshots.read(session.manifest, Manifest) if session.manifest else None
    store = SnapshotStore(snapshots, session.session_id, base)
    own: Mapping[str, str] = environment()
    cli = cli_environment(settings, own, os.environ, folders, request.turn_id, run_id)
    stderr: list[str] = []
    options = agent_options(settings, cli, folders, session.session_id, base is None, store, stderr.append)
    try:
        final = asyncio.run(_ask(request.text, options, seconds))
    except TimeoutError as error:
        raise AgentTimedOut(f"no answer within {seconds:.0f} seconds") from error
    except ResultError as error:
        raise _named(error) from error
    except (ProcessError, CLIConnectionError) as error:
        raise AgentCrashed(f"{error}; {' | '.join(stderr[-STDERR_LINES:])}") from error
    folder = turn_prefix(session.session_id, request.turn_id)
    files = _outbox(snapshots, folders.workspace / "outbox", f"{folder}outbox/")
    text = final.result or ""
    spent = final.total_cost_usd or 0.0
    manifest = store.stage(request.turn_id, run_id, session.manifest, spent)
    usage = final.usage or {}
    summary = RunSummary(
        status="done",
        result=f"{folder}result.json",
        manifest=manifest,
        preview=text[:PREVIEW_CHARACTERS],
        characters=len(text),
        cost_usd=round(max(0.0, spent - (base.cost_usd if base else 0.0)), 6),
        session_cost_usd=round(spent, 6),
        input_tokens=sum(int(usage.get(k) or 0) for k in usage if k.endswith("input_tokens")),
        output_tokens=int(usage.get("output_tokens") or 0),
        model_turns=final.num_turns,
        model=settings.model,
        seconds=round(time.monotonic() - started, 2),
    )
    return RunResult(base_version=session.version, summary=summary, text=text, files=files)


async def _ask(text: str, options: Any, seconds: float) -> ResultMessage:
    """Drain the run to its end: transcript entries follow the ResultMessage."""
    final: ResultMessage | None = None
    async with asyncio.timeout(seconds):
        async for message in query(prompt=text, options=options):
            if isinstance(message, MirrorErrorMessage):
                raise AgentCrashed(f"the transcript was not kept: {message.error}")
            if isinstance(message, ResultMessage):
                final = message
    if final is None:
        raise AgentCrashed("the run ended without a result")
    return final


def _named(error: ResultError) -> Exception:
    """The error's name in the workflow, from what the CLI says of it."""
    if error.api_error_status is not None or error.terminal_reason == "api_error":
        return model_error(error.api_error_status, str(error.result or error))
    if error.subtype in ("error_max_turns", "error_max_budget_usd"):
        return ModelRejected(f"{error.subtype}: {'; '.join(error.errors or [])}")
    return AgentCrashed(f"{error.subtype}: {'; '.join(error.errors or [])}")


def _outbox(snapshots: Snapshots, folder: Path, prefix: str) -> tuple[OutboxFile, ...]:
    """Keep the files of the workspace's outbox; a link is not followed, since it may point anywhere."""
    files = []
    for path in sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []:
        if path.is_symlink() or not path.is_file():
            continue
        content = path.read_bytes()
        snapshots.put(prefix + path.name, content, "application/octet-stream")
        files.append(OutboxFile(key=prefix + path.name, name=path.name, size=len(content)))
    return tuple(files)
