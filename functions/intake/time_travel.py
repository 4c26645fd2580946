"""/new, /undo, /fork and /debug: the conversation's pointer moves, or what it points at is shown.

Each moves the pointer once for its update, and only from where it was seen: a redelivered update changes nothing more,
and a turn that runs meanwhile cannot commit over it.
"""

from __future__ import annotations

import uuid
from itertools import islice

from functions.channel import Delivery, channel
from functions.common import aws
from functions.common.envelope import Envelope, Place
from functions.common.errors import BadInput, ChannelRefused, SnapshotMissing
from functions.common.observability import logger
from functions.conversation.files.documents import Manifest
from functions.conversation.files.snapshots import Snapshots
from functions.conversation.files.versions import WORKSPACE, before_last_turn, export, fork, newest
from functions.conversation.lock_table import LockTable
from functions.conversation.sessions import Pointer, SessionTable
from functions.intake.request import IntakeSettings, Request, delivery, tell

SHRINKS = 2
"""A workspace of so many times what a chat takes is worth packing for it: it may shrink by half."""

SHOWN_FILES = 24
"""Files /debug sends: the workspace, the logs, and the transcripts of the first subagents."""

TOPIC_NAME = 128
"""Characters a forum topic's name may have (Bot API, createForumTopic)."""


def new(request: Request) -> None:
    """Forget the conversation: a fresh session, wherever it stands when the pointer moves."""
    table, _ = _stores()
    while not table.turn(request.session_key, request.turn_id).moved_to:
        pointer = table.pointer(request.session_key)
        table.move(request.session_key, request.turn_id, pointer, Pointer(session_id=str(uuid.uuid4())))
    tell(request, "new")


def new_chat(request: Request) -> None:
    """A new conversation: in a forum a new topic, elsewhere a fresh session here."""
    if not _chat(request).forum:
        new(request)
        return
    thread = _new_topic(request)
    if thread is not None:
        there = _chat(request).model_copy(update={"thread_id": thread})
        delivery(request, there).text("new_topic", request.say("new_topic"))
        tell(request, "new_chat_opened")


def new_chat_with(request: Request) -> Envelope | None:
    """The envelope of the turn that starts a new conversation with the command's argument; None: it was refused."""
    envelope, chat = request.envelope, _chat(request)
    if envelope.command is None or envelope.message is None:
        raise BadInput("envelope: a new chat needs command and message")
    message = envelope.message.model_copy(update={"text": envelope.command.argument})
    if not chat.forum:
        new(request)
        return envelope.model_copy(update={"route": "message", "command": None, "message": message})
    thread = _new_topic(request)
    if thread is None:
        return None
    there = chat.model_copy(update={"thread_id": thread})
    place = {"chat": there, "session_key": there.session_key, "turn_id": there.turn_id(envelope.message.update_id)}
    return envelope.model_copy(update={**place, "route": "message", "command": None, "message": message})


def _new_topic(request: Request) -> int | None:
    """A topic named after the command's argument; None when Telegram refuses it, which is said."""
    try:
        return _topic(request, _chat(request))
    except ChannelRefused as error:
        tell(request, "fork_refused", reason=error.description)
        return None


def undo(request: Request) -> None:
    """Back to before the last turn, its files too."""
    table, snapshots = _stores()
    pointer = table.pointer(request.session_key)
    if not table.turn(request.session_key, request.turn_id).moved_to:
        if _busy(request):
            tell(request, "undo_busy")
            return
        try:
            target = before_last_turn(snapshots, pointer) if pointer else None
        except SnapshotMissing:
            tell(request, "undo_gone")
            return
        if target is None:
            tell(request, "undo_nothing")
            return
        if not table.move(request.session_key, request.turn_id, pointer, target):
            tell(request, "undo_busy")
            return
    tell(request, "undone")


def fork_here(request: Request) -> None:
    """Go on from this point in a new topic; where there are none, here, and what was stays as it is."""
    table, snapshots = _stores()
    pointer, chat = table.pointer(request.session_key), _chat(request)
    moved = table.turn(request.session_key, request.turn_id).moved_to
    if not moved and (pointer is None or pointer.manifest is None):
        tell(request, "fork_nothing")
        return
    try:
        manifest = newest(snapshots, pointer) if pointer is not None and not moved else None
    except SnapshotMissing as error:
        lost(request, error)
        return
    target = chat
    if chat.forum:
        try:
            target = chat.model_copy(update={"thread_id": _topic(request, chat)})
        except ChannelRefused as error:
            tell(request, "fork_refused", reason=error.description)
            return
    if manifest is not None:
        try:
            copy = fork(snapshots, manifest, _fork_id(request))
        except SnapshotMissing as error:
            lost(request, error)
            return
        if target != chat:
            table.move(target.session_key, request.turn_id, None, copy)
        elif not table.move(request.session_key, request.turn_id, pointer, copy):
            fork_here(request)  # a turn committed meanwhile: from there, then
            return
    if target == chat:
        tell(request, "forked_here", session=pointer.session_id if pointer else "")
    else:
        delivery(request, target).text("forked_there", request.say("forked_there"))
        tell(request, "forked")


def debug(request: Request) -> None:
    """Send the conversation's files into the chat."""
    table, snapshots = _stores()
    pointer = table.pointer(request.session_key)
    try:
        manifest = newest(snapshots, pointer) if pointer is not None else None
        if manifest is None:
            tell(request, "debug_nothing")
        else:
            show(request, snapshots, manifest)
    except SnapshotMissing as error:
        lost(request, error)


def show(request: Request, snapshots: Snapshots, manifest: Manifest) -> None:
    """Send a version's files, as far as a chat takes them. Raises SnapshotMissing, ResultRefused."""
    out, limit = delivery(request, _chat(request)), channel(_chat(request)).sent_bytes
    size = manifest.tree.bytes if manifest.tree else 0
    files = export(snapshots, manifest, workspace=size <= SHRINKS * limit)
    for name, content in islice(files, SHOWN_FILES):
        caption = f"{request.session_key} version {manifest.version}"
        fits = len(content) <= limit
        if content and not (fits and out.document(name, name.replace("/", "-"), content, caption)):
            _too_large(request, out, name, len(content))
    if next(files, None) is not None:
        out.text("more", request.say("debug_more", shown=SHOWN_FILES))
    if size > SHRINKS * limit:
        _too_large(request, out, WORKSPACE, size)


def lost(request: Request, error: SnapshotMissing) -> None:
    """Tell that there is nothing to go on from; Hydrate starts a fresh session with the next message."""
    logger.warning("the snapshot is gone or none", cause=str(error))
    tell(request, "lost")


def _too_large(request: Request, out: Delivery, name: str, size: int) -> None:
    out.text(name, request.say("debug_too_large", name=name, megabytes=f"{size / 1024**2:,.0f}"))


def _stores() -> tuple[SessionTable, Snapshots]:
    settings = IntakeSettings.load()
    table = SessionTable(settings.table, aws.dynamodb(), settings.session_ttl_days)
    return table, Snapshots(settings.bucket, aws.s3())


def _busy(request: Request) -> bool:
    lock, _ = LockTable(IntakeSettings.load().table, aws.dynamodb(), aws.step_functions()).read(request.session_key)
    return lock.owner is not None or bool(lock.waiters or lock.announced)


def _chat(request: Request) -> Place:
    if request.envelope.chat is None:
        raise BadInput("envelope.chat: a command needs its chat")
    return request.envelope.chat


def _topic(request: Request, chat: Place) -> int:
    """The new topic, made once for this update."""
    wanted = request.envelope.command.argument if request.envelope.command else ""
    name = (wanted.splitlines()[0] if wanted else request.say("topic_name"))[:TOPIC_NAME]
    return delivery(request, chat).topic("topic", name)


def _fork_id(request: Request) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"stepgram:{request.turn_id}"))
