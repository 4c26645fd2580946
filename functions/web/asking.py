"""Who asks, and for which conversation: what every route of the API begins with."""

from __future__ import annotations

from typing import Annotated

from fastapi import Cookie, Depends, HTTPException, Path
from pydantic import BaseModel, ConfigDict, Field

from functions.common import aws
from functions.common.settings import TableSettings
from functions.conversation.sessions import SessionTable
from functions.web.conversations import Conversation, ConversationTable
from functions.web.entrance import Entrance, EntranceSettings
from functions.web.sign_in import Person, SignIns

COOKIE = "stepgram"


class Body(BaseModel):
    """The base of what is sent; unknown fields are refused, so that a typing error is found."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Titled(Body):
    """What a conversation is called."""

    title: str = Field("", max_length=200)


class Outcome(BaseModel):
    """What became of a press or a stop."""

    outcome: str


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


def session_table() -> SessionTable:
    """The sessions of this stack."""
    return SessionTable(TableSettings.load().table, aws.dynamodb())
