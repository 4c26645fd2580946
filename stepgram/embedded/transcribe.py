"""A stand-in for Amazon Transcribe's batch jobs: a recording whose bytes are text is what it says.

Source: StartTranscriptionJob, GetTranscriptionJob and the result's format (Amazon Transcribe API reference and guide).
A job is IN_PROGRESS the first time it is asked for, so that waiting is exercised.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

PREFIX = "Transcribe."
NAME = re.compile(r"[0-9a-zA-Z._-]{1,200}")


class TranscribeError(Exception):
    """A refusal, with the service's error code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Transcribe:
    """The jobs of one stack. `s3` makes a client of the stack's S3."""

    def __init__(self, s3: Callable[[], Any]) -> None:
        self._s3 = s3
        self._jobs: dict[str, dict[str, Any]] = {}

    def __call__(self, action: str, request: dict[str, Any]) -> dict[str, Any]:
        """One action. Raises TranscribeError."""
        name = str(request["TranscriptionJobName"])
        if not NAME.fullmatch(name):
            raise TranscribeError("BadRequestException", f"transcriptionJobName failed to satisfy {NAME.pattern}")
        if action == "StartTranscriptionJob":
            if name in self._jobs:
                raise TranscribeError("ConflictException", "The requested job name already exists.")
            self._jobs[name] = {**request, "TranscriptionJobStatus": "QUEUED"}
        elif name not in self._jobs:
            raise TranscribeError("BadRequestException", "The requested job couldn't be found.")
        elif self._jobs[name]["TranscriptionJobStatus"] == "QUEUED":
            self._jobs[name]["TranscriptionJobStatus"] = "IN_PROGRESS"
        elif self._jobs[name]["TranscriptionJobStatus"] == "IN_PROGRESS":
            self._finish(self._jobs[name])
        shown = ("TranscriptionJobName", "TranscriptionJobStatus", "FailureReason", "Media")
        return {"TranscriptionJob": {k: v for k, v in self._jobs[name].items() if k in shown}}

    def _finish(self, job: dict[str, Any]) -> None:
        bucket, _, key = job["Media"]["MediaFileUri"].removeprefix("s3://").partition("/")
        recording = self._s3().get_object(Bucket=bucket, Key=key)["Body"].read()
        try:
            text = recording.decode()
        except UnicodeDecodeError:
            job.update(TranscriptionJobStatus="FAILED", FailureReason="The media format could not be recognised.")
            return
        result = {"jobName": job["TranscriptionJobName"], "results": {"transcripts": [{"transcript": text}]}}
        self._s3().put_object(Bucket=job["OutputBucketName"], Key=job["OutputKey"], Body=json.dumps(result).encode())
        job["TranscriptionJobStatus"] = "COMPLETED"
