"""A failure explained: which state, what error, what was done already, and what running the turn again will do."""

from __future__ import annotations

import json
from dataclasses import dataclass

from functions.common.errors import NEXT, WHERE, remedy_of
from functions.conversation.sessions import SessionTable, TurnRecord, answer_messages
from stepgram.operators.executions import ExecutionDetail, failure_route
from stepgram.operators.stack import Stack


@dataclass(frozen=True)
class Explanation:
    """Why a turn failed, for people. `retries` were spent on the state; `remedy` is the next step.

    `committed`: the conversation is at this turn's version. `delivered`: `nothing`, `a part` or `everything` of the
    answer is in the chat. `rerun` says what a rerun does.
    """

    state: str
    error: str
    cause: str
    retries: int
    committed: bool
    delivered: str
    rerun: str
    remedy: str


def explain(stack: Stack, found: ExecutionDetail) -> Explanation | None:
    """The explanation of an ended turn that did not succeed; None for every other."""
    failed = found.failed_state
    if failed is None:
        return None
    given = found.input if isinstance(found.input, dict) else {}
    table = SessionTable(stack.outputs["SessionTable"], stack.client("dynamodb"))
    key, turn = str(given.get("session_key") or "-"), str(given.get("turn_id") or found.name)
    record = table.turn(key, turn)
    pointer = table.pointer(key)
    error = found.error or failed.error or found.status
    return Explanation(
        state=failed.name,
        error=error,
        cause=(found.cause or failed.cause or "").partition(WHERE)[0].partition(NEXT)[0],
        retries=max(failed.tries - 1, 0),
        committed=record.committed,
        delivered=_delivered(record),
        rerun=_rerun(found, record, pointer.manifest if pointer else None),
        remedy=remedy_of(error),
    )


def _delivered(record: TurnRecord) -> str:
    if record.answered:
        return "everything"
    return "a part" if answer_messages(record.delivered) else "nothing"


def _rerun(found: ExecutionDetail, record: TurnRecord, manifest: str | None) -> str:
    """What a redrive does, from what is stored and where the execution stands; `manifest` is the conversation's."""
    if found.not_redrivable is not None:
        return f"It cannot be redriven ({found.not_redrivable}); from the start it becomes a new execution."
    last = found.states[-1].name if found.states else ""
    route = failure_route(found.definition)
    where = json.loads(found.definition)["States"][last]["Next"] if route and last == route[-1] else last
    return f"It goes on at {where}. {_then(found, record, manifest)}"


def _then(found: ExecutionDetail, record: TurnRecord, manifest: str | None) -> str:
    if record.answered:
        return "The whole answer is in the chat: nothing is sent again."
    if _delivered(record) == "a part":
        return "The answer goes on at the first part that is not in the chat; the model is not asked again."
    if record.committed or _has_answer(found, manifest):
        return "The agent's answer is stored: it is sent, and the model is not asked again."
    return "The agent runs, and the model is asked: no answer to go on with is stored."


def _has_answer(found: ExecutionDetail, manifest: str | None) -> bool:
    """Whether a run of the agent ended with an answer that goes on from where the conversation still is."""
    outputs = [state.output for attempt in found.attempts for state in attempt if isinstance(state.output, dict)]
    return any(
        (output.get("run") or {}).get("status") == "done" and output["session"].get("manifest") == manifest
        for output in outputs
    )
