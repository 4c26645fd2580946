"""What one request to the model costs, heard from its answer as it passes: a stream of Bedrock's, of the Messages API,
or a whole answer.

Sources: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_InvokeModelWithResponseStream.html (event
stream; each chunk's bytes are one event), https://platform.claude.com/docs/en/build-with-claude/streaming (events).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

from botocore.eventstream import EventStreamBuffer, ParserError

from functions.common.models import Usage, known

Form = Literal["eventstream", "sse", "json"]

CHARACTERS_A_TOKEN = 4
"""By which an answer is reckoned until its end tells."""

TOLD_TOKENS = 1000
"""An answer that goes on tells what it has cost after so many more tokens."""


@dataclass(frozen=True)
class Spent:
    """What a request has cost so far: US dollars, and tokens (`input_tokens`: of the whole prompt, cached or not)."""

    cost_usd: float
    input_tokens: int = 0
    output_tokens: int = 0


class NotCounted(Exception):
    """The answer is not one of the model's: what it costs cannot be told."""


class Meter:
    """Listens to one answer. `told` hears what it has cost when it begins, as it grows, when its end tells, and when it
    is cut off.

    `model` is the one that was asked; the answer's own name of it counts.
    """

    def __init__(self, form: Form, model: str, told: Callable[[Spent], None]) -> None:
        self.form = form
        self._events = FORMS[form]()
        self._model = model
        self._told = told
        self._usage: dict[str, Any] = {}
        self._characters = 0

    def hear(self, data: bytes) -> None:
        """More of the answer. Raises NotCounted."""
        try:
            for event in self._events.take(data):
                self._hear(event)
        except (ParserError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise NotCounted(f"{type(error).__name__}: {error}") from error

    def cut_off(self) -> None:
        """The answer ends here, whole or not. What was said counts where its end did not tell."""
        self._said(1)

    def _said(self, more: int) -> None:
        """Tell what was said, when that is so many tokens more than was told."""
        said = self._characters // CHARACTERS_A_TOKEN
        if said >= int(self._usage.get("output_tokens") or 0) + more:
            self._usage["output_tokens"] = said
            self._tell()

    def _hear(self, event: dict[str, Any]) -> None:
        kind = event.get("type")
        if kind == "message_start":
            self._takes(event["message"])
        elif kind == "message":
            self._takes(event)
        elif kind == "content_block_delta":
            texts = (text for name, text in event["delta"].items() if name != "type" and isinstance(text, str))
            self._characters += sum(map(len, texts))
            self._said(TOLD_TOKENS)
        elif kind == "message_delta" and event.get("usage"):
            self._usage.update({name: value for name, value in event["usage"].items() if value is not None})
            self._tell()

    def _takes(self, message: dict[str, Any]) -> None:
        self._model = str(message.get("model") or self._model)
        self._usage = dict(message.get("usage") or {})
        self._tell()

    def _tell(self) -> None:
        usage = Usage.model_validate(self._usage)
        self._told(Spent(known().cost(self._model, usage), usage.prompt, usage.output_tokens))


class _Events(Protocol):
    def take(self, data: bytes) -> Iterator[dict[str, Any]]:
        """The events that are complete with these bytes."""


class _Frames:
    """Bedrock's event stream."""

    def __init__(self) -> None:
        self._buffer = EventStreamBuffer()

    def take(self, data: bytes) -> Iterator[dict[str, Any]]:
        self._buffer.add_data(data)
        for frame in cast(Any, self._buffer):
            if frame.headers.get(":event-type") == "chunk":
                yield json.loads(base64.b64decode(json.loads(frame.payload)["bytes"]))


class _Lines:
    """Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html ."""

    def __init__(self) -> None:
        self._rest = b""

    def take(self, data: bytes) -> Iterator[dict[str, Any]]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
                yield json.loads(line[5:])


class _Whole:
    """One JSON document, in one piece."""

    def take(self, data: bytes) -> Iterator[dict[str, Any]]:
        yield json.loads(data)


FORMS: dict[Form, type[_Events]] = {"eventstream": _Frames, "sse": _Lines, "json": _Whole}
