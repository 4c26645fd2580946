"""The demo model: a deterministic stand-in for Claude, so that every path can be driven without credentials.

It sees what a model sees (the `messages` of one request) and answers with content blocks. It keeps no state of
its own, so its count of the conversation is the count of what it was really sent: memory becomes visible.

    plain text                 You said: <text> / This is message <n> of this conversation. What it was shown is named:
                               I see: image/png (70 bytes).
    !bash <command>            calls the Bash tool, then reports its output
    !error <status> <times>    the endpoint answers that HTTP status for the first <times> runs of the turn
    !slow <seconds>            streams its answer for that long
    !long <characters>         an answer of exactly that many characters
    !markdown                  headings, a table, code, a list
    !file <name> <text>        writes a file into the workspace's outbox, which is sent to the chat
    !crash                     the agent's CLI process dies in the middle of the turn
    !tool <name> <json>        calls any tool by name, then reports its result

Told to go on after an interruption, it says that it was interrupted, and what it was asked.

An unknown `!word` is plain text.
"""

from __future__ import annotations

import base64
import json
import re
import uuid
from dataclasses import dataclass
from typing import Any

REMINDER = re.compile(r"<system-reminder>.*?</system-reminder>", re.DOTALL)
"""What the CLI adds to tool results for the model alone."""

MARKDOWN = """# Demo answer

A **bold** word, an *italic* one, `code`, and a [link](https://example.com/?a=1&b=2).

## A table

| Fruit | Colour | Price |
| --- | --- | ---: |
| Apple | red | 1.20 |
| Banana | yellow | 0.50 |

## Some code

```python
def greet(name: str) -> str:
    return f"Hello, {name}!"
```

## A list

- first
- second
  - nested
1. one
2. two

> A quotation.
"""


@dataclass(frozen=True)
class Failure:
    """The endpoint answers `status` (an HTTP status) for the first `times` runs of a turn."""

    status: int
    times: int


@dataclass(frozen=True)
class Answer:
    """Content blocks of one assistant message; `seconds` is how long streaming them takes."""

    blocks: tuple[dict[str, Any], ...]
    stop_reason: str
    seconds: float = 0.0


def text_answer(text: str, seconds: float = 0.0) -> Answer:
    """An answer that is one text block."""
    return Answer(({"type": "text", "text": text},), "end_turn", seconds)


def tool_call(name: str, arguments: dict[str, Any], say: str) -> Answer:
    """An answer that says something and calls one tool."""
    call = {"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex[:20]}", "name": name, "input": arguments}
    return Answer(({"type": "text", "text": say}, call), "tool_use")


INTERRUPTED = "[Request interrupted by user"
"""What the CLI notes in the transcript when a run was interrupted."""

ADDED = ("<system-reminder>", "[Image: source: ")
"""What the CLI adds to a person's message begins with."""

GO_ON = "[Your time in this container ran out"
"""How the agent's function begins its message to an agent that goes on in another run."""


def human_texts(messages: list[dict[str, Any]]) -> list[str]:
    """What people wrote, oldest first: the last text block of every user message that carries no tool result."""
    return [text for text in _texts(messages) if not text.startswith((INTERRUPTED, GO_ON))]


def _texts(messages: list[dict[str, Any]]) -> list[str]:
    texts = []
    for message in messages:
        if message["role"] != "user":
            continue
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if any(block["type"] == "tool_result" for block in blocks):
            continue
        spoken = [b["text"] for b in blocks if b["type"] == "text" and not b["text"].startswith(ADDED)]
        if spoken:
            texts.append(spoken[-1])
    return texts


def tool_result(messages: list[dict[str, Any]]) -> str | None:
    """The text of the tool result the request ends with, or None when the request ends with something else."""
    spoken = [message for message in messages if message["role"] in ("user", "assistant")]
    content = spoken[-1]["content"] if spoken else ""
    results = [] if isinstance(content, str) else [block for block in content if block["type"] == "tool_result"]
    if not results:
        return None
    body = results[-1].get("content", "")
    text = body if isinstance(body, str) else "".join(part.get("text", "") for part in body)
    return REMINDER.sub("", text).strip()


def answer(messages: list[dict[str, Any]]) -> Answer | Failure:
    """What the demo model does with one request's `messages`."""
    texts = human_texts(messages)
    text = texts[-1] if texts else ""
    output = tool_result(messages)
    if _texts(messages)[-1:] and _texts(messages)[-1].startswith(GO_ON):
        return text_answer(f"I was interrupted and went on: {text}")
    if output is not None:
        return text_answer(f"The tool answered:\n\n```\n{output}\n```")
    seen = "".join(f"I see: {what}.\n\n" for what in shown(messages))
    plain = f"You said: {text}\n\n{seen}This is message {len(texts)} of this conversation."
    return _directive(text) or text_answer(plain)


def shown(messages: list[dict[str, Any]]) -> list[str]:
    """The images and documents of the newest message."""
    content = next((m["content"] for m in reversed(messages) if m["role"] == "user"), "")
    blocks = [] if isinstance(content, str) else [block for block in content if block["type"] in ("image", "document")]
    sources = [block["source"] for block in blocks]
    return [f"{source['media_type']} ({len(base64.b64decode(source['data']))} bytes)" for source in sources]


def _directive(text: str) -> Answer | Failure | None:
    if match := re.fullmatch(r"!bash (.+)", text, re.DOTALL):
        return tool_call("Bash", {"command": match[1], "description": "Run the user's command"}, "Running it.")
    if match := re.fullmatch(r"!error (\d{3}) (\d+)", text):
        return Failure(int(match[1]), int(match[2]))
    if match := re.fullmatch(r"!slow (\d+(?:\.\d+)?)", text):
        return text_answer(" ".join(f"word{n}" for n in range(1, 41)) + " and done.", float(match[1]))
    if match := re.fullmatch(r"!long (\d+)", text):
        return text_answer(long_text(int(match[1])))
    if text == "!markdown":
        return text_answer(MARKDOWN)
    if match := re.fullmatch(r"!file (\S+) (.+)", text, re.DOTALL):
        return tool_call("Write", {"file_path": f"outbox/{match[1]}", "content": match[2]}, "Writing the file.")
    if text == "!crash":
        return tool_call("Bash", {"command": "kill -9 $PPID", "description": "Crash"}, "Crashing.")
    if (match := re.fullmatch(r"!tool (\S+) (\{.*\})", text, re.DOTALL)) and _is_json(match[2]):
        return tool_call(match[1], json.loads(match[2]), "Calling it.")
    return None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def long_text(characters: int) -> str:
    """Numbered lines, exactly `characters` long, so that a missing or doubled part is seen."""
    lines = []
    length = 0
    number = 0
    while length < characters:
        number += 1
        line = f"Line {number} of a long answer, which nobody should cut.\n" + ("\n" if number % 10 == 0 else "")
        lines.append(line)
        length += len(line)
    return "".join(lines)[: max(0, characters - 1)] + ("." if characters else "")
