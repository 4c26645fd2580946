"""What `stepgram doctor` makes of AWS's answers; botocore's Stubber holds both to AWS's own shapes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from stepgram.operators.doctor import Check, Doctor
from stepgram.operators.model_access import CHOOSE, RAISE, REPLACE, SUBSCRIBE, tokens_per_minute
from stepgram.operators.stack import Stack

SONNET, OPUS = "global.anthropic.claude-sonnet-5-5", "global.anthropic.claude-opus-5-5"
OUTPUTS = {
    "TurnArn": "arn:aws:states:us-east-1:123456789012:stateMachine:t-turn",
    "IntakeArn": "arn:aws:states:us-east-1:123456789012:stateMachine:t-intake",
}
NOW = datetime(2026, 11, 24, tzinfo=UTC)


class Aws:
    """The clients of one stack, each with a Stubber."""

    def __init__(self) -> None:
        self.stack = Stack(OUTPUTS, name="t")
        self.stubs: list[Stubber] = []

    def client(self, service: str, region: str = "") -> Stubber:
        session = boto3.session.Session("k", "s", region_name=region or "us-east-1")
        made: Any = session.client(service)  # type: ignore[call-overload]
        stub = Stubber(made)
        stub.activate()
        self.stack._clients[f"{service} {region}"] = made
        self.stubs.append(stub)
        return stub

    def parameters(self, **given: str) -> None:
        described = [{"ParameterKey": name, "ParameterValue": value} for name, value in given.items()]
        stack = {"StackName": "t", "CreationTime": NOW, "StackStatus": "CREATE_COMPLETE", "Parameters": described}
        self.client("cloudformation").add_response("describe_stacks", {"Stacks": [stack]}, {"StackName": "t"})

    def check(self, name: str) -> Check:
        doctor = Doctor(self.stack)
        return next(doctor.look(n, look, remedy) for n, look, remedy in doctor.looks() if n == name)


@pytest.fixture
def aws() -> Iterator[Aws]:
    made = Aws()
    yield made
    for stub in made.stubs:
        stub.assert_no_pending_responses()


def profile(bedrock: Stubber, model: str) -> None:
    own = model.removeprefix("global.")
    arn = f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/{model}"
    answer = {
        **{"inferenceProfileName": "x", "inferenceProfileArn": arn, "inferenceProfileId": model},
        **{"status": "ACTIVE", "type": "SYSTEM_DEFINED"},
        "models": [{"modelArn": f"arn:aws:bedrock:us-east-1::foundation-model/{own}"}],
    }
    bedrock.add_response("get_inference_profile", answer, {"inferenceProfileIdentifier": model})


def lifecycle(bedrock: Stubber, model: str, status: str = "ACTIVE", ends: datetime | None = None) -> None:
    own = model.removeprefix("global.")
    details = {
        "modelArn": f"arn:aws:bedrock:us-east-1::foundation-model/{own}",
        "modelId": own,
        "modelLifecycle": {"status": status, **({"endOfLifeTime": ends} if ends else {})},
    }
    bedrock.add_response("get_foundation_model", {"modelDetails": details}, {"modelIdentifier": own})


def access(bedrock: Stubber, model: str, agreement: str = "AVAILABLE", entitlement: str = "AVAILABLE") -> None:
    own = model.removeprefix("global.")
    answer = {
        "modelId": own,
        "agreementAvailability": {"status": agreement},
        "authorizationStatus": "AUTHORIZED",
        "entitlementAvailability": entitlement,
        "regionAvailability": "AVAILABLE",
    }
    bedrock.add_response("get_foundation_model_availability", answer, {"modelId": own})


def well(bedrock: Stubber, model: str) -> None:
    for answer in (profile, lifecycle, access):
        answer(bedrock, model)


def test_each_pinned_model_is_looked_up_once(aws: Aws) -> None:
    aws.parameters(ModelId=SONNET, OpusModelId=OPUS, SonnetModelId=SONNET)
    bedrock = aws.client("bedrock")
    well(bedrock, SONNET)
    well(bedrock, OPUS)

    check = aws.check("models")

    assert (check.verdict, check.remedy) == ("ok", "")
    assert check.found == f"{SONNET}: available; {OPUS}: available"


def test_they_are_looked_up_where_the_model_is(aws: Aws) -> None:
    aws.parameters(ModelId=SONNET, BedrockRegion="eu-west-1")
    well(aws.client("bedrock", "eu-west-1"), SONNET)

    assert aws.check("models").verdict == "ok"


def test_a_profile_that_the_region_lacks_is_named(aws: Aws) -> None:
    aws.parameters(ModelId=SONNET, OpusModelId=OPUS)
    bedrock = aws.client("bedrock")
    well(bedrock, SONNET)
    bedrock.add_client_error("get_inference_profile", "ResourceNotFoundException", "none", 404)

    check = aws.check("models")

    assert (check.verdict, check.remedy) == ("failed", CHOOSE)
    assert check.found == f"{OPUS}: not offered here (GetInferenceProfile)"


def test_a_model_that_aws_ends_is_told_with_its_date(aws: Aws) -> None:
    aws.parameters(ModelId=SONNET)
    bedrock = aws.client("bedrock")
    profile(bedrock, SONNET)
    lifecycle(bedrock, SONNET, "LEGACY", datetime(2027, 3, 1, tzinfo=UTC))
    access(bedrock, SONNET)

    check = aws.check("models")

    assert (check.verdict, check.remedy) == ("failed", REPLACE)
    assert check.found.endswith("LEGACY, ends 2027-03-01")


@pytest.mark.parametrize(
    ("given", "lacking"),
    [({"agreement": "NOT_AVAILABLE"}, "no agreement"), ({"entitlement": "NOT_AVAILABLE"}, "no entitlement")],
)
def test_a_model_nobody_subscribed_to_says_how(aws: Aws, given: dict[str, str], lacking: str) -> None:
    aws.parameters(ModelId=SONNET)
    bedrock = aws.client("bedrock")
    profile(bedrock, SONNET)
    lifecycle(bedrock, SONNET)
    access(bedrock, SONNET, **given)

    check = aws.check("models")

    assert (check.verdict, check.remedy) == ("failed", SUBSCRIBE)
    assert check.found.endswith(lacking)


def test_who_may_not_read_bedrock_is_told_nothing_wrong(aws: Aws) -> None:
    aws.parameters(ModelId=SONNET)
    aws.client("bedrock").add_client_error("get_inference_profile", "AccessDeniedException", "no", 403)

    assert aws.check("models").verdict == "unknown"


def test_a_foundation_models_own_id_needs_no_profile(aws: Aws) -> None:
    aws.parameters(ModelId="anthropic.claude-sonnet-5-5")
    bedrock = aws.client("bedrock")
    lifecycle(bedrock, "anthropic.claude-sonnet-5-5")
    access(bedrock, "anthropic.claude-sonnet-5-5")

    assert aws.check("models").verdict == "ok"


def test_models_of_another_account_are_not_looked_up(aws: Aws) -> None:
    aws.parameters(ModelId=SONNET, ModelSecretArn="arn:x")

    assert aws.check("models").verdict == "unknown"


def definition(step_functions: Stubber, name: str, kind: str, *diagnostics: dict[str, str]) -> None:
    arn = OUTPUTS[name]
    machine = {
        **{"stateMachineArn": arn, "name": arn.rpartition(":")[2], "definition": "{}", "type": kind},
        **{"roleArn": "arn:aws:iam::123456789012:role/r", "creationDate": NOW},
    }
    step_functions.add_response("describe_state_machine", machine, {"stateMachineArn": arn})
    step_functions.add_response(
        "validate_state_machine_definition",
        {"result": "FAIL" if diagnostics else "OK", "diagnostics": list(diagnostics)},
        {"definition": "{}", "type": kind, "severity": "ERROR"},
    )


def test_the_deployed_definitions_are_checked_by_step_functions(aws: Aws) -> None:
    step_functions = aws.client("stepfunctions")
    definition(step_functions, "TurnArn", "STANDARD")
    definition(step_functions, "IntakeArn", "EXPRESS")

    assert aws.check("definitions").verdict == "ok"


def test_an_error_of_a_definition_is_told_with_its_place(aws: Aws) -> None:
    step_functions = aws.client("stepfunctions")
    wrong = {"severity": "ERROR", "code": "SCHEMA", "message": "no such state", "location": "/States/Reply/Next"}
    definition(step_functions, "TurnArn", "STANDARD", wrong)
    definition(step_functions, "IntakeArn", "EXPRESS")

    check = aws.check("definitions")

    assert check.verdict == "failed"
    assert check.found == "t-turn /States/Reply/Next: no such state"
    assert "make update" in check.remedy


def quota(name: str, value: float) -> dict[str, Any]:
    return {"ServiceCode": "bedrock", "QuotaName": name, "Value": value}


def listed(aws: Aws, *quotas: dict[str, Any]) -> None:
    aws.client("service-quotas").add_response(
        "list_service_quotas", {"Quotas": list(quotas)}, {"ServiceCode": "bedrock"}
    )


GLOBAL = "Global cross-region model inference tokens per minute for Anthropic {}"


@pytest.mark.parametrize(("value", "verdict", "remedy"), [(500_000.0, "ok", ""), (4_000.0, "failed", RAISE)])
def test_an_account_with_few_tokens_a_minute_asks_for_more(aws: Aws, value: float, verdict: str, remedy: str) -> None:
    aws.parameters(ModelId=SONNET)
    listed(aws, quota(GLOBAL.format("Claude Sonnet 5.5"), value), quota(GLOBAL.format("Claude Sonnet 5"), 1.0))

    check = aws.check("model quotas")

    assert (check.verdict, check.remedy) == (verdict, remedy)
    assert check.found == f"tokens per minute: Claude Sonnet 5.5 {value:,.0f}"


def test_a_model_that_service_quotas_does_not_name_is_unknown(aws: Aws) -> None:
    aws.parameters(ModelId=SONNET)
    listed(aws, quota(GLOBAL.format("Claude Sonnet 4.5"), 500_000.0))

    assert aws.check("model quotas").verdict == "unknown"


QUOTAS = [
    quota("Global cross-region model inference tokens per minute for Anthropic Claude Opus 5", 5.0),
    quota("Global cross-region model inference tokens per minute for Anthropic Claude Opus 5.5", 7.0),
    quota("Global cross-region model inference requests per minute for Anthropic Claude Opus 5.5", 900.0),
    quota("Cross-region model inference tokens per minute for Anthropic Claude Opus 5.5", 3.0),
    quota("On-demand model inference tokens per minute for Anthropic Claude Opus 5.5", 800.0),
]


@pytest.mark.parametrize(
    ("name", "is_global", "value"),
    [("Claude Opus 5.5", True, 7.0), ("Claude Opus 5.5", False, 3.0), ("Claude Opus 5", True, 5.0)],
)
def test_the_quota_of_the_model_and_of_the_kind_of_profile_counts(name: str, is_global: bool, value: float) -> None:
    assert tokens_per_minute(QUOTAS, name, is_global) == value


@pytest.mark.parametrize(("limit", "verdict"), [(1000, "ok"), (10, "failed")])
def test_a_new_accounts_ten_lambdas_are_too_few(aws: Aws, limit: int, verdict: str) -> None:
    answer = {"AccountLimit": {"ConcurrentExecutions": limit}}
    aws.client("lambda").add_response("get_account_settings", answer, {})

    assert aws.check("quotas").verdict == verdict
