"""Messages and what happens then: write, listen, stop, decide, run again."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, HTTPException, Path, Query, Request
from pydantic import BaseModel, Field
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from functions.common import aws
from functions.common.envelope import conversation_of
from functions.common.errors import BadInput, SnapshotMissing
from functions.common.settings import TableSettings
from functions.conversation.admission import Admission
from functions.conversation.approvals import BUTTONS, Choice
from functions.conversation.lock_table import LockTable
from functions.conversation.sessions import NOTICE
from functions.web.asking import Body, Mine, Outcome, Signed, conversations, entrance, session_table
from functions.web.channel import Press, snapshots
from functions.web.channel import events as events_of_stack
from functions.web.conversations import Conversation
from functions.web.entrance import EntranceSettings
from functions.web.events import EVENT, Answered, Asked, Event

router = APIRouter(tags=["turns"])

PING_SECONDS, LOOK_SECONDS = 15, 0.25
"""Between two comments that keep a stream open, and between two looks for what is new."""


class Written(Body):
    """A message. `id` is the client's own: sent twice, it is one turn."""

    id: str = Field(pattern=r"^[0-9A-Za-z]{1,40}$")
    text: str = Field(min_length=1, max_length=150_000)


class Decision(Body):
    """What is decided of the question that part `number` of a turn asked."""

    turn_id: str = Field(max_length=80)
    number: int = Field(ge=0, le=1000)
    choice: Choice


class Accepted(BaseModel):
    """A message is safe: its turn's execution, and whether it started, waits as an answer, or was there already."""

    execution: str
    outcome: str


class Status(BaseModel):
    """Where a conversation stands: the turn at work, those that wait, the question that is open, its version."""

    turn: str | None
    waiting: list[str]
    question: str | None
    version: int


@router.post("/sessions/{session_id}/messages", status_code=202)
def write(person: Signed, one: Mine, body: Written) -> Accepted:
    """Write a message: 202 when its turn exists."""
    settings = EntranceSettings.load()
    with aws.translated():
        if settings.messages_per_minute:
            admission = Admission(settings.table, aws.dynamodb())
            number = int.from_bytes(body.id.encode()) % 10**36
            if admission.count(person.id, number) > settings.messages_per_minute:
                raise HTTPException(429, "too many messages in this minute", {"retry-after": "60"})
        if not conversations().use(one):
            raise HTTPException(404, "there is no such conversation")
    execution, outcome = entrance(person, one).message(body.id, body.text)
    return Accepted(execution=execution, outcome=outcome)


@router.get("/sessions/{session_id}/events", response_class=EventSourceResponse)
async def events(
    request: Request,
    one: Mine,
    after: Annotated[int, Query(ge=0)] = 0,
    last_event_id: Annotated[int | None, Header(ge=0)] = None,
) -> EventSourceResponse:
    """What happens, from the event after `Last-Event-ID` (or `after`) on, for as long as somebody listens."""
    table = events_of_stack()
    last = max(after, last_event_id or 0)

    async def happening() -> AsyncIterator[ServerSentEvent]:
        number = last
        while not await request.is_disconnected():
            found = await run_in_threadpool(table.after, one.place.session_key, number)
            for event in found:
                number = event.number
                data = {"turn_id": event.turn_id, **await run_in_threadpool(_whole, event.event)}
                yield ServerSentEvent(json.dumps(data), id=str(number), event=event.event.kind)
            if not found:
                await asyncio.sleep(LOOK_SECONDS)

    return EventSourceResponse(happening(), ping=PING_SECONDS)


@router.get("/sessions/{session_id}/status")
def status(one: Mine) -> Status:
    """Where the conversation stands."""
    settings, key = TableSettings.load(), one.place.session_key
    with aws.translated():
        lock, _ = LockTable(settings.table, aws.dynamodb(), aws.step_functions()).read(key)
        pointer = session_table().pointer(key)
    return Status(
        turn=lock.owner.turn_id if lock.owner else None,
        waiting=[waiter.turn_id for waiter in lock.waiters],
        question=lock.approval.turn_id if lock.approval else None,
        version=pointer.version if pointer else 0,
    )


@router.post("/sessions/{session_id}/stop")
def stop(person: Signed, one: Mine) -> Outcome:
    """Ask the turn at work to stop."""
    return Outcome(outcome=entrance(person, one).stop())


@router.post("/sessions/{session_id}/answers")
def answer(person: Signed, one: Mine, body: Decision) -> Outcome:
    """Decide on the tool call that waits."""
    if body.choice not in BUTTONS:
        raise HTTPException(422, f"body.choice: it is none of {', '.join(BUTTONS)}")
    _of(one, body.turn_id)
    press = Press.model_validate(body.model_dump())
    return Outcome(outcome=entrance(person, one).press(press, 0))


@router.post("/sessions/{session_id}/turns/{turn_id}/rerun")
def rerun(person: Signed, one: Mine, turn_id: Annotated[str, Path(max_length=80)]) -> Outcome:
    """Run a turn again that failed."""
    _of(one, turn_id)
    with aws.translated():
        said = session_table().turn(one.place.session_key, turn_id).delivered
    notice = max((event for part, event in said.items() if part.startswith(NOTICE)), default=0)
    return Outcome(outcome=entrance(person, one).press(Press(turn_id=turn_id), notice))


def _of(one: Conversation, turn_id: str) -> None:
    """Raises HTTPException 404 for a turn that is not of this conversation."""
    try:
        if conversation_of(turn_id) == one.place.session_key:
            return
    except BadInput:
        pass
    raise HTTPException(404, "there is no such turn in this conversation")


def _whole(event: Event) -> dict[str, Any]:
    """What an event says, with all of a text that was too long for it; one that is gone is as long as it is."""
    said: dict[str, Any] = EVENT.dump_python(event, mode="json")
    key = said.pop("key", "") if isinstance(event, Answered | Asked) else ""
    if key:
        with contextlib.suppress(SnapshotMissing), aws.translated():
            said["markdown" if isinstance(event, Answered) else "call"] = snapshots().get(key).decode()
    return said
