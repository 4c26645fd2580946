"""How long one request to the model is repeated inside a run, before the run ends and the workflow's Retry comes.

The CLI repeats a 408, 409, 429, 5xx, a broken connection, and a 401 or 403, ten times at most, with pauses from half a
second to 40 seconds or as long as a `Retry-After` asks, and says so at the beginning of each pause (`api_retry`; seen
with CLI 2.1.329). Its own bounds in time (`CLAUDE_CODE_RETRY_WATCHDOG`) know only 429 and 529; this one knows all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from functions.common.errors import ModelAccessDenied, ModelError, model_error

CLI_RETRIES = 10
"""They take three minutes; the bound comes first."""


class Retry(BaseModel):
    """The CLI's message `api_retry`: it waits before it sends the request again. No status: no answer, or half of one.

    Of a long pause it is sent every 30 seconds, with the rest.
    """

    attempt: int
    retry_delay_ms: float
    error_status: int | None = None
    error: str = ""


class Patience:
    """What is left of it for the present request; `seconds` of waiting at most."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._since: float | None = None

    def answered(self) -> None:
        """The model answers: the next request has a bound of its own."""
        self._since = None

    def ends(self, data: dict[str, Any], words: str) -> ModelError | None:
        """The error that ends the run at this `api_retry`, or None while waiting is worth it.

        `words` are the endpoint's. Denied access does not heal by waiting.
        """
        retry = Retry.model_validate(data)
        now = self._clock()
        self._since = now if self._since is None else self._since
        waited, pause = now - self._since, retry.retry_delay_ms / 1000
        what = words or f"{retry.error_status or 'no answer'} ({retry.error})"
        error = model_error(retry.error_status, what)
        if isinstance(error, ModelAccessDenied):
            return error
        if waited + pause <= self._seconds:
            return None
        return type(error)(
            f"{what}; after {waited:.0f} seconds of trying, the next try would be {pause:.0f} seconds later, "
            f"beyond MODEL_BUSY_SECONDS ({self._seconds:.0f})"
        )
