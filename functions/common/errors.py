"""The errors of a turn. A class name is what Retry and Catch in `statemachine/turn.asl.json` match.

    StepgramError
    ├── ConfigurationError       a setting or secret is missing             ends the turn (Catch)
    ├── BadInput                 an update or payload is malformed          webhook answers 400; ends the turn
    ├── ModelError
    │   ├── ModelThrottled       429, 503, 529: the model is busy           Retry 6 times, backoff 2, full jitter
    │   ├── ModelUnavailable     other 5xx, no answer                       Retry 4 times
    │   ├── ModelAccessDenied    401, 403: credentials or model access      ends the turn (Catch)
    │   └── ModelRejected        other 4xx: the request is refused          ends the turn (Catch)
    ├── AgentError
    │   ├── AgentBusy            an earlier run of this turn still lives    Retry until that run ended or went silent
    │   ├── AgentCrashed         the agent's process died                   Retry once, then Catch
    │   └── AgentTimedOut        out of time without an answer              Retry once, then Catch
    ├── LockContended            the lock item changed too often            Retry 3 times
    ├── LockLost                 the lock's fence moved on                  nothing is written; queues for it again
    ├── TooManyWaiting           64 turns wait in this conversation         ends the turn (Catch); the user is told
    ├── BudgetSpent              nothing is left of a budget                ends the turn (Catch); the user is told
    ├── AlbumIncomplete          more of an album may still come            Retry until nothing came for a moment
    ├── TranscriptPending        a voice message is being transcribed       Retry until it is text
    ├── SnapshotMissing          a snapshot S3 no longer has                handled in Hydrate: a fresh session
    └── TelegramError
        ├── TelegramRateLimited  429                                        waits `retry_after` seconds, replies again
        ├── TelegramUnavailable  5xx or the network                         Retry 6 times
        └── TelegramRefused      400, 403: blocked, chat gone               the turn ends as undeliverable

`tests/unit/test_errors.py` compares this module with the definitions.
"""

from __future__ import annotations


class StepgramError(Exception):
    """The root of all errors that a function raises on purpose."""


class ConfigurationError(StepgramError):
    """A setting or a secret is missing or malformed; the message names it."""


class BadInput(StepgramError):
    """An update or a payload is malformed; the message names the field."""


class ModelError(StepgramError):
    """The model endpoint answered with an error."""


class ModelThrottled(ModelError):
    """HTTP 429, 503 or 529: the model is busy and a later try may succeed."""


class ModelUnavailable(ModelError):
    """Another 5xx, or no answer at all."""


class ModelAccessDenied(ModelError):
    """HTTP 401 or 403: it will not heal by itself."""


class ModelRejected(ModelError):
    """Another 4xx: this request will never be accepted."""


class AgentError(StepgramError):
    """The agent itself failed, not the model."""


class AgentBusy(AgentError):
    """An earlier run of the same turn holds the claim and still gives signs of life."""


class AgentCrashed(AgentError):
    """The agent's process died, or its transcript could not be kept."""


class AgentTimedOut(AgentError):
    """The agent ran out of time."""


class LockContended(StepgramError):
    """The lock item changed under us at every attempt to write it."""


class LockLost(StepgramError):
    """The turn no longer owns its conversation's lock: the fence moved on."""


class TooManyWaiting(StepgramError):
    """The conversation's queue is full."""


class BudgetSpent(StepgramError):
    """A budget of this day or month is spent."""


class AlbumIncomplete(StepgramError):
    """Part of an album came just now, so more may come."""


class TranscriptPending(StepgramError):
    """A voice message is being transcribed."""


class SnapshotMissing(StepgramError):
    """DynamoDB names a snapshot that S3 no longer has."""


class TelegramError(StepgramError):
    """The Bot API did not accept a request."""


class TelegramRateLimited(TelegramError):
    """HTTP 429. The definition reads the seconds to wait between the two `#` of the message."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"Telegram asks to wait #{retry_after}# seconds")
        self.retry_after = retry_after


class TelegramUnavailable(TelegramError):
    """HTTP 5xx, a timeout or a broken connection."""


class TelegramRefused(TelegramError):
    """HTTP 400 or 403. `description` is Telegram's own text, `status` the HTTP status."""

    def __init__(self, status: int, description: str) -> None:
        super().__init__(f"Telegram refused ({status}): {description}")
        self.status = status
        self.description = description


def model_error(status: int | None, message: str) -> ModelError:
    """The error for an HTTP status of the model endpoint (None: no answer came)."""
    if status in (429, 503, 529):
        return ModelThrottled(message)
    if status in (401, 403):
        return ModelAccessDenied(message)
    if status is not None and 400 <= status < 500:
        return ModelRejected(message)
    return ModelUnavailable(message)
