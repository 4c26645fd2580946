"""`make bench`, or `python -m tests.bench [--runs N] [--before COMMIT] [NAME ...]`."""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from pathlib import Path

from stepgram.embedded.stack import EmbeddedStack
from tests.bench import cold, console, endpoint, sessions, turn, webhook
from tests.bench.figures import show

NAMES = ("imports", "answers", "turn", "agent", "open", "endpoint", "process", "cold", "signs", "console", "sessions")


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--before", metavar="COMMIT", help="cold: measure the version of a commit as well")
    given = parser.parse_args()
    names = given.names or NAMES
    if unknown := set(names) - set(NAMES):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    print(f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores, {given.runs} runs each\n")
    if "imports" in names:
        show("Webhook: imports", webhook.imports(given.runs))
    measured = {
        "answers": ("Webhook: answers", webhook.answers),
        "turn": ("Turn: orchestration", turn.orchestration),
        "agent": ("Agent: overhead around the model", turn.agent),
        "open": ("Agent: open conversation", turn.open_conversation),
        "endpoint": ("Agent: the model's endpoint", endpoint.overhead),
        "process": ("Agent: cold process", turn.cold),
        "signs": ("Chat: signs of life and Stop", turn.signs),
        "console": (f"Console: {console.EXECUTIONS:,} executions", console.lists),
        "sessions": ("Sessions: carried as snapshots and by copying all files", sessions.sessions),
    }
    wanted = [measured[name] for name in measured if name in names]
    if wanted:
        with tempfile.TemporaryDirectory() as home, EmbeddedStack(Path(home), environment={}) as stack:
            for title, measure in wanted:
                show(title, measure(stack, given.runs))
    if "cold" in names:
        cold.compare(given.runs, given.before)


if __name__ == "__main__":
    main()
