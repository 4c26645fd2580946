"""The API of the web: conversations, messages, and what happens in them as a stream of events.

Whoever is signed in reaches their own conversations alone; somebody else's does not exist for them. What changes
something comes from this very page, or from no page at all (https://www.w3.org/TR/fetch-metadata/). Problems are
RFC 9457's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Cookie, Depends, FastAPI, Header, HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict, Field
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as StarletteException

from functions.common import aws
from functions.common.envelope import conversation_of
from functions.common.errors import AwsUnavailable, BadInput
from functions.common.settings import TableSettings
from functions.conversation.admission import Admission
from functions.conversation.approvals import BUTTONS, Choice
from functions.conversation.lock_table import LockTable
from functions.conversation.sessions import NOTICE, SessionTable
from functions.web.channel import Press
from functions.web.conversations import Conversation, ConversationTable
from functions.web.entrance import Entrance, EntranceSettings
from functions.web.events import EVENT, EventTable
from functions.web.sign_in import SESSION_SECONDS, Person, SignIns

COOKIE = "stepgram"
PING_SECONDS, LOOK_SECONDS = 15, 0.25
"""Between two comments that keep a stream open, and between two looks for what is new."""

SAFE = ("GET", "HEAD", "OPTIONS")
PROBLEM = "application/problem+json"


class Body(BaseModel):
    """The base of what is sent; unknown fields are refused, so that a typing error is found."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Titled(Body):
    """What a conversation is called."""

    title: str = Field("", max_length=200)


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


class Outcome(BaseModel):
    """What became of a press or a stop."""

    outcome: str


class Status(BaseModel):
    """Where a conversation stands: the turn at work, those that wait, the question that is open, its version."""

    turn: str | None
    waiting: list[str]
    question: str | None
    version: int


class Problem(BaseModel):
    """RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": HTTPStatus(status).phrase}
    for status in (400, 401, 403, 404, 409, 422, 429, 503)
}

app = FastAPI(title="Stepgram", responses=PROBLEMS, redoc_url=None)


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The answer that says what is wrong."""
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail).model_dump()
    return JSONResponse(body, status, headers, media_type=PROBLEM)


@app.exception_handler(StarletteException)
async def refused(request: Request, error: StarletteException) -> JSONResponse:
    """A route that says no, or is none."""
    return problem(error.status_code, str(error.detail), dict(error.headers or {}))


@app.exception_handler(RequestValidationError)
async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
    """A field is not what it must be; it is named."""
    found = error.errors()[0]
    return problem(422, f"{'.'.join(map(str, found['loc']))}: {found['msg']}")


@app.exception_handler(BadInput)
async def bad_input(request: Request, error: BadInput) -> JSONResponse:
    """What the workflow does not take."""
    return problem(400, str(error))


@app.exception_handler(AwsUnavailable)
async def unavailable(request: Request, error: AwsUnavailable) -> JSONResponse:
    """Nothing was lost: the client sends it again."""
    return problem(503, "AWS does not answer; send it again", {"retry-after": "1"})


@app.middleware("http")
async def from_here(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
    """Let no other page change anything with a visitor's cookie, and read no answer as what it is not."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "none")
    own = origin is None or urlsplit(origin).netloc == request.headers.get("host")
    if request.method not in SAFE and not (own and site in ("none", "same-origin")):
        return problem(403, "this request comes from another page")
    answer = await go_on(request)
    answer.headers.setdefault("x-content-type-options", "nosniff")
    answer.headers.setdefault("cache-control", "no-store")
    return answer


# ------------------------------------------------------------------------------------------------ who, and whose


def sign_ins() -> SignIns:
    """The sessions of this stack."""
    return SignIns(TableSettings.load().table, aws.dynamodb())


def signed_in(token: Annotated[str | None, Cookie(alias=COOKIE)] = None) -> Person:
    """Who asks. Raises HTTPException 401."""
    with aws.translated():
        person = sign_ins().person(token) if token else None
    if person is None:
        raise HTTPException(401, "sign in first")
    return person


Signed = Annotated[Person, Depends(signed_in)]


def conversations() -> ConversationTable:
    """The conversations of this stack."""
    return ConversationTable(TableSettings.load().table, aws.dynamodb())


def mine(person: Signed, session_id: Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]) -> Conversation:
    """The conversation, if it is this person's. Raises HTTPException 404."""
    with aws.translated():
        found = conversations().get(person.owner, session_id)
    if found is None:
        raise HTTPException(404, "there is no such conversation")
    return found


Mine = Annotated[Conversation, Depends(mine)]


def entrance(person: Person, one: Conversation) -> Entrance:
    """Where this person's words go in."""
    return Entrance(EntranceSettings.load(), person, one.place)


@app.get("/health")
def health() -> dict[str, str]:
    """Whether the API answers."""
    return {"status": "ok"}


@app.get("/sign-in/{code}", status_code=303, response_class=RedirectResponse)
def sign_in(request: Request, code: str) -> Response:
    """Sign in with a code that works once."""
    with aws.translated():
        token = sign_ins().redeem(code)
    if token is None:
        raise HTTPException(401, "this code was used, or is too old")
    answer = RedirectResponse("/", 303)
    secure = request.url.hostname not in ("127.0.0.1", "localhost")
    answer.set_cookie(COOKIE, token, SESSION_SECONDS, httponly=True, samesite="strict", secure=secure)
    return answer


@app.post("/sign-out", status_code=204)
def sign_out(person: Signed, token: Annotated[str, Cookie(alias=COOKIE)]) -> Response:
    """End the session."""
    with aws.translated():
        sign_ins().end(token)
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE)
    return answer


@app.get("/me")
def me(person: Signed) -> Person:
    """Who is signed in."""
    return person


# ------------------------------------------------------------------------------------------------ conversations


@app.post("/sessions", status_code=201)
def create(person: Signed, body: Titled) -> Conversation:
    """Begin a conversation."""
    with aws.translated():
        return conversations().create(person.owner, body.title)


@app.get("/sessions")
def listed(person: Signed) -> list[Conversation]:
    """One's conversations, the one that was used last first."""
    with aws.translated():
        return conversations().of(person.owner)


@app.get("/sessions/{session_id}")
def read(one: Mine) -> Conversation:
    """One conversation."""
    return one


@app.patch("/sessions/{session_id}")
def rename(one: Mine, body: Titled) -> Conversation:
    """Call it something else."""
    with aws.translated():
        if not conversations().rename(one, body.title):
            raise HTTPException(404, "there is no such conversation")
    return one.model_copy(update={"title": body.title})


@app.delete("/sessions/{session_id}", status_code=204)
def delete(person: Signed, one: Mine) -> Response:
    """Delete it: a turn at work is stopped, and nothing is said in it any more."""
    entrance(person, one).stop()
    with aws.translated():
        conversations().delete(one)
    return Response(status_code=204)


@app.post("/sessions/{session_id}/messages", status_code=202)
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


@app.get("/sessions/{session_id}/events", response_class=EventSourceResponse)
async def events(
    request: Request,
    one: Mine,
    after: Annotated[int, Query(ge=0)] = 0,
    last_event_id: Annotated[int | None, Header(ge=0)] = None,
) -> EventSourceResponse:
    """What happens, from the event after `Last-Event-ID` (or `after`) on, for as long as somebody listens."""
    table = EventTable(TableSettings.load().table, aws.dynamodb())
    last = max(after, last_event_id or 0)

    async def happening() -> AsyncIterator[ServerSentEvent]:
        number = last
        while not await request.is_disconnected():
            found = await run_in_threadpool(table.after, one.place.session_key, number)
            for event in found:
                number = event.number
                data = {"turn_id": event.turn_id, **EVENT.dump_python(event.event, mode="json")}
                yield ServerSentEvent(json.dumps(data), id=str(number), event=event.event.kind)
            if not found:
                await asyncio.sleep(LOOK_SECONDS)

    return EventSourceResponse(happening(), ping=PING_SECONDS)


@app.get("/sessions/{session_id}/status")
def status(one: Mine) -> Status:
    """Where the conversation stands."""
    settings, key = TableSettings.load(), one.place.session_key
    with aws.translated():
        lock, _ = LockTable(settings.table, aws.dynamodb(), aws.step_functions()).read(key)
        pointer = SessionTable(settings.table, aws.dynamodb()).pointer(key)
    return Status(
        turn=lock.owner.turn_id if lock.owner else None,
        waiting=[waiter.turn_id for waiter in lock.waiters],
        question=lock.approval.turn_id if lock.approval else None,
        version=pointer.version if pointer else 0,
    )


@app.post("/sessions/{session_id}/stop")
def stop(person: Signed, one: Mine) -> Outcome:
    """Ask the turn at work to stop."""
    return Outcome(outcome=entrance(person, one).stop())


@app.post("/sessions/{session_id}/answers")
def answer(person: Signed, one: Mine, body: Decision) -> Outcome:
    """Decide on the tool call that waits."""
    if body.choice not in BUTTONS:
        raise HTTPException(422, f"body.choice: it is none of {', '.join(BUTTONS)}")
    _of(one, body.turn_id)
    press = Press(turn_id=body.turn_id, choice=body.choice, number=body.number)
    return Outcome(outcome=entrance(person, one).press(press, 0))


@app.post("/sessions/{session_id}/turns/{turn_id}/rerun")
def rerun(person: Signed, one: Mine, turn_id: Annotated[str, Path(max_length=80)]) -> Outcome:
    """Run a turn again that failed."""
    _of(one, turn_id)
    with aws.translated():
        said = SessionTable(TableSettings.load().table, aws.dynamodb()).turn(one.place.session_key, turn_id).delivered
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
