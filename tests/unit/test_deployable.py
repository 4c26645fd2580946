"""What the files tell before anything is built: each test breaks a copy of them in one place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stepgram.embedded.containers import environment
from stepgram.embedded.limits import UNZIPPED, VARIABLES
from stepgram.embedded.packages import Package
from stepgram.embedded.template import FunctionSpec
from stepgram.rehearsal.deployable import (
    architecture,
    limits,
    lint,
    model_arns,
    model_rights,
    places,
    python,
    read,
    refused,
    unzipped,
    variables,
)
from tests.conftest import ROOT, change

INTAKE_ARN = r"(          INTAKE_ARN: !Ref Intake\n)"


def test_nothing_is_found_in_this_checkout() -> None:
    assert refused(ROOT) == []


def test_what_cfn_lint_calls_an_error_is_named_with_its_line(broken: Path) -> None:
    change(broken / "template.yaml", INTAKE_ARN, r"\1          AWS_REGION: us-east-1\n")

    (found,) = lint(broken / "template.yaml")

    line = (broken / "template.yaml").read_text().splitlines().index("          AWS_REGION: us-east-1") + 1
    assert found.startswith(f"template.yaml:{line}: 'AWS_REGION' is a reserved variable name")
    assert refused(broken) == [found]


def test_a_template_that_is_no_yaml_is_named(broken: Path) -> None:
    (broken / "template.yaml").write_text("Resources: [")

    assert any("template.yaml" in problem for problem in refused(broken))


@pytest.mark.parametrize(
    ("pattern", "replacement", "named"),
    [
        ("Timeout: 900", "Timeout: 1200", "AgentFunction: Timeout 1200 is not between 1 and 900 seconds"),
        ("MemorySize: 512", "MemorySize: 20000", "CallbackFunction: MemorySize 20000 is not between 128 and 10240 MB"),
        ("MaxValue: 10240", "MaxValue: 20480", "AgentFunction: MemorySize 20480 is not between 128 and 10240 MB"),
        ("2048, 4096, 8192", "2048, 256", "AgentFunction: EphemeralStorage 256 is not between 512 and 10240 MB"),
    ],
)
def test_what_lambda_does_not_have_is_named(broken: Path, pattern: str, replacement: str, named: str) -> None:
    change(broken / "template.yaml", pattern, replacement)

    assert list(limits(read(broken))) == [named]


def test_a_runtime_the_wheels_are_not_for_is_named(broken: Path) -> None:
    change(broken / "template.yaml", "Runtime: python3.13", "Runtime: python3.12")

    assert list(python(read(broken))) == ["WebhookFunction: Runtime is python3.12, not python3.13"]


def test_wheels_of_another_python_are_named(broken: Path) -> None:
    change(broken / "functions" / "Makefile", r"LAMBDA_PYTHON \?= 3.13", "LAMBDA_PYTHON ?= 3.12")

    found = list(python(read(broken)))

    assert "TurnFunction: the recipe of its package takes wheels for Python 3.12, not 3.13" in found
    assert len(found) == 4


@pytest.mark.parametrize("tag", ["3.8", "3.130", "3"])
def test_an_image_from_another_python_is_named(broken: Path, tag: str) -> None:
    change(broken / "functions" / "agent" / "Dockerfile", "python:3.13", f"python:{tag}")

    assert list(python(read(broken))) == [f"AgentFunction: the image is FROM Python {tag}, not 3.13"]


@pytest.mark.parametrize(
    ("file", "pattern", "replacement", "named"),
    [
        ("functions/Makefile", "aarch64-manylinux", "x86_64-manylinux", "x86_64-manylinux2014, but it runs on arm64"),
        ("template.yaml", r"\[arm64\]", "[x86_64]", "aarch64-manylinux2014, but it runs on x86_64"),
        ("template.yaml", r"    Architectures: \[arm64\]\n", "", "aarch64-manylinux2014, but it runs on x86_64"),
    ],
)
def test_wheels_for_other_machines_are_named(
    broken: Path, file: str, pattern: str, replacement: str, named: str
) -> None:
    change(broken / file, pattern, replacement)

    found = list(architecture(read(broken)))

    assert f"WebhookFunction: the recipe of its package takes wheels for {named}" in found
    assert len(found) == 4


@pytest.mark.parametrize(
    ("pattern", "replacement", "named"),
    [
        ("CodeUri: functions/", "CodeUri: function/", "WebhookFunction: CodeUri function/ is no folder"),
        (
            "DefinitionUri: statemachine/turn.asl.json",
            "DefinitionUri: turn.asl.json",
            "Turn: there is no definition turn.asl.json",
        ),
        ("DockerContext: functions", "DockerContext: nowhere", "AgentFunction: DockerContext nowhere is no folder"),
        (
            "Dockerfile: agent/Dockerfile",
            "Dockerfile: agent/Gone",
            "AgentFunction: there is no Dockerfile functions/agent/Gone",
        ),
    ],
)
def test_a_place_that_is_not_there_is_named(broken: Path, pattern: str, replacement: str, named: str) -> None:
    change(broken / "template.yaml", pattern, replacement)

    assert list(places(read(broken))) == [named]
    assert named in refused(broken)


def test_a_file_that_the_image_copies_in_vain_is_named(broken: Path) -> None:
    (broken / "functions" / "agent" / "requirements.txt").unlink()

    found = ["AgentFunction: agent/Dockerfile copies agent/requirements.txt, which is not there"]
    assert list(places(read(broken))) == found


def test_a_line_of_the_dockerfile_that_is_not_understood_is_named(broken: Path) -> None:
    with (broken / "functions" / "agent" / "Dockerfile").open("a") as file:
        file.write("VOLUME /data\n")

    assert list(places(read(broken))) == ["Dockerfile: the rehearsal does not understand the line: VOLUME /data"]


def test_variables_that_are_lambdas_own_are_named(broken: Path) -> None:
    change(broken / "template.yaml", INTAKE_ARN, r"\1          AWS_REGION: x\n          LAMBDA_TASK_ROOT: x\n")

    assert list(variables(read(broken))) == [
        "WebhookFunction: the variable AWS_REGION is Lambda's own and cannot be set",
        "WebhookFunction: the variable LAMBDA_TASK_ROOT is Lambda's own and cannot be set",
    ]


def test_variables_over_4_kb_are_named(broken: Path) -> None:
    change(broken / "template.yaml", INTAKE_ARN, rf"\1          PADDING: {'x' * VARIABLES}\n")

    (found,) = variables(read(broken))

    assert re.fullmatch(r"WebhookFunction: its variables are \d{4} bytes together, over 4096", found)


def test_a_container_keeps_lambdas_own_variables_whatever_the_template_says() -> None:
    spec = FunctionSpec("Tiny", "tiny", "arn", "tiny.handler", 3, 128, {}, False)
    given = {"LAMBDA_TASK_ROOT": "/elsewhere", "AWS_LAMBDA_FUNCTION_NAME": "other", "LANG": "C", "OWN": "1"}

    found = environment(spec, Package(Path("/code"), "tiny.handler"), "3.13", "127.0.0.1:9", given)

    assert (found["LAMBDA_TASK_ROOT"], found["AWS_LAMBDA_FUNCTION_NAME"]) == ("{task}", "tiny")
    assert (found["LANG"], found["OWN"]) == ("C", "1")


def test_models_that_the_agents_role_may_not_call_are_named(broken: Path) -> None:
    change(broken / "template.yaml", "bedrock:InvokeModelWithResponseStream", "bedrock:ListFoundationModels")

    found = list(model_rights(read(broken)))

    model = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/global.anthropic.claude-haiku-5-5"
    assert f"AgentFunction may not bedrock:InvokeModelWithResponseStream on {model}" in found


def test_a_model_of_another_publisher_than_the_policy_names_is_named(broken: Path) -> None:
    change(broken / "template.yaml", "Default: global.anthropic.claude-opus-5-5", "Default: amazon.nova-pro-v1:0")

    action = "bedrock:InvokeModelWithResponseStream"
    model = "arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-pro-v1:0"
    assert list(model_rights(read(broken))) == [f"AgentFunction may not {action} on {model}"]


@pytest.mark.parametrize(("name", "value"), [("ModelProvider", "anthropic"), ("ModelSecretArn", "arn:of:a:secret")])
def test_rights_on_models_are_not_asked_of_who_calls_them_by_other_keys(broken: Path, name: str, value: str) -> None:
    change(broken / "template.yaml", "bedrock:InvokeModelWithResponseStream", "bedrock:ListFoundationModels")
    change(broken / "template.yaml", rf"(\n  {name}:\n    Type: String\n    Default: )\S+", rf"\g<1>{value}")

    assert list(model_rights(read(broken))) == []


def test_a_profile_needs_rights_for_the_model_behind_it() -> None:
    assert model_arns("us.anthropic.claude-x", "us-west-2") == [
        "arn:aws:bedrock:us-west-2:123456789012:inference-profile/us.anthropic.claude-x",
        "arn:aws:bedrock:us-west-2::foundation-model/anthropic.claude-x",
    ]
    assert "arn:aws:bedrock:::foundation-model/anthropic.claude-x" in model_arns(
        "global.anthropic.claude-x", "eu-west-1"
    )
    assert model_arns("arn:aws:bedrock:eu-west-1:1:application-inference-profile/x", "eu-west-1") == [
        "arn:aws:bedrock:eu-west-1:1:application-inference-profile/x"
    ]


def test_a_package_over_250_mb_is_named(tmp_path: Path) -> None:
    with (tmp_path / "big.bin").open("wb") as file:
        file.truncate(UNZIPPED)
    assert unzipped(tmp_path) == []

    with (tmp_path / "two.bin").open("wb") as file:
        file.truncate(2**20)

    assert unzipped(tmp_path) == ["the package of the zip functions is 251 MB unzipped, over 250 MB"]
