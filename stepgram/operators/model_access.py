"""Can this account call a model on Bedrock: is there such a profile, does AWS keep the model, was it subscribed to?

Sources: https://docs.aws.amazon.com/bedrock/latest/userguide/model-access.html (the use-case form, and the subscription
by the first call), https://docs.aws.amazon.com/bedrock/latest/userguide/model-lifecycle.html (new customers cannot call
a LEGACY model), https://docs.aws.amazon.com/bedrock/latest/userguide/quotas-runtime.html (tokens per minute).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

CHOOSE = "Choose ids the region offers: parameters ModelId, OpusModelId, SonnetModelId, HaikuModelId, or BedrockRegion."
REPLACE = (
    "Choose newer ids (docs/configuration.md, Models): accounts that have not used a LEGACY model cannot begin to."
)
SUBSCRIBE = (
    "Fill in Anthropic's use-case form, then call the model once with Marketplace rights (README, Put it on AWS)."
)
RAISE = "Ask for more in the Service Quotas console: Amazon Bedrock, cross-region tokens per minute of the model."

MISSING = ("ResourceNotFoundException", "ValidationException")
"""What Bedrock answers to an id it does not have, or that is none."""

PROFILE = re.compile(r"^(arn:.*inference-profile/|[a-z-]+\.(?=anthropic\.))")
"""How an inference profile's id begins; a foundation model's begins with its publisher."""

TOKENS_PER_MINUTE = 100_000
"""One long conversation's prompt: with less, a single request may be throttled for ever."""


@dataclass(frozen=True)
class Found:
    """What Bedrock says of one model; `remedy` is empty when it can be called."""

    model: str
    state: str
    remedy: str = ""


def look_up(bedrock: Any, model: str) -> Found:
    """One model, by its id or profile. Raises ClientError for what is not about the model."""
    try:
        own = _foundation_model(bedrock, model)
        lifecycle = bedrock.get_foundation_model(modelIdentifier=own)["modelDetails"]["modelLifecycle"]
        answer = bedrock.get_foundation_model_availability(modelId=own)
    except ClientError as error:
        if error.response["Error"]["Code"] not in MISSING:
            raise
        return Found(model, f"not offered here ({error.operation_name})", CHOOSE)
    if lifecycle["status"] != "ACTIVE":
        ends = lifecycle.get("endOfLifeTime")
        return Found(model, lifecycle["status"] + (f", ends {ends:%Y-%m-%d}" if ends else ""), REPLACE)
    is_right = {
        "agreement": answer["agreementAvailability"]["status"] == "AVAILABLE",
        "authorization": answer["authorizationStatus"] == "AUTHORIZED",
        "entitlement": answer["entitlementAvailability"] == "AVAILABLE",
        "region": answer["regionAvailability"] == "AVAILABLE",
    }
    lacking = [name for name, there in is_right.items() if not there]
    return Found(model, f"no {', '.join(lacking)}", SUBSCRIBE) if lacking else Found(model, "available")


def _foundation_model(bedrock: Any, model: str) -> str:
    """The id of the model behind a profile (ACTIVE is the only state a profile has)."""
    if not PROFILE.match(model):
        return model
    profile = bedrock.get_inference_profile(inferenceProfileIdentifier=model)
    arn: str = profile["models"][0]["modelArn"]
    return arn.rpartition("/")[2]


def tokens_per_minute(quotas: Iterable[dict[str, Any]], name: str, is_global: bool) -> float | None:
    """The account's quota for a model (`Claude Sonnet 5.5`) by profile; None when Service Quotas names none.

    The quotas' names are sentences; several may fit (for a long context, for one API), and the largest counts.
    """
    model = re.compile(rf"\b{re.escape(name)}(?!\d|\.\d)", re.IGNORECASE)
    found = [
        quota["Value"]
        for quota in quotas
        if "tokens per minute" in quota["QuotaName"].lower()
        and "cross-region" in quota["QuotaName"].lower()
        and quota["QuotaName"].lower().startswith("global") == is_global
        and model.search(quota["QuotaName"])
    ]
    return max(found, default=None)
