"""The agent's function without the CLI: everything around the run is real (claim, stored result, store, lock check)."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from functions.agent import handler
from functions.agent.store import SnapshotStore
from functions.common.snapshots import Manifest, RunResult, RunSummary, turn_prefix
from stepgram.embedded.stack import EmbeddedStack


def answer_to(text: str) -> str:
    return f"Answer to: {text}"


def run(request: Any, settings: Any, snapshots: Any, folders: Any, run_id: str, seconds: float, started: float) -> Any:
    """In place of `handler._run`: one entry in the transcript, one line of answer."""
    session = request.session
    base = snapshots.read(session.manifest, Manifest) if session.manifest else None
    store = SnapshotStore(snapshots, session.session_id, base)
    key = {"project_key": "fast", "session_id": session.session_id}
    asyncio.run(store.append(key, [{"uuid": str(uuid.uuid4()), "text": request.text}]))
    text = answer_to(request.text)
    summary = RunSummary(
        status="done",
        result=f"{turn_prefix(session.session_id, request.turn_id)}result.json",
        manifest=store.stage(request.turn_id, run_id, session.manifest, 0.0),
        preview=text[:200],
        characters=len(text),
        cost_usd=0.0,
        session_cost_usd=0.0,
        input_tokens=1,
        output_tokens=1,
        model_turns=1,
        model="fast",
        seconds=0.0,
    )
    return RunResult(base_version=session.version, summary=summary, text=text)


@contextmanager
def fast_agent(stack: EmbeddedStack) -> Iterator[None]:
    """The stack with this agent instead of the CLI's process."""
    original, specs = handler._run, stack.functions._specs
    spec = specs["stepgram-AgentFunction"]
    handler._run = run
    specs[spec.name] = replace(spec, is_image=False)
    try:
        yield
    finally:
        handler._run = original
        specs[spec.name] = spec
