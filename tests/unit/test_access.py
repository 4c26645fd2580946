"""Who may touch what: the agent one session, for an hour; every function and state machine what the template allows."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from functions.common import aws
from functions.common.errors import BadInput
from functions.common.settings import AccessSettings, use_environment
from functions.conversation import access
from stepgram.embedded.client import ACCOUNT, REGION, client, secret_key
from stepgram.embedded.iam import Wanted, allows
from stepgram.embedded.stack import EmbeddedStack

MINE, THEIRS = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))


@pytest.fixture
def bucket_name(stack: EmbeddedStack) -> str:
    return stack.deployment.outputs["SessionBucket"]


@pytest.fixture
def sealed(stack: EmbeddedStack) -> str:
    """What Hydrate hands to the agent for its session."""
    as_function(stack, "TurnFunction")
    try:
        return access.seal(AccessSettings.load(), MINE, "turn-1")
    finally:
        use_environment(None)


@pytest.fixture
def agent(stack: EmbeddedStack, sealed: str) -> Any:  # what is sealed is sealed by Hydrate, before
    as_function(stack, "AgentFunction")
    yield stack
    use_environment(None)


def as_function(stack: EmbeddedStack, logical_id: str) -> None:
    use_environment(stack.functions.environment(stack.deployment.functions[f"stepgram-{logical_id}"]))


def signed_by(stack: EmbeddedStack, service: str, key: str, taken: aws.Credentials | None = None) -> Any:
    """A client with the key of a function or state machine, or with one that was `taken`."""
    config = Config(retries={"total_max_attempts": 1})
    return boto3.session.Session(region_name=REGION).client(
        service,  # type: ignore[call-overload]
        endpoint_url=stack.addresses.aws,
        config=config,
        aws_access_key_id=key,
        aws_secret_access_key=taken.secret if taken else secret_key(stack.addresses.aws, key),
        aws_session_token=taken.token if taken else None,
    )


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(ClientError) as caught:
        call()
    return str(caught.value.response["Error"]["Code"])


def test_the_session_policy_names_one_folder() -> None:
    own = f"arn:aws:s3:::bucket/sessions/{MINE}/"
    assert access.session_policy("aws", "bucket", MINE, "turn-1")["Statement"] == [
        {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"{own}*"},
        {
            "Effect": "Allow",
            "Action": "s3:PutObject",
            "Resource": [
                f"{own}{folder}/*" for folder in ("turns/turn-1", "manifests", "transcript", "trees", "blobs")
            ],
        },
        {
            "Effect": "Allow",
            "Action": "s3:ListBucket",
            "Resource": "arn:aws:s3:::bucket",
            "Condition": {"StringLike": {"s3:prefix": f"sessions/{MINE}/*"}},
        },
    ]


def test_with_its_credentials_the_agent_reaches_its_own_session_only(
    agent: EmbeddedStack, sealed: str, bucket_name: str
) -> None:
    client("s3", agent.addresses.aws).put_object(Bucket=bucket_name, Key=f"sessions/{THEIRS}/secret", Body=b"theirs")
    found = access.unseal(sealed, MINE, "turn-1")
    s3 = signed_by(agent, "s3", found.key_id, found)

    s3.put_object(Bucket=bucket_name, Key=f"sessions/{MINE}/blobs/a", Body=b"mine")
    listed = s3.list_objects_v2(Bucket=bucket_name, Prefix=f"sessions/{MINE}/")["Contents"]

    assert s3.get_object(Bucket=bucket_name, Key=f"sessions/{MINE}/blobs/a")["Body"].read() == b"mine"
    assert [item["Key"] for item in listed] == [f"sessions/{MINE}/blobs/a"]
    next_turn = f"sessions/{MINE}/turns/turn-2/costs/1.json"
    assert refused(lambda: s3.put_object(Bucket=bucket_name, Key=next_turn, Body=b"{}")) == "AccessDenied"
    theirs = f"sessions/{THEIRS}/secret"
    assert refused(lambda: s3.get_object(Bucket=bucket_name, Key=theirs)) == "AccessDenied"
    assert refused(lambda: s3.put_object(Bucket=bucket_name, Key=theirs, Body=b"x")) == "AccessDenied"
    assert refused(lambda: s3.delete_object(Bucket=bucket_name, Key=theirs)) == "AccessDenied"
    assert refused(lambda: s3.list_objects_v2(Bucket=bucket_name, Prefix=f"sessions/{THEIRS}/")) == "AccessDenied"
    assert refused(lambda: s3.list_objects_v2(Bucket=bucket_name)) == "AccessDenied"
    source = {"Bucket": bucket_name, "Key": theirs}
    copy = {"Bucket": bucket_name, "Key": f"sessions/{MINE}/blobs/stolen", "CopySource": source}
    assert refused(lambda: s3.copy_object(**copy)) == "AccessDenied"
    missing = refused(lambda: s3.get_object(Bucket=bucket_name, Key=f"sessions/{MINE}/none"))
    assert missing == "AccessDenied", "who may not list the bucket is not told what is missing"


def test_the_agents_own_role_reaches_no_session_table_or_secret(agent: EmbeddedStack, bucket_name: str) -> None:
    outputs, key = agent.deployment.outputs, "stepgram-AgentFunction"
    s3, dynamodb = signed_by(agent, "s3", key), signed_by(agent, "dynamodb", key)
    secrets, states = signed_by(agent, "secretsmanager", key), signed_by(agent, "stepfunctions", key)
    sts = signed_by(agent, "sts", key)
    role = next(iter(r for r in agent.access.roles if r.endswith("SessionRole")))

    assert refused(lambda: s3.get_object(Bucket=bucket_name, Key=f"sessions/{MINE}/a")) == "AccessDenied"
    assert refused(lambda: dynamodb.scan(TableName=outputs["SessionTable"])) == "AccessDeniedException"
    token = outputs["BotTokenSecretId"]
    assert refused(lambda: secrets.get_secret_value(SecretId=token)) == "AccessDeniedException"
    assert refused(lambda: states.list_executions(stateMachineArn=outputs["TurnArn"])) == "AccessDeniedException"
    assert refused(lambda: sts.assume_role(RoleArn=role, RoleSessionName="mine")) == "AccessDeniedException"


def test_the_agents_environment_names_neither_token_nor_table(agent: EmbeddedStack) -> None:
    found = agent.deployment.functions["stepgram-AgentFunction"].environment

    assert not {"BOT_TOKEN_SECRET_ID", "SESSION_TABLE", "WEBHOOK_SECRET_ID"} & set(found)


def test_sealed_credentials_open_for_their_session_and_turn_alone(agent: EmbeddedStack, sealed: str) -> None:
    assert access.unseal(sealed, MINE, "turn-1").token not in sealed
    for session, turn in ((THEIRS, "turn-1"), (MINE, "turn-2")):
        with pytest.raises(BadInput, match="not sealed for"):
            access.unseal(sealed, session, turn)
    for garbage in ("", "not base64!", "AAAA"):
        with pytest.raises(BadInput, match="access: not sealed"):
            access.unseal(garbage, MINE, "turn-1")


def test_long_credentials_are_sealed_in_pieces(
    agent: EmbeddedStack, sealed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = access.unseal(sealed, MINE, "turn-1")
    monkeypatch.setattr(access, "PIECE", 64)
    as_function(agent, "TurnFunction")
    pieces = access.seal(AccessSettings.load(), MINE, "turn-1")
    as_function(agent, "AgentFunction")

    assert len(pieces.split(".")) > len(sealed.split("."))
    assert len(access.unseal(pieces, MINE, "turn-1").token) == len(whole.token)


def test_credentials_end_after_their_hour(
    agent: EmbeddedStack, sealed: str, bucket_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = access.unseal(sealed, MINE, "turn-1")
    monkeypatch.setitem(agent.access._taken[found.key_id], "expires", 0)
    s3 = signed_by(agent, "s3", found.key_id, found)

    assert refused(lambda: s3.list_objects_v2(Bucket=bucket_name, Prefix=f"sessions/{MINE}/")) == "ExpiredToken"


def test_a_key_that_sts_never_gave_out_or_forgot_opens_nothing(stack: EmbeddedStack, bucket_name: str) -> None:
    found = aws.Credentials(key_id="ASIAFORGOTTEN", secret="secret", token="token")
    s3 = signed_by(stack, "s3", "ASIAFORGOTTEN", found)

    assert refused(lambda: s3.get_object(Bucket=bucket_name, Key="any")) == "InvalidAccessKeyId"


def test_a_function_may_do_what_its_policy_says_and_no_more(stack: EmbeddedStack) -> None:
    outputs = stack.deployment.outputs
    key = {"pk": {"S": "policy:0"}, "sk": {"S": "session"}}
    steps = signed_by(stack, "dynamodb", "stepgram-CallbackFunction")

    steps.get_item(TableName=outputs["SessionTable"], Key=key)

    assert refused(lambda: steps.delete_item(TableName=outputs["SessionTable"], Key=key)) == "AccessDeniedException"
    transaction = [{"Delete": {"TableName": outputs["SessionTable"], "Key": key}}]
    assert refused(lambda: steps.transact_write_items(TransactItems=transaction)) == "AccessDeniedException"


def test_a_state_machine_may_do_what_its_policy_says_and_no_more(stack: EmbeddedStack) -> None:
    outputs = stack.deployment.outputs
    where = {"TableName": outputs["SessionTable"], "Key": {"pk": {"S": "policy:1"}, "sk": {"S": "session"}}}
    dynamodb, functions, states = (
        signed_by(stack, s, "stepgram-TurnRole") for s in ("dynamodb", "lambda", "stepfunctions")
    )

    dynamodb.update_item(**where, UpdateExpression="REMOVE nothing")

    assert refused(lambda: dynamodb.get_item(**where)) == "AccessDeniedException"
    assert refused(lambda: functions.invoke(FunctionName="stepgram-IntakeFunction")) == "AccessDeniedException"
    assert refused(lambda: states.start_execution(stateMachineArn=outputs["TurnArn"])) == "AccessDeniedException"
    assert stack.access.refused[-1] == ("stepgram-Turn", "states:StartExecution", outputs["TurnArn"])


@pytest.mark.parametrize(
    ("task", "parameters", "error", "action"),
    [
        (
            "lambda:invoke",
            {"FunctionName": "stepgram-IntakeFunction"},
            "Lambda.AWSLambdaException",
            "lambda:InvokeFunction",
        ),
        (
            "lambda:invoke.waitForTaskToken",
            {"FunctionName": "stepgram-IntakeFunction", "Payload": {"token.$": "$$.Task.Token"}},
            "Lambda.AWSLambdaException",
            "lambda:InvokeFunction",
        ),
        (
            "dynamodb:getItem",
            {"TableName": "any", "Key": {"pk": {"S": "any"}}},
            "DynamoDB.AmazonDynamoDBException",
            "dynamodb:GetItem",
        ),
        (
            "states:startExecution",
            {"StateMachineArn": f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:stepgram-turn"},
            "StepFunctions.AWSStepFunctionsException",
            "states:StartExecution",
        ),
    ],
)
def test_a_task_its_machines_role_does_not_allow_fails_as_on_aws(
    stack: EmbeddedStack, task: str, parameters: dict[str, Any], error: str, action: str
) -> None:
    states = client("stepfunctions", stack.addresses.aws)
    only = {"Type": "Task", "Resource": f"arn:aws:states:::{task}", "Parameters": parameters, "End": True}
    arn = states.create_state_machine(
        name=f"refused-{uuid.uuid4()}",
        type="EXPRESS",
        definition=json.dumps({"StartAt": "Only", "States": {"Only": only}}),
        roleArn=f"arn:aws:iam::{ACCOUNT}:role/stepgram-TurnRole",
    )["stateMachineArn"]

    ended = states.start_sync_execution(stateMachineArn=arn)
    states.delete_state_machine(stateMachineArn=arn)

    assert (ended["status"], ended["error"]) == ("FAILED", error)
    assert f"User: stepgram-TurnRole is not authorized to perform: {action} on resource: arn:" in ended["cause"]
    assert "Error Code: AccessDeniedException" in ended["cause"]


@pytest.mark.parametrize(
    ("statement", "wanted", "allowed"),
    [
        ({"Action": "s3:Get*", "Resource": "arn:a/*"}, Wanted("s3:GetObject", "arn:a/b/c"), True),
        ({"Action": ["s3:GetObject"], "Resource": ["arn:x", "arn:a/*"]}, Wanted("s3:PutObject", "arn:a/b"), False),
        ({"Action": "s3:GetObject", "Resource": "arn:a/*"}, Wanted("s3:GetObject", "arn:ab"), False),
        ({"Effect": "Deny", "Action": "*", "Resource": "*"}, Wanted("s3:GetObject", "arn:a"), False),
    ],
)
def test_statements_are_read_as_iam_reads_them(statement: dict[str, Any], wanted: Wanted, allowed: bool) -> None:
    assert allows([{"Effect": "Allow", **statement}], wanted) is allowed
