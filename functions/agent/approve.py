"""The PreToolUse hook: decides whether a tool call runs, is refused, or waits for a person.

The CLI runs this file as a command for the tools in question (`options.py`), with the call on standard input. A hook in
the SDK's process would race with the CLI when a deferred call is resumed; a command does not. What it goes by is in the
environment of the one CLI process, which nothing that the agent runs can change.
Source: https://docs.claude.com/en/docs/claude-code/hooks (PreToolUse, `permissionDecision`); `defer` as tried with CLI
2.1.329. It runs at every such call, so it imports nothing but the standard library.
"""

from __future__ import annotations

import json
import os
import sys
from fnmatch import fnmatchcase
from typing import Any

VARIABLE = "STEPGRAM_APPROVAL"
"""A JSON object: `ask` (patterns of tool names, or `outside`), `allowed` (names), `workspace`, `decided` (by call)."""

OUTSIDE = "outside"
"""The pattern that means: writing a file outside the workspace."""

WRITERS = ("Write", "Edit", "NotebookEdit")
FROM_SUBAGENT = "This needs a person's approval, which only the main agent can ask for. Tell it what you need to run."


def decide(call: dict[str, Any], rules: dict[str, Any]) -> tuple[str, str]:
    """The permission decision for one call, and its reason."""
    decided = rules["decided"].get(call["tool_use_id"])
    if decided is not None:
        return ("allow" if decided["allow"] else "deny"), decided["reason"]
    name = call["tool_name"]
    if name in rules["allowed"] or not asks(name, call["tool_input"], rules["ask"], rules["workspace"]):
        return "allow", ""
    return ("deny", FROM_SUBAGENT) if call.get("agent_id") else ("defer", "A person is asked first.")


def asks(name: str, arguments: dict[str, Any], patterns: list[str], workspace: str) -> bool:
    """Whether a person must be asked before this call."""
    if OUTSIDE in patterns and name in WRITERS:
        path = str(arguments.get("file_path") or arguments.get("notebook_path") or "")
        inside = os.path.realpath(workspace)
        if os.path.commonpath((inside, os.path.realpath(os.path.join(inside, path)))) != inside:
            return True
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def main() -> None:
    """Read the call, print the decision."""
    decision, reason = decide(json.load(sys.stdin), json.loads(os.environ[VARIABLE]))
    answer = {"hookEventName": "PreToolUse", "permissionDecision": decision, "permissionDecisionReason": reason}
    json.dump({"hookSpecificOutput": answer}, sys.stdout)


if __name__ == "__main__":
    main()
