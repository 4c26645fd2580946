"""The demo model: a deterministic stand-in for Claude, so that every path can be driven without credentials.

It sees what a model sees (the `messages` of one request) and answers with content blocks. It keeps no state of
its own, so its count of the conversation is the count of what it was really sent: memory becomes visible.

    plain text                 You said: <text> / This is message <n> of this conversation. What it was shown is named:
                               I see: image/png (70 bytes).
    !bash <command>            calls the Bash tool, then reports its output
    !error <status> <times> [<seconds>]    the endpoint answers that HTTP status <times> times first, asking to come
                               again after <seconds> (`Retry-After`)
    !break <times> [<blocks> [<exception>]]    the connection breaks <times> times first: after so many complete blocks
                               (default 0), in the middle of the next; with an exception's name (throttlingException),
                               the endpoint ends the stream with that
    !slow <seconds>            streams its answer for that long
    !long <characters>         an answer of exactly that many characters
    !markdown                  headings, a table, code, a list
    !file <name> <text>        writes a file into the workspace's outbox, which is sent to the chat
    !crash                     the agent's CLI process dies in the middle of the turn
    !tool <name> <json>        calls any tool by name, then reports its result
    !tools [[<name>, <json>], ...]    calls several tools in one message, then reports their results

`!error` and `!break` spoil the answer of the directive on the next line; as the last line, what comes after the tool
call on the line before:

    !bash echo once >> log     the tool runs; then the request that carries its output is refused twice, and the
    !error 429 2               command's output is reported

One time is one request, where the CLI repeats a request by itself (408, 409, 429, 5xx, a broken connection). What it
does not wait for (400, 401, 403, 404) it sends again at once in other forms: there, one time is one CLI process, so
that `!error 403 1` is one failed run.

Told to go on after an interruption, it says that it was interrupted, and what it was asked. Told that its response was
cut off, it says the blocks that are missing.

An unknown `!word` is plain text.
"""

from __future__ import annotations

import base64
import json
import re
import uuid
from dataclasses import dataclass, replace
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
class Answer:
    """Content blocks of one assistant message; `seconds` is how long streaming them takes.

    The connection breaks after `whole` complete blocks, in the middle of the next; None: it holds. With an `exception`,
    the endpoint ends the stream by its name.
    """

    blocks: tuple[dict[str, Any], ...]
    stop_reason: str
    seconds: float = 0.0
    whole: int | None = None
    exception: str | None = None


@dataclass(frozen=True)
class Trouble:
    """What the endpoint does `times` times before it gives the answer `then`.

    It answers the HTTP `status`, with `retry_after` in seconds; without a status, it begins the answer and the
    connection breaks.
    """

    times: int
    then: Answer
    status: int | None = None
    retry_after: int | None = None

    @property
    def by_process(self) -> bool:
        """Whether one time is all that one CLI process asks, which does not wait and ask again."""
        return self.status in (400, 401, 403, 404)


def text_answer(text: str, seconds: float = 0.0) -> Answer:
    """An answer that is one text block."""
    return Answer(({"type": "text", "text": text},), "end_turn", seconds)


def tool_call(name: str, arguments: dict[str, Any], say: str) -> Answer:
    """An answer that says something and calls one tool."""
    return tool_calls([(name, arguments)], say)


def tool_calls(calls: list[tuple[str, dict[str, Any]]], say: str) -> Answer:
    """An answer that says something and calls tools, all in one message."""
    uses = [
        {"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex[:20]}", "name": name, "input": arguments}
        for name, arguments in calls
    ]
    return Answer(({"type": "text", "text": say}, *uses), "tool_use")


INTERRUPTED = "[Request interrupted by user"
"""What the CLI notes in the transcript when a run was interrupted."""

ADDED = ("<system-reminder>", "[Image: source: ")
"""What the CLI adds to a person's message begins with."""

GO_ON = "[Your time in this container ran out"
"""How the agent's function begins its message to an agent that goes on in another run."""

CUT_OFF = "Your response above was cut off"
"""How the CLI begins its message to a model whose stream broke after a complete block."""


def human_texts(messages: list[dict[str, Any]]) -> list[str]:
    """What people wrote, oldest first: the last text block of every user message that carries no tool result."""
    return [text for text, _ in _texts(messages) if not text.startswith((INTERRUPTED, GO_ON, CUT_OFF))]


def _texts(messages: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """What user messages without a tool result say, and where they stand."""
    texts = []
    for index, message in enumerate(messages):
        if message["role"] != "user":
            continue
        blocks = _blocks(message)
        if any(block["type"] == "tool_result" for block in blocks):
            continue
        spoken = [b["text"] for b in blocks if b["type"] == "text" and not b["text"].startswith(ADDED)]
        if spoken:
            texts.append((spoken[-1], index))
    return texts


def _blocks(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def step(messages: list[dict[str, Any]]) -> str:
    """Which request of the conversation this is, however often it comes: the message, and the tools that ran for it."""
    texts = human_texts(messages)
    asked = max((index for text, index in _texts(messages) if text in texts), default=0)
    ran = sum(1 for message in messages[asked:] for block in _blocks(message) if block["type"] == "tool_result")
    return f"message {len(texts)} step {ran}"


def tool_result(messages: list[dict[str, Any]]) -> str | None:
    """The text of the tool results the request ends with, or None when the request ends with something else."""
    spoken = [message for message in messages if message["role"] in ("user", "assistant")]
    content = spoken[-1]["content"] if spoken else ""
    results = [] if isinstance(content, str) else [block for block in content if block["type"] == "tool_result"]
    if not results:
        return None
    bodies = [result.get("content", "") for result in results]
    texts = [body if isinstance(body, str) else "".join(part.get("text", "") for part in body) for body in bodies]
    return "\n\n".join(REMINDER.sub("", text).strip() for text in texts)


def answer(messages: list[dict[str, Any]]) -> Answer | Trouble:
    """What the demo model does with one request's `messages`."""
    said = [text for text, _ in _texts(messages)]
    texts = human_texts(messages)
    text = texts[-1] if texts else ""
    output = tool_result(messages)
    if said[-1:] and said[-1].startswith(GO_ON):
        return text_answer(f"I was interrupted and went on: {text}")
    if output is None and said[-1:] and said[-1].startswith(CUT_OFF):
        cut = max(index for index, message in enumerate(messages) if message["role"] == "assistant")
        return _rest(answer(messages[:cut]), len(_blocks(messages[cut])))
    first, _, last = text.rpartition("\n")
    if output is not None:
        reported = text_answer(f"The tool answered:\n\n```\n{output}\n```")
        return _trouble(last, reported) or reported if first else reported
    seen = "".join(f"I see: {what}.\n\n" for what in shown(messages))
    plain = text_answer(f"You said: {text}\n\n{seen}This is message {len(texts)} of this conversation.")
    return _spoiled(text) or plain


def _spoiled(text: str) -> Answer | Trouble | None:
    """The answer to a message of directives, one a line."""
    first, _, rest = text.partition("\n")
    answered = "The endpoint failed {} times first, then it answered."
    if (spoiled := _trouble(first, text_answer(""))) is not None:
        then = _directive(rest) if rest else _in_blocks(answered.format(spoiled.times), spoiled.then.whole)
        return _trouble(first, then or text_answer(rest))
    before, _, last = text.rpartition("\n")
    return _directive(before if before and _trouble(last, text_answer("")) else text)


def _in_blocks(text: str, whole: int | None) -> Answer:
    """A text after as many others as come through before the connection breaks, one of which is longer."""
    parts = [f"Part {number} of what is said before the connection breaks." for number in range(1, (whole or 0) + 1)]
    return Answer(tuple({"type": "text", "text": part} for part in (*parts, text)), "end_turn")


def _trouble(line: str, then: Answer) -> Trouble | None:
    if match := re.fullmatch(r"!error (\d{3}) (\d+)(?: (\d+))?", line):
        return Trouble(int(match[2]), then, int(match[1]), int(match[3]) if match[3] else None)
    if match := re.fullmatch(r"!break (\d+)(?: (\d+)(?: (\w+Exception))?)?", line):
        return Trouble(int(match[1]), replace(then, whole=int(match[2] or 0), exception=match[3]))
    return None


def _rest(found: Answer | Trouble, there: int) -> Answer | Trouble:
    """What is missing of an answer when some blocks of it are there."""
    if isinstance(found, Trouble):
        rest = _rest(found.then, there)
        return replace(found, then=rest) if isinstance(rest, Answer) else rest
    return replace(found, blocks=found.blocks[there:] or text_answer("Nothing was missing.").blocks)


def shown(messages: list[dict[str, Any]]) -> list[str]:
    """The images and documents of the newest message."""
    content = next((m["content"] for m in reversed(messages) if m["role"] == "user"), "")
    blocks = [] if isinstance(content, str) else [block for block in content if block["type"] in ("image", "document")]
    sources = [block["source"] for block in blocks]
    return [f"{source['media_type']} ({len(base64.b64decode(source['data']))} bytes)" for source in sources]


def _directive(text: str) -> Answer | None:
    if match := re.fullmatch(r"!bash (.+)", text, re.DOTALL):
        return tool_call("Bash", {"command": match[1], "description": "Run the user's command"}, "Running it.")
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
    if (match := re.fullmatch(r"!tools (\[.*\])", text, re.DOTALL)) and _is_json(match[1]):
        return tool_calls(json.loads(match[1]), "Calling them.")
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
