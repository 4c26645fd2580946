"""What one request to the model costs, heard from its answer as it passes: a stream of Bedrock's, of the Messages API,
or a whole answer.

Sources: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_InvokeModelWithResponseStream.html (event
stream; each chunk's bytes are one event), https://platform.claude.com/docs/en/build-with-claude/streaming (events).
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

from botocore.eventstream import EventStreamBuffer, ParserError

from functions.common.models import Usage, known

Form = Literal["eventstream", "sse", "json"]

CHARACTERS_A_TOKEN = 4
"""By which an answer is reckoned until its end tells; of other scripts than Latin's, each character counts as one."""

HIDDEN_TOKENS_A_SECOND = 100
"""By which thinking is reckoned that is not shown, until the end of the answer tells: it is billed like the rest."""

NAMES = ("type", "id", "name")
"""What of a block is no text of the model's."""

LINE_END, BOM = re.compile(rb"\r\n|\n|\r(?=[^\n])"), b"\xef\xbb\xbf"
"""A line ends with CR, LF or both; whether LF follows a CR at the end of a piece, the next piece tells."""

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
        self._said_tokens = 0.0
        self._hidden_since: float | None = None
        self._ended = False

    def hear(self, data: bytes) -> None:
        """More of the answer. Raises NotCounted."""
        self._take(self._events.take(data))

    def _take(self, events: Iterator[dict[str, Any]]) -> None:
        try:
            for event in events:
                self._hear(event)
        except (ParserError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise NotCounted(f"{type(error).__name__}: {error}") from error

    def cut_off(self) -> None:
        """The answer ends here, whole or not. What was said counts where its end did not tell."""
        with contextlib.suppress(NotCounted):
            self._take(self._events.rest())
        if not self._ended and self._usage:
            self._shown()
            self._said(1)

    def _said(self, more: int) -> None:
        """Tell what was said, when that is so many tokens more than was told."""
        said = int(self._said_tokens)
        if said >= Usage.model_validate(self._usage).output_tokens + more:
            self._tell({**self._usage, "output_tokens": said})

    def _shown(self) -> None:
        """Thinking that was hidden until now, if there was some, took as long as this."""
        if self._hidden_since is not None:
            self._said_tokens += (time.monotonic() - self._hidden_since) * HIDDEN_TOKENS_A_SECOND
            self._hidden_since = None

    def _adds(self, part: dict[str, Any]) -> None:
        """Reckon the texts of a block, or of more of it."""
        text = "".join(text for name, text in part.items() if name not in NAMES and isinstance(text, str))
        latin = len(text.encode("ascii", "ignore"))
        self._said_tokens += latin / CHARACTERS_A_TOKEN + (len(text) - latin)

    def _hear(self, event: dict[str, Any]) -> None:
        kind = event.get("type")
        if kind == "message_start":
            self._takes(event["message"])
        elif kind == "message":
            self._takes(event)
        elif kind == "content_block_start":
            self._adds(event["content_block"])
            if event["content_block"].get("type") == "thinking":
                self._hidden_since = time.monotonic()
        elif kind == "content_block_delta":
            self._shown()
            self._adds(event["delta"])
            self._said(TOLD_TOKENS)
        elif kind == "content_block_stop":
            self._shown()
            self._said(TOLD_TOKENS)
        elif kind == "message_delta" and event.get("usage"):
            told = {name: value for name, value in event["usage"].items() if value is not None}
            self._tell({**self._usage, **told})
            self._ended = True

    def _takes(self, message: dict[str, Any]) -> None:
        self._model = str(message.get("model") or self._model)
        if self._usage:
            raise ValueError("a second answer")
        self._tell(dict(message["usage"]))

    def _tell(self, told: dict[str, Any]) -> None:
        usage = Usage.model_validate(told)
        self._usage = told
        self._told(Spent(known().cost(self._model, usage), usage.prompt, usage.output_tokens))


class _Events(Protocol):
    def take(self, data: bytes) -> Iterator[dict[str, Any]]:
        """The events that are complete with these bytes."""

    def rest(self) -> Iterator[dict[str, Any]]:
        """Those that are complete now that no more bytes come."""


class _Frames:
    """Bedrock's event stream."""

    def __init__(self) -> None:
        self._buffer = EventStreamBuffer()

    def take(self, data: bytes) -> Iterator[dict[str, Any]]:
        self._buffer.add_data(data)
        for frame in cast(Any, self._buffer):
            if frame.headers.get(":event-type") == "chunk":
                yield json.loads(base64.b64decode(json.loads(frame.payload)["bytes"]))

    def rest(self) -> Iterator[dict[str, Any]]:
        return iter(())


class _Lines:
    """Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html ."""

    def __init__(self) -> None:
        self._rest = b""

    def take(self, data: bytes) -> Iterator[dict[str, Any]]:
        *lines, self._rest = LINE_END.split((self._rest + data).removeprefix(BOM))
        return self._events(lines)

    def rest(self) -> Iterator[dict[str, Any]]:
        lines, self._rest = self._rest.split(b"\r"), b""
        return self._events(lines)

    @staticmethod
    def _events(lines: list[bytes]) -> Iterator[dict[str, Any]]:
        for line in lines:
            if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
                yield json.loads(line[5:])


class _Whole:
    """One JSON document, in one piece."""

    def take(self, data: bytes) -> Iterator[dict[str, Any]]:
        yield json.loads(data)

    def rest(self) -> Iterator[dict[str, Any]]:
        return iter(())


FORMS: dict[Form, type[_Events]] = {"eventstream": _Frames, "sse": _Lines, "json": _Whole}
