"""What an agent leaves in its container: nothing of it is there for the next conversation, however it was hidden.

Each attack is carried out by the agent's Bash in strict mode; what is left is looked for from outside.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from functions.common.folders import remove
from functions.conversation.texts import say
from stepgram.embedded.packages import shared_cache
from tests.attacks.strict_stack import StrictStack, strict_stack
from tests.attacks.test_other_sessions import run

STOPPED_BY = (
    "When a conversation is closed all of `/tmp` goes, by descriptors, without recursion, following no link; every "
    "process is ended; what cannot be cleaned ends the container."
)

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="seen from outside by root on Linux alone"),
    pytest.mark.timeout(600),
]

_chats = itertools.count(700_001)

DIG = "python3 -c \"import os; os.chdir('{place}')\nfor _ in range({levels}): os.mkdir('d'); os.chdir('d')\""
DAEMON = "(setsid sh -c '(sleep 1234 &) ; exec env -i sleep 1234' >/dev/null 2>&1 &) ; sleep 1"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StrictStack]:
    home = tmp_path_factory.mktemp("strict")
    with strict_stack(shared_cache(), home, ApprovalTools="none", MessagesPerMinute="0") as running:
        running.set(environment={"KEEP_OPEN_SECONDS": "0"})
        yield running


@pytest.fixture
def chat() -> int:
    return next(_chats)


ATTACKS = {
    "hidden files": "mkdir -p /tmp/.cache/a && touch /tmp/.hidden /tmp/.cache/a/b",
    "names that are no text": "touch $'/tmp/\\xff\\n' && mkdir $'/tmp/-rf \\x01'",
    "folders without rights": "mkdir -p /tmp/a/b/c && touch /tmp/a/b/c/d && chmod 000 /tmp/a/b/c /tmp/a/b /tmp/a",
    "10,000 levels": DIG.format(place="/tmp", levels=10_000),
    "pipes and sockets": "mkfifo /tmp/pipe && python3 -c \"import socket; socket.socket(1).bind('/tmp/socket')\"",
    "links to elsewhere": "ln -s /var/task /tmp/link && ln -s nowhere /tmp/dangling",
    "a link in our folder's place": "mv /tmp/stepgram /tmp/moved && ln -s /tmp/moved /tmp/stepgram",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_what_is_put_into_tmp_is_gone_and_the_container_goes_on(stack: StrictStack, chat: int, attack: str) -> None:
    first = stack.ask(chat, f"!bash {attack} && echo done in $(ls -A /tmp | wc -l)")
    (before,) = stack.agents(chat)

    second = stack.ask(chat, "hello")

    assert (first["status"], second["status"]) == ("SUCCEEDED", "SUCCEEDED"), (first, second)
    assert "done in" in "\n".join(first["texts"])
    assert before["left"] == []
    assert [one["id"] for one in stack.agents(chat)] == [before["id"]]


IN_OUR_PLACE = {
    "nothing": "true",
    "a file": "touch /tmp/stepgram",
    "a dangling link": "ln -s nowhere /tmp/stepgram",
    "a link to the code": "ln -s /var/task /tmp/stepgram",
}


@pytest.mark.parametrize("attack", IN_OUR_PLACE.values(), ids=IN_OUR_PLACE)
def test_whatever_is_where_our_folder_was_the_turn_ends_and_the_next_one_works(
    stack: StrictStack, chat: int, attack: str
) -> None:
    first = stack.ask(chat, f"!bash rm -rf /tmp/stepgram; {attack}; echo done")
    left = [one["left"] for one in stack.agents(chat)]

    second = stack.ask(chat, "hello")

    assert first["status"] == "SUCCEEDED" or first["error"] == "AgentCrashed", first
    assert not any(left)
    assert second["status"] == "SUCCEEDED"
    assert "hello" in second["text"]


def test_a_deep_path_in_the_workspace_is_named_and_the_bot_goes_on(stack: StrictStack, chat: int) -> None:
    deep = stack.ask(chat, "!bash " + DIG.format(place=".", levels=10_000) + " && echo kept > file")
    again = stack.ask(chat, "!bash cat file")

    assert deep["status"] == "SUCCEEDED", deep
    assert deep["text"].splitlines()[1:] == [say("left_out_too_deep", "en", path="/".join("d" * 101))]
    assert "kept" in again["text"]


def test_no_daemon_outlives_its_conversation(stack: StrictStack, chat: int) -> None:
    turn = stack.ask(chat, f"!bash {DAEMON}; echo daemons=$(pgrep -c sleep)")
    commands = [command for one in stack.agents(chat) for command in one["commands"]]

    assert turn["status"] == "SUCCEEDED", turn
    assert "daemons=2" in turn["text"]
    assert not [command for command in commands if "sleep" in command]


KILLS = {
    "its own process is killed": "kill -9 $(pgrep -f awslambdaric)",
    "all it may kill is killed": "kill -9 -1",
    "its time is over": "kill -STOP $(pgrep -f awslambdaric); sleep 600",
}


@pytest.mark.parametrize("attack", KILLS.values(), ids=KILLS)
def test_a_function_that_ends_leaves_no_process_and_no_folder(stack: StrictStack, chat: int, attack: str) -> None:
    stack.set(timeout=20)
    stack.ask(chat, "hello")
    (before,) = stack.agents(chat)
    seconds = f"1234.{secrets.randbelow(10**9):09}"  # by which this test's are told from those of stacks beside it

    turn = stack.ask(chat, f"!bash touch /tmp/left; {DAEMON.replace('1234', seconds)}; {attack}")
    after = stack.ask(chat, "!bash ls -A /tmp; pgrep -c sleep; true")

    assert turn["status"] == "FAILED"
    assert turn["error"] in ("Runtime.ExitError", "Sandbox.Timedout"), turn
    assert after["status"] == "SUCCEEDED", after
    assert before["id"] not in [one["id"] for one in stack.agents(chat)]
    assert not os.path.exists(before["tmp"])
    assert running(f"sleep {seconds}") == []


def running(command: str) -> list[int]:
    """The processes of this machine that run a command."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if (folder / "cmdline").read_text("utf-8", "replace").replace("\0", " ").strip() == command:
                found.append(int(folder.name))
    return found


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 300 MB."""
    disk = Path("/tmp") / f"stepgram-small-disk-{os.getpid()}"
    disk.mkdir(mode=0o755)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m,mode=755", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)
    remove(disk)


def test_a_full_disk_ends_a_turn_and_not_the_next_one(small_disk: Path, tmp_path: Path, chat: int) -> None:
    packages = shared_cache()
    with strict_stack(packages, tmp_path, small_disk, ApprovalTools="none", MessagesPerMinute="0") as stack:
        full = stack.ask(
            chat, "!bash echo kept > file; cat /dev/zero > /tmp/large; cat /dev/zero > rest; df /tmp | tail -1"
        )
        left = [one["left"] for one in stack.agents(chat)]
        after = stack.ask(chat, "!bash df /tmp | tail -1; cat file")

    assert full["status"] == "SUCCEEDED" or full["error"] == "AgentCrashed", full
    assert not any(left)
    assert after["status"] == "SUCCEEDED", after


def test_a_conversation_that_is_kept_open_keeps_what_is_in_tmp(stack: StrictStack, chat: int) -> None:
    stack.set(environment={"KEEP_OPEN_SECONDS": "600"})
    stack.ask(chat, "!bash echo mine > /tmp/between")

    again = stack.ask(chat, "!bash cat /tmp/between")

    stack.set(environment={"KEEP_OPEN_SECONDS": "0"})
    assert "mine" in again["text"]


IN_THE_KERNEL = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
key, flags = 0x57e9, 0o1666 if sys.argv[1] == "put" else 0
try:
    queues = ctypes.CDLL("librt.so.1", use_errno=True)
except OSError:
    queues = libc
queue = queues.mq_open(b"/stepgram", os.O_RDWR | (os.O_CREAT if flags else 0), 0o666, None)
found = {"shm": libc.shmget(key, 4096, flags), "sem": libc.semget(key, 1, flags), "msg": libc.msgget(key, flags)}
print(*(name for name, number in {**found, "queue": queue}.items() if number >= 0))
"""


def test_what_is_left_in_the_kernel_is_not_found(stack: StrictStack) -> None:
    """System V's shared memory, semaphores and queues, and POSIX's queues, outlive who made them."""
    mine, other = next(_chats), next(_chats)
    put = stack.ask(mine, run(IN_THE_KERNEL, "put"))["texts"][-1]
    assert "shm sem msg" in put

    again = stack.ask(mine, run(IN_THE_KERNEL, "get"))["texts"][-1]
    elsewhere = stack.ask(other, run(IN_THE_KERNEL, "get"))["texts"][-1]

    assert not {"shm", "sem", "msg"} & set(again.split())
    assert not {"shm", "sem", "msg", "queue"} & set(elsewhere.split())
