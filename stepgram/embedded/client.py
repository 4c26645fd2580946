"""How to reach an embedded stack: light enough for a command that goes through one that runs."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cache
from typing import Any

import boto3
from botocore.config import Config

ACCOUNT = "123456789012"
REGION = "us-east-1"

_making = threading.Lock()


@dataclass(frozen=True)
class Ports:
    """The ports to listen on; 0 is any free one."""

    aws: int = 0
    telegram: int = 0


@dataclass(frozen=True)
class Addresses:
    """Where a running stack is; kept in `stack.json` so that other commands find it. `telegram`: the stand-in's."""

    aws: str
    telegram: str | None
    outputs: dict[str, str]


@cache
def _session() -> boto3.session.Session:
    return boto3.session.Session(region_name=REGION, aws_access_key_id="local", aws_secret_access_key="local")


def client(service: str, endpoint: str) -> Any:
    """A boto3 client for the embedded stack at `endpoint`."""
    config = Config(inject_host_prefix=False, retries={"max_attempts": 0}, max_pool_connections=50)
    with _making:
        return _session().client(service, endpoint_url=endpoint, config=config)  # type: ignore[call-overload]
