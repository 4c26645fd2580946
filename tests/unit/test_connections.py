"""What a frozen container's connections to AWS are worth when it thaws: our clients connect anew by themselves."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from werkzeug.serving import WSGIRequestHandler

from functions.agent.callback import Callback
from functions.agent.handler import renew_connections
from functions.common import aws
from functions.common.settings import AwsSettings
from functions.conversation.files.snapshots import Snapshots
from functions.conversation.progress import Heard
from stepgram.embedded.client import OPERATOR, secret_key
from stepgram.embedded.stack import EmbeddedStack
from tests.conftest import Bucket
from tests.forwarder import Cut, Forwarder

SOON_SECONDS = 5.0
"""Far less than the clients wait for an answer, and far more than one takes."""


@pytest.fixture
def wire(stack: EmbeddedStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Forwarder]:
    """What is between our clients and AWS."""
    monkeypatch.setattr(WSGIRequestHandler, "protocol_version", "HTTP/1.1")
    forwarder = Forwarder(stack.addresses.aws, monkeypatch)
    here = AwsSettings.model_validate({"AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": forwarder.url})
    monkeypatch.setattr(AwsSettings, "load", lambda: here)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", OPERATOR)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret_key(stack.addresses.aws, OPERATOR))
    yield forwarder
    forwarder.close()


@pytest.mark.parametrize("how", ["closed", "reset"])
def test_a_request_to_s3_is_made_again_when_its_connection_is_dead(wire: Forwarder, bucket: Bucket, how: Cut) -> None:
    snapshots = Snapshots(bucket.name, aws.s3())
    snapshots.put("kept", b"here", "text/plain")
    assert (snapshots.get("kept"), wire.connections) == (b"here", 1), "the connection is kept"

    wire.cut(how)

    assert (snapshots.get("kept"), wire.connections) == (b"here", 2)


def test_a_report_on_a_dead_connection_costs_a_report_and_no_turn(wire: Forwarder) -> None:
    callback = Callback("nobody", {"turn_id": "t", "session_key": "1:0", "state": "RunAgent", "ticket": ""})
    callback.listen(beat=False)
    wire.cut("reset")

    assert callback.listen(beat=False) == Heard()
    callback.listen(beat=False)
    assert wire.connections == 2


def test_after_a_long_freeze_nobody_waits_on_a_connection_that_is_silent(wire: Forwarder) -> None:
    aws.kms().list_keys()
    wire.cut("silent")
    renew_connections()

    started = time.monotonic()
    aws.kms().list_keys()

    assert time.monotonic() - started < SOON_SECONDS
    assert wire.connections == 2
