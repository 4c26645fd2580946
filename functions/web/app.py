"""The API of the web: conversations, messages, and what happens in them as a stream of events.

Whoever is signed in reaches their own conversations alone; somebody else's does not exist for them. What changes
something comes from this very page, or from no page at all (https://www.w3.org/TR/fetch-metadata/). Problems are
RFC 9457's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from functions.common.errors import AwsUnavailable, BadInput, SnapshotMissing
from functions.web.routes import files, sessions, sign_in, turns

SAFE = ("GET", "HEAD", "OPTIONS")
PROBLEM = "application/problem+json"


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
for room in (sign_in, sessions, turns, files):
    app.include_router(room.router)


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The answer that says what is wrong."""
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail).model_dump()
    return JSONResponse(body, status, headers, media_type=PROBLEM)


@app.exception_handler(HTTPException)
async def refused(request: Request, error: HTTPException) -> JSONResponse:
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


@app.exception_handler(SnapshotMissing)
async def gone(request: Request, error: SnapshotMissing) -> JSONResponse:
    """What was asked for is not there (any more)."""
    return problem(404, str(error))


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


@app.get("/health")
def health() -> dict[str, str]:
    """Whether the API answers."""
    return {"status": "ok"}
