"""The agent's own process on the embedded stack: one JSON line in, one invocation, one JSON line out.

Its environment is the function's and nothing else of the machine's; what the handler prints goes to the log.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

from stepgram.embedded.functions import Context, call_handler

AGENT = "functions.agent.handler"


def main() -> None:
    """Serve invocations until standard input closes."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    importlib.import_module(AGENT)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        context = Context(request["name"], request["seconds"], request["request_id"], request["memory"])
        answer = call_handler(request["handler"], request["event"], context)
        document = {"payload": json.loads(answer.payload), "function_error": answer.function_error}
        answers.write(json.dumps(document).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
