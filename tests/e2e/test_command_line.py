"""The `stepgram` command as people run it: every call is a process of its own, with the real Agent SDK and CLI."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from stepgram.embedded.state import Store
from stepgram.embedded.telegram import Telegram
from stepgram.server import Server
from tests.conftest import ORDER, until

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "kept"


@pytest.fixture
def stepgram(home: Path) -> Run:
    """Run the command to its end, in a folder of its own."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "stepgram.cli", *arguments],
            env={**os.environ, "STEPGRAM_HOME": str(home)},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def free_port() -> int:
    """A port that is free with the two after it, below the range the system gives out by itself."""
    while True:
        port = random.randrange(20_000, 30_000)
        try:
            for number in range(port, port + 3):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", number))
        except OSError:
            continue
        return port


class Local:
    """A `stepgram local` that runs."""

    def __init__(self, home: Path, port: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "stepgram.cli", "local", "--port", str(port)],
            env={**os.environ, "STEPGRAM_HOME": str(home), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._process.stdout is not None
        self.greeting = [self._process.stdout.readline() for _ in range(3)]
        self.url, self.console = (line.split()[-1].rstrip("/") for line in self.greeting[:2])

    def stop(self) -> int:
        self._process.send_signal(signal.SIGINT)
        printed, _ = self._process.communicate(timeout=60)
        assert self._process.returncode == 0, printed
        return self._process.returncode

    def say(self, chat: int, text: str) -> None:
        requests.post(
            f"{self.url}/person/messages", json={"chat_id": chat, "text": text}, timeout=10
        ).raise_for_status()

    def texts(self, chat: int) -> list[str]:
        found = requests.get(f"{self.url}/person/chats/{chat}/messages", timeout=10).json()
        return [message.get("text", "") for message in found if message["from"]["is_bot"]]

    def executions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = requests.get(f"{self.console}/api/turns", timeout=10).json()["rows"]
        return found

    def state(self, name: str) -> str | None:
        """The state an execution is in."""
        found = requests.get(f"{self.console}/api/turns/{name}", timeout=10)
        return found.json()["states"][-1]["name"] if found.ok and found.json()["states"] else None


@pytest.fixture
def local(home: Path) -> Iterator[Callable[[], Local]]:
    started: list[Local] = []

    def start() -> Local:
        started.append(Local(home, free_port()))
        return started[-1]

    yield start
    for one in started:
        one.stop()


def test_memory_survives_from_one_process_to_the_next(stepgram: Run) -> None:
    first = stepgram("ask", "--fresh", "hello")
    second = stepgram("ask", "--json", "again")
    other = stepgram("ask", "--json", "--chat", "2002", "who am I")

    assert (first.returncode, second.returncode, other.returncode) == (0, 0, 0)
    assert [line.split()[1] for line in first.stdout.splitlines()[: len(ORDER)]] == ORDER
    assert "You said: hello" in first.stdout
    answer = json.loads(second.stdout)
    assert set(answer) == {"execution", "status", "error", "states", "replies", "session_id", "version", "cost_usd"}
    assert answer["replies"] == ["You said: again\n\nThis is message 2 of this conversation."]
    assert (answer["status"], answer["error"], answer["version"]) == ("SUCCEEDED", None, 2)
    assert [state["name"] for state in answer["states"]] == ORDER
    assert "This is message 1" in json.loads(other.stdout)["replies"][0]


def test_a_failed_turn_is_listed_shown_and_rerun_by_later_processes(stepgram: Run, home: Path) -> None:
    failed = stepgram("ask", "--fresh", "!error 403 1")
    listed = json.loads(stepgram("executions", "--status", "FAILED", "--json").stdout)
    name = listed[0]["name"]
    rerun = stepgram("rerun", name)
    shown = json.loads(stepgram("show", name, "--json").stdout)

    assert failed.returncode == 1
    assert "RunAgent" in failed.stderr
    assert "ModelAccessDenied" in failed.stderr
    assert [(row["name"], row["status"], row["error"]) for row in listed] == [(name, "FAILED", "ModelAccessDenied")]
    assert set(listed[0]) == {"name", "status", "chat", "started", "seconds", "error"}
    assert rerun.returncode == 0
    assert shown["status"] == "SUCCEEDED"
    assert [attempt[-1]["name"] for attempt in shown["attempts"]] == ["TurnFailed", "TurnDone"]
    messages = [row.value for row in Store(home).rows("message")]
    said = [message["text"] for message in messages if message["from"]["is_bot"]]
    assert ["then it answered" in text for text in said] == [True], "the answer took the notice's place"


def test_wrong_usage_is_exit_status_2_and_unknown_names_are_1(stepgram: Run) -> None:
    assert stepgram("ask").returncode == 2
    assert stepgram("rerun").returncode == 2
    assert stepgram("rerun", "--failed", "--since", "yesterday").returncode == 2
    unknown = stepgram("show", "c1-t0-u999")
    assert unknown.returncode == 1
    assert unknown.stderr.count("\n") == 1
    assert "Does Not Exist" in unknown.stderr


def test_local_serves_both_pages_and_other_commands_go_through_it(local: Callable[[], Local], stepgram: Run) -> None:
    running = local()
    running.say(7, "from the page")
    until(lambda: running.texts(7) != [])

    asked = stepgram("ask", "--json", "--chat", "7", "from the terminal")
    listed = running.executions()
    shown = requests.get(f"{running.console}/api/turns/{listed[0]['name']}", timeout=10).json()

    assert "console" in running.greeting[1]
    assert "<title>Stepgram chat</title>" in requests.get(f"{running.url}/", timeout=10).text
    assert "Stepgram" in requests.get(f"{running.console}/", timeout=10).text
    assert "This is message 2" in json.loads(asked.stdout)["replies"][0]
    assert [row["status"] for row in listed] == ["SUCCEEDED", "SUCCEEDED"]
    assert '"RunAgent"' in shown["definition"]


def test_a_second_local_says_who_is_in_the_way(local: Callable[[], Local], stepgram: Run) -> None:
    running = local()

    second = stepgram("local", "--port", str(free_port()))
    fresh = stepgram("ask", "--fresh", "hello")

    assert (second.returncode, fresh.returncode) == (1, 1)
    assert "in use by another" in second.stderr
    assert "stop it first" in fresh.stderr
    assert running.stop() == 0


def test_a_busy_port_is_reported_with_the_way_out(stepgram: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        done = stepgram("local", "--port", str(port))

    assert done.returncode == 1
    assert f"port {port} is busy" in done.stderr
    assert f"--port {port + 10}" in done.stderr


def test_a_turn_that_runs_when_the_stack_stops_goes_on_when_it_starts(local: Callable[[], Local]) -> None:
    running = local()
    running.say(8, "!slow 6")
    until(lambda: running.state("c8-t0-u1") == "RunAgent")
    running.say(8, "waits for the lock")
    until(lambda: running.state("c8-t0-u2") == "AcquireLock")

    status = running.stop()
    again = local()

    assert status == 0
    until(lambda: any("waits for the lock" in text for text in again.texts(8)))
    assert len(again.texts(8)) == 2
    assert "done." in again.texts(8)[0]
    assert "This is message 2" in again.texts(8)[1]
    until(lambda: {row["status"] for row in again.executions()} == {"SUCCEEDED"})


def test_two_commands_at_once_wait_for_each_other(home: Path, stepgram: Run) -> None:
    command = [sys.executable, "-m", "stepgram.cli", "ask", "--json", "hello"]
    environment = {**os.environ, "STEPGRAM_HOME": str(home)}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    second = stepgram("ask", "--json", "hello")
    output, _ = first.communicate(timeout=90)

    replies = sorted(json.loads(text)["replies"][0] for text in (output, second.stdout))
    assert ["message 1" in replies[0], "message 2" in replies[1]] == [True, True]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Telegram]:
    """Another Telegram, reached by long polling."""
    telegram = Telegram("9:real", tmp_path / "files")
    server = Server(telegram.app())
    telegram.url = server.url  # type: ignore[attr-defined]
    yield telegram
    telegram.stop()
    server.stop()


def test_a_bot_on_telegram_itself_is_served_by_long_polling(
    elsewhere: Telegram, local: Callable[[], Local], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TELEGRAM_BOT_TOKEN", "9:real")
    monkeypatch.setenv("TELEGRAM_API_URL", elsewhere.url)  # type: ignore[attr-defined]
    monkeypatch.setenv("ALLOWED_USERS", "77")
    running = local()

    elsewhere.say(77, "hello from afar")
    stranger = elsewhere.say(78, "let me in")["update_id"]

    until(lambda: elsewhere.state["updates"][str(stranger)]["status"] is not None)
    until(lambda: len(elsewhere.state["chats"]["77"]["messages"]) == 2)
    assert "in Telegram" in running.greeting[0]
    assert "You said: hello from afar" in elsewhere.state["chats"]["77"]["messages"][1]["text"]
    assert "may not use this bot" in elsewhere.state["chats"]["78"]["messages"][1]["text"]


def test_a_bot_that_is_registered_elsewhere_is_left_there(
    elsewhere: Telegram, stepgram: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere.state["webhook"] = {"url": "https://production.example/webhook", "secret_token": ""}
    monkeypatch.setenv("TELEGRAM_BOT_TOKEN", "9:real")
    monkeypatch.setenv("TELEGRAM_API_URL", elsewhere.url)  # type: ignore[attr-defined]

    done = stepgram("local", "--port", str(free_port()))

    assert done.returncode == 1
    assert "production.example" in done.stderr
    assert elsewhere.state["webhook"]["url"] == "https://production.example/webhook"


def test_a_session_is_carried_shown_exported_forked_and_reset_by_commands_alone(
    stepgram: Run, local: Callable[[], Local], tmp_path: Path
) -> None:
    """Three processes with a stack each; the rest goes through `stepgram local`, which is quicker."""
    written = stepgram("ask", "--yes", "!bash echo from turn one > file.txt")
    stepgram("ask", "hello")
    read = stepgram("ask", "--yes", "!bash cat file.txt")
    local()
    listed = json.loads(stepgram("sessions", "--json").stdout)
    shown = json.loads(stepgram("session", "show", "1001", "--json").stdout)
    exported = stepgram("session", "export", "1001", "--version", "2", "--output", str(tmp_path / "out"))
    forked = stepgram("session", "fork", "1001", "--version", "1", "--to", "3003")
    there = stepgram("ask", "--chat", "3003", "how many")
    reset = stepgram("session", "reset", "1001")
    again = stepgram("ask", "how many")
    unknown = stepgram("session", "show", "77")

    assert [done.returncode for done in (written, read, exported, forked, there, reset, again)] == [0] * 7
    assert "from turn one" in read.stdout
    assert [(one["key"], one["version"]) for one in listed] == [("1001:0", 3)]
    assert [version["version"] for version in shown["versions"]] == [3, 2, 1]
    assert all(version["files"] == 1 for version in shown["versions"])
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["conversation.jsonl", "debug.txt", "todos.json", "workspace.zip"]
    assert "cat file.txt" not in (tmp_path / "out" / "conversation.jsonl").read_text()
    assert "message 2 of this conversation" in there.stdout
    assert "message 1 of this conversation" in again.stdout
    assert (unknown.returncode, "there is no conversation 77" in unknown.stderr) == (1, True)


def test_without_a_terminal_and_without_yes_a_tool_call_is_denied(stepgram: Run) -> None:
    asked = stepgram("ask", "--json", "!bash echo never")
    answer = json.loads(asked.stdout)

    assert asked.returncode == 0
    assert "denied, since nobody can be asked (--yes allows): Bash: echo never" in asked.stderr
    assert "AskApproval" in [state["name"] for state in answer["states"]]
    assert "The user said no." in answer["replies"][0]
    assert len(answer["replies"]) == 1


def test_at_a_terminal_the_person_is_asked(home: Path) -> None:
    ours, theirs = os.openpty()
    asking = subprocess.Popen(
        [sys.executable, "-m", "stepgram.cli", "ask", "!bash echo asked"],
        env={**os.environ, "STEPGRAM_HOME": str(home)},
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.write(ours, b"y\n")
    printed, errors = asking.communicate(timeout=120)
    os.close(ours)
    os.close(theirs)

    assert asking.returncode == 0
    assert "Bash: echo asked" in errors
    assert "Allow once (y), always in this conversation (a), or deny (n)?" in errors
    assert "The tool answered:\n\nasked" in printed


def test_a_question_is_answered_after_the_stack_was_stopped_and_started(home: Path) -> None:
    local = Local(home, free_port())
    try:
        say = {"chat_id": 5, "text": "!bash echo approved late"}
        assert requests.post(f"{local.url}/person/messages", json=say, timeout=10).ok
        question = asked(local)
    finally:
        local.stop()
    local = Local(home, free_port())
    try:
        key = question["reply_markup"]["inline_keyboard"][0][0]
        press = {"chat_id": 5, "message_id": question["message_id"], "data": key["callback_data"]}
        until(lambda: requests.post(f"{local.url}/person/buttons", json=press, timeout=10).ok)
        until(lambda: any("The tool answered" in text and "approved late" in text for text in local.texts(5)))
    finally:
        local.stop()


def messages(local: Local) -> list[dict[str, Any]]:
    """What stands in chat 5."""
    found: list[dict[str, Any]] = requests.get(f"{local.url}/person/chats/5/messages", timeout=10).json()
    return found


def asked(local: Local) -> dict[str, Any]:
    """The question with its three buttons, once it is there."""

    def found() -> list[dict[str, Any]]:
        return [m for m in messages(local) if len(m.get("reply_markup", {}).get("inline_keyboard", [])) == 3]

    until(lambda: bool(found()))
    return found()[0]
