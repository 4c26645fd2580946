"""One embedded stack for the whole test session; every test talks in chats of its own."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from functions.common.envelope import turn_id
from stepgram.embedded.answers import Answer, failure
from stepgram.embedded.aws import BACKGROUND
from stepgram.embedded.client import client
from stepgram.embedded.functions import Invoker
from stepgram.embedded.stack import EmbeddedStack
from stepgram.embedded.telegram.updates import method_models
from stepgram.embedded.template import FunctionSpec
from stepgram.operators.executions import ExecutionDetail, detail

TURN_SECONDS = 200.0
_chats = itertools.count(500_001)


ROOT = Path(__file__).resolve().parents[1]


def answered_way() -> Iterator[str]:
    """The states of a turn that is answered, in the definition's own order."""
    definition = json.loads((ROOT / "statemachine" / "turn.asl.json").read_text())
    name = definition["StartAt"]
    while name is not None:
        yield name
        name = definition["States"][name].get("Next") or definition["States"][name].get("Default")


ORDER = list(answered_way())

TOGETHER = (
    "tests/attacks/test_approvals.py",
    "tests/attacks/test_containers.py",
    "tests/browser/test_chat_page.py",
    "tests/browser/test_console_page.py",
    "tests/deploy/",
)
"""What runs in one process as a whole: what it sets up is dear."""


class Scheduler(LoadScopeScheduling):
    """Gives every test to the next free process by itself, except those of a file or folder in TOGETHER."""

    def _split_scope(self, nodeid: str) -> str:
        return next((place for place in TOGETHER if nodeid.startswith(place)), nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduler:
    return Scheduler(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that may take long begin first, so that no process is left alone with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    method_models()  # seconds, which the first test's first message would otherwise take
    parameters = {
        "ApprovalTools": "outside,Glob",
        "GroupMessages": "all",
        "MessagesPerMinute": "0",
        "ChatDailyBudgetUsd": "10",
    }
    with EmbeddedStack(tmp_path_factory.mktemp("stepgram"), parameters=parameters, environment={}) as running:
        yield running


@pytest.fixture
def chat() -> int:
    """A private chat nobody else uses."""
    return next(_chats)


@pytest.fixture
def group() -> int:
    """A group nobody else uses."""
    return -next(_chats)


@dataclass(frozen=True)
class Bucket:
    """A bucket of one test."""

    name: str
    s3: Any


@pytest.fixture
def bucket(stack: EmbeddedStack) -> Bucket:
    """An empty bucket. (moto's `mock_aws` would empty the whole stack.)"""
    name, s3 = f"test-{uuid.uuid4()}", client("s3", stack.addresses.aws)
    s3.create_bucket(Bucket=name)
    return Bucket(name, s3)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A copy of what is deployed, for a test to break."""
    for folder in ("functions", "statemachine"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "template.yaml", tmp_path)
    return tmp_path


def change(path: Path, pattern: str, replacement: str) -> None:
    """Change the first match in a file; fails when there is none."""
    text, count = re.subn(pattern, replacement, path.read_text(), count=1, flags=re.DOTALL)
    assert count == 1
    path.write_text(text)


class Faults:
    """Makes chosen invocations fail: by the state that calls, for one chat, so many times.

    The agent's own function is named `Agent`, and calls of the callback by what they are for: `show`, `end`, ...
    """

    def __init__(self) -> None:
        self._planned: list[tuple[str, str, Callable[[], Answer], bool]] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def fail(self, state: str, chat: int, error: str, times: int = 1, after: bool = False) -> None:
        """The next `times` calls by `state` for `chat` raise `error`, before or `after` the work is done."""
        plan = (state, f"{chat}:", lambda: failure(error, "injected by a test"), after)
        self._planned.extend([plan] * times)

    def around(self, spec: FunctionSpec, event: dict[str, Any], run: Invoker) -> Answer:
        key = str(event.get("session_key", ""))
        names = {"CallbackFunction": str(event.get("what")), "AgentFunction": "Agent"}
        caller = names.get(spec.logical_id, str(event.get("state")))
        self.calls.append((caller, event))
        for plan in self._planned:
            state, prefix, answer, after = plan
            if state == caller and key.startswith(prefix):
                self._planned.remove(plan)
                if after:
                    run(spec, event)
                return answer()
        return run(spec, event)


@pytest.fixture
def faults(stack: EmbeddedStack) -> Iterator[Faults]:
    planned = Faults()
    stack.functions.around = planned.around
    yield planned
    stack.functions.around = None


class Person:
    """Somebody who writes to the bot and waits for what becomes of it."""

    def __init__(self, stack: EmbeddedStack) -> None:
        self.stack = stack
        self.step_functions = client("stepfunctions", stack.addresses.aws)

    def say(self, chat: int, text: str, thread: int = 0, language: str = "en") -> str:
        """Write a message; returns the name its turn has."""
        sent = self.stack.telegram.say(chat, text, thread, language=language)
        return turn_id(chat, thread, sent["update_id"])

    def ask(self, chat: int, text: str, thread: int = 0, language: str = "en") -> ExecutionDetail:
        """Write a message and wait for the end of its turn."""
        return self.wait(self.say(chat, text, thread, language))

    def command(
        self, chat: int, text: str, language: str = "en", thread: int = 0, carried_out: bool = True
    ) -> dict[str, Any]:
        """Write a command and wait until it is carried out, also in the background; returns the webhook's answer."""
        sent = self.stack.telegram.say(chat, text, thread, language=language)
        record = self.stack.telegram.state["updates"][str(sent["update_id"])]
        until(lambda: record["status"] is not None)
        if carried_out:
            until(lambda: not any(f"{BACKGROUND} stepgram-IntakeFunction" == t.name for t in threading.enumerate()))
        answer: dict[str, Any] = json.loads(record["body"])
        return answer

    def arn(self, name: str) -> str:
        machine = self.stack.deployment.outputs["TurnArn"]
        return f"{machine.replace(':stateMachine:', ':execution:')}:{name}"

    def status(self, name: str) -> str:
        """The execution's status, read in this process: many tests wait at once."""
        found = [e.status for e in self.stack.step_functions.executions() if e.name == name]
        return str(found[-1]) if found else "NONE"

    def wait(self, name: str) -> ExecutionDetail:
        """Wait for the end of a turn."""
        until(lambda: self.status(name) not in ("NONE", "RUNNING"))
        return detail(self.step_functions, self.arn(name))

    def wait_for_state(self, name: str, state: str) -> None:
        """Wait until a turn is in a state."""

        def there() -> bool:
            if self.status(name) == "NONE":
                return False
            states = detail(self.step_functions, self.arn(name)).states
            return bool(states) and states[-1].name == state and states[-1].status == "running"

        until(there)

    def redrive(self, name: str) -> ExecutionDetail:
        self.step_functions.redrive_execution(executionArn=self.arn(name))
        return self.wait(name)

    def replies(self, chat: int) -> list[dict[str, Any]]:
        """What the bot wrote into a chat, in order."""
        found = self.stack.telegram.state["chats"].get(str(chat), {"messages": []})
        return [m for m in found["messages"] if m["from"]["is_bot"]]

    def texts(self, chat: int) -> list[str]:
        """The bot's messages as text, rich ones as their Markdown."""
        return [m["_page"]["markdown"] if "_page" in m else m.get("text", "") for m in self.replies(chat)]


@pytest.fixture
def person(stack: EmbeddedStack) -> Person:
    return Person(stack)


def until(condition: Callable[[], bool], seconds: float = TURN_SECONDS) -> None:
    """Wait for a condition that another thread makes true; fail loudly when it never does."""
    end = time.monotonic() + seconds
    pause = 0.01
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(pause)
        pause = min(pause * 1.3, 0.25)


@pytest.fixture
def call(stack: EmbeddedStack) -> Callable[[str, dict[str, Any]], Answer]:
    """Invoke one function of the template directly, with its own environment."""

    def invoke(logical_id: str, event: dict[str, Any]) -> Answer:
        return stack.functions.invoke(f"stepgram-{logical_id}", json.dumps(event).encode())

    return invoke
