"""Logs: one JSON line an event, each with `turn_id`, `session_key`, `session_id` and `state`; and metrics.

Message text, tokens and file contents are never logged above DEBUG. Metrics are log lines, too, in CloudWatch's
embedded metric format, from which it makes metrics without an API call
(https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html).
Each has the dimension `service`, which is the stack's name; some have a second one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from functions.common.aws import translated
from functions.common.errors import BadInput, StepgramError, located
from functions.common.settings import Settings


class MetricSettings(Settings):
    """Whoever measures."""

    service: str = Field(
        "stepgram", alias="POWERTOOLS_SERVICE_NAME", description="The stack's name, the dimension `service` of metrics"
    )


logger = Logger(service="stepgram")


NAMESPACE = "Stepgram"

METRICS = {
    "TurnSeconds": ("Seconds", "from a turn's start to its end"),
    "QueueSeconds": ("Seconds", "from a turn's start until it owned its conversation's lock"),
    "WaitingSeconds": ("Seconds", "how long a turn that still waits has waited, told every 15 minutes"),
    "FirstSignSeconds": ("Seconds", "from a turn's start until the chat showed that its message was taken up"),
    "AgentSeconds": ("Seconds", "what the agent worked on a turn"),
    "CostUsd": (
        "None",
        "what a run of the agent cost in US dollars, as its endpoint reckons; failed runs, too",
    ),
    "CostsNotCounted": ("Count", "times that costs could not be counted; whoever comes next counts them"),
    "InputTokens": ("Count", "tokens the model read for a turn, cached ones included"),
    "OutputTokens": ("Count", "tokens the model wrote for a turn"),
    "TurnsAnswered": ("Count", "turns that ended well"),
    "TurnsFailed": ("Count", "turns that did not, by `error`"),
    "Retries": ("Count", "tries of a state after its first, by `state`"),
    "Undeliverable": ("Count", "answers that Telegram refused: blocked bots, chats that are gone"),
    "BudgetRefusals": ("Count", "messages refused because a budget was spent"),
    "UpdatesNotUnderstood": ("Count", "updates with the right secret that are none: answered 200, since they stay so"),
    "NotCarriedOut": ("Count", "commands, buttons and stops that failed; the chat was told"),
    "ProgressFailures": ("Count", "signs of life that Telegram did not take"),
}
"""Every metric: its unit (CloudWatch's own words) and what it measures."""

DIMENSIONS = {"TurnsFailed": "error", "Retries": "state"}
"""The second dimension of those that have one."""


def measure(by: str = "", /, **values: float) -> None:
    """Log values of METRICS; `by` is the second dimension's value, for those that have one.

    Such a value counts in all, too: each is told with and without its second dimension.
    """
    service = MetricSettings.load().service
    for dimension in sorted({"", *(DIMENSIONS.get(name, "") for name in values)}):
        chosen = {name: value for name, value in values.items() if dimension in ("", DIMENSIONS.get(name, ""))}
        provider = AmazonCloudWatchEMFProvider(
            metric_set={},
            dimension_set={},
            metadata_set={},
            namespace=NAMESPACE,
            service=service,
            default_dimensions={},
        )
        for name, value in chosen.items():
            provider.add_metric(name=name, unit=METRICS[name][0], value=value)
        if dimension:
            provider.add_dimension(name=dimension, value=by or "unknown")
        logger.info("measured", extra={"measures": sorted(chosen), **provider.serialize_metric_set()})


class StepRequest(BaseModel):
    """What every step of the Turn is given: which turn it works for, and how often it was tried before."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    turn_id: str
    session_key: str
    state: str
    retry: int = 0


RequestT = TypeVar("RequestT", bound=StepRequest)
DocumentT = TypeVar("DocumentT", bound=BaseModel)


def parse(model: type[DocumentT], event: Any) -> DocumentT:
    """The event as `model`. Raises BadInput that names the first bad fields."""
    try:
        return model.model_validate(event)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'event'}: {item['msg']}" for item in error.errors())
        raise BadInput(f"{model.__name__}: {problems}") from error


@contextmanager
def working(request: StepRequest) -> Iterator[None]:
    """Let log lines name the turn, its session and the state; a try after the first is measured."""
    logger.thread_safe_append_keys(
        turn_id=request.turn_id,
        session_key=request.session_key,
        session_id=getattr(getattr(request, "session", None), "session_id", None),
        state=request.state,
    )
    try:
        if request.retry:
            measure(request.state, Retries=1)
        yield
    finally:
        logger.thread_safe_clear_keys()


def step(
    model: type[RequestT],
) -> Callable[[Callable[[RequestT], BaseModel]], Callable[[dict[str, Any], Any], dict[str, Any]]]:
    """Make a Lambda handler of a function from a typed request to a typed result, with a log line at its end."""

    def decorate(function: Callable[[RequestT], BaseModel]) -> Callable[[dict[str, Any], Any], dict[str, Any]]:
        @wraps(function)
        def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
            started = time.monotonic()
            request = parse(model, event)
            with working(request):
                try:
                    with located(request.state), translated():
                        result = function(request).model_dump(mode="json")
                    logger.info("step done", seconds=round(time.monotonic() - started, 3))
                except StepgramError as error:
                    seconds = round(time.monotonic() - started, 3)
                    logger.warning("step failed", error=type(error).__name__, cause=str(error), seconds=seconds)
                    raise
            return result

        return handler

    return decorate
