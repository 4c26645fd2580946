"""The PreToolUse hook: decides whether a tool call runs, is refused, or waits for a person.

The CLI runs this file as a command for the tools in question (`options.py`), with the call on standard input. A hook in
the SDK's process would race with the CLI when a deferred call is resumed; a command does not. What it goes by is in the
environment of the one CLI process, which nothing that the agent runs can change.
Source: https://docs.claude.com/en/docs/claude-code/hooks (PreToolUse, `permissionDecision`); `defer` as tried with CLI
2.1.329. It runs at every such call, so it imports nothing but the standard library.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import unicodedata
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import Any

VARIABLE = "STEPGRAM_APPROVAL"
"""A JSON object: `ask` (patterns of tool names, or `outside`), `allowed` (names), `workspace` and `readable` (folders),
`decided` (by call), `waits` (what the file's name begins with that the first call to wait leaves)."""

OUTSIDE = "outside"
"""The pattern that means: reading or writing outside the workspace."""

WRITERS = {"Write": "file_path", "Edit": "file_path", "NotebookEdit": "notebook_path"}
PATHS = {**WRITERS, "Read": "file_path", "Glob": "path", "Grep": "path"}
"""The argument of each file tool that is its path; without one it works in the workspace."""

FROM_SUBAGENT = "This needs a person's approval, which only the main agent can ask for. Tell it what you need to run."
ONE_AT_A_TIME = "A person is asked about another call of this message first. Make this call again after that one."
CHANGED = "This is not the call that a person decided about."


def decide(call: dict[str, Any], rules: dict[str, Any]) -> tuple[str, str]:
    """The permission decision for one call, and its reason."""
    name, arguments = call["tool_name"], call["tool_input"]
    decided = rules["decided"].get(call["tool_use_id"])
    if decided is not None:
        if decided["call"] != fingerprint(name, arguments):
            return "deny", CHANGED
        return ("allow" if decided["allow"] else "deny"), decided["reason"]
    if name in rules["allowed"] or not asks(name, arguments, rules):
        return "allow", ""
    return ("deny", FROM_SUBAGENT) if call.get("agent_id") else ("defer", "A person is asked first.")


def fingerprint(name: str, arguments: dict[str, Any]) -> str:
    """What a person decided about: this tool with these arguments, as 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps([name, arguments], sort_keys=True).encode()).hexdigest()


def asks(name: str, arguments: dict[str, Any], rules: dict[str, Any]) -> bool:
    """Whether a person must be asked before this call."""
    if OUTSIDE in rules["ask"] and name in PATHS and outside(name, arguments, rules):
        return True
    return any(fnmatchcase(name, pattern) for pattern in rules["ask"])


def outside(name: str, arguments: dict[str, Any], rules: dict[str, Any]) -> bool:
    """Whether a file tool leaves the workspace, links followed.

    Other folders may be readable, and git's own folder is not written: what is in it runs when somebody calls git.
    """
    path = str(arguments.get(PATHS[name]) or "")
    places = [path]
    if name == "Glob":
        # The CLI begins at a pattern's fixed part, if that is absolute, and not at the path.
        pattern = str(arguments.get("pattern") or "")
        places.append(os.path.join(path, os.path.dirname(re.split(r"[*?\[{]", pattern, maxsplit=1)[0])))
        if ".." in PurePath(pattern).parts or not _plain(pattern):
            return True
    workspace = os.path.realpath(rules["workspace"])
    if not all(_plain(place) for place in places):
        return True
    for place in places:
        real = os.path.realpath(os.path.join(workspace, place))
        if _within(real, workspace):
            if name in WRITERS and ".git" in PurePath(os.path.relpath(real, workspace)).parts:
                return True
        elif name in WRITERS or not any(_within(real, os.path.realpath(folder)) for folder in rules["readable"]):
            return True
    return False


def _plain(path: str) -> bool:
    """Whether the CLI takes a path as it is: it trims paths, composes their characters, and knows `~`."""
    trimmed = unicodedata.normalize("NFC", path.strip().strip("\ufeff"))
    return trimmed == path and not path.startswith("~") and "\0" not in path


def _within(path: str, folder: str) -> bool:
    return os.path.commonpath((path, folder)) == folder


def first_to_wait(call: dict[str, Any], rules: dict[str, Any]) -> bool:
    """Whether no other call waits for a person since this prompt: the CLI keeps only one, and drops the others.

    When it cannot be told, it is not: a call that is not asked about is refused, and never runs.
    """
    prompt = re.sub(r"\W", "", str(call.get("prompt_id")), flags=re.ASCII)
    try:
        os.close(os.open(f"{rules['waits']}{prompt}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError:
        return False
    return True


def main() -> None:
    """Read the call, print the decision."""
    call, rules = json.load(sys.stdin), json.loads(os.environ[VARIABLE])
    decision, reason = decide(call, rules)
    if decision == "defer" and not first_to_wait(call, rules):
        decision, reason = "deny", ONE_AT_A_TIME
    answer = {"hookEventName": "PreToolUse", "permissionDecision": decision, "permissionDecisionReason": reason}
    json.dump({"hookSpecificOutput": answer}, sys.stdout)


if __name__ == "__main__":
    main()
