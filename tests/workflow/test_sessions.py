"""Sessions through the whole workflow, with the real CLI: files, isolation, time travel, expiry, long turns, kills."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from werkzeug.serving import WSGIRequestHandler

from functions.conversation.files.documents import Manifest
from functions.conversation.files.snapshots import Snapshots
from functions.conversation.sessions import Pointer, SessionTable
from stepgram.embedded.answers import Answer
from stepgram.embedded.client import client
from stepgram.embedded.expiry import expire, pass_time
from stepgram.embedded.functions import Invoker
from stepgram.embedded.iam import TEMPORARY
from stepgram.embedded.stack import EmbeddedStack
from stepgram.embedded.template import FunctionSpec
from tests.conftest import Person, until
from tests.forwarder import Cut, Forwarder

AGENT, TURN = "stepgram-AgentFunction", "stepgram-TurnFunction"


class Kept:
    """What is kept of one chat."""

    def __init__(self, stack: EmbeddedStack, chat: int) -> None:
        outputs = stack.deployment.outputs
        self.key, self.bucket = f"{chat}:0", outputs["SessionBucket"]
        self.s3 = client("s3", stack.addresses.aws)
        self.table = SessionTable(outputs["SessionTable"], client("dynamodb", stack.addresses.aws))
        self.snapshots = Snapshots(self.bucket, self.s3)

    @property
    def pointer(self) -> Pointer:
        found = self.table.pointer(self.key)
        assert found is not None
        return found

    def manifest(self) -> Manifest:
        """The newest version; everything it names is there."""
        return self.snapshots.check(str(self.pointer.manifest))


@pytest.fixture
def kept(stack: EmbeddedStack, chat: int) -> Kept:
    return Kept(stack, chat)


@pytest.fixture
def agent_spec(stack: EmbeddedStack) -> Iterator[Callable[..., None]]:
    """Change the agent's function for a test: its timeout or environment."""
    original = stack.functions.specs[AGENT]

    def change(timeout: int | None = None, **environment: str) -> None:
        changed = {**original.environment, **environment}
        stack.functions.specs[AGENT] = replace(original, timeout=timeout or original.timeout, environment=changed)

    yield change
    stack.functions.specs[AGENT] = original


@pytest.fixture
def shared(stack: EmbeddedStack) -> Iterator[None]:
    """Conversations share containers, as with AgentIsolation none."""
    specs = stack.functions.specs
    before = {name: specs[name] for name in (AGENT, TURN)}
    specs[AGENT] = replace(before[AGENT], tenants=False)
    environment = {**before[TURN].environment, "AGENT_ISOLATION": "none"}
    specs[TURN] = replace(before[TURN], environment=environment)
    yield
    specs.update(before)


def output(person: Person, chat: int, command: str) -> str:
    """What a command in the agent's workspace prints."""
    found = person.ask(chat, f"!bash {command}")
    assert found.status == "SUCCEEDED", found.cause
    return person.texts(chat)[-1]


# ---------------------------------------------------------------------- files


def test_files_outlive_the_container(person: Person, chat: int, stack: EmbeddedStack) -> None:
    output(person, chat, "mkdir -p notes && echo remember > notes/a.txt && chmod 750 notes && ln -s notes/a.txt link")
    stack.functions.cool_down()

    told = output(person, chat, "cat link; stat -c %a notes; rm notes/a.txt")
    stack.functions.cool_down()
    after = output(person, chat, "ls -A; ls -A notes")

    assert re.search(r"remember\s+750", told)
    assert "a.txt" not in after
    assert "link" in after


def test_a_file_that_cannot_be_kept_is_named_and_the_answer_is_not_lost(person: Person, chat: int) -> None:
    person.ask(chat, "!bash ln -s /etc/passwd secrets; echo done")

    answer, told = person.texts(chat)
    assert "done" in answer
    assert "secrets: the link points outside the workspace" in told


def test_the_outbox_is_sent_when_it_changes(person: Person, chat: int) -> None:
    person.ask(chat, "!file report.txt one")
    person.ask(chat, "hello")
    person.ask(chat, "!bash echo two > outbox/report.txt")

    sent = [m["document"]["file_name"] for m in person.replies(chat) if "document" in m]
    assert sent == ["report.txt", "report.txt"]


# ---------------------------------------------------------------------- isolation


LOOK = (
    "find {home} /dev/shm /var/tmp -name 'of-chat-[a]*' 2>/dev/null; "
    "cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n' | grep '[O]F_CHAT_A'; "
    "ps -eo args | grep '[o]f-chat-a'; echo looked"
)
"""Finds what chat A left, but not itself: wherever it can have put it, in the folders of all containers and beside."""


@pytest.mark.parametrize("keep_open", ["0", "1800"])
def test_a_chat_finds_nothing_of_another_in_the_same_container(
    person: Person, stack: EmbeddedStack, chat: int, shared: None, agent_spec: Callable[..., None], keep_open: str
) -> None:
    agent_spec(KEEP_OPEN_SECONDS=keep_open)
    stack.functions.cool_down()
    output(
        person,
        chat,
        "touch of-chat-a-file ~/of-chat-a-home $TMPDIR/of-chat-a-tmp; "
        "OF_CHAT_A=secret setsid bash -c 'exec -a of-chat-a-process sleep 300' >/dev/null 2>&1 & disown; echo left",
    )
    before = [worker.number for worker in stack.functions._workers._idle]

    found = output(person, chat + 1_000_000, LOOK.format(home=stack._home))

    assert "looked" in found
    assert before == [worker.number for worker in stack.functions._workers._idle], "it was the same container"
    assert "of-chat-a" not in found
    assert "OF_CHAT_A" not in found


def test_the_other_chats_files_are_its_own(person: Person, chat: int) -> None:
    output(person, chat, "echo mine > file")

    assert "mine" not in output(person, chat + 1_000_000, "cat file 2>&1; true")
    assert "mine" in output(person, chat, "cat file")


# ---------------------------------------------------------------------- a conversation kept open


def processes(stack: EmbeddedStack, session: str) -> list[str]:
    """The CLI processes that asked the model for a session, in order."""
    found = [record["process"] for record in stack.bedrock.requests if record["session"] == session]
    return [one for number, one in enumerate(found) if number == 0 or found[number - 1] != one]


def test_the_next_message_finds_its_conversation_open(person: Person, chat: int, stack: EmbeddedStack) -> None:
    stack.functions.cool_down()
    for number in range(1, 4):
        found = person.ask(chat, f"hello {number}")
        assert f"message {number} of this conversation" in person.texts(chat)[-1]

    session = str(found.output["session_id"])
    assert len(processes(stack, session)) == 1
    costs = [person.ask(chat, "more").output["cost_usd"] for _ in range(2)]
    assert all(cost > 0 for cost in costs)
    stack.functions.cool_down()
    cold = person.ask(chat, "cold").output
    assert len(processes(stack, session)) == 2
    assert 0 < cold["cost_usd"] < 3 * costs[-1]


def test_an_open_conversation_downloads_nothing(person: Person, chat: int, stack: EmbeddedStack) -> None:
    stack.functions.cool_down()
    output(person, chat, "echo kept > file")
    fetched: list[str] = []
    original = stack.aws._moto

    def watching(environ: dict[str, Any], start_response: Any) -> Any:
        agents = f"Credential={TEMPORARY}" in environ.get("HTTP_AUTHORIZATION", "")  # the stack's own saving reads, too
        if agents and environ["REQUEST_METHOD"] == "GET" and "/sessions/" in environ["PATH_INFO"]:
            fetched.append(environ["PATH_INFO"])
        return original(environ, start_response)

    stack.aws._moto = watching  # type: ignore[assignment]
    try:
        told = output(person, chat, "cat file")
    finally:
        stack.aws._moto = original

    assert "kept" in told
    assert [path for path in fetched if re.search("/(transcript|trees|blobs)/", path)] == []


@pytest.mark.parametrize("case", ["switched off", "undone between"])
def test_any_mismatch_starts_afresh(
    person: Person, chat: int, stack: EmbeddedStack, agent_spec: Callable[..., None], case: str
) -> None:
    if case == "switched off":
        agent_spec(KEEP_OPEN_SECONDS="0")
    stack.functions.cool_down()
    person.ask(chat, "one")
    session = str(person.ask(chat, "two").output["session_id"])
    if case == "undone between":
        person.command(chat, "/undo")

    person.ask(chat, "three")

    expected = 3 if case == "switched off" else 2
    assert len(processes(stack, session)) == expected
    number = 2 if case == "undone between" else 3
    assert f"message {number} of this conversation" in person.texts(chat)[-1]


def test_another_conversation_between_has_a_container_of_its_own(
    person: Person, chat: int, stack: EmbeddedStack
) -> None:
    stack.functions.cool_down()
    session = str(person.ask(chat, "one").output["session_id"])
    person.ask(chat + 1_000_000, "somebody else")
    person.ask(chat, "two")

    assert len(processes(stack, session)) == 1


def test_in_a_shared_container_another_conversation_between_starts_afresh(
    person: Person, chat: int, stack: EmbeddedStack, shared: None
) -> None:
    stack.functions.cool_down()
    session = str(person.ask(chat, "one").output["session_id"])
    person.ask(chat + 1_000_000, "somebody else")
    person.ask(chat, "two")

    assert len(processes(stack, session)) == 2
    assert "message 2 of this conversation" in person.texts(chat)[-1]


@pytest.mark.parametrize("same", [True, False], ids=["the same chat", "another chat"])
def test_an_open_conversation_whose_cli_died_harms_nobody(
    person: Person, chat: int, stack: EmbeddedStack, same: bool
) -> None:
    stack.functions.cool_down()
    session = person.ask(chat, "one").output["session_id"]
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # another one's, which ended meanwhile
            if session.encode() in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)

    found = person.ask(chat if same else chat + 1_000_000, "two")

    assert found.status == "SUCCEEDED", found.cause
    number = 2 if same else 1
    assert f"message {number} of this conversation" in person.texts(chat if same else chat + 1_000_000)[-1]


def signal_cli(session: str, which: signal.Signals) -> int:
    """Send the CLI of a session a signal; returns how many got it."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if session.encode() in (process / "cmdline").read_bytes():
                os.kill(int(process.name), which)
                found += 1
    return found


@pytest.mark.parametrize(
    ("how", "idle", "opened"),
    [("alive", 50, 1), ("closed", 50, 1), ("reset", 1, 2), ("silent", 1, 2)],
)
def test_no_connection_that_died_in_a_freeze_costs_a_turn(
    person: Person,
    chat: int,
    stack: EmbeddedStack,
    agent_spec: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    how: Cut,
    idle: int,
    opened: int,
) -> None:
    monkeypatch.setattr(WSGIRequestHandler, "protocol_version", "HTTP/1.1")
    wire = Forwarder(stack.functions.specs[AGENT].environment["MODEL_BASE_URL"], monkeypatch)
    agent_spec(MODEL_BASE_URL=wire.url, KEEP_OPEN_IDLE_SECONDS=str(idle))
    stack.functions.cool_down()
    session = str(person.ask(chat, "one").output["session_id"])
    assert signal_cli(session, signal.SIGSTOP) == 1
    wire.cut(how)
    time.sleep(1.1 if idle == 1 else 0)  # the pause itself: longer than what is allowed
    signal_cli(session, signal.SIGCONT)

    turn = person.ask(chat, "two")
    wire.close()

    assert next(state.tries for state in turn.states if state.name == "RunAgent") == 1
    assert "message 2 of this conversation" in person.texts(chat)[-1]
    assert len(processes(stack, session)) == opened


def test_a_conversation_older_than_it_may_be_is_not_gone_on_with(
    person: Person, chat: int, stack: EmbeddedStack, agent_spec: Callable[..., None]
) -> None:
    agent_spec(KEEP_OPEN_SECONDS="3")
    stack.functions.cool_down()
    session = str(person.ask(chat, "one").output["session_id"])
    time.sleep(3.1)  # it was young when its turn ended; it is too old when it is taken up

    person.ask(chat, "two")

    assert len(processes(stack, session)) == 2


# ---------------------------------------------------------------------- time travel


def test_undo_brings_the_file_and_the_conversation_back(person: Person, chat: int, kept: Kept) -> None:
    output(person, chat, "echo precious > important.txt")
    before = kept.pointer
    output(person, chat, "rm important.txt")

    person.command(chat, "/undo")

    assert "before your last message" in person.texts(chat)[-1]
    assert (kept.pointer.version, kept.pointer.manifest) == (before.version, before.manifest)
    assert "precious" in output(person, chat, "cat important.txt")
    person.ask(chat, "count")
    assert "message 3 of this conversation" in person.texts(chat)[-1]


def test_undo_goes_back_to_the_start_and_then_says_so(person: Person, chat: int) -> None:
    person.ask(chat, "only")

    for _ in range(2):
        person.command(chat, "/undo")

    assert person.texts(chat)[-1] == "There is nothing to take back."
    person.ask(chat, "again")
    assert "message 1 of this conversation" in person.texts(chat)[-1]


def test_undo_waits_for_a_turn_that_runs(person: Person, chat: int) -> None:
    person.ask(chat, "one")
    name = person.say(chat, "!slow 2")
    person.wait_for_state(name, "RunAgent")

    person.command(chat, "/undo")

    assert "I am working on something" in person.texts(chat)[-1]
    assert person.wait(name).output["version"] == 2


def test_a_redelivered_undo_takes_back_one_turn(person: Person, chat: int, kept: Kept, stack: EmbeddedStack) -> None:
    for text in ("one", "two", "three"):
        person.ask(chat, text)
    answer = person.command(chat, "/undo")
    update = stack.telegram.state["updates"][answer["turn_id"].rpartition("u")[2]]["update"]

    stack.telegram.queue(update, chat)
    until(lambda: all(u["status"] for u in stack.telegram.state["updates"].values() if u["chat"] == chat))

    assert kept.pointer.version == 2


@pytest.mark.parametrize("command", ["/new", "/fork"])
def test_a_turn_that_commits_in_the_middle_of_a_command_does_not_undo_it(
    person: Person, chat: int, kept: Kept, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    person.ask(chat, "one")
    before, move, seen = kept.pointer, SessionTable.move, []
    manifest = kept.manifest()
    key = str(before.manifest).replace("manifests/1-", "manifests/2-")
    kept.snapshots.write(key, manifest.model_copy(update={"version": 2, "parent": before.manifest}))
    after = before.model_copy(update={"version": 2, "manifest": key})

    def overtaken(self: SessionTable, session_key: str, *arguments: Any) -> bool:
        if not seen and session_key == kept.key:
            seen.append(move(self, session_key, "the turn between", before, after))
        return move(self, session_key, *arguments)

    monkeypatch.setattr(SessionTable, "move", overtaken)
    person.command(chat, command)

    assert seen == [True]
    assert kept.pointer.session_id != before.session_id
    assert kept.pointer.version == (0 if command == "/new" else 2)


def test_a_fork_in_a_private_chat_goes_on_apart(person: Person, chat: int, kept: Kept) -> None:
    output(person, chat, "echo shared > file")
    before = kept.pointer

    person.command(chat, "/fork")

    after = kept.pointer
    assert after.session_id != before.session_id
    assert "shared" in output(person, chat, "cat file; pwd")
    assert after.session_id in person.texts(chat)[-1], "the workspace is the fork's own"
    person.ask(chat, "count")
    assert "message 3 of this conversation" in person.texts(chat)[-1]


def test_a_fork_in_a_forum_is_a_new_topic(person: Person, group: int, stack: EmbeddedStack) -> None:
    person.ask(group, "in the topic", thread=7)

    stack.telegram.say(group, "/fork Another way", thread_id=7)
    until(lambda: len(stack.telegram.state["chats"][str(group)]["threads"]) == 2)
    topic = stack.telegram.state["chats"][str(group)]["threads"][-1]
    until(lambda: any("goes on in the new topic" in text for text in person.texts(group)))
    person.ask(group, "in the fork", thread=topic)
    there = person.texts(group)[-1]
    person.ask(group, "back", thread=7)

    assert "message 2 of this conversation" in there
    assert "message 2 of this conversation" in person.texts(group)[-1]
    opened = next(m for m in person.replies(group) if "forum_topic_created" in m)
    assert opened["forum_topic_created"]["name"] == "Another way"


def test_a_fork_that_telegram_refuses_says_why(person: Person, group: int, stack: EmbeddedStack) -> None:
    person.ask(group, "hello", thread=7)
    stack.telegram.state["chats"][str(group)]["no_topics"] = True

    stack.telegram.say(group, "/fork", thread_id=7)

    until(lambda: any("not enough rights" in text for text in person.texts(group)))


def test_debug_sends_the_conversations_files(person: Person, chat: int, stack: EmbeddedStack) -> None:
    output(person, chat, "echo 1 > kept.txt")

    person.command(chat, "/debug")

    sent = {m["document"]["file_name"]: m["document"] for m in person.replies(chat) if "document" in m}
    assert list(sent) == ["conversation.jsonl", "debug.txt", "todos.json", "workspace.zip"]
    names = [path.read_bytes() for path in (stack._home / "files").rglob("*") if path.is_file()]
    assert any(b"echo 1 > kept.txt" in content for content in names)


# ---------------------------------------------------------------------- expiry


def test_an_active_session_lives_on_and_an_idle_one_is_forgotten_before_its_data(
    person: Person, stack: EmbeddedStack, chat: int
) -> None:
    active, idle, slow = chat, chat + 1_000_000, chat + 2_000_000
    day = 0
    for chats, until_day in (((active, idle, slow), 20), ((active, slow), 26), ((active,), 31)):
        for one in chats:
            output(person, one, f"echo day {day} >> diary")
        pass_time(stack, timedelta(days=until_day - day))
        expire(stack)
        day = until_day
    kept = [Kept(stack, one) for one in (active, idle, slow)]

    assert kept[1].table.pointer(kept[1].key) is None, "idle for 31 days"
    assert kept[2].pointer.version == 2, "idle for 11 days"
    found = output(person, active, "cat diary")
    assert all(f"day {n}" in found for n in (0, 20, 26))
    assert "day 20" in output(person, slow, "cat diary")
    person.ask(idle, "count")
    assert "message 1 of this conversation" in person.texts(idle)[-1]


@pytest.mark.parametrize("last", [0, 5, 14, 24])
def test_at_no_age_does_the_data_go_before_the_mapping(
    person: Person, stack: EmbeddedStack, chat: int, kept: Kept, last: int
) -> None:
    """Objects were made on day 0; the last turn is on day `last`; the mapping lives 25 days more."""
    output(person, chat, "echo precious > file")
    pass_time(stack, timedelta(days=last))
    if last:
        person.ask(chat, "the last turn")

    for _ in range(24):
        pass_time(stack, timedelta(days=1))
        expire(stack)
        kept.manifest()
    pass_time(stack, timedelta(days=1, seconds=1))
    expire(stack)

    assert kept.table.pointer(kept.key) is None


def test_lost_data_starts_afresh_and_says_so(person: Person, chat: int, kept: Kept) -> None:
    output(person, chat, "echo x > file")
    tree = kept.manifest().tree
    assert tree is not None
    kept.s3.delete_object(Bucket=kept.bucket, Key=tree.objects[0])

    person.ask(chat, "hello")

    assert "fresh start" in person.texts(chat)[-2]
    assert "message 1 of this conversation" in person.texts(chat)[-1]


# ---------------------------------------------------------------------- long turns and dead agents


def test_a_turn_longer_than_lambda_goes_on_and_is_one_answer(
    person: Person, chat: int, kept: Kept, stack: EmbeddedStack, agent_spec: Callable[..., None]
) -> None:
    agent_spec(timeout=15)

    found = person.ask(chat, "!bash touch began; sleep 60; touch ended")

    names = [state.name for state in found.states]
    assert found.status == "SUCCEEDED", found.cause
    assert names.count("ContinueAgent") == 1
    assert names.count("RunAgent") == 2
    assert names.count("Persist") == 1
    assert found.output["version"] == 1
    assert person.texts(chat) == ["I was interrupted and went on: !bash touch began; sleep 60; touch ended"]
    agent_spec()
    files = output(person, chat, "ls")
    assert "began" in files
    assert "ended" not in files
    listed = kept.s3.get_paginator("list_objects_v2").paginate(Bucket=kept.bucket)
    keys = [item["Key"] for page in listed for item in page["Contents"]]
    names = [key.partition(f"turns/{found.name}/")[2] for key in keys if f"turns/{found.name}/" in key]
    assert [name for name in names if not name.startswith("costs/")] == ["debug.txt", "result-1.json", "result.json"]
    assert len(names) == 3 + 2, "each part has a record of its cost"


def test_a_turn_that_never_ends_is_given_up_by_name(person: Person, chat: int, agent_spec: Callable[..., None]) -> None:
    agent_spec(timeout=13, MAX_PARTS="1")

    found = person.ask(chat, "!bash sleep 60")

    assert (found.status, found.error) == ("FAILED", "AgentTimedOut")


class Killing:
    """Kills the agent at given moments of one chat's runs, in seconds after their start; None: not that run."""

    def __init__(self, stack: EmbeddedStack, chat: int, moments: Iterator[float | None]) -> None:
        self._stack, self._chat, self._moments = stack, chat, moments
        self.killed = 0

    def around(self, spec: FunctionSpec, event: dict[str, Any], run: Invoker) -> Answer:
        if not spec.is_image or event["session_key"] != f"{self._chat}:0":
            return run(spec, event)
        moment = next(self._moments)
        if moment is None:
            return run(spec, event)
        busy = set(self._stack.functions._workers._busy)
        timer = threading.Timer(moment, self._kill, (busy,))
        timer.start()
        try:
            return run(spec, event)
        finally:
            timer.cancel()

    def _kill(self, before: set[Any]) -> None:
        for worker in set(self._stack.functions._workers._busy) - before:
            self.killed += 1
            worker.stop()


@pytest.mark.timeout(400)
def test_wherever_the_agent_is_killed_the_next_turn_starts_from_the_last_committed_version(
    person: Person, chat: int, kept: Kept, stack: EmbeddedStack
) -> None:
    seed = random.Random(4)
    moments = (None if number % 3 == 2 else seed.uniform(0.0, 1.5) for number in itertools.count())
    killing = Killing(stack, chat, moments)
    output(person, chat, "echo 0 > count")
    stack.functions.around = killing.around
    answered = 1
    try:
        while killing.killed < 20:
            found = person.ask(chat, "!bash echo $(($(cat count) + 1)) > count; cat count")
            version = kept.manifest().version
            if found.status == "SUCCEEDED":
                answered += 1
            assert version == answered, "a failed turn left nothing, an answered one everything"
    finally:
        stack.functions.around = None

    assert answered > 1
    assert output(person, chat, "cat count").endswith(f"\n{answered - 1}")


def test_every_object_a_manifest_names_was_there_when_it_was_written(
    person: Person, chat: int, kept: Kept, stack: EmbeddedStack
) -> None:
    seen: list[str] = []
    original = stack.aws._moto

    def watching(environ: dict[str, Any], start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] == "PUT" and "/sessions/" in path:
            seen.append(path.split("/", 2)[2])
            if "/manifests/" in path:
                body = environ["wsgi.input"].read()
                environ["wsgi.input"].seek(0)
                manifest = Manifest.model_validate_json(body)
                assert set(manifest.objects) <= set(seen)
        return original(environ, start_response)

    stack.aws._moto = watching  # type: ignore[assignment]
    try:
        output(person, chat, "echo 1 > file")
        output(person, chat, "echo 2 > file")
    finally:
        stack.aws._moto = original

    assert sum("/manifests/" in key for key in seen) == 2
