"""Tiny functions in real containers: each test writes a handler and sees what Lambda would make of it."""

from __future__ import annotations

import json
import shutil
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stepgram.embedded.answers import Answer
from stepgram.embedded.containers import Containers
from stepgram.embedded.packages import Package, Packages, shared_cache
from stepgram.embedded.template import FunctionSpec

GIVEN = {
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "AWS_ACCESS_KEY_ID": "tiny",
    "AWS_SECRET_ACCESS_KEY": "local",
    "FROM_THE_TEMPLATE": "yes",
}


@pytest.fixture(scope="session")
def packages() -> Packages:
    """The real packages of this checkout."""
    return Packages(shared_cache())


class TinyPackages(Packages):
    """Lambda's part is real; the code is what a test wrote."""

    folder: Path

    def of(self, spec: FunctionSpec) -> Package:
        return Package(self.folder, spec.handler)


@dataclass
class Tiny:
    """Writes and invokes a function of a test. `code` may use all of Python's standard library and boto3."""

    folder: Path
    containers: Containers

    def write(self, code: str) -> None:
        (self.folder / "tiny.py").write_text(textwrap.dedent(code))

    def spec(self, timeout: int = 20, memory: int = 512) -> FunctionSpec:
        arn = "arn:aws:lambda:us-east-1:123456789012:function:tiny"
        return FunctionSpec("TinyFunction", "tiny", arn, "tiny.handler", timeout, memory, {}, False)

    def invoke(self, event: Any = None, **limits: int) -> Answer:
        return self.containers.run(self.spec(**limits), json.dumps(event).encode(), GIVEN, None, "request-1")

    def value(self, event: Any = None, **limits: int) -> Any:
        """What the function returned; fails with its error otherwise."""
        answer = self.invoke(event, **limits)
        assert answer.function_error is None, answer.payload.decode()
        return json.loads(answer.payload)

    def error(self, event: Any = None, **limits: int) -> dict[str, Any]:
        answer = self.invoke(event, **limits)
        assert answer.function_error == "Unhandled", answer.payload[:200]
        document: dict[str, Any] = json.loads(answer.payload)
        return document


Maker = Callable[[bool | None], Tiny]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Maker]:
    """Makes a Tiny; `isolate` False: as on a machine that allows no view of its own.

    Its code is not below `tmp_path`, whose folders are their owner's alone.
    """
    made: list[Tiny] = []

    def tiny(isolate: bool | None = None) -> Tiny:
        tiny_packages = TinyPackages(shared_cache())
        tiny_packages.folder = Path(tempfile.mkdtemp(prefix="stepgram-tiny-"))
        tiny_packages.folder.chmod(0o755)
        containers = Containers(tiny_packages, tmp_path / "functions.log")
        if isolate is not None:
            containers.isolated = isolate
        made.append(Tiny(tiny_packages.folder, containers))
        return made[-1]

    yield tiny
    for one in made:
        one.containers.stop()
        shutil.rmtree(one.folder)


@pytest.fixture
def tiny(make: Maker) -> Tiny:
    """As far shut in as this machine allows."""
    return make(None)


@pytest.fixture(params=[None, False], ids=["a view of its own", "no view of its own"])
def any_tiny(make: Maker, request: pytest.FixtureRequest) -> Tiny:
    """Both as far as this machine allows, and as where nothing is allowed."""
    return make(request.param)
