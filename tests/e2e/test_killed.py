"""`kill -9` of `stepgram local` at random moments, also while it starts: nothing is lost, mixed up or repeated.

`STEPGRAM_KILLS` is how often (6 by default); `STEPGRAM_SEED` repeats a run's choices.
"""

from __future__ import annotations

import json
import os
import random
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from functions.agent.processes import Process, below, look
from functions.common.envelope import turn_id
from stepgram.operators.executions import detail
from stepgram.operators.stack import Stack, running
from tests.conftest import until
from tests.e2e.test_command_line import free_port

CHATS = (31, 32, 33)
KILLS = int(os.environ.get("STEPGRAM_KILLS", "6"))
START_SECONDS, PLAY_SECONDS = 12.0, 9.0
"""How long after its start, or after it answers, a stack lives at most."""

SLOW = "!slow 2"


class Local:
    """`stepgram local` in a folder, killed and started again at the same ports."""

    def __init__(self, home: Path) -> None:
        self._port = free_port()
        self._log = (home.parent / "local.log").open("a")
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "stepgram.cli", "local", "--port", str(self._port)]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, text=True)

    def kill(self) -> None:
        """All that it started, whatever it did to get away, must end with it."""
        started = self.started()
        assert self._process is not None
        assert self._process.poll() is None, "it ended by itself"
        self._process.kill()
        self._process.wait()
        until(lambda: not still_running(started))

    def started(self) -> set[Process]:
        """The processes below it."""
        assert self._process is not None
        return set(below(self._process.pid))

    @property
    def reached(self) -> Stack | None:
        """The stack, when it is there for others."""
        with suppress(requests.ConnectionError):
            return running()
        return None

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._log.close()


def still_running(processes: set[Process]) -> set[Process]:
    """Those of them that have not ended. A test process that imported the agent is the parent of orphans: it reaps."""
    for process in processes:
        with suppress(ChildProcessError):
            os.waitpid(process.id, os.WNOHANG)
    return processes & set(look().processes.values())


class Chats:
    """What is said in the chats, seen from the people's side. One request at a time, as the chat page makes them."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, dict[str, int], str]] = []
        self._numbers = iter(range(10**6))

    def say(self, stack: Stack, chat: int, slow: bool) -> None:
        """A message whose text nobody else has, or a slow one; noted when it was answered 200."""
        text = SLOW if slow else f"m{next(self._numbers)}."
        with suppress(requests.ConnectionError):
            self.taken.append((chat, self.send(stack, chat, text), text))

    @staticmethod
    def send(stack: Stack, chat: int, text: str) -> dict[str, int]:
        """The ids of a message, when it was answered 200."""
        answer = requests.post(f"{stack.telegram}/person/messages", json={"chat_id": chat, "text": text}, timeout=30)
        answer.raise_for_status()
        sent: dict[str, int] = answer.json()
        return sent

    @staticmethod
    def messages(stack: Stack, chat: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = requests.get(f"{stack.telegram}/person/chats/{chat}/messages", timeout=30).json()
        return found


def unnoted(home: Path) -> set[tuple[int, int]]:
    """The bot's messages whose id no turn had noted when the stack was killed: Telegram has them, the ledger not yet.

    It is the one window in which a part is sent again (docs/reliability.md), so each of these has a double in the end.
    A place in the queue that was just shown is one, too, and stays.
    """
    if not (home / "state.db").exists():
        return set()
    connection = sqlite3.connect(home / "state.db")
    kept = connection.execute("SELECT kind, owner, value FROM kept WHERE kind IN ('item', 'message')").fetchall()
    connection.close()
    messages = [json.loads(value) for kind, _, value in kept if kind == "message"]
    noted: set[tuple[int, int]] = set()
    for item in (json.loads(value) for kind, _, value in kept if kind == "item"):
        if item["sk"]["S"].startswith("turn#"):
            ids = [*item.get("delivered", {"M": {}})["M"].values(), item.get("progress_message", {"N": "0"})]
            noted |= {(int(item["pk"]["S"].partition(":")[0]), int(one["N"])) for one in ids}
    said = {(m["chat"]["id"], m["message_id"]) for m in messages if m["from"]["is_bot"]}
    return said - noted


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEPGRAM_HOME", str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture
def local(home: Path) -> Iterator[Local]:
    one = Local(home)
    yield one
    one.stop()


def play(local: Local, chats: Chats, chance: random.Random) -> None:
    """Messages at random moments until a random moment, which may be before the stack answers."""
    end = time.monotonic() + chance.uniform(0, START_SECONDS)
    if chance.random() < 0.7:
        until(lambda: local.reached is not None)
        end = time.monotonic() + chance.uniform(0, PLAY_SECONDS)
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, chance.uniform(0, 3)))
        if (stack := local.reached) is not None:
            chats.say(stack, chance.choice(CHATS), slow=chance.random() < 0.2)


@pytest.mark.timeout(120 + 45 * KILLS)
def test_after_kills_at_random_moments_each_message_has_one_answer_in_its_own_chat(home: Path, local: Local) -> None:
    seed = int(os.environ.get("STEPGRAM_SEED") or random.randrange(10**6))
    chance, chats = random.Random(seed), Chats()
    doubtful: set[tuple[int, int]] = set()
    for _ in range(KILLS):
        local.start()
        play(local, chats, chance)
        local.kill()
        until(lambda: processes_of(home) == [])
        doubtful |= unnoted(home)

    local.start()
    until(lambda: local.reached is not None)
    stack = local.reached
    assert stack is not None
    for chat in CHATS:
        chats.say(stack, chat, slow=False)
    until(lambda: all(answered(stack, turn_id(chat, 0, sent["update_id"])) for chat, sent, _ in chats.taken))
    doubles = [one for chat in CHATS for one in check(stack, chats, chat, doubtful)]

    updates = [sent["update_id"] for _, sent, _ in chats.taken]
    assert updates == sorted(set(updates)), seed
    print(f"seed {seed}: {KILLS} kills, {len(updates)} messages; what the ledger had not noted: {doubles}")  # noqa: T201


def processes_of(home: Path) -> list[str]:
    """The agent's processes and all that they started, by their temporary folder; only Linux tells."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if f"={home / 'containers'}".encode() in (process / "environ").read_bytes():
                found.append(process.name)
    return found


DAEMON = "(setsid sh -c '(sleep 1234 &) ; exec env -i sleep 1234' >/dev/null 2>&1 &) ; sleep 5; echo slept"


@pytest.mark.timeout(600)
def test_a_daemon_of_the_agent_ends_with_a_killed_stack_and_the_turn_is_answered_by_the_next(
    home: Path, local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPROVAL_TOOLS", "none")
    chats = Chats()
    local.start()
    until(lambda: local.reached is not None)
    assert local.reached is not None
    turn = turn_id(7, 0, chats.send(local.reached, 7, f"!bash {DAEMON}")["update_id"])
    until(lambda: sleepers(local) == 2)

    local.kill()
    local.start()
    until(lambda: local.reached is not None)
    stack = local.reached
    assert stack is not None
    until(lambda: answered(stack, turn))

    said = [m["text"] for m in chats.messages(stack, 7) if m["from"]["is_bot"]]
    key = {"pk": {"S": "7:0"}, "sk": {"S": f"turn#{turn}"}}
    item = stack.client("dynamodb").get_item(TableName=stack.outputs["SessionTable"], Key=key)["Item"]
    assert [text for text in said if "slept" in text] == said[-1:]
    assert item["runs"] == {"N": "2"}, "the state was entered again, and began a run of its own"


def sleepers(local: Local) -> int:
    """The daemons of `DAEMON`."""
    found = 0
    for process in local.started():
        with suppress(FileNotFoundError, ProcessLookupError):
            found += (Path("/proc") / str(process.id) / "cmdline").read_bytes() == b"sleep\x001234\x00"
    return found


def answered(stack: Stack, name: str) -> bool:
    """Whether a turn has ended. Its execution must be there: its message was answered 200."""
    client = stack.client("stepfunctions")
    with suppress(client.exceptions.ExecutionDoesNotExist):
        return detail(client, stack.execution_arn(name)).status != "RUNNING"
    return False


def check(stack: Stack, chats: Chats, chat: int, doubtful: set[tuple[int, int]]) -> list[str]:
    """One chat in the end; returns what stands there beyond that, which only the doubtful do."""
    messages = chats.messages(stack, chat)
    ids = [message["message_id"] for message in messages]
    names = {turn_id(chat, 0, sent["update_id"]): sent["message_id"] for place, sent, _ in chats.taken if place == chat}
    asked = {m["message_id"]: m["text"] for m in messages if not m["from"]["is_bot"]}
    said = [m["text"] for m in messages if m["from"]["is_bot"] and (chat, m["message_id"]) not in doubtful]
    notices = [names[notice[0]] for text in said if (notice := re.search(r"c\d+-t0-u\d+", text))]
    answers = [text for text in said if not re.search(r"c\d+-t0-u\d+", text)]
    expected = [text for number, text in asked.items() if number not in notices]
    found = [SLOW if text.endswith("done.") else text.partition("\n\nThis is message")[0] for text in answers]
    places = [int(place[1]) for text in answers if (place := re.search(r"This is message (\d+) of", text))]

    assert ids == sorted(set(ids))
    assert {sent["message_id"]: text for place, sent, text in chats.taken if place == chat}.items() <= asked.items()
    assert len(notices) == len(set(notices))
    assert found == [text if text == SLOW else f"You said: {text}" for text in expected]  # one answer each, in order
    assert places == [place for place, text in enumerate(expected, 1) if text != SLOW]  # of this conversation
    return [m["text"] for m in messages if (chat, m["message_id"]) in doubtful]
