"""The webhook: what its imports cost, and how long Telegram waits for its answer."""

from __future__ import annotations

import subprocess
import sys
import time

import requests

from functions.common.envelope import turn_id
from stepgram.embedded.stack import EmbeddedStack
from tests.bench.figures import Figure
from tests.conftest import Person

MEMORY = "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
"""The process's largest resident memory in kB; `ru_maxrss` would count the parent's before the exec."""

EMPTY, WEBHOOK = "pass", "import functions.telegram.webhook"
FIRST_CHAT = 710_000


def process(statement: str) -> tuple[float, float]:
    """Milliseconds of a Python process that runs a statement, and its memory in MB."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", f"{statement}\n{MEMORY}"], capture_output=True, check=True)
    return (time.perf_counter() - started) * 1000, int(done.stdout) / 1024


def imports(runs: int) -> list[Figure]:
    """Time and memory of an empty Python and of one that imports the webhook."""
    figures = []
    for name, statement in (("empty Python", EMPTY), ("Python with the webhook", WEBHOOK)):
        process(statement)
        samples = [process(statement) for _ in range(runs)]
        figures.append(Figure(f"{name}, start to end", "ms", tuple(t for t, _ in samples)))
        figures.append(Figure(f"{name}, memory", "MB", tuple(m for _, m in samples)))
    return figures


def answers(stack: EmbeddedStack, runs: int) -> list[Figure]:
    """From the POST of an update to its answer, for a message that becomes a Turn and for its redelivery."""
    person = Person(stack)
    webhook = stack.telegram.state["webhook"]
    headers = {"X-Telegram-Bot-Api-Secret-Token": webhook["secret_token"]}
    first, again = [], []
    with requests.Session() as session:
        for number in range(runs):
            chat, update_id = FIRST_CHAT + number, 900_000 + number
            stack.telegram.state["chats"][str(chat)] = {
                "id": chat, "type": "private", "first_name": "Bench", "threads": [], "messages": [], "next_message": 1,
            }  # fmt: skip
            user = {"id": chat, "is_bot": False, "first_name": "Bench"}
            message = {"message_id": 1, "date": int(time.time()), "chat": {"id": chat, "type": "private"}, "from": user}
            update = {"update_id": update_id, "message": {**message, "text": "hello"}}
            for samples in (first, again):
                started = time.perf_counter()
                session.post(webhook["url"], json=update, headers=headers, timeout=30).raise_for_status()
                samples.append((time.perf_counter() - started) * 1000)
                person.wait(turn_id(chat, 0, update_id))
    return [
        Figure("a message becomes a Turn", "ms", tuple(first)),
        Figure("the same update again", "ms", tuple(again)),
    ]
