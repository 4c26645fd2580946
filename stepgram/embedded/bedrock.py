"""A stand-in for Bedrock's runtime API, as far as the Claude CLI uses it; the demo model answers behind it.

Sources: InvokeModelWithResponseStream (AWS Bedrock API reference) for the event-stream framing, the Anthropic
Messages API for the events inside, and the calls the CLI was seen to make (`GET /inference-profiles`,
`POST /model/{id}/invoke[-with-response-stream]`).
"""

from __future__ import annotations

import base64
import json
import struct
import threading
import time
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from flask import Flask, Response, request

from stepgram.embedded import demo_model
from stepgram.embedded.state import Change, Keep, nothing_is_kept

ERROR_TYPES = {
    400: "ValidationException",
    401: "UnrecognizedClientException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    408: "ModelTimeoutException",
    424: "ModelErrorException",
    429: "ThrottlingException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
    529: "OverloadedException",
}


def frame(headers: dict[str, str], payload: bytes) -> bytes:
    """One message of the vnd.amazon.eventstream encoding: prelude, string headers, payload, two CRCs."""
    encoded = b"".join(
        struct.pack("!B", len(name)) + name.encode() + b"\x07" + struct.pack("!H", len(value)) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack("!II", 16 + len(encoded) + len(payload), len(encoded))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + encoded + payload
    return message + struct.pack("!I", zlib.crc32(message))


def chunk(event: dict[str, Any]) -> bytes:
    """One Messages API event as Bedrock streams it."""
    payload = json.dumps({"bytes": base64.b64encode(json.dumps(event).encode()).decode()})
    return frame(
        {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}, payload.encode()
    )


def exception(name: str) -> bytes:
    """An error as Bedrock ends a stream with it."""
    headers = {":exception-type": name, ":content-type": "application/json", ":message-type": "exception"}
    return frame(headers, json.dumps({"message": f"{name} asked for by the demo model"}).encode())


def tokens(text: str) -> int:
    """A rough token count: four characters a token."""
    return max(1, len(text) // 4)


def events(answer: demo_model.Answer, model: str, input_tokens: int) -> Iterator[dict[str, Any]]:
    """The Messages API events of one streamed answer."""
    message: dict[str, Any] = {
        "id": f"msg_bdrk_{uuid.uuid4().hex[:20]}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": input_tokens, "output_tokens": 1},
    }
    yield {"type": "message_start", "message": message}
    output_tokens = 0
    for index, block in enumerate(answer.blocks):
        if block["type"] == "text":
            yield {"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}}
            for piece in pieces(block["text"]):
                yield {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": piece}}
            output_tokens += tokens(block["text"])
        else:
            arguments = json.dumps(block["input"])
            yield {"type": "content_block_start", "index": index, "content_block": {**block, "input": {}}}
            delta = {"type": "input_json_delta", "partial_json": arguments}
            yield {"type": "content_block_delta", "index": index, "delta": delta}
            output_tokens += tokens(arguments)
        yield {"type": "content_block_stop", "index": index}
    last: dict[str, Any] = {"stop_reason": answer.stop_reason, "stop_sequence": None}
    yield {"type": "message_delta", "delta": last, "usage": {"output_tokens": output_tokens}}
    yield {"type": "message_stop"}


def until_break(stream: Iterator[dict[str, Any]], whole: int | None) -> Iterator[dict[str, Any]]:
    """The events until the connection breaks: `whole` blocks, and the first piece of the next, if there is one."""
    for event in stream:
        if whole is not None and event["type"] == "message_delta":
            return
        yield event
        if event["type"] == "content_block_delta" and event["index"] == whole:
            return


def pieces(text: str, limit: int = 50) -> list[str]:
    """The text cut into at most `limit` deltas, as a model streams them."""
    size = max(1, -(-len(text) // limit))
    return [text[start : start + size] for start in range(0, len(text), size)]


def refused(status: int, retry_after: int | None) -> Response:
    """An error as the API answers it; `retry_after` in seconds."""
    name = ERROR_TYPES.get(status, "InternalServerException")
    response = Response(json.dumps({"message": f"{name} asked for by the demo model"}), status)
    response.headers.update({"content-type": "application/json", "x-amzn-errortype": name})
    if retry_after is not None:
        response.headers["retry-after"] = str(retry_after)
    return response


class Bedrock:
    """The endpoint. `failures` has, for each step of a conversation, the requests that were made to fail; it is kept.

    A request is named by its CLI process, where that counts once (`demo_model`).
    """

    def __init__(self, failures: dict[str, list[str]] | None = None, keep: Keep = nothing_is_kept) -> None:
        self.failures = failures if failures is not None else {}
        self._keep = keep
        self.requests: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def app(self) -> Flask:
        """The WSGI application."""
        app = Flask("bedrock", static_folder=None)
        app.add_url_rule("/inference-profiles", view_func=self._profiles)
        app.add_url_rule("/model/<path:model>/invoke", view_func=self._invoke, methods=["POST"])
        app.add_url_rule("/model/<path:model>/invoke-with-response-stream", view_func=self._stream, methods=["POST"])
        return app

    def _profiles(self) -> dict[str, Any]:
        return {"inferenceProfileSummaries": []}

    def _record(self, model: str) -> dict[str, Any]:
        """Note a request; `time` and `ended` in seconds since 1970."""
        session = request.headers.get("X-Claude-Code-Session-Id", "")
        process = request.headers.get("X-Stepgram-Process", "")
        body = json.loads(request.get_data())
        record = {"time": time.time(), "ended": None, "model": model, "session": session, "process": process}
        record["body"] = body
        with self._lock:
            self.requests.append(record)
            del self.requests[:-200]
        return record

    def _answer(self, record: dict[str, Any]) -> demo_model.Answer | Response:
        messages = record["body"]["messages"]
        answer = demo_model.answer(messages)
        if isinstance(answer, demo_model.Answer):
            return answer
        name = record["process"] if answer.by_process else uuid.uuid4().hex
        with self._lock:
            asked = f"{record['session']} {demo_model.step(messages)}"
            failed = self.failures.setdefault(asked, [])
            if name not in failed and len(failed) >= answer.times:
                return replace(answer.then, whole=None)
            if name not in failed:
                failed.append(name)
                self._keep(Change("model", asked, 0, failed))
        return answer.then if answer.status is None else refused(answer.status, answer.retry_after)

    def _invoke(self, model: str) -> Any:
        answer = self._answer(self._record(model))
        if isinstance(answer, Response):
            return answer
        time.sleep(answer.seconds)
        if answer.whole is not None:
            return _broken(Response(b"{"))
        size = tokens(json.dumps(list(answer.blocks)))
        return {
            "id": f"msg_bdrk_{uuid.uuid4().hex[:20]}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": list(answer.blocks),
            "stop_reason": answer.stop_reason,
            "stop_sequence": None,
            "usage": {"input_tokens": tokens(request.get_data(as_text=True)), "output_tokens": size},
        }

    def _stream(self, model: str) -> Response:
        record = self._record(model)
        answer = self._answer(record)
        if isinstance(answer, Response):
            return answer
        input_tokens = tokens(request.get_data(as_text=True))

        def body() -> Iterator[bytes]:
            stream = list(until_break(events(answer, model, input_tokens), answer.whole))
            for event in stream:
                yield chunk(event)
                if answer.seconds:
                    time.sleep(answer.seconds / len(stream))
            if answer.whole is not None and answer.exception is not None:
                yield exception(answer.exception)
            record["ended"] = time.time()

        response = Response(body(), content_type="application/vnd.amazon.eventstream")
        return response if answer.whole is None or answer.exception else _broken(response)


def _broken(response: Response) -> Response:
    """A response that promises more than it brings, so that its end is a broken connection."""
    response.headers["content-length"] = str(2**31)
    return response
