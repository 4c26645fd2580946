"""Voice to text with Amazon Transcribe, behind one method; a job is known by its name, so a retry finds it.

Source: StartTranscriptionJob and GetTranscriptionJob (Amazon Transcribe API reference): a batch job reads from S3 and
writes its result to S3 with the caller's rights.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

from botocore.exceptions import ClientError
from pydantic import BaseModel

from functions.common import aws
from functions.common.errors import ResultRefused
from functions.common.observability import logger
from functions.conversation.files.snapshots import Snapshots

FORMATS = {"ogg": "ogg", "oga": "ogg", "mp3": "mp3", "m4a": "m4a", "mp4": "mp4", "wav": "wav", "webm": "webm"}


TEXT_CHARACTERS = 50_000
"""Of a transcript, which the state carries; people say so much in an hour."""


class _Words(BaseModel):
    transcript: str


class _Results(BaseModel):
    transcripts: list[_Words]


class Transcript(BaseModel):
    """A finished job's result file."""

    results: _Results

    @property
    def text(self) -> str:
        """Its words."""
        return " ".join(part.transcript for part in self.results.transcripts).strip()[:TEXT_CHARACTERS]


class Transcriber(Protocol):
    """Makes text of speech."""

    def transcript(self, job: str, key: str, result: str) -> str | None:
        """The text of the recording under `key`; None while it is being made; empty when it cannot be.

        `job` is the recording's own name, up to 200 characters; its text is kept under `result`.
        """


class AmazonTranscriber:
    """Amazon Transcribe; the language is recognised."""

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots

    def transcript(self, job: str, key: str, result: str) -> str | None:
        """The text of the recording under `key`; None while it is being made; empty when it cannot be."""
        name = re.sub(r"[^0-9A-Za-z._-]", "-", job)
        if self._snapshots.exists(result):
            try:
                return self._snapshots.read(result, Transcript).text
            except ResultRefused as error:  # it lies in the session's folder, where the agent writes
                logger.warning("the transcript is none", cause=str(error))
                return ""
        try:
            found = aws.transcribe().get_transcription_job(TranscriptionJobName=name)["TranscriptionJob"]
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("BadRequestException", "NotFoundException"):
                raise
            self._start(name, key, result)
            return None
        if found.get("TranscriptionJobStatus") == "FAILED":
            logger.warning("the recording is not transcribed", cause=found.get("FailureReason"))
            return ""
        return None

    def _start(self, name: str, key: str, result: str) -> None:
        suffix = FORMATS.get(key.rpartition(".")[2].lower(), "ogg")
        job: dict[str, Any] = {
            "TranscriptionJobName": name,
            "Media": {"MediaFileUri": self._snapshots.uri(key)},
            "MediaFormat": suffix,
            "IdentifyLanguage": True,
            "OutputBucketName": self._snapshots.bucket,
            "OutputKey": result,
        }
        try:
            aws.transcribe().start_transcription_job(**job)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConflictException":
                raise
