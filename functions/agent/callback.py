"""The agent's side of its one door: claims the run, reports, hears, and hands in how the run ended."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from pydantic import ValidationError

from functions.common import aws
from functions.common.errors import AwsUnavailable
from functions.common.observability import logger, measure
from functions.conversation.files.documents import RunSummary
from functions.conversation.progress import Heard, Report, Tool
from functions.conversation.runs import LEASE_SECONDS

TRIES_SECONDS = 45.0
"""How long it is tried to claim a run, and to hand in its end; both may be said again."""

PAUSES = (0.2, 0.5, 1.0, 2.0)


class CallbackFailed(Exception):
    """The callback did not take a call."""


class Callback:
    """The callback as one run reaches it."""

    def __init__(self, function: str, keys: dict[str, str]) -> None:
        """`keys` are in every call: turn, session key, state, ticket."""
        self._function = function
        self._keys = keys
        self._delivery = uuid.uuid4().hex
        self._heard_at = time.time()

    def begin(self) -> Heard:
        """Claim the run; gone when it is claimed, or wanted no more. Raises AwsUnavailable."""
        return self._surely({"what": "begin", "delivery": self._delivery})

    def listen(self, beat: bool) -> Heard:
        """Hear whether to stop; `beat` tells that the run lives."""
        return self._lossy({"what": "listen", "beat": beat})

    def show(self, when: int, alive: bool, text: str, tool: Tool | None, busy: bool) -> Heard:
        """Show where the run stands. A report that is lost is made good by the next one."""
        given = {"turn_id": "", "session_key": "", "state": "", "ticket": "", **self._keys}
        report = Report(**given, time=when, alive=alive, text=text, tool=tool, busy=busy)
        return self._lossy(report.model_dump(mode="json"))

    def done(self, summary: RunSummary) -> None:
        """Hand in what the run made. Raises AwsUnavailable."""
        self._end({"summary": summary.model_dump(mode="json")})

    def failed(self, error: str, cause: str) -> None:
        """Hand in what ended the run. Raises AwsUnavailable."""
        self._end({"failure": {"Error": error, "Cause": cause}})

    def _end(self, how: dict[str, Any]) -> None:
        if self._surely({"what": "end", **how}).gone:
            logger.warning("nobody waits for this run any more")

    def _surely(self, call: dict[str, Any]) -> Heard:
        """Say it until it is heard."""
        until, tried = time.monotonic() + TRIES_SECONDS, 0
        while True:
            try:
                return self._call(call)
            except CallbackFailed as error:
                if time.monotonic() > until:
                    raise AwsUnavailable(f"the callback is not reached: {error}") from error
                logger.warning("the callback is called again", cause=str(error))
                time.sleep(PAUSES[min(tried, len(PAUSES) - 1)])
                tried += 1

    def _lossy(self, call: dict[str, Any]) -> Heard:
        """Say it once. A run that nobody has heard for its lease is gone."""
        try:
            return self._call(call)
        except CallbackFailed as error:
            logger.warning("progress was not shown", cause=str(error))
            measure(ProgressFailures=1)
            return Heard(gone=time.time() - self._heard_at > LEASE_SECONDS)

    def _call(self, call: dict[str, Any]) -> Heard:
        payload = json.dumps({**self._keys, **call}).encode()
        asked = time.time()
        try:
            answer = aws.lambda_().invoke(FunctionName=self._function, Payload=payload)
            document = json.loads(answer["Payload"].read())
            if "FunctionError" in answer:
                raise CallbackFailed(str(document.get("errorMessage")))
            heard = Heard.model_validate(document)
        except (ClientError, BotoCoreError, ValidationError, ValueError) as error:
            raise CallbackFailed(str(error)) from error
        self._heard_at = asked
        return heard
