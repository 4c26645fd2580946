"""The template as MiniStack can run it: each function is one thing it lacks, worked around here and nowhere else.

Everything else is deployed as it is: the parameters, functions' code and settings, roles, definitions, table, bucket,
secrets, alarms. Lacking, and not worked around: RedriveExecution, the state machines' own roles (their calls are made
inside the emulator, unsigned), what is `*` in a resource policy, and metric filters.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from samtranslator.yaml_helper import yaml_parse

Resource = dict[str, Any]
Resources = dict[str, Resource]

FUNCTION = "AWS::Serverless::Function"
CALLBACK_SECONDS = 15
"""How soon a state that waits for its task token looks again whether the function it called failed."""

BOOTSTRAP = """#!/bin/sh
# A temporary folder of its own, as every container has, and AWS's runtime interface client.
TMPDIR="$(mktemp -d)" && export TMPDIR
exec "{python}" -m awslambdaric "$_HANDLER"
"""


def derive(project: Path, folder: Path, gateway: str) -> None:
    """Change the copy of the project in `folder`, for an emulator at `gateway`."""
    template = yaml_parse((project / "template.yaml").read_text())
    resources: Resources = template["Resources"]
    agent_is_a_zip(resources, folder / "functions")
    functions_bring_their_runtime(resources)
    routes_are_resources(resources)
    webhook_is_a_path(template["Outputs"], gateway)
    secrets_are_letters(resources)
    secrets_have_an_address(template)
    answering_tokens_has_no_resource(resources)
    alarms_have_one_metric(resources)
    loopback_needs_no_tls(resources)
    (folder / "template.yaml").write_text(json.dumps(template))
    for path in (folder / "statemachine").glob("*.asl.json"):
        definition = json.loads(path.read_text())
        failed_callbacks_time_out(definition)
        text = json.dumps(definition)
        path.write_text(duplicates_have_another_name(text))


def functions_of(resources: Resources) -> Resources:
    """The functions of a template by their logical id."""
    return {name: resource for name, resource in resources.items() if resource["Type"] == FUNCTION}


def agent_is_a_zip(resources: Resources, functions: Path) -> None:
    """An image needs Docker: a zip of the requirements and the files that the Dockerfile copies takes its place."""
    dockerfile = (functions / "agent" / "Dockerfile").read_text()
    (handler,) = json.loads(re.findall(r"^CMD (\[.*\])$", dockerfile, re.MULTILINE)[-1])
    copied = re.findall(r"^COPY (\S+) \$\{LAMBDA_TASK_ROOT\}/(\S+)$", dockerfile, re.MULTILINE)
    rules = []
    for name, resource in functions_of(resources).items():
        properties = resource["Properties"]
        if properties.pop("PackageType", "Zip") == "Zip":
            continue
        resource["Metadata"] = {"BuildMethod": "makefile"}
        properties |= {"Runtime": "python3.13", "CodeUri": "functions/", "Handler": handler}
        rules.append(f'\nbuild-{name}:\n\tmkdir -p "$(ARTIFACTS_DIR)/functions"\n')
        rules += [f'\tcp -r {source} "$(ARTIFACTS_DIR)/{target}"\n' for source, target in copied]
        rules.append(
            '\tuv pip install --quiet --target "$(ARTIFACTS_DIR)" --no-compile-bytecode --only-binary :all: \\\n'
            "\t\t--python-platform $(LAMBDA_PLATFORM) --python-version $(LAMBDA_PYTHON) \\\n"
            "\t\t--requirement agent/requirements.txt\n"
        )
    with (functions / "Makefile").open("a") as makefile:
        makefile.writelines(rules)


def functions_bring_their_runtime(resources: Resources) -> None:
    """Its Python runtimes call every exception Runtime.HandlerError: each zip starts AWS's own client instead.

    That client runs on this machine's Python; `bootstrap` puts it into what was built.
    """
    for resource in functions_of(resources).values():
        resource["Properties"]["Runtime"] = "provided.al2023"


def bootstrap(package: Path, python: Path) -> None:
    """Let a built package start AWS's runtime interface client, which is installed for `python`."""
    script = package / "bootstrap"
    script.write_text(BOOTSTRAP.format(python=python))
    script.chmod(0o755)


def command_line_is_on_path(package: Path, folder: Path) -> None:
    """A zip may have 250 MB, and the emulator means it: the Claude CLI (377 MB) moves to `folder`, which is on PATH."""
    for bundled in package.glob("claude_agent_sdk/_bundled/claude"):
        bundled.rename(folder / "claude")


def routes_are_resources(resources: Resources) -> None:
    """It does not read an API's Body, which is where SAM writes the routes: they become resources of their own."""
    for api, resource in list(resources.items()):
        if resource["Type"] != "AWS::Serverless::HttpApi":
            continue
        properties = resource["Properties"]
        settings = {"DefaultRouteSettings": properties["DefaultRouteSettings"]}
        description = properties["Description"]
        resources[api] = _resource("ApiGatewayV2::Api", Name=api, Description=description, ProtocolType="HTTP")
        stage = {"ApiId": {"Ref": api}, "StageName": "$default", "AutoDeploy": True, **settings}
        resources[f"{api}Stage"] = _resource("ApiGatewayV2::Stage", **stage)
    for function, resource in functions_of(resources).items():
        events = resource["Properties"].get("Events", {})
        for event in [name for name, source in events.items() if source["Type"] == "HttpApi"]:
            route = events.pop(event)["Properties"]
            _route(resources, function, f"{function}{event}", route)


def _route(resources: Resources, function: str, name: str, route: dict[str, Any]) -> None:
    target = {"Fn::GetAtt": [function, "Arn"]}
    resources[f"{name}Integration"] = _resource(
        "ApiGatewayV2::Integration",
        ApiId=route["ApiId"],
        IntegrationType="AWS_PROXY",
        IntegrationUri=target,
        PayloadFormatVersion="2.0",
    )
    resources[f"{name}Route"] = _resource(
        "ApiGatewayV2::Route",
        ApiId=route["ApiId"],
        RouteKey=f"{route['Method']} {route['Path']}",
        Target={"Fn::Sub": f"integrations/${{{name}Integration}}"},
    )
    resources[f"{name}Permission"] = _resource(
        "Lambda::Permission",
        Action="lambda:InvokeFunction",
        FunctionName=target,
        Principal="apigateway.amazonaws.com",
    )


def _resource(kind: str, **properties: Any) -> Resource:
    return {"Type": f"AWS::{kind}", "Properties": properties}


def webhook_is_a_path(outputs: dict[str, Any], gateway: str) -> None:
    """An API's own host name (`<id>.execute-api.localhost`) is not resolved everywhere: the address is by path."""
    address = outputs["WebhookUrl"]["Value"]["Fn::Sub"]
    outputs["WebhookUrl"]["Value"]["Fn::Sub"] = re.sub(
        r"\$\{(\w+)\.ApiEndpoint\}", rf"{gateway}/_aws/execute-api/${{\1}}/$default", address
    )


def secrets_are_letters(resources: Resources) -> None:
    """It does not know ExcludePunctuation of a generated secret: the characters to leave out are listed."""
    for resource in resources.values():
        generated = resource["Properties"].get("GenerateSecretString", {})
        if generated.pop("ExcludePunctuation", False):
            generated["ExcludeCharacters"] = string.punctuation


def secrets_have_an_address(template: dict[str, Any]) -> None:
    """Its Ref of a secret is the secret's name, where AWS has the ARN, which policies need: the attribute Id is it."""
    resources = template["Resources"]
    secrets = {name for name, resource in resources.items() if resource["Type"] == "AWS::SecretsManager::Secret"}

    def changed(value: Any) -> Any:
        if isinstance(value, list):
            return [changed(one) for one in value]
        if not isinstance(value, dict):
            return value
        if value.get("Ref") in secrets:
            return {"Fn::GetAtt": [value["Ref"], "Id"]}
        return {name: changed(one) for name, one in value.items()}

    for part in ("Resources", "Outputs"):
        template[part].update(changed(template[part]))


def answering_tokens_has_no_resource(resources: Resources) -> None:
    """It does not know whose a task token is: who may answer one may answer any. AWS goes by the state machine."""
    for statement in statements_of(resources):
        if all(action.startswith("states:SendTask") for action in actions_of(statement)):
            statement["Resource"] = "*"


def actions_of(statement: dict[str, Any]) -> list[str]:
    """What a policy statement is about."""
    actions = statement["Action"]
    return [actions] if isinstance(actions, str) else list(actions)


def statements_of(value: Any) -> Iterator[dict[str, Any]]:
    """Every policy statement below a value that allows something."""
    if isinstance(value, list):
        for one in value:
            yield from statements_of(one)
    elif isinstance(value, dict):
        if value.get("Effect") == "Allow":
            yield value
        for one in value.values():
            yield from statements_of(one)


def alarms_have_one_metric(resources: Resources) -> None:
    """It knows no metric math: an alarm on a sum of metrics watches the first of them."""
    for resource in resources.values():
        if resource["Type"] == "AWS::CloudWatch::Alarm" and "Metrics" in resource["Properties"]:
            _, first, *_ = resource["Properties"].pop("Metrics")
            resource["Properties"] |= {**first["MetricStat"]["Metric"], "Period": 300, "Statistic": "Sum"}


def loopback_needs_no_tls(resources: Resources) -> None:
    """It is spoken to by plain HTTP, and holds to policies that deny that: they do not count for loopback."""
    for resource in resources.values():
        if resource["Type"] != "AWS::S3::BucketPolicy":
            continue
        for statement in resource["Properties"]["PolicyDocument"]["Statement"]:
            if statement["Effect"] == "Deny" and "aws:SecureTransport" in statement["Condition"]["Bool"]:
                statement["Condition"]["NotIpAddress"] = {"aws:SourceIp": "127.0.0.0/8"}


def failed_callbacks_time_out(definition: dict[str, Any]) -> None:
    """It swallows the failure of a function that should answer a task token: only the state's timeout ends it."""
    for state in definition["States"].values():
        if state.get("Resource", "").endswith(".waitForTaskToken") and "TimeoutSeconds" in state:
            state["TimeoutSeconds"] = CALLBACK_SECONDS


def duplicates_have_another_name(definition: str) -> str:
    """It calls a taken execution name ExecutionAlreadyExists, where AWS has a prefix and a suffix in a definition."""
    return definition.replace("StepFunctions.ExecutionAlreadyExistsException", "ExecutionAlreadyExists")
