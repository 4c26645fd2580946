"""AWS's errors get names of ours in one place: what may heal, what somebody must set right, and what is a bug."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError, NoCredentialsError, ParamValidationError

from functions.common import aws
from functions.common.errors import AwsUnavailable, ConfigurationError
from functions.common.secrets import secret
from functions.common.settings import AwsSettings, use_environment
from stepgram.embedded.stack import EmbeddedStack
from stepgram.server import Server


def refusal(code: str, status: int = 400, **more: Any) -> ClientError:
    response: Any = {
        "Error": {"Code": code, "Message": "said"}, "ResponseMetadata": {"HTTPStatusCode": status},
        aws.CALLED: "dynamodb:GetItem on the-table", **more,
    }  # fmt: skip
    return ClientError(response, "GetItem")


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("ProvisionedThroughputExceededException", 400),
        ("ThrottlingException", 400),
        ("RequestLimitExceeded", 400),
        ("TransactionConflictException", 400),
        ("TransactionInProgressException", 400),
        ("ConditionalRequestConflict", 409),
        ("SlowDown", 503),
        ("KMSInternalException", 500),
        ("DependencyTimeoutException", 500),
        ("InternalServerError", 500),
        ("ServiceUnavailable", 503),
        ("TooManyRequestsException", 429),
        ("SomethingNew", 502),
        ("RequestTimeout", 400),
        ("ResourceConflictException", 409),
        ("CodeArtifactUserPendingException", 409),
        ("IncompleteBody", 400),
        ("BadDigest", 400),
    ],
)
def test_what_may_heal_is_aws_unavailable(code: str, status: int) -> None:
    found = aws.named(refusal(code, status))

    assert isinstance(found, AwsUnavailable)
    assert "dynamodb:GetItem on the-table" in str(found)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("AccessDeniedException", 400),
        ("AccessDenied", 403),
        ("403", 403),
        ("UnrecognizedClientException", 400),
        ("ExpiredTokenException", 400),
        ("ResourceNotFoundException", 400),
        ("NoSuchBucket", 404),
        ("StateMachineDoesNotExist", 400),
        ("NotFoundException", 400),
        ("DisabledException", 400),
        ("InvalidSignatureException", 400),
        ("MissingAuthenticationTokenException", 400),
        ("KmsInvalidStateException", 400),
        ("DecryptionFailure", 400),
        ("InvalidRequestException", 400),
        ("StateMachineDeleting", 400),
        ("ItemCollectionSizeLimitExceededException", 400),
    ],
)
def test_what_somebody_must_set_right_names_action_and_resource(code: str, status: int) -> None:
    found = aws.named(refusal(code, status))

    assert isinstance(found, ConfigurationError)
    assert "dynamodb:GetItem on the-table" in str(found)


@pytest.mark.parametrize("code", ["ValidationException", "ConditionalCheckFailedException", "SerializationException"])
def test_a_bug_keeps_its_name(code: str) -> None:
    error = refusal(code)

    assert aws.named(error) is None
    with pytest.raises(ClientError) as raised, aws.translated():
        raise error
    assert raised.value is error
    assert aws.named(ParamValidationError(report="x")) is None


@pytest.mark.parametrize(
    ("codes", "passing"),
    [
        (["None", "TransactionConflict"], True),
        (["ThrottlingError", "None"], True),
        (["ConditionalCheckFailed", "TransactionConflict"], False),
        (["ValidationError"], False),
    ],
)
def test_a_cancelled_transaction_may_heal_when_all_its_reasons_may(codes: list[str], passing: bool) -> None:
    reasons = [{"Code": code} for code in codes]
    found = aws.named(refusal("TransactionCanceledException", CancellationReasons=reasons))

    assert isinstance(found, AwsUnavailable) is passing


def test_a_cancelled_transaction_that_is_denied_is_a_configuration_error() -> None:
    reasons = [{"Code": "None"}, {"Code": "AccessDenied"}]

    assert isinstance(
        aws.named(refusal("TransactionCanceledException", CancellationReasons=reasons)), ConfigurationError
    )


class Cut:
    """A port that answers 200 with half of a JSON document."""

    def __init__(self) -> None:
        self.server = Server(self, 0)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "application/x-amz-json-1.0"), ("x-amzn-RequestId", "1")])
        return [b'{"Item": {"pk": {"S": "a']


def test_an_answer_that_is_cut_short_is_no_empty_one(as_function: Any) -> None:
    """botocore takes it for an item that is not there: a conversation would start over."""
    cut = Cut()
    as_function("TurnFunction", AWS_ENDPOINT_URL=cut.server.url)

    with pytest.raises(AwsUnavailable, match="dynamodb:GetItem on t: the answer is cut short"):
        aws.dynamodb().get_item(TableName="t", Key={"pk": {"S": "x"}})
    cut.server.stop()


def test_no_credentials_is_a_configuration_error() -> None:
    assert isinstance(aws.named(NoCredentialsError()), ConfigurationError)


@pytest.fixture
def as_function(stack: EmbeddedStack) -> Iterator[Any]:
    def become(logical_id: str, **more: str) -> None:
        spec = stack.deployment.functions[f"stepgram-{logical_id}"]
        use_environment({**stack.functions.environment(spec), **more})

    yield become
    use_environment(None)


def test_a_denied_call_names_its_action_and_resource(stack: EmbeddedStack, as_function: Any) -> None:
    as_function("CallbackFunction")
    table, bucket = (stack.deployment.outputs[name] for name in ("SessionTable", "SessionBucket"))

    with pytest.raises(ConfigurationError, match=f"dynamodb:Scan on {table}: AccessDeniedException"), aws.translated():
        aws.dynamodb().scan(TableName=table)
    with pytest.raises(ConfigurationError, match=f"s3:GetObject on {bucket}/sessions/x"), aws.translated():
        aws.s3().get_object(Bucket=bucket, Key="sessions/x")
    with pytest.raises(ConfigurationError, match="secretsmanager:GetSecretValue on none: AccessDenied"):
        secret("none")


class Silent:
    """A port that takes connections and closes them without a word; counts them."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.taken = 0
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.taken += 1
            connection.recv(65_536)
            connection.close()


@pytest.fixture
def silent() -> Iterator[Silent]:
    port = Silent()
    yield port
    port.socket.close()


def test_a_broken_connection_is_aws_unavailable(silent: Silent, as_function: Any) -> None:
    as_function("TurnFunction", AWS_ENDPOINT_URL=silent.url)

    with pytest.raises(AwsUnavailable, match="ConnectionClosedError"), aws.translated():
        aws.dynamodb().get_item(TableName="t", Key={"pk": {"S": "x"}})


def test_the_intake_is_asked_once_since_a_second_time_is_another_execution(silent: Silent, as_function: Any) -> None:
    as_function("WebhookFunction", AWS_ENDPOINT_URL=silent.url)

    with pytest.raises(AwsUnavailable), aws.translated():
        aws.whole_intake().start_sync_execution(stateMachineArn="arn:aws:states:us-east-1:1:stateMachine:x")

    assert silent.taken == 1
    assert aws.whole_intake().meta.config.read_timeout < 30, "the HTTP API waits for 30 seconds"


def test_a_function_of_its_own_process_finds_its_keys_as_aws_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint changes nothing about credentials; only functions that share a process are given theirs."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "role")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    aws._session.cache_clear()

    client = aws._made("dynamodb", AwsSettings.load(), aws._keys())

    found = client._request_signer._credentials
    assert (found.access_key, found.token, found.method) == ("role", "token", "env")
    aws._session.cache_clear()
