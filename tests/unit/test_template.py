"""The template as deployed: what must hold whatever else changes."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest
from samtranslator.yaml_helper import yaml_parse

from stepgram.embedded.stack import EmbeddedStack
from stepgram.embedded.template import Resolver, check, translate
from tests.conftest import ROOT

TEMPLATE = yaml_parse((ROOT / "template.yaml").read_text())
RESOURCES: dict[str, dict[str, Any]] = TEMPLATE["Resources"]
FUNCTIONS = {n: r["Properties"] for n, r in RESOURCES.items() if r["Type"] == "AWS::Serverless::Function"}
WITHOUT_RESOURCES = {"bedrock:ListInferenceProfiles", "xray", "logs", "transcribe"}


def statements(name: str) -> list[dict[str, Any]]:
    found = []
    for policy in RESOURCES[name]["Properties"].get("Policies", []):
        documents = policy["Fn::If"][1:] if "Fn::If" in policy else [policy]
        found += [s for d in documents for s in d.get("Statement", [])]
    return found


@pytest.mark.parametrize("name", [n for n, r in RESOURCES.items() if r["Type"].startswith("AWS::Serverless::")])
def test_no_policy_has_a_star_where_an_arn_is_known(name: str) -> None:
    for statement in statements(name):
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert not any(action.endswith("*") for action in actions)
        if statement["Resource"] == "*":
            assert all(a in WITHOUT_RESOURCES or a.split(":")[0] in WITHOUT_RESOURCES for a in actions), actions


def test_the_agent_can_reach_neither_telegram_nor_the_table() -> None:
    agent = json.dumps(FUNCTIONS["AgentFunction"])

    assert "BotToken" not in agent
    assert "dynamodb:" not in agent
    assert "states:" not in agent


def test_no_secret_is_in_an_environment_variable_or_an_output() -> None:
    document = json.dumps([*FUNCTIONS.values(), TEMPLATE["Outputs"]])

    assert "{{resolve:" not in document
    assert "TelegramBotToken" not in document


def test_a_changed_parameter_reaches_what_is_invoked() -> None:
    """A version behind an alias would keep its environment: SAM publishes one only when the code changes."""
    resources = translate(TEMPLATE, {"TelegramBotToken": "1:x"})["Resources"]
    kinds = {resource["Type"] for resource in resources.values()}
    invoked = set(re.findall(r'"Fn::GetAtt": \["(\w+Function)", "Arn"\]|"Ref": "(\w+Function)"', json.dumps(resources)))

    assert resources["WebhookFunction"]["Properties"]["Environment"]["Variables"]["ALLOWED_USERS"] == {
        "Ref": "AllowedUsers"
    }
    assert not kinds & {"AWS::Lambda::Version", "AWS::Lambda::Alias"}
    assert {name for pair in invoked for name in pair if name} == set(FUNCTIONS)
    assert "SnapStart" not in json.dumps(resources)


def test_a_role_is_trusted_by_its_arn_so_that_a_stack_may_have_any_name() -> None:
    """Names of roles that CloudFormation makes are cut at 64 characters, so a pattern of them would not match."""
    trust = RESOURCES["SessionRole"]["Properties"]["AssumeRolePolicyDocument"]["Statement"]

    assert [statement["Principal"] for statement in trust] == [{"AWS": {"Fn::GetAtt": ["TurnFunctionRole", "Arn"]}}]
    assert "Role-*" not in (ROOT / "template.yaml").read_text()


def test_a_stack_with_a_name_of_sixty_characters_has_names_that_aws_takes() -> None:
    """State machines may have 80 characters (CreateStateMachine), log groups 512, dashboards 255."""
    limits = {"StateMachineName": 80, "LogGroupName": 512, "DashboardName": 255}
    resources = translate(TEMPLATE, {"TelegramBotToken": "1:x"})["Resources"]
    names = {k: f"x-{k}" for k in resources}
    document = {"Resources": resources, "Parameters": TEMPLATE["Parameters"]}
    resolve = Resolver(document, {"TelegramBotToken": "1:x"}, names, "s" * 60, "http://x")
    made = [
        (kind, str(resolve(resource["Properties"][kind])))
        for resource in resources.values()
        for kind in limits
        if kind in resource["Properties"]
    ]

    assert {kind for kind, _ in made} == set(limits)
    assert [(kind, name) for kind, name in made if len(name) > limits[kind]] == []
    assert all("s" * 60 in name for _, name in made)
    named = {"AWS::IAM::Role": "RoleName", "AWS::Lambda::Function": "FunctionName"}
    assert not [k for k, r in resources.items() if r["Type"] in named and named[r["Type"]] in r["Properties"]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"SessionTtlDays": "55"}, "SessionTtlDays must be less than SessionDataDays"),
        ({"SessionTtlDays": "25", "SessionDataDays": "10"}, "SessionTtlDays must be less than SessionDataDays"),
        ({"WorkspaceMb": "2048"}, "WorkspaceMb may be half of AgentStorageMb"),
        ({"WorkspaceMb": "1000"}, "parameter WorkspaceMb: '1000' is none of"),
        ({"AgentMemory": "512"}, "parameter AgentMemory: 512 is not between 2048 and 10240"),
    ],
)
def test_parameters_that_do_not_fit_together_are_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(TEMPLATE, {"TelegramBotToken": "1:x", **given})


def accepted(given: dict[str, str]) -> bool:
    try:
        check(TEMPLATE, {"TelegramBotToken": "1:x", **given})
    except ValueError:
        return False
    return True


def test_every_choice_of_days_and_sizes_has_its_rule() -> None:
    values = {name: given.get("AllowedValues", []) for name, given in TEMPLATE["Parameters"].items()}

    for ttl, data in itertools.product(values["SessionTtlDays"], values["SessionDataDays"]):
        assert accepted({"SessionTtlDays": str(ttl), "SessionDataDays": str(data)}) == (ttl < data - 1), (ttl, data)
    for files, room in itertools.product(values["WorkspaceMb"], values["AgentStorageMb"]):
        assert accepted({"WorkspaceMb": str(files), "AgentStorageMb": str(room)}) == (2 * files <= room), (files, room)


def test_the_template_stays_readable() -> None:
    assert len((ROOT / "template.yaml").read_text().splitlines()) < 900


def test_the_agent_has_the_room_the_sdk_needs() -> None:
    agent = FUNCTIONS["AgentFunction"]

    assert (agent["PackageType"], agent["Timeout"]) == ("Image", 900)
    assert TEMPLATE["Parameters"]["AgentMemory"]["MinValue"] == 2048
    assert TEMPLATE["Globals"]["Function"]["Architectures"] == ["arm64"]


def test_sessions_end_before_their_data() -> None:
    given = TEMPLATE["Parameters"]

    assert given["SessionTtlDays"]["Default"] == 25
    assert given["SessionDataDays"]["Default"] == 30


def test_both_state_machines_log_and_trace() -> None:
    intake, turn = RESOURCES["Intake"]["Properties"], RESOURCES["Turn"]["Properties"]

    assert (intake["Type"], turn["Type"]) == ("EXPRESS", "STANDARD")
    assert (intake["Logging"]["Level"], intake["Logging"]["IncludeExecutionData"]) == ("ALL", True)
    assert intake["Tracing"] == turn["Tracing"] == {"Enabled": True}


def test_outputs_are_those_the_command_line_reads() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "stepgram").rglob("*.py"))
    read = set(re.findall(r"outputs\[\"(\w+)\"\]|_secret\(stack, \"(\w+)\"\)", sources))
    names = {name for pair in read for name in pair if name}

    assert names <= set(TEMPLATE["Outputs"])


def test_the_embedded_stack_deploys_every_function_route_and_rule(stack: EmbeddedStack) -> None:
    deployed = stack.deployment

    assert {spec.logical_id for spec in deployed.functions.values()} == set(FUNCTIONS)
    assert [(r.method, r.path) for r in deployed.routes] == [("POST", "/webhook")]
    assert [rule.pattern["detail"]["status"] for rule in deployed.rules] == [
        ["SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED"]
    ]
    assert set(deployed.outputs) == set(TEMPLATE["Outputs"])


def test_the_resolver_refuses_what_it_does_not_know() -> None:
    document = {"Resources": {"Table": {"Type": "AWS::DynamoDB::Table"}}, "Parameters": {"P": {"Default": "d"}}}
    resolve = Resolver(document, {}, {"Table": "t"}, "stack", "http://x")

    assert resolve({"a": [{"Ref": "P"}, {"Fn::Sub": "${P}-${AWS::StackName}"}]}) == {"a": ["d", "d-stack"]}
    with pytest.raises(KeyError):
        resolve({"Fn::GetAtt": "Table.StreamArn"})
    with pytest.raises(KeyError):
        resolve({"Ref": "Nothing"})
