"""`make rehearse` as it is run: once whole, and once for each thing that would keep a deployment from working."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from samtranslator.yaml_helper import yaml_parse

from stepgram.embedded.template import ROOT
from tests.conftest import change


def rehearse(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stepgram.rehearsal.rehearse", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


@pytest.mark.timeout(300)
def test_this_checkout_would_deploy() -> None:
    done = rehearse()

    verdict = done.stdout.partition("This would deploy.")[2]
    assert "Not tried here: the build of the agent's image" in verdict, done.stdout + done.stderr
    assert done.returncode == 0
    assert "✗" not in done.stdout
    for seen in ("You said: Hello", "message 2", "ModelAccessDenied", "42 is the answer", "report.txt", "Stopped"):
        assert seen in done.stdout
    for seen in ("This session: $", "message 5", "workspace.zip"):
        assert seen in done.stdout


@pytest.mark.timeout(300)
def test_every_handler_of_the_template_starts_with_nothing_but_its_own_package() -> None:
    """And the runtime's boto3: `tests/strict/test_containers.py` shows that nothing else can be imported there."""
    done = rehearse("--only-start")

    resources = yaml_parse((ROOT / "template.yaml").read_text())["Resources"]
    functions = [name for name, resource in resources.items() if resource["Type"] == "AWS::Serverless::Function"]
    started = re.findall(r"✓ +[\d.]+ s  (\w+) starts", done.stdout)
    assert sorted(started) == sorted(functions), done.stdout + done.stderr
    assert done.returncode == 0


@pytest.mark.timeout(300)
def test_what_the_files_tell_is_named_before_anything_is_built(broken: Path) -> None:
    """Each check is tried in tests/unit/test_deployable.py."""
    change(broken / "template.yaml", "Timeout: 900", "Timeout: 1200")

    done = rehearse("--root", str(broken))

    assert done.returncode == 1
    assert "AgentFunction: Timeout 1200 is not between 1 and 900 seconds" in done.stdout
    assert "make target of sam build" not in done.stdout


@pytest.mark.timeout(300)
def test_a_folder_left_out_of_the_zip_is_named(broken: Path) -> None:
    change(broken / "functions" / "Makefile", r"cp -r (.*?) callback ", r"cp -r \1 ")

    done = rehearse("--root", str(broken))

    assert done.returncode == 1
    named = "the package of CallbackFunction cannot be imported: No module named 'functions.callback'"
    assert named in done.stdout.rpartition("This would not deploy:")[2]


@pytest.mark.timeout(300)
def test_a_package_left_out_of_the_agents_requirements_is_named(broken: Path) -> None:
    change(broken / "functions" / "agent" / "requirements.txt", r"pathspec==\S+\n", "")

    done = rehearse("--root", str(broken))

    assert done.returncode == 1
    assert "the agent's image lacks pathspec" in done.stdout.rpartition("This would not deploy:")[2]


@pytest.mark.timeout(300)
def test_a_permission_left_out_of_the_template_is_named(broken: Path) -> None:
    change(broken / "template.yaml", r"(\n  WebhookFunction:.*?)states:StartSyncExecution", r"\1states:StartExecution")

    done = rehearse("--root", str(broken))

    assert done.returncode == 1
    verdict = done.stdout.rpartition("This would not deploy:")[2]
    assert "WebhookFunction is denied states:StartSyncExecution on arn:aws:states:" in verdict


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("machine", "statement", "named"),
    [
        ("Intake", "Action: states:StartExecution", "Intake is denied states:StartExecution on arn:aws:states:"),
        ("Turn", "Action: lambda:InvokeFunction", "Turn is denied lambda:InvokeFunction on arn:aws:lambda:"),
    ],
)
def test_a_permission_a_state_machine_lacks_is_named(broken: Path, machine: str, statement: str, named: str) -> None:
    left_out = rf"(\n  {machine}:.*?)\n            - {{Effect: Allow, {statement},[^\n]*"
    change(broken / "template.yaml", left_out, r"\1")

    done = rehearse("--root", str(broken))

    assert done.returncode == 1
    assert named in done.stdout.rpartition("This would not deploy:")[2]


@pytest.mark.timeout(300)
def test_what_lambda_refuses_at_the_agents_import_is_named(broken: Path) -> None:
    with (broken / "functions" / "agent" / "handler.py").open("a") as file:
        file.write(
            "import ctypes\n"
            "if ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0) != 0:\n"
            "    raise PermissionError(ctypes.get_errno(), 'prctl')\n"
        )

    done = rehearse("--root", str(broken))

    assert done.returncode == 1
    verdict = done.stdout.rpartition("This would not deploy:")[2]
    assert "the agent cannot start: PermissionError: [Errno 1] prctl; Lambda answers EPERM" in verdict
