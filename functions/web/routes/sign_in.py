"""Signing in and out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Cookie, HTTPException, Request, Response
from fastapi.responses import RedirectResponse

from functions.common import aws
from functions.web.asking import COOKIE, Signed, sign_ins
from functions.web.sign_in import SESSION_SECONDS, Person

router = APIRouter(tags=["sign in"])


@router.get("/sign-in/{code}", status_code=303, response_class=RedirectResponse)
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


@router.post("/sign-out", status_code=204)
def sign_out(person: Signed, token: Annotated[str, Cookie(alias=COOKIE)]) -> Response:
    """End the session."""
    with aws.translated():
        sign_ins().end(token)
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE)
    return answer


@router.get("/me")
def me(person: Signed) -> Person:
    """Who is signed in."""
    return person
