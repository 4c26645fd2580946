"""Logs: one JSON line an event, each with `turn_id`, `session_key`, `session_id` and `state`.

Message text, tokens and file contents are never logged above DEBUG.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from aws_lambda_powertools import Logger
from pydantic import BaseModel, ConfigDict, ValidationError

from functions.common.errors import BadInput, StepgramError

logger = Logger(service="stepgram")


class StepRequest(BaseModel):
    """What every step of the Turn is given: which turn it works for."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    turn_id: str
    session_key: str
    state: str


RequestT = TypeVar("RequestT", bound=StepRequest)
DocumentT = TypeVar("DocumentT", bound=BaseModel)


def parse(model: type[DocumentT], event: Any) -> DocumentT:
    """The event as `model`. Raises BadInput that names the first bad fields."""
    try:
        return model.model_validate(event)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'event'}: {item['msg']}" for item in error.errors())
        raise BadInput(f"{model.__name__}: {problems}") from error


def step(
    model: type[RequestT],
) -> Callable[[Callable[[RequestT], BaseModel]], Callable[[dict[str, Any], Any], dict[str, Any]]]:
    """Make a Lambda handler of a function from a typed request to a typed result, with a log line at its end."""

    def decorate(function: Callable[[RequestT], BaseModel]) -> Callable[[dict[str, Any], Any], dict[str, Any]]:
        @wraps(function)
        def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
            started = time.monotonic()
            request = parse(model, event)
            session = getattr(request, "session", None)
            keys = {
                "turn_id": request.turn_id,
                "session_key": request.session_key,
                "session_id": getattr(session, "session_id", None),
                "state": request.state,
            }
            logger.thread_safe_append_keys(**keys)
            try:
                result = function(request).model_dump(mode="json")
                logger.info("step done", seconds=round(time.monotonic() - started, 3))
            except StepgramError as error:
                seconds = round(time.monotonic() - started, 3)
                logger.warning("step failed", error=type(error).__name__, cause=str(error), seconds=seconds)
                raise
            finally:
                logger.thread_safe_clear_keys()
            return result

        return handler

    return decorate
