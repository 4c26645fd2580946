"""What a month costs without the model: this design, and the seeds' queue with a consumer that waits, side by side.

What a turn uses was counted on the embedded stack; prices are in `prices.toml`. The seeds' design is: HTTP API,
producer Lambda, SQS, a consumer Lambda that waits for the agent's answer, and the agent Lambda, which copies the whole
session both ways.
"""

from __future__ import annotations

import json
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samtranslator.yaml_helper import yaml_parse

from functions.common.observability import METRICS

ROOT = Path(__file__).resolve().parents[2]
PRICES = Path(__file__).parent / "prices.toml"
TEMPLATE, MACHINE = ROOT / "template.yaml", ROOT / "statemachine" / "turn.asl.json"

STEP_SECONDS, STEP_GB = 0.1, 0.5
WEBHOOK_SECONDS, WEBHOOK_GB = 0.2, 1.0
CALLBACK_EVERY, CALLBACK_SECONDS = 0.5, 0.05
"""While the agent works it calls twice a second, to show what is new and to hear Stop; so long is a call."""

LOG_KB = 12
CONSUMER_GB = 0.5
IMAGE_GB = 0.5
"""The agent's image as ECR keeps it, compressed; an estimate, since no engine has built it here."""

HOURS, SECONDS = 730, 730 * 3600
"""A month's."""


@dataclass(frozen=True)
class Line:
    """One part of the bill: `units` a month at `price` each, in US dollars."""

    part: str
    what: str
    units: float
    price: float

    @property
    def cost(self) -> float:
        """US dollars a month."""
        return self.units * self.price


@dataclass(frozen=True)
class Usage:
    """A month: how many turns, how long the agent works on one, and its memory."""

    turns: int = 100_000
    agent_seconds: float = 10.0
    agent_gb: float = 2.0


def prices() -> dict[str, Any]:
    """The price list with its date."""
    return tomllib.loads(PRICES.read_text(encoding="utf-8"))


def transitions() -> int:
    """State transitions of a turn that is answered: its states, and the start."""
    definition = json.loads(MACHINE.read_text(encoding="utf-8"))
    name, count = definition["StartAt"], 1
    while name is not None:
        state = definition["States"][name]
        name, count = state.get("Next") or state.get("Default"), count + 1
    return count


def stepgram(usage: Usage) -> list[Line]:
    """The bill of this design: what the turns cost, if there are any, and what the stack costs without them."""
    return [*(used(usage) if usage.turns else []), *idle()]


def idle(template: Path = TEMPLATE) -> list[Line]:
    """What the stack of this template costs a month when nobody writes, resource by resource."""
    p, free = prices()["price"], prices()["free"]
    document = yaml_parse(template.read_text(encoding="utf-8"))
    by_type: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for resource in document["Resources"].values():
        by_type[resource["Type"]].append(resource.get("Properties", {}))
    alarms, dashboards = by_type["AWS::CloudWatch::Alarm"], len(by_type["AWS::CloudWatch::Dashboard"])
    watched = sum(max(1, sum("MetricStat" in metric for metric in a.get("Metrics", []))) for a in alarms)
    functions = by_type["AWS::Serverless::Function"]
    asleep = [f for f in functions if f.get("SnapStart", {}).get("ApplyOn") == "PublishedVersions"]
    secrets, keys = len(by_type["AWS::SecretsManager::Secret"]), len(by_type["AWS::KMS::Key"])
    images = sum(f.get("PackageType") == "Image" for f in functions)
    paid = max(0, dashboards - free["dashboards"])
    lines = [
        Line("Secrets Manager", f"{secrets} secrets", secrets, p["secret_month"]),
        Line("KMS", f"{keys} key", keys, p["kms_key_month"]),
        Line("CloudWatch alarms", f"{len(alarms)} alarms on {watched} metrics", watched, p["alarm_month"]),
        Line("CloudWatch dashboard", f"an account's first {free['dashboards']} are free", paid, p["dashboard_month"]),
        Line(
            "ECR", f"{images} image of {IMAGE_GB:g} GB, for each that is kept", images * IMAGE_GB, p["image_gb_month"]
        ),
        Line("Lambda, Step Functions, HTTP API", f"{len(functions)} functions that nobody calls", 0, 0),
        Line("DynamoDB with recovery, S3, logs", "nothing new is stored; it expires", 0, 0),
    ]
    if asleep:
        gb = sum(int(f["MemorySize"]) for f in asleep) / 1024
        lines.append(Line("Lambda SnapStart", f"{len(asleep)} snapshots", gb * SECONDS, p["snapstart_gb_second"]))
    return lines


def used(usage: Usage) -> list[Line]:
    """What the turns of a month cost."""
    p, turns = prices()["price"], usage.turns
    steps, calls = 7, 2 + usage.agent_seconds / CALLBACK_EVERY
    hours = min(HOURS, turns)
    return [
        Line("HTTP API", "1 request", turns, p["http_api_request"]),
        Line("Step Functions, Intake", "1 EXPRESS execution of 64 MB, 0.3 s", turns,
             p["express_request"] + 64 / 1024 * 0.3 * p["express_gb_second"]),
        Line("Step Functions, Turn", f"{transitions()} transitions", turns * transitions(), p["standard_transition"]),
        Line("Lambda, agent", f"{usage.agent_gb:g} GB, {usage.agent_seconds:g} s", turns,
             usage.agent_gb * usage.agent_seconds * p["lambda_gb_second"] + p["lambda_request"]),
        Line("Lambda, webhook and steps", f"1 + {steps} calls", turns,
             (WEBHOOK_GB * WEBHOOK_SECONDS + steps * STEP_GB * STEP_SECONDS) * p["lambda_gb_second"]
             + (1 + steps) * p["lambda_request"]),
        Line("Lambda, callback", f"{calls:g} calls: the run's begin and end, and the answer as it grows", turns * calls,
             STEP_GB * CALLBACK_SECONDS * p["lambda_gb_second"] + p["lambda_request"]),
        Line("DynamoDB", "50 writes, 40 reads", turns, 50 * p["dynamodb_write"] + 40 * p["dynamodb_read"]),
        Line("S3", "8 PUT, 10 GET", turns, 8 * p["s3_put"] + 10 * p["s3_get"]),
        Line("KMS", "5 requests", 5 * turns, p["kms_request"]),
        Line("Logs", f"{LOG_KB} KB", turns * LOG_KB / 1024**2, p["logs_gb"]),
        Line("CloudWatch metrics", f"{len(METRICS)} metrics, in hours with a turn", len(METRICS) * hours / HOURS,
             p["custom_metric_month"]),
    ]  # fmt: skip


def seeds(usage: Usage) -> list[Line]:
    """The bill of the seeds' queue design for the same turns, with the consumer that waits."""
    p, turns = prices()["price"], usage.turns
    return [
        Line("HTTP API", "1 request", turns, p["http_api_request"]),
        Line("SQS", "send, receive, delete", 3 * turns, p["sqs_request"]),
        Line("Lambda, agent", f"{usage.agent_gb:g} GB, {usage.agent_seconds:g} s", turns,
             usage.agent_gb * usage.agent_seconds * p["lambda_gb_second"] + p["lambda_request"]),
        Line("Lambda, consumer that waits", f"{CONSUMER_GB:g} GB, {usage.agent_seconds:g} s idle", turns,
             CONSUMER_GB * usage.agent_seconds * p["lambda_gb_second"] + p["lambda_request"]),
        Line("Lambda, producer", f"{STEP_GB:g} GB, {STEP_SECONDS:g} s", turns,
             STEP_GB * STEP_SECONDS * p["lambda_gb_second"] + p["lambda_request"]),
        Line("DynamoDB", "2 writes, 2 reads", turns, 2 * p["dynamodb_write"] + 2 * p["dynamodb_read"]),
        Line("S3", "4 PUT, 4 GET, the whole session", turns, 4 * p["s3_put"] + 4 * p["s3_get"]),
        Line("Logs", f"{LOG_KB / 2:g} KB", turns * LOG_KB / 2 / 1024**2, p["logs_gb"]),
        Line("fixed", "1 alarm", 1, p["alarm_month"]),
    ]  # fmt: skip
