"""What the agent's processes may ask the model, and what that may cost, before it is passed on.

Anything beside the CLI may speak to the endpoint, too: a request that costs more than its tokens (a tool that runs at
the model's side, a faster or nearer service) could not be counted, so only what the CLI was seen to send passes.

Sources: the requests of the CLI 2.1.329, of Bedrock's form and of the Messages API's; in the documentation at
https://platform.claude.com/docs/en/ : api/messages (fields), build-with-claude/vision (tokens of an image),
agents-and-tools/tool-use/overview (tools with a `type` may run at the model's side, and have prices of their own).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from functions.agent.model.metering import Form
from functions.common.models import CacheWritten, Usage, known

HEADERS = frozenset(
    {
        *("accept", "user-agent", "x-app", "anthropic-version", "anthropic-beta"),
        "anthropic-dangerous-direct-browser-access",
    }
)
HEADER_BEGINNINGS = ("x-stainless-", "x-claude-code-", "x-stepgram-")
"""What the CLI sends; another one could speak for somebody else, belong to a signature, or ask for a dearer service."""

FIELDS = frozenset(
    {
        *("model", "messages", "system", "tools", "tool_choice", "max_tokens", "stream", "thinking", "metadata"),
        *("temperature", "top_k", "top_p", "stop_sequences", "output_config", "output_format", "context_management"),
        *("anthropic_version", "anthropic_beta", "cache_control"),
    }
)
"""The fields of a body. None of them costs anything beside tokens, which the answer tells."""

EDITS = "clear_"
"""What the context management of a request may do: leave something out. (A summary is a request of its own.)"""

BYTES_A_TOKEN = 2
"""By which a prompt is reckoned: text that is dense in tokens has as few."""

IMAGE_TOKENS, DOCUMENT_TOKENS = 5_000, 200_000
"""Of one image, at most, and of one PDF: its bytes tell nothing of its pages, of which a hundred are taken."""

SOURCES = ("base64", "text", "content")
"""Where an image or a document may come from: from the body. The size of one that is fetched could not be known."""

MOST_TOKENS = 1_000_000
"""Tokens of an answer that can be asked for; no model gives so many."""

STREAM_TOKENS = 32_000
"""Tokens that are expected of an answer which streams and may be longer: it can be cut."""


class Refused(Exception):
    """A request that does not pass: the HTTP status, why, and when to come again, in seconds."""

    def __init__(self, status: int, why: str, retry_after: int | None = None) -> None:
        super().__init__(why)
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True)
class Call:
    """A request that may pass: its path below the model's root, the model it names, the form of its answer.

    US dollars: `most_usd` is what it is expected to cost at most, `unanswered_usd` what it counts when it was sent and
    no answer told what it cost. One that does not stream is worked on to its end, whoever hangs up.
    """

    path: str
    model: str
    form: Form
    most_usd: float = 0.0
    unanswered_usd: float = 0.0


@dataclass(frozen=True)
class Body:
    """The document of a request, about how many tokens its prompt has at most, and whether it is kept for an hour."""

    document: dict[str, Any]
    prompt_tokens: int
    for_an_hour: bool

    @property
    def streams(self) -> bool:
        """Whether the answer is to come piece by piece. Raises Refused."""
        wanted = self.document.get("stream", False)
        if not isinstance(wanted, bool):
            raise Refused(400, "stream: it is neither true nor false")
        return wanted


def check(document: dict[str, Any]) -> None:
    """Raises Refused that names the field which is not passed on."""
    for name in document.keys() - FIELDS:
        raise Refused(400, f"{name[:100]}: this field is not passed on")
    for tool in _objects(document, "tools"):
        if tool.get("type", "custom") != "custom":
            raise Refused(400, f"tools: one of type {str(tool['type'])[:100]} is not passed on")
    for edit in _objects(document, "context_management", "edits"):
        if not str(edit.get("type")).startswith(EDITS):
            raise Refused(400, f"context_management: {str(edit.get('type'))[:100]} is not passed on")


def call(path: str, model: str, form: Form, body: Body) -> Call:
    """The call that a body asks for. Raises Refused that names the field."""
    check(body.document)
    tokens = body.document.get("max_tokens")
    if type(tokens) is not int or not 0 <= tokens <= MOST_TOKENS:
        raise Refused(400, "max_tokens: it is no number of tokens")
    streams = form != "json"
    kept = "ephemeral_1h_input_tokens" if body.for_an_hour else "ephemeral_5m_input_tokens"
    prompt = Usage(cache_creation=CacheWritten.model_validate({kept: body.prompt_tokens}))
    answer = {"output_tokens": min(tokens, STREAM_TOKENS) if streams else tokens}
    most = known().cost(model, prompt.model_copy(update=answer))
    return Call(path, model, form, most, known().cost(model, prompt) if streams else most)


def read(body: bytes) -> Body:
    """A body's document, and what its prompt may be. Raises Refused.

    No key comes twice: which of them counts, others may see in another way.
    """
    try:
        document = json.loads(body, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "the body is not JSON") from error
    if not isinstance(document, dict):
        raise Refused(400, "the body is no object")
    pictured = list(_pictured(document))
    text = len(body) - sum(len(data) for _, data in pictured)
    tokens = text // BYTES_A_TOKEN + sum(each for each, _ in pictured)
    return Body(document, tokens, b'"1h"' in body)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Refused(400, "the body has a key twice")
    return found


def _pictured(document: dict[str, Any]) -> Iterator[tuple[int, str]]:
    """The tokens and the data of images and documents, where the model sees some; what looks like one elsewhere is
    text. Raises Refused."""
    for message in _dicts(document.get("messages")):
        for block in _dicts(message.get("content")):
            for part in (block, *_dicts(block.get("content") if block.get("type") == "tool_result" else None)):
                source = part.get("source")
                if not isinstance(source, dict) or part.get("type") not in ("image", "document"):
                    continue
                if source.get("type") not in SOURCES:
                    raise Refused(400, f"source: one of type {str(source.get('type'))[:100]} is not passed on")
                if source["type"] == "base64" and isinstance(source.get("data"), str):
                    yield IMAGE_TOKENS if part["type"] == "image" else DOCUMENT_TOKENS, source["data"]


def _dicts(items: Any) -> list[dict[str, Any]]:
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _objects(document: Any, *names: str) -> list[dict[str, Any]]:
    """The list of objects that is there under these names, one inside the other; an empty one where there is none."""
    for name in names:
        document = document.get(name, []) if isinstance(document, dict) else document
    if not isinstance(document, list) or not all(isinstance(item, dict) for item in document):
        raise Refused(400, f"{'.'.join(names)}: it is no list of objects")
    return document
