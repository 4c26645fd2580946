"""The inbox: what people attached, from Telegram into the turn's folder in S3; Hydrate fills it.

Each file is fetched once: what is there already is not fetched again by a retry. Voice becomes text where a
transcriber is configured.
"""

from __future__ import annotations

from functions.common import aws
from functions.common.envelope import Attachment, Message
from functions.common.errors import AlbumIncomplete, TelegramRefused, TranscriptPending
from functions.common.observability import logger
from functions.common.settings import HydrateSettings
from functions.conversation.files.documents import InboxFile, turn_prefix
from functions.conversation.files.snapshots import Snapshots
from functions.conversation.files.transcriber import AmazonTranscriber
from functions.telegram.albums import AlbumTable
from functions.telegram.bot_api import bot_api

SPOKEN = ("voice", "video_note")


def messages_of(settings: HydrateSettings, session_key: str, turn_id: str, message: Message) -> tuple[Message, ...]:
    """The message, or all of the album it leads. Raises AlbumIncomplete while more may come."""
    if message.album is None:
        return (message,)
    albums = AlbumTable(settings.table, aws.dynamodb())
    album = albums.read(session_key, message.album)
    if album is None or album.leader != turn_id:
        return (message,)
    if not album.closed:
        if not album.quiet:
            raise AlbumIncomplete(f"album {message.album} has {len(album.parts)} messages so far")
        album = albums.close(session_key, message) or album
    return album.parts


def fill(settings: HydrateSettings, session_id: str, turn_id: str, messages: tuple[Message, ...]) -> list[InboxFile]:
    """Fetch what is attached. Raises TranscriptPending, TelegramUnavailable, TelegramRateLimited."""
    snapshots = Snapshots(settings.bucket, aws.s3())
    files: list[InboxFile] = []
    for message in messages:
        for attachment in message.attachments:
            key = f"{turn_prefix(session_id, turn_id)}inbox/{len(files)}-{attachment.name}"
            files.append(_fetched(settings, snapshots, key, attachment))
    # A job is known by its name and writes where it was told to, so the name tells the session, too: after /new, or
    # when a snapshot is lost, a later try of the turn looks for the text in another session's folder.
    return [_heard(settings, snapshots, f"{session_id}-{turn_id}-{n}", file) for n, file in enumerate(files)]


def _fetched(settings: HydrateSettings, snapshots: Snapshots, key: str, attachment: Attachment) -> InboxFile:
    file = InboxFile(key=key, name=attachment.name, kind=attachment.kind, mime=attachment.mime, size=attachment.size)
    if snapshots.exists(key):
        return file
    try:
        content = bot_api(settings).download(attachment.file_id)
    except TelegramRefused as error:
        logger.warning("Telegram does not give the file", cause=str(error))
        return file.model_copy(update={"missing": error.description})
    snapshots.put(key, content, attachment.mime)
    return file.model_copy(update={"size": len(content)})


def _heard(settings: HydrateSettings, snapshots: Snapshots, job: str, file: InboxFile) -> InboxFile:
    if settings.transcription == "off" or file.kind not in SPOKEN or file.missing:
        return file
    transcript = AmazonTranscriber(snapshots).transcript(job, file.key, f"{file.key}.transcript.json")
    if transcript is None:
        raise TranscriptPending(f"{file.name} is being transcribed")
    return file.model_copy(update={"transcript": transcript})
