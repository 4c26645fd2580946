"""What `sam deploy --guided` asks before it touches AWS, and that the README says what to answer."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from tests.conftest import ROOT
from tests.deploy.tools import tool

TOKEN = "1:secret"
README, CHINESE = (ROOT / "README.md").read_text(), (ROOT / "README.zh-CN.md").read_text()


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What SAM prints to somebody who gives the token and else only presses Enter."""
    folder = tmp_path_factory.mktemp("guided")
    for name in ("template.yaml", "samconfig.toml", "functions", "statemachine"):
        (folder / name).symlink_to(ROOT / name)
    done = subprocess.run(
        [*tool("constraints-sam.txt", "aws-sam-cli", "sam", "deploy", "--guided", "--template", "template.yaml")],
        input="\n\n" + TOKEN + "\n" * 100,
        cwd=folder,
        env={**os.environ, "SAM_CLI_TELEMETRY": "0", "AWS_DEFAULT_REGION": "us-east-1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)


def test_enter_at_the_last_question_ends_the_deployment(asked: str) -> None:
    questions, ended = asked.rsplit("WebhookFunction has no authentication. Is this okay? [y/N]:", 1)

    assert "Disable rollback" in questions
    assert "Security Constraints Not Satisfied!" in ended


def test_the_readmes_say_what_to_answer_to_each_question(asked: str) -> None:
    found = set(re.findall(r"\t([A-Z][^\t\n#]*?)(?: \[[^\]]*\])?:", asked))
    questions = {q for q in found if not q.startswith(("Parameter ", "Looking ", "Reading ", "Setting "))}

    assert len(questions) == 6
    assert [q for q in questions if f"`{q}`" not in README or f"`{q}`" not in CHINESE] == []
