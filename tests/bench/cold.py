"""Cold starts in strict mode: what a bot that slept pays, by function, before its first sign and before its answer.

Each version of the project is deployed in a process of its own from a folder of its own; runs alternate, so that both
see the same machine. A cold start is from the start of a function's process to the end of its first invocation.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stepgram.embedded.answers import Answer
from stepgram.embedded.functions import Invoker
from stepgram.embedded.packages import Packages, shared_cache
from stepgram.embedded.stack import EmbeddedStack
from stepgram.embedded.template import ROOT, FunctionSpec
from tests.bench.figures import Figure, show
from tests.conftest import Person, until

FIRST_CHAT = 760_000
LOOK_SECONDS = 0.005

MENDED = {
    "functions/Makefile": [
        (
            "--python-platform aarch64-manylinux2014 --python-version 3.13",
            "--python-platform $(LAMBDA_PLATFORM) --python-version $(LAMBDA_PYTHON)",
        ),
        ('common webhook intake turn "', 'common webhook intake turn progress "'),
    ],
    "functions/agent/processes.py": [("if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:", "if False:")],
    "template.yaml": [
        ('AWS: !Sub "arn:${AWS::Partition}:iam::${AWS::AccountId}:root"', "AWS: !GetAtt HydrateFunctionRole.Arn"),
    ],
}
"""What kept the version with thirteen functions from answering at all, mended so that it can be measured."""


class Observer:
    """Notes when each invocation began and ended, and whether its container was new."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, int] = {}
        self.cold: list[tuple[str, float, float]] = []

    def forget(self) -> None:
        """From here on every function's first invocation is cold."""
        with self._lock:
            self._seen, self.cold = {}, []

    def around(self, spec: FunctionSpec, event: dict[str, Any], run: Invoker) -> Answer:
        """One invocation."""
        began = time.time()
        with self._lock:
            first = spec.logical_id not in self._seen
            self._seen[spec.logical_id] = 1
        answer = run(spec, event)
        if first:
            with self._lock:
                self.cold.append((spec.logical_id, began, time.time()))
        return answer

    def seconds_until(self, moment: float) -> float:
        """Time that cold containers took up to a moment."""
        return sum(max(0.0, min(ended, moment) - began) for _, began, ended in self.cold)


def serve(root: Path) -> None:
    """One version's process: deploys `root`, then plays one cold turn for each line of input and prints its samples."""
    packages = Packages(shared_cache(), root)
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home,
        EmbeddedStack(Path(home), environment={}, packages=packages, template=root / "template.yaml") as stack,
    ):
        observer = Observer()
        stack.functions.around = observer.around
        print(json.dumps(sorted(s.logical_id for s in stack.deployment.functions.values())), flush=True)
        for number, _ in enumerate(sys.stdin):
            print(json.dumps(one_run(stack, observer, FIRST_CHAT + number)), flush=True)


def one_run(stack: EmbeddedStack, observer: Observer, chat: int) -> dict[str, float]:
    """Milliseconds: each function's cold start, a turn's way to its sign and its answer, and the cold part of these."""
    person = Person(stack)
    _until(lambda: not stack.functions.busy)
    stack.functions.cool_down()
    observer.forget()
    asked = time.time()
    name = person.say(chat, "hello")
    _until(lambda: any(stack.telegram.signs(chat).values()) or bool(person.replies(chat)))
    sign = time.time()
    _until(lambda: bool(person.replies(chat)))
    answer = time.time()
    turn = person.wait(name)
    assert turn.status == "SUCCEEDED", f"{turn.error}: {turn.cause}"
    samples = {
        "a slept bot: a message to its first sign of life": sign - asked,
        "a slept bot: cold containers before its first sign of life": observer.seconds_until(sign),
        "a slept bot: a message to its answer": answer - asked,
        "a slept bot: cold containers before its answer": observer.seconds_until(answer),
    }
    on_the_way = {function for function, *_ in observer.cold}
    for spec in stack.deployment.functions.values():
        if spec.logical_id not in on_the_way:
            stack.functions.invoke(spec.name, b"{}")
    until(lambda: len(observer.cold) == len(stack.deployment.functions), 30)
    starts = {function: ended - began for function, began, ended in observer.cold}
    for function in sorted(starts):
        samples[f"{function}{'' if function in on_the_way else ' (an empty event)'}"] = starts[function]
    return {label: seconds * 1000 for label, seconds in samples.items()}


class Version:
    """A version of the project in a process of its own."""

    def __init__(self, label: str, root: Path) -> None:
        self.label = label
        self.samples: dict[str, list[float]] = defaultdict(list)
        command = [sys.executable, "-m", "tests.bench.cold", str(root)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self.functions: list[str] = json.loads(self._line())

    def run(self, kept: bool = True) -> None:
        """One cold turn."""
        assert self._process.stdin is not None
        print("run", file=self._process.stdin, flush=True)
        for name, milliseconds in json.loads(self._line()).items():
            if kept:
                self.samples[name].append(milliseconds)

    def stop(self) -> None:
        """End the process and its stack."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def figures(self) -> list[Figure]:
        """The samples so far."""
        return [Figure(name, "ms", tuple(samples)) for name, samples in self.samples.items()]

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.label}: the stack ended with status {self._process.wait()}")
        return line


def compare(runs: int, before: str | None) -> None:
    """Measure this checkout, and a commit before it when one is named; print both."""
    with tempfile.TemporaryDirectory() as folder:
        versions = []
        if before is not None:
            versions.append(Version(f"before ({before})", extract(before, Path(folder))))
        versions.append(Version("this checkout", ROOT))
        for version in versions:
            version.run(kept=False)  # the stack's own first turn, and files that were never read
        for _ in range(runs):
            for version in versions:
                version.run()
        for version in versions:
            show(f"Cold starts: {version.label}, {len(version.functions)} functions", version.figures())
            version.stop()


def extract(commit: str, folder: Path) -> Path:
    """What is deployed, as it was at a commit, mended where it could not run."""
    wanted = ["git", "archive", commit, "functions", "statemachine", "template.yaml"]
    archive = subprocess.run(wanted, cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    for name, changes in MENDED.items():
        path = folder / name
        text = path.read_text()
        for old, new in changes:
            text = text.replace(old, new)
        path.write_text(text)
    own, shared = folder / "functions/agent/requirements.txt", folder / "functions/requirements.txt"
    own.write_text("\n".join(sorted({*own.read_text().splitlines(), *shared.read_text().splitlines()})))
    return folder


def _until(condition: Callable[[], bool]) -> None:
    """Look often; a turn that fails is seen by its notice."""
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "nothing came"
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
