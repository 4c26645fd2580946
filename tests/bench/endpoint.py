"""The model's endpoint on loopback: how much later the first byte of an answer comes through it than without it."""

from __future__ import annotations

import http.client
import json
import time
from unittest.mock import patch
from urllib.parse import urlsplit

from functions.agent.model import upstream
from functions.agent.model.endpoint import Endpoint
from functions.agent.model.spending import Spending
from functions.agent.settings import AgentSettings
from functions.conversation.files.snapshots import Snapshots
from stepgram.embedded.client import client
from stepgram.embedded.stack import EmbeddedStack
from tests.bench.figures import Figure

CHARACTERS = 200_000
"""Of the prompt: a conversation of some length."""

KEYS = json.dumps({"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"})


def first_byte(url: str, model: str, body: bytes) -> tuple[float, float]:
    """Milliseconds until an answer of the demo model begins, and until it is whole."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port)
    started = time.perf_counter()
    connection.request("POST", f"{address.path}/model/{model}/invoke-with-response-stream", body)
    answer = connection.getresponse()
    answer.read1(1)
    began = time.perf_counter()
    answer.read()
    connection.close()
    return (began - started) * 1000, (time.perf_counter() - started) * 1000


def overhead(stack: EmbeddedStack, runs: int) -> list[Figure]:
    """In turns: to the demo model itself, and through the endpoint, which signs, counts and passes on."""
    spec = next(spec for spec in stack.functions.specs.values() if spec.is_image)
    given = {**spec.environment, "AWS_REGION": "us-east-1", "MODEL_SECRET_ID": "bench"}
    settings = AgentSettings.model_validate({name: value for name, value in given.items() if value})
    body = json.dumps({"messages": [{"role": "user", "content": "x" * CHARACTERS}]}).encode()
    direct, through = [], []
    with patch.object(upstream, "secret", lambda _: KEYS):
        endpoint = Endpoint(settings, frozenset({settings.model}))
        snapshots = Snapshots(settings.bucket, client("s3", stack.addresses.aws))
        with endpoint.serving(Spending(snapshots, "bench", "bench", 1, settings.model)):
            for _ in range(runs):
                direct.append(first_byte(str(settings.base_url), settings.model, body))
                through.append(first_byte(endpoint.url, settings.model, body))
        endpoint.close()
    return [
        Figure(f"{what}, {name}", "ms", tuple(sample[at] for sample in samples))
        for at, what in enumerate(("first byte", "whole answer"))
        for name, samples in (("to the model", direct), ("through the endpoint", through))
    ]
