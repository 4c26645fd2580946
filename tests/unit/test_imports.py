"""What the agent's container has in its Python: nothing that knows Telegram."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.conftest import ROOT

LOADED = "import functions.agent.handler, json, sys; print(json.dumps(sorted(sys.modules)))"
TELEGRAM = ("texts", "verdict")
"""Words for people, which the agent's side has none of."""

ROOMS = ("telegram", "intake", "turn", "callback")


def test_the_agents_side_imports_nothing_of_telegram() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout)

    assert "functions.agent.conversation" in loaded
    assert not [name for name in loaded if name.startswith("functions.") and name.rpartition(".")[2] in TELEGRAM]
    assert not [name for name in loaded if name.split(".")[1:2] and name.split(".")[1] in ROOMS
                and name.startswith("functions.")]  # fmt: skip
    assert not {"requests", "telegramify_markdown"} & set(loaded)
