"""Conversations: begin, list, rename, delete, take back, fork."""

from __future__ import annotations

import uuid

from fastapi import APIRouter, HTTPException, Response

from functions.common import aws
from functions.conversation.files.versions import fork as copied
from functions.web.asking import Mine, Outcome, Signed, Titled, conversations, entrance, session_table
from functions.web.channel import snapshots
from functions.web.conversations import Conversation
from functions.web.routes.files import manifest_of

router = APIRouter(tags=["conversations"])


@router.post("/sessions", status_code=201)
def create(person: Signed, body: Titled) -> Conversation:
    """Begin a conversation."""
    with aws.translated():
        return conversations().create(person.owner, body.title)


@router.get("/sessions")
def listed(person: Signed) -> list[Conversation]:
    """One's conversations, the one that was used last first."""
    with aws.translated():
        return conversations().of(person.owner)


@router.get("/sessions/{session_id}")
def read(one: Mine) -> Conversation:
    """One conversation."""
    return one


@router.patch("/sessions/{session_id}")
def rename(one: Mine, body: Titled) -> Conversation:
    """Call it something else."""
    with aws.translated():
        if not conversations().rename(one, body.title):
            raise HTTPException(404, "there is no such conversation")
    return one.model_copy(update={"title": body.title})


@router.delete("/sessions/{session_id}", status_code=204)
def delete(person: Signed, one: Mine) -> Response:
    """Delete it: a turn at work is stopped, and nothing is said in it any more."""
    entrance(person, one).stop()
    with aws.translated():
        conversations().delete(one)
    return Response(status_code=204)


@router.post("/sessions/{session_id}/undo")
def undo(person: Signed, one: Mine) -> Outcome:
    """Take back the last turn, its answer and what it did to files; an event says what became of it."""
    return Outcome(outcome=entrance(person, one).command("undo"))


@router.post("/sessions/{session_id}/fork", status_code=201)
def fork(person: Signed, one: Mine, body: Titled) -> Conversation:
    """Go on from here in a conversation of its own; this one stays as it is."""
    with aws.translated():
        manifest = manifest_of(one, None)
        if manifest is None:
            raise HTTPException(409, "there is nothing to go on from yet")
        copy = copied(snapshots(), manifest, str(uuid.uuid4()))
        made = conversations().create(person.owner, body.title or one.title)
        session_table().move(made.place.session_key, "fork", None, copy)
    return made
