"""What an invocation answers, and how a handler is called, as Lambda's Python runtime does it.

Error documents: https://docs.aws.amazon.com/lambda/latest/dg/python-exceptions.html.
"""

from __future__ import annotations

import importlib
import json
import time
import traceback
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What Invoke returns: the payload, and the name in `X-Amz-Function-Error` when the function failed."""

    payload: bytes
    function_error: str | None = None


class Context:
    """The context object a handler gets; it counts down."""

    def __init__(self, name: str, seconds: float, request_id: str, memory: int) -> None:
        self._deadline = time.monotonic() + seconds
        self.function_name = name
        self.aws_request_id = request_id
        self.memory_limit_in_mb = memory
        self.function_version = "$LATEST"
        self.invoked_function_arn = f"arn:aws:lambda:us-east-1:123456789012:function:{name}"

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until Lambda ends the function."""
        return max(0, int((self._deadline - time.monotonic()) * 1000))


def failure(error_type: str, message: str, trace: list[str] | None = None, request_id: str = "") -> Answer:
    """The error document of a failed invocation, fields in the order of Lambda's Python runtime."""
    document = {"errorMessage": message, "errorType": error_type, "requestId": request_id, "stackTrace": trace or []}
    return Answer(json.dumps(document).encode(), "Unhandled")


def call_handler(handler: str, event: dict[str, Any], context: Context) -> Answer:
    """Import and call a handler; any exception becomes the error document, as Lambda's runtime does."""
    try:
        module, _, name = handler.rpartition(".")
        result = getattr(importlib.import_module(module), name)(event, context)
    except Exception as error:  # noqa: BLE001 - whatever a function raises is its answer
        trace = traceback.format_tb(error.__traceback__)
        return failure(type(error).__name__, str(error), trace, context.aws_request_id)
    try:
        return Answer(json.dumps(result).encode())
    except (TypeError, ValueError) as error:
        return failure("Runtime.MarshalError", f"Unable to marshal response: {error}", [], context.aws_request_id)
