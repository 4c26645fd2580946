"""The inbox: what people attached, in the turn's folder in S3; Hydrate fills it.

Each file is fetched once: what is there already is not fetched again by a retry. Voice becomes text where a
transcriber is configured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from functions.common.envelope import Attachment, Message
from functions.common.errors import ChannelRefused, TranscriptPending
from functions.common.observability import logger
from functions.conversation.files.documents import InboxFile, turn_prefix
from functions.conversation.files.snapshots import Snapshots
from functions.conversation.files.transcriber import AmazonTranscriber

SPOKEN = ("voice", "video_note")


Fetch = Callable[[Attachment], bytes]
"""Gives a file that a person sent. Raises ChannelRefused when it cannot be had."""


def fill(
    snapshots: Snapshots, session_id: str, turn_id: str, messages: Iterable[Message], fetch: Fetch, transcribes: bool
) -> list[InboxFile]:
    """Fetch what is attached. Raises TranscriptPending, and what `fetch` raises when a later try may succeed."""
    files: list[InboxFile] = []
    for message in messages:
        for attachment in message.attachments:
            key = f"{turn_prefix(session_id, turn_id)}inbox/{len(files)}-{attachment.name}"
            files.append(_fetched(snapshots, key, attachment, fetch))
    if not transcribes:
        return files
    # A job is known by its name and writes where it was told to, so the name tells the session, too: after /new, or
    # when a snapshot is lost, a later try of the turn looks for the text in another session's folder.
    return [_heard(snapshots, f"{session_id}-{turn_id}-{n}", file) for n, file in enumerate(files)]


def _fetched(snapshots: Snapshots, key: str, attachment: Attachment, fetch: Fetch) -> InboxFile:
    file = InboxFile(key=key, name=attachment.name, kind=attachment.kind, mime=attachment.mime, size=attachment.size)
    if snapshots.exists(key):
        return file
    try:
        content = fetch(attachment)
    except ChannelRefused as error:
        logger.warning("an attachment cannot be had", cause=str(error))
        return file.model_copy(update={"missing": error.description})
    snapshots.put(key, content, attachment.mime)
    return file.model_copy(update={"size": len(content)})


def _heard(snapshots: Snapshots, job: str, file: InboxFile) -> InboxFile:
    if file.kind not in SPOKEN or file.missing:
        return file
    transcript = AmazonTranscriber(snapshots).transcript(job, file.key, f"{file.key}.transcript.json")
    if transcript is None:
        raise TranscriptPending(f"{file.name} is being transcribed")
    return file.model_copy(update={"transcript": transcript})
