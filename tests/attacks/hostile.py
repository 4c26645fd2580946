"""A strict stack in a process of its own, whose agent is hostile: what it is told, it does with Bash, unasked.

`python -m tests.attacks.hostile` reads a Play as JSON from standard input and prints what became of its messages. (moto
keeps its state by process: the stack of the other tests is in theirs.)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CHAT = 4242
SECONDS = 280


@dataclass(frozen=True)
class Play:
    """What is said to the bot, one message after the other's answer; what the function holds; what is refused to it.

    `secret` is the function's secret key, `token` its session token, `model_key` the key to the model; `refused` are
    options of prctl beside those that Lambda refuses.
    """

    messages: list[str]
    secret: str = "local"
    token: str = "local"
    model_key: str = "none"
    refused: tuple[int, ...] = ()


def play(given: Play) -> list[str]:
    """The answers to the messages, from a process of its own."""
    command = [sys.executable, "-m", "tests.attacks.hostile"]
    done = subprocess.run(command, input=json.dumps(asdict(given)), capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-3000:]
    answers: list[str] = json.loads(done.stdout.splitlines()[-1])
    return answers


def main() -> None:
    """Start, play, tell."""
    from stepgram.embedded import containers, launcher
    from stepgram.embedded.packages import Packages, shared_cache
    from stepgram.embedded.stack import EmbeddedStack
    from tests.conftest import Person

    given = Play(**json.load(sys.stdin))
    environment = containers.environment

    class Stack(EmbeddedStack):
        def model_parameters(self, secrets: Any) -> dict[str, str]:
            keys = json.dumps({"AWS_BEARER_TOKEN_BEDROCK": given.model_key})
            arn = secrets.create_secret(Name="model", SecretString=keys)["ARN"]
            return {**super().model_parameters(secrets), "ModelSecretArn": arn}

    containers.environment = lambda *a: {**environment(*a), "AWS_SESSION_TOKEN": given.token}
    with tempfile.TemporaryDirectory(prefix="stepgram-hostile-", ignore_cleanup_errors=True) as home:
        if given.refused:
            script = Path(home) / "launcher.py"
            before = "REFUSED = (PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG"
            text = Path(launcher.__file__).read_text()
            assert before in text
            script.write_text(text.replace(before, f"{before}, {', '.join(map(str, given.refused))}"))
            launcher.__file__ = str(script)
        with Stack(
            Path(home), parameters={"ApprovalTools": "none"}, environment={}, packages=Packages(shared_cache())
        ) as stack:
            stack.functions._base["AWS_SECRET_ACCESS_KEY"] = given.secret
            person = Person(stack)
            for message in given.messages:
                turn = person.ask(CHAT, message)
                assert turn.status == "SUCCEEDED", (
                    turn.error,
                    turn.cause,
                    (Path(home) / "functions.log").read_text()[-2000:],
                )
            sys.stdout.write(json.dumps(person.texts(CHAT)) + "\n")
            sys.stdout.flush()
            os._exit(0)


if __name__ == "__main__":
    main()
