"""What the agent's processes may ask the model, and what that may cost, before it is passed on.

Anything beside the CLI may speak to the endpoint, too: a request that costs more than its tokens (a tool that runs at
the model's side, a faster or nearer service) could not be counted, so only what the CLI was seen to send passes.

Sources: the requests of the CLI 2.1.329, of Bedrock's form and of the Messages API's; in the documentation at
https://platform.claude.com/docs/en/ : api/messages (fields), build-with-claude/vision (tokens of an image),
agents-and-tools/tool-use/overview (tools with a `type` may run at the model's side, and have prices of their own).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from functions.agent.model.metering import CHARACTERS_A_TOKEN, Form
from functions.common.models import Usage, known

HEADERS = frozenset({"accept", "content-type", "user-agent", "x-app"})
HEADER_BEGINNINGS = ("anthropic-", "x-stainless-", "x-claude-code-", "x-stepgram-")
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

IMAGE_TOKENS = 5_000
"""Of one image, at most."""

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


def call(path: str, model: str, form: Form, document: dict[str, Any], prompt_tokens: int) -> Call:
    """The call that a body asks for. Raises Refused that names the field."""
    for name in document.keys() - FIELDS:
        raise Refused(400, f"{name[:100]}: this field is not passed on")
    for tool in _objects(document, "tools"):
        if tool.get("type", "custom") != "custom":
            raise Refused(400, f"tools: one of type {str(tool['type'])[:100]} is not passed on")
    for edit in _objects(document, "context_management", "edits"):
        if not str(edit.get("type")).startswith(EDITS):
            raise Refused(400, f"context_management: {str(edit.get('type'))[:100]} is not passed on")
    tokens = document.get("max_tokens")
    if type(tokens) is not int or tokens < 0:
        raise Refused(400, "max_tokens: it is no number of tokens")
    streams = form != "json"
    price = known().cost
    most = price(
        model,
        Usage(
            cache_creation_input_tokens=prompt_tokens, output_tokens=min(tokens, STREAM_TOKENS) if streams else tokens
        ),
    )
    return Call(path, model, form, most, price(model, Usage(input_tokens=prompt_tokens)) if streams else most)


def read(body: bytes) -> tuple[dict[str, Any], int]:
    """A body's document, and about how many tokens its prompt has. Raises Refused.

    No key comes twice: which of them counts, others may see in another way.
    """
    images = _Images()
    try:
        document = json.loads(body, object_pairs_hook=images.seen)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "the body is not JSON") from error
    if not isinstance(document, dict):
        raise Refused(400, "the body is no object")
    return document, (len(body) - images.characters) // CHARACTERS_A_TOKEN + images.count * IMAGE_TOKENS


class _Images:
    """Looks at the objects of a document as they are parsed: the length of an image says little of its tokens."""

    def __init__(self) -> None:
        self.count = 0
        self.characters = 0

    def seen(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise Refused(400, "the body has a key twice")
        if found.get("type") == "base64" and str(found.get("media_type")).startswith("image/"):
            self.count += 1
            self.characters += len(str(found.get("data")))
        return found


def _objects(document: Any, *names: str) -> list[dict[str, Any]]:
    """The list of objects that is there under these names, one inside the other; an empty one where there is none."""
    for name in names:
        document = document.get(name, []) if isinstance(document, dict) else document
    if not isinstance(document, list) or not all(isinstance(item, dict) for item in document):
        raise Refused(400, f"{'.'.join(names)}: it is no list of objects")
    return document
