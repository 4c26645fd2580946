"""The errors of a turn. A class name is what Retry and Catch in `statemachine/turn.asl.json` match.

    StepgramError
    ├── ConfigurationError       a setting, permission, resource is missing ends the turn (Catch)
    ├── BadInput                 an update or payload is malformed          webhook logs it; ends the turn
    ├── AwsUnavailable           AWS is busy, conflicts or does not answer  Retry 6 times, backoff 2, full jitter
    ├── ModelError
    │   ├── ModelThrottled       429, 503, 529: the model is busy           Retry 6 times, backoff 2, full jitter
    │   ├── ModelUnavailable     other 5xx, no answer                       Retry 4 times
    │   ├── ModelAccessDenied    401, 403: credentials or model access      ends the turn (Catch)
    │   └── ModelRejected        other 4xx: the request is refused          ends the turn (Catch)
    ├── AgentError
    │   ├── AgentCrashed         the agent's process died                   Retry once, then Catch
    │   └── AgentTimedOut        out of time without an answer              Retry once, then Catch
    ├── LockContended            the lock item changed too often            Retry 3 times
    ├── LockLost                 the lock's fence moved on                  nothing is written; queues for it again
    ├── TooManyWaiting           64 turns wait in this conversation         ends the turn (Catch); the user is told
    ├── BudgetSpent              nothing is left of a budget                ends the turn (Catch); the user is told
    ├── BudgetReserved           turns at work have what is left of it      Retry until one ended, for 15 minutes
    ├── AlbumIncomplete          more of an album may still come            Retry until nothing came for a moment
    ├── TranscriptPending        a voice message is being transcribed       Retry until it is text
    ├── SnapshotMissing          a snapshot S3 no longer has                handled in Hydrate: a fresh session
    │   └── ResultRefused        the agent left what cannot be              as lost; a turn's own result: ends the turn
    └── ChannelError             what was to be said did not reach its place
        ├── ChannelLimited
        │   └── TelegramRateLimited    429                              waits `retry_after` seconds, says it again
        ├── TelegramUnavailable        5xx or the network               Retry 6 times
        └── ChannelRefused
            ├── TelegramRefused        400, 403: blocked, chat gone     the turn ends as undeliverable
            └── WebRefused             the conversation is deleted      the turn ends as undeliverable

`tests/unit/test_errors.py` compares this module with the definitions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

UNKNOWN = "Read the log of the state's function (`stepgram logs NAME`); mend it or wait, then rerun."

PLATFORM = {
    "States.Timeout": "The state ran out of time: read its function's log, then rerun.",
    "States.HeartbeatTimeout": "The agent's container fell silent, also when tried again: read its log, then rerun.",
    "States.Runtime": "The definition met data it cannot read, which is a bug: report it with the state's input.",
    "States.DataLimitExceeded": "A state's data grew beyond 256 KiB, which is a bug: report it with the state's input.",
    "States.TaskFailed": "An AWS service refused the state's call: its error says why; mend that, then rerun.",
    "States.Permissions": "The state machine's role lacks a permission: deploy the template as it is, then rerun.",
    "Lambda.TooManyRequestsException": "Lambda's concurrency is used up: raise the account's quota, then rerun.",
    "Lambda.ServiceException": "Lambda failed for minutes: look at the AWS Health Dashboard, then rerun.",
    "Lambda.AWSLambdaException": "Lambda refused the call: see that the function exists and may be called, then rerun.",
    "Lambda.SdkClientException": "Step Functions could not reach Lambda: look at the AWS Health Dashboard, then rerun.",
    "Lambda.ClientExecutionTimeoutException": "Lambda did not answer Step Functions in time: rerun.",
    "Runtime.OutOfMemory": "The function needed more memory than it has: raise it (AgentMemory), then rerun.",
    "Lambda.*": "Lambda could not start the function for minutes, as it slept or changed: see its state, then rerun.",
    "Lambda.Unknown": "The function died without a word, mostly for want of memory: read its log, then rerun.",
    "Runtime.ExitError": "The function's process ended: read its log, add memory if it was killed, then rerun.",
    "Sandbox.Timedout": "The function ran out of its own time: read its log, then rerun.",
    "DynamoDB.*": "DynamoDB failed or refused the session's item: look at the table and its throttles, then rerun.",
    "ABORTED": "Somebody stopped the execution. Rerun it if its message still wants an answer.",
    "TIMED_OUT": "The execution ran out of time: look at the state it was in, then rerun.",
    "StoppedByOperator": "An operator stopped it. Rerun it if its message still wants an answer.",
    "StoppedByUser": "Nothing to do: a person stopped the turn with /stop.",
}
"""What to do about errors that are not ours, by the names Step Functions gives them."""

WHERE, NEXT = " — Where: ", ". Next: "


class StepgramError(Exception):
    """The root of all errors that a function raises on purpose. `remedy` is what an operator can do."""

    remedy = UNKNOWN


class ConfigurationError(StepgramError):
    """A setting, a secret, a permission or a resource is missing or malformed; the message names it."""

    remedy = "Set what the cause names (`docs/configuration.md`), or deploy the template as it is, then rerun."


class BadInput(StepgramError):
    """An update or a payload is malformed; the message names the field."""

    remedy = (
        "The cause names the field. An update of Telegram that looks like this is a bug: report it with the "
        "execution's input."
    )


class AwsUnavailable(StepgramError):
    """AWS throttled a call, met a conflict, failed or could not be reached: a later try may succeed."""

    remedy = "It was retried for a minute: look at the service's throttles and the AWS Health Dashboard, then rerun."


class ModelError(StepgramError):
    """The model endpoint answered with an error."""


class ModelThrottled(ModelError):
    """HTTP 429, 503 or 529: the model is busy and a later try may succeed."""

    remedy = "It was retried for minutes: look at Bedrock's quotas for the model and at its status, then rerun."


class ModelUnavailable(ModelError):
    """Another 5xx, or no answer at all."""

    remedy = "It was retried for a minute: look at the model's status page, then rerun."


class ModelAccessDenied(ModelError):
    """HTTP 401 or 403: it will not heal by itself."""

    remedy = (
        "Run `stepgram doctor`: it names the model that lacks Anthropic's form or its first call; or mend the agent's "
        "role or the keys in the model's secret, then rerun."
    )


class ModelRejected(ModelError):
    """Another 4xx: this request will never be accepted."""

    remedy = "The cause has the endpoint's words: a wrong model id, or a request too large. Mend it, then rerun."


class AgentError(StepgramError):
    """The agent itself failed, not the model."""


class AgentCrashed(AgentError):
    """The agent's process died, or its transcript could not be kept."""

    remedy = "The cause has the last lines of the agent's process: raise AgentMemory if it was killed, then rerun."


class AgentTimedOut(AgentError):
    """The agent ran out of time."""

    remedy = (
        "The task is longer than the parts a turn may have, or the agent hangs: read its log, ask for less at "
        "a time, then rerun."
    )


class LockContended(StepgramError):
    """The lock item changed under us at every attempt to write it."""

    remedy = "The conversation's lock item changed too often at once. It is quiet now: rerun."


class LockLost(StepgramError):
    """The turn no longer owns its conversation's lock: the fence moved on."""

    remedy = "Nothing to do: nothing was written, and the turn queues for the lock again."


class TooManyWaiting(StepgramError):
    """The conversation's queue is full."""

    remedy = "64 messages were waiting in this conversation. Rerun it when they are answered."


class BudgetSpent(StepgramError):
    """A budget of this day or month is spent."""

    remedy = "Raise the budget (the cause names it) or wait for the next day or month, then rerun."


class BudgetReserved(StepgramError):
    """What is left of a budget is reserved by turns at work, which will leave some of it."""

    remedy = "Rerun it when fewer turns are at work, or raise the budget that the cause names."


class AlbumIncomplete(StepgramError):
    """Part of an album came just now, so more may come."""

    remedy = "Retried until an album is complete. As a failure, parts of it came for half a minute: rerun."


class TranscriptPending(StepgramError):
    """A voice message is being transcribed."""

    remedy = "Retried while Amazon Transcribe works. As a failure, it took minutes: look at its jobs, then rerun."


class SnapshotMissing(StepgramError):
    """DynamoDB names a snapshot that S3 no longer has."""

    remedy = (
        "Handled by a fresh session in Hydrate. Elsewhere an object vanished during the turn: see that nobody "
        "empties the bucket, then rerun."
    )


class ResultRefused(SnapshotMissing):
    """The agent handed in or left something that is not what it must be. Of a session it counts as lost."""

    remedy = (
        "Nothing of it was made visible. Rerun it; when it happens again, the agent of this conversation works against "
        "you or its files were changed: /new starts a fresh session."
    )


class ChannelError(StepgramError):
    """What was to be said did not reach its place."""


class ChannelLimited(ChannelError):
    """It was too much at once: the same again in `retry_after` seconds."""

    retry_after: int


class ChannelRefused(ChannelError):
    """The place does not take it, and never will; `description` says why."""

    description: str


class TelegramRateLimited(ChannelLimited):
    """HTTP 429. The definition reads the seconds to wait between the two `#` of the message."""

    remedy = "Telegram asked to wait longer than the turn could. Rerun it later."

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"Telegram asks to wait #{retry_after}# seconds")
        self.retry_after = retry_after


class TelegramUnavailable(ChannelError):
    """HTTP 5xx, a timeout or a broken connection."""

    remedy = "Telegram did not answer for minutes. Rerun when it does."


class TelegramRefused(ChannelRefused):
    """HTTP 400, 403 or 413. `description` is Telegram's own text, `status` the HTTP status."""

    remedy = (
        "Telegram's words are in the cause. Blocked or deleted chats end as UNDELIVERABLE; anything else is a "
        "bug to report."
    )

    def __init__(self, status: int, description: str) -> None:
        super().__init__(f"Telegram refused ({status}): {description}")
        self.status = status
        self.description = description


class WebRefused(ChannelRefused):
    """A conversation of the web takes nothing (any more). `description` says why."""

    remedy = "Nothing to do: its conversation was deleted while it ran; such turns end as UNDELIVERABLE."

    def __init__(self, description: str) -> None:
        super().__init__(description)
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


def remedy_of(name: str) -> str:
    """What an operator can do about an error, by its name."""
    known = globals().get(name)
    if isinstance(known, type) and issubclass(known, StepgramError):
        return known.remedy
    return PLATFORM.get(name) or PLATFORM.get(f"{name.partition('.')[0]}.*", UNKNOWN)


@contextmanager
def located(state: str) -> Iterator[None]:
    """Let an error's message say what happened, where, and what to do next: it is the cause people read."""
    try:
        yield
    except StepgramError as error:
        if NEXT not in str(error):
            error.args = (f"{str(error).rstrip('.')}{WHERE}{state}{NEXT}{error.remedy}",)
        raise
