"""The very `template.yaml`, translated by SAM's own translator and created in moto's CloudFormation.

moto's CloudFormation makes the table, the bucket and the log groups. What it cannot make is made from the same
document: secrets, the table's TTL, the bucket's lifecycle and state machines by their APIs (machines made by
CloudFormation land in another backend than the interpreter's), functions by `functions.py`, HTTP routes and event
rules by `aws.py`, what policies allow by `iam.py`. Left out: the TLS-only bucket policy (the stack speaks HTTP),
alarms, their topic and the dashboard. `tests/deploy` creates those elsewhere.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import boto3
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse

from stepgram.embedded.client import ACCOUNT, REGION
from stepgram.embedded.iam import Access, Statement, role_name

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_cloudformation.type_defs import ParameterTypeDef
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_stepfunctions import SFNClient

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "template.yaml"
CODE_URI = "s3://local/functions.zip"


@dataclass(frozen=True)
class FunctionSpec:
    """One function as the template describes it. `timeout` in seconds, `memory` in MB.

    `retries`: how often an asynchronous invocation that failed is tried again, `max_age`: for how many seconds one that
    could not be started, `on_failure`: the function that hears of it then. `tenants`: it is in tenant isolation mode.
    `log_group` and `log_format` are LoggingConfig's.
    """

    logical_id: str
    name: str
    arn: str
    handler: str
    timeout: int
    memory: int
    environment: dict[str, str]
    is_image: bool
    retries: int = 2
    max_age: int = 21_600
    on_failure: str | None = None
    tenants: bool = False
    log_group: str = ""
    log_format: str = "Text"


@dataclass(frozen=True)
class Route:
    """An HTTP API route and the function behind it."""

    method: str
    path: str
    function: str


@dataclass(frozen=True)
class Rule:
    """An event rule: a pattern (EventBridge's own form) and the function it calls."""

    pattern: dict[str, Any]
    function: str


@dataclass(frozen=True)
class Deployment:
    """The stack after its creation."""

    outputs: dict[str, str]
    functions: dict[str, FunctionSpec]
    routes: list[Route]
    rules: list[Rule]


NAMED = {
    "AWS::DynamoDB::Table": "TableName",
    "AWS::S3::Bucket": "BucketName",
    "AWS::Logs::LogGroup": "LogGroupName",
}
"""What moto's CloudFormation makes, and the property that names it."""


@dataclass(frozen=True)
class Clients:
    """The clients that create the stack."""

    cloudformation: CloudFormationClient
    step_functions: SFNClient
    secrets: SecretsManagerClient
    dynamodb: DynamoDBClient
    s3: S3Client


MANAGED_POLICIES = {
    name: f"arn:aws:iam::aws:policy/{name}"
    for name in ("service-role/AWSLambdaBasicExecutionRole", "AWSXrayWriteOnlyAccess")
}
"""What the translator itself attaches to functions; roles are not created here."""


def deploy(
    stack: str,
    parameters: dict[str, str],
    clients: Clients,
    endpoint: str,
    access: Access,
    path: Path = TEMPLATE,
) -> Deployment:
    """Create the stack, its secrets, key and state machines, and tell `access` what its policies allow.

    `endpoint` is where its HTTP API answers.
    """
    source = yaml_parse(path.read_text(encoding="utf-8"))
    functions = {k: r for k, r in source["Resources"].items() if r["Type"] == "AWS::Serverless::Function"}
    machines = {k: r for k, r in source["Resources"].items() if r["Type"] == "AWS::Serverless::StateMachine"}
    check(source, parameters)
    document = translate(source, parameters)
    resources = document["Resources"]
    names = {k: f"{stack}-{k}".lower() if "S3" in r["Type"] else f"{stack}-{k}" for k, r in resources.items()}
    resolve = Resolver(document, parameters, names, stack, endpoint)
    for logical_id, resource in resources.items():
        if resource["Type"] == "AWS::SecretsManager::Secret":
            names[logical_id] = _create_secret(names[logical_id], resource["Properties"], resolve, clients.secrets)
        if resource["Type"] == "AWS::KMS::Key":
            names[logical_id] = access.kms_key()
    outputs = {k: str(resolve(o["Value"])) for k, o in document["Outputs"].items()}
    document["Resources"] = {
        k: {**r, "Properties": {**r["Properties"], NAMED[r["Type"]]: names[k]}}
        for k, r in resources.items()
        if r["Type"] in NAMED
    }
    document["Outputs"] = {k: {"Value": value} for k, value in outputs.items()}
    given: list[ParameterTypeDef] = [{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()]
    clients.cloudformation.create_stack(
        StackName=stack, TemplateBody=json.dumps(document), Parameters=given, Capabilities=["CAPABILITY_IAM"]
    )
    _expire(resources, names, resolve, clients)
    specs = {k: _spec(k, resources[k]["Properties"], f, resolve) for k, f in functions.items()}
    roles = {k: r["Properties"] for k, r in resources.items() if r["Type"] == "AWS::IAM::Role"}
    policies = {k: role_statements(properties, resolve) for k, properties in roles.items()}
    for policy in (r["Properties"] for r in resources.values() if r["Type"] == "AWS::IAM::Policy"):
        for role in policy["Roles"]:
            policies[role["Ref"]] += [resolve(statement) for statement in policy["PolicyDocument"]["Statement"]]
    arns = {k: str(resolve({"Fn::GetAtt": [k, "Arn"]})) for k in roles}
    acting = {k: role_name(str(resolve(resources[k]["Properties"]["RoleArn"]))) for k in machines}
    access.machines = {role: names[k] for k, role in acting.items()}
    access.policies = {spec.name: policies[f"{k}Role"] for k, spec in specs.items()}
    access.policies |= {role: policies[f"{k}Role"] for k, role in acting.items()}
    access.acting = {spec.name: arns[f"{k}Role"] for k, spec in specs.items()}
    access.roles = {arns[k]: found for k, found in policies.items()}
    access.trusts = {arns[k]: _trusted(properties, resolve) for k, properties in roles.items()}
    for logical_id, machine in machines.items():
        role = str(resolve(resources[logical_id]["Properties"]["RoleArn"]))
        _create_machine(machine["Properties"], role, path.parent, resolve, clients.step_functions)
    return Deployment(
        outputs=outputs,
        functions={spec.name: spec for spec in specs.values()},
        routes=[Route(e["Method"].upper(), e["Path"], specs[k].name) for k, e in _events(functions, "HttpApi")],
        rules=[Rule(resolve(e["Pattern"]), specs[k].name) for k, e in _events(functions, "EventBridgeRule")],
    )


def check(source: dict[str, Any], given: dict[str, str]) -> None:
    """Refuse parameters as CloudFormation does: by their own limits, and by the template's Rules. Raises ValueError."""
    declared = source["Parameters"]
    values = {name: str(given.get(name, one.get("Default", ""))) for name, one in declared.items()}
    for name, value in values.items():
        allowed = [str(item) for item in declared[name].get("AllowedValues", [])]
        if allowed and value not in allowed:
            raise ValueError(f"parameter {name}: {value!r} is none of {', '.join(allowed)}")
        low, high = declared[name].get("MinValue", "-inf"), declared[name].get("MaxValue", "inf")
        if declared[name]["Type"] == "Number" and not float(low) <= float(value) <= float(high):
            raise ValueError(f"parameter {name}: {value} is not between {low} and {high}")
    for rule in source.get("Rules", {}).values():
        wanted, value = rule["RuleCondition"]["Fn::Equals"]
        if values[wanted["Ref"]] != value:
            continue
        for assertion in rule["Assertions"]:
            listed, one = assertion["Assert"]["Fn::Contains"]
            if values[one["Ref"]] not in listed:
                raise ValueError(f"{assertion['AssertDescription']}: {one['Ref']} is {values[one['Ref']]}")


def _trusted(role: dict[str, Any], resolve: Resolver) -> list[str]:
    """The ARNs of the principals that may take a role; services take theirs by themselves."""
    principals = [resolve(statement["Principal"]) for statement in role["AssumeRolePolicyDocument"]["Statement"]]
    return [str(principal["AWS"]) for principal in principals if "AWS" in principal]


def _expire(resources: dict[str, Any], names: dict[str, str], resolve: Resolver, clients: Clients) -> None:
    """The table's TTL and the bucket's lifecycle, which moto's CloudFormation leaves out (`expiry.py` plays them)."""
    for logical_id, resource in resources.items():
        properties = resource["Properties"]
        if resource["Type"] == "AWS::DynamoDB::Table":
            ttl = properties["TimeToLiveSpecification"]
            clients.dynamodb.update_time_to_live(TableName=names[logical_id], TimeToLiveSpecification=ttl)
        if resource["Type"] == "AWS::S3::Bucket":
            rules = [
                {
                    "ID": rule["Id"],
                    "Status": rule["Status"],
                    "Filter": {"Prefix": rule.get("Prefix", "")},
                    "Expiration": {"Days": int(resolve(rule["ExpirationInDays"]))},
                }
                for rule in properties["LifecycleConfiguration"]["Rules"]
                if "ExpirationInDays" in rule
            ]
            clients.s3.put_bucket_lifecycle_configuration(
                Bucket=names[logical_id], LifecycleConfiguration={"Rules": cast(Any, rules)}
            )


def _create_secret(name: str, properties: dict[str, Any], resolve: Resolver, secrets: SecretsManagerClient) -> str:
    generate = properties.get("GenerateSecretString")
    value = resolve(properties.get("SecretString"))
    if generate is not None:
        value = secrets.get_random_password(**generate)["RandomPassword"]
    return secrets.create_secret(Name=name, SecretString=value)["ARN"]


def _events(functions: dict[str, Any], kind: str) -> list[tuple[str, dict[str, Any]]]:
    return [
        (logical_id, event["Properties"])
        for logical_id, function in functions.items()
        for event in function["Properties"].get("Events", {}).values()
        if event["Type"] == kind
    ]


def translate(source: dict[str, Any], parameters: dict[str, str]) -> dict[str, Any]:
    """CloudFormation of the SAM document; code is not packaged, since the host runs it from this checkout."""
    logging.getLogger("samtranslator").setLevel(logging.ERROR)  # it warns of metrics of its own
    fragment = json.loads(json.dumps(source))
    for resource in fragment["Resources"].values():
        properties = resource["Properties"]
        if resource["Type"] == "AWS::Serverless::Function":
            resource.pop("Metadata", None)
            if properties.get("PackageType") == "Image":
                properties.update({"PackageType": "Zip", "Runtime": "python3.13", "Handler": "image"})
            properties["CodeUri"] = CODE_URI
        if resource["Type"] == "AWS::Serverless::StateMachine":
            properties.pop("DefinitionUri")
            properties["Definition"] = {"StartAt": "X", "States": {"X": {"Type": "Succeed"}}}
    session = boto3.session.Session(region_name=REGION)
    translator = Translator(MANAGED_POLICIES, Parser(), boto_session=session)
    document: dict[str, Any] = translator.translate(fragment, parameter_values=dict(parameters))
    return document


def role_statements(role: dict[str, Any], resolve: Resolver) -> list[Statement]:
    """The statements of a role's inline policies."""
    policies = [resolve.condition(policy) for policy in role.get("Policies", [])]
    documents = [policy["PolicyDocument"] for policy in policies if policy is not None]
    return [resolve(statement) for document in documents for statement in document["Statement"]]


def _spec(logical_id: str, properties: dict[str, Any], source: dict[str, Any], resolve: Resolver) -> FunctionSpec:
    environment = resolve(properties.get("Environment", {}).get("Variables", {}))
    is_image = properties["Handler"] == "image"
    asynchronous = source["Properties"].get("EventInvokeConfig", {})
    on_failure = resolve(asynchronous.get("DestinationConfig", {}).get("OnFailure", {}).get("Destination"))
    tenancy = resolve.condition(properties.get("TenancyConfig"))
    return FunctionSpec(
        logical_id=logical_id,
        name=resolve.names[logical_id],
        arn=str(resolve({"Fn::GetAtt": [logical_id, "Arn"]})),
        handler="functions.agent.handler.handler" if is_image else properties["Handler"],
        timeout=int(resolve(properties["Timeout"])),
        memory=int(resolve(properties["MemorySize"])),
        environment={k: str(v) for k, v in environment.items()},
        is_image=is_image,
        retries=int(asynchronous.get("MaximumRetryAttempts", 2)),
        max_age=int(asynchronous.get("MaximumEventAgeInSeconds", 21_600)),
        on_failure=None if on_failure is None else str(on_failure),
        tenants=tenancy == {"TenantIsolationMode": "PER_TENANT"},
        log_group=str(resolve(properties.get("LoggingConfig", {}).get("LogGroup", ""))),
        log_format=str(properties.get("LoggingConfig", {}).get("LogFormat", "Text")),
    )


def _create_machine(
    properties: dict[str, Any], role: str, folder: Path, resolve: Resolver, step_functions: SFNClient
) -> None:
    definition = (folder / properties["DefinitionUri"]).read_text(encoding="utf-8")
    for name, value in properties["DefinitionSubstitutions"].items():
        definition = definition.replace(f"${{{name}}}", str(resolve(value)))
    step_functions.create_state_machine(
        name=str(resolve(properties["Name"])), definition=definition, roleArn=role, type=properties["Type"]
    )


class Resolver:
    """CloudFormation's Ref, Fn::Sub, Fn::GetAtt and Fn::If, as far as the template uses them."""

    def __init__(
        self, document: dict[str, Any], parameters: dict[str, str], names: dict[str, str], stack: str, endpoint: str
    ) -> None:
        self._resources = document["Resources"]
        self._parameters = {k: p.get("Default", "") for k, p in document["Parameters"].items()} | parameters
        self.names = names
        self._endpoint = endpoint
        self._conditions = document.get("Conditions", {})
        self._pseudo = {
            "AWS::Region": REGION,
            "AWS::AccountId": ACCOUNT,
            "AWS::Partition": "aws",
            "AWS::StackName": stack,
        }

    def __call__(self, value: Any) -> Any:
        """The value with every intrinsic function carried out. Raises KeyError for one that is not known."""
        if isinstance(value, list):
            return [self(item) for item in value]
        if not isinstance(value, dict):
            return value
        if set(value) == {"Ref"}:
            return self._ref(value["Ref"])
        if set(value) == {"Fn::Sub"}:
            return self._sub(value["Fn::Sub"])
        if set(value) == {"Fn::GetAtt"}:
            attribute = value["Fn::GetAtt"]
            return self._attribute(*(attribute.split(".") if isinstance(attribute, str) else attribute))
        if set(value) == {"Fn::If"}:
            return self(self.condition(value))
        return {k: self(v) for k, v in value.items()}

    def condition(self, value: Any) -> Any:
        """What `Fn::If` chooses; None for `AWS::NoValue`. Another value stays as it is."""
        if isinstance(value, dict) and set(value) == {"Fn::If"}:
            name, yes, no = value["Fn::If"]
            value = self.condition(yes if self._holds(self._conditions[name]) else no)
        return None if value == {"Ref": "AWS::NoValue"} else value

    def _holds(self, condition: dict[str, Any]) -> bool:
        (function, values), *_ = condition.items()
        if function == "Condition":
            return self._holds(self._conditions[values])
        if function == "Fn::Equals":
            return str(self(values[0])) == str(self(values[1]))
        if function == "Fn::Not":
            return not self._holds(values[0])
        return all(self._holds(value) for value in values)  # Fn::And

    def _sub(self, text: str) -> str:
        names = {**self._pseudo, **{k: str(v) for k, v in self._parameters.items()}}
        for name, replacement in names.items():
            text = text.replace(f"${{{name}}}", replacement)
        for logical_id, resource in self._resources.items():
            text = text.replace(f"${{{logical_id}.ApiEndpoint}}", self._endpoint)
            if f"${{{logical_id}.Arn}}" in text:
                text = text.replace(f"${{{logical_id}.Arn}}", self._attribute(logical_id, "Arn"))
            if resource["Type"] in NAMED:
                text = text.replace(f"${{{logical_id}}}", self.names[logical_id])
        return text

    def _ref(self, name: str) -> Any:
        if name in self._parameters:
            return self._parameters[name]
        if name in self._pseudo:
            return self._pseudo[name]
        base, _, part = name.partition(".")
        kind = self._resources[base]["Type"]
        if kind == "AWS::Lambda::Function" and part == "Alias":
            return f"{self._attribute(base, 'Arn')}:live"
        if kind == "AWS::Lambda::Alias":
            alias = self._resources[base]["Properties"]
            return f"{self._attribute(alias['FunctionName']['Ref'], 'Arn')}:{alias['Name']}"
        if kind == "AWS::StepFunctions::StateMachine":
            machine = self(self._resources[base]["Properties"]["StateMachineName"])
            return f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:{machine}"
        return self.names[base]

    def _attribute(self, logical_id: str, attribute: str) -> str:
        kind, name = self._resources[logical_id]["Type"], self.names[logical_id]
        arns = {
            "AWS::Lambda::Function": f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}",
            "AWS::S3::Bucket": f"arn:aws:s3:::{name}",
            "AWS::DynamoDB::Table": f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{name}",
            "AWS::IAM::Role": f"arn:aws:iam::{ACCOUNT}:role/{name}",
            "AWS::KMS::Key": name,
        }
        if attribute != "Arn":
            raise KeyError(f"{logical_id}.{attribute}")
        return arns[kind]
