"""How to reach an embedded stack: light enough for a command that goes through one that runs.

Its AWS port answers to keys it knows. The operator's secret key is made anew at each start; every function's and state
machine's follows from it, so that who has one of theirs knows no other.
"""

from __future__ import annotations

import hmac
import threading
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

ACCOUNT = "123456789012"
REGION = "us-east-1"

OPERATOR = "operator"
"""The operator's key id."""

_making = threading.Lock()
_operators: dict[int | None, str] = {}
"""The operator's secret key of each stack this process knows, by its AWS port."""


@dataclass(frozen=True)
class Ports:
    """The ports to listen on; 0 is any free one."""

    aws: int = 0
    telegram: int = 0


@dataclass(frozen=True)
class Addresses:
    """Where a running stack is; kept in `stack.json` so that other commands find it.

    `telegram` is the chat page, without the slash at its end; `operator` the operator's secret key.
    """

    aws: str
    telegram: str | None
    outputs: dict[str, str]
    operator: str = field(default="", repr=False)


@cache
def _session() -> boto3.session.Session:
    return boto3.session.Session(region_name=REGION)


def trust(endpoint: str, operator: str) -> None:
    """Remember the operator's secret key of the stack at `endpoint`."""
    _operators[urlsplit(endpoint).port] = operator


def secret_key(endpoint: str, key_id: str) -> str:
    """The secret key that belongs to a key id at `endpoint`, a stack whose operator's is known."""
    return derived(_operators[urlsplit(endpoint).port], key_id)


def derived(operator: str, key_id: str) -> str:
    """The operator's secret key, or a function's or state machine's, from which the operator's does not follow."""
    return operator if key_id == OPERATOR else hmac.new(operator.encode(), key_id.encode(), "sha256").hexdigest()


def client(service: str, endpoint: str) -> Any:
    """A boto3 client of the operator for the embedded stack at `endpoint`."""
    config = Config(inject_host_prefix=False, retries={"max_attempts": 0}, max_pool_connections=50)
    with _making:
        return _session().client(
            service,  # type: ignore[call-overload]
            endpoint_url=endpoint,
            aws_access_key_id=OPERATOR,
            aws_secret_access_key=secret_key(endpoint, OPERATOR),
            config=config,
        )
