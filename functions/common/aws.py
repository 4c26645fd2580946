"""AWS clients, made on first use and shared by threads; and the one place where AWS's errors get names of ours.

boto3 raises modelled errors by classes of their own and others as `ClientError`, and those class names would be what
Retry and Catch see. `translated` makes them `AwsUnavailable`, which may heal, or `ConfigurationError`, which names the
action and the resource. What is neither (a request that is malformed) keeps its name: it is a bug.
Sources: Common Errors of each service's API reference; https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html,
TransactionCanceledException; https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
)
from botocore.model import OperationModel
from botocore.parsers import ResponseParserError
from pydantic import BaseModel, ConfigDict, Field

from functions.common.errors import AwsUnavailable, ConfigurationError, StepgramError
from functions.common.settings import AwsSettings, own_environment

if TYPE_CHECKING:
    from botocore.credentials import ReadOnlyCredentials
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_kms import KMSClient
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_stepfunctions import SFNClient
    from mypy_boto3_sts import STSClient
    from mypy_boto3_transcribe import TranscribeServiceClient


class Credentials(BaseModel):
    """Temporary AWS credentials, named as STS names them."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    key_id: str = Field(alias="AccessKeyId")
    secret: str = Field(alias="SecretAccessKey", repr=False)
    token: str = Field(alias="SessionToken", repr=False)


READ_SECONDS = 20
WHOLE_INTAKE_SECONDS = 27
"""How long the webhook waits for the Intake: longer than that may take, less than the HTTP API's 30 seconds."""

PASSING = ("Throttl", "TooManyRequests", "LimitExceeded", "SlowDown", "ThroughputExceeded", "InProgress", "Timeout",
           "Unavailable", "InternalServer", "InternalError", "InternalFailure", "KMSInternal", "TransactionConflict",
           "ConditionalRequestConflict", "OperationAborted", "ReplicatedWriteConflict", "ResourceConflict", "NotReady",
           "UserPending", "CommunicationError", "IncompleteBody", "BadDigest", "SHA256Mismatch")  # fmt: skip
"""Parts of the codes of what may heal by itself: throttling, conflicts, faults of the service."""

REFUSED = ("AccessDenied", "Unauthorized", "NotAuthorized", "UnrecognizedClient", "InvalidClientTokenId",
           "SignatureDoesNotMatch", "ExpiredToken", "ResourceNotFound", "NoSuchBucket", "DoesNotExist",
           "NotFoundException", "DisabledException", "KMSInvalidState", "KmsInvalidState", "InvalidSignature",
           "IncompleteSignature", "MissingAuthenticationToken", "InvalidToken", "HeaderMalformed", "DecryptionFailure",
           "InvalidRequestException", "Deleting", "ItemCollectionSize", "ServiceQuota")  # fmt: skip
"""Parts of the codes of what somebody must set right: a permission, a resource."""

NETWORK = (HTTPClientError, ConnectionError, IncompleteReadError, ResponseParserError)
FAULTS = (ClientError, BotoCoreError, ResponseParserError)
NO_KEYS = (NoCredentialsError, CredentialRetrievalError)

MET = frozenset({"None", "ConditionalCheckFailed", "TransactionConflict"})
"""Why a transaction is cancelled when others wrote meanwhile (API reference, TransactWriteItems)."""

CALLED = "Called"
"""Where an error's response says which action was called on which resource."""

RESOURCES = ("TableName", "Bucket", "SecretId", "KeyId", "FunctionName", "stateMachineArn", "executionArn", "RoleArn",
             "TranscriptionJobName")  # fmt: skip
"""Parameters that name the resource of a call."""

ACTIONS = {
    "lambda:Invoke": "lambda:InvokeFunction",
    "s3:HeadObject": "s3:GetObject",
    "s3:ListObjectsV2": "s3:ListBucket",
}
"""IAM's names of actions that are not called as the operation is."""

_making = threading.Lock()


@cache
def _session() -> boto3.session.Session:
    return boto3.session.Session()


def credentials() -> ReadOnlyCredentials:
    """The function's own credentials as they are now. Raises ConfigurationError when there are none."""
    found = _session().get_credentials()
    if found is None:
        raise ConfigurationError("there are no AWS credentials")
    return found.get_frozen_credentials()


def forget_clients() -> None:
    """Let the next call to each service be made by a new client, on a new connection."""
    _client.cache_clear()


@lru_cache(maxsize=64)
def _client(service: str, settings: AwsSettings, attempts: int = 3, read_seconds: int = READ_SECONDS) -> Any:
    return _made(service, settings, _keys(), attempts, read_seconds)


def _keys() -> dict[str, str]:
    """Empty: AWS's own way finds them. Functions that share a process have keys of their own (`settings.py`)."""
    own = own_environment()
    if own is None:
        return {}
    return {
        "aws_access_key_id": own.get("AWS_ACCESS_KEY_ID", ""),
        "aws_secret_access_key": own.get("AWS_SECRET_ACCESS_KEY", ""),
    }


def _made(
    service: str, settings: AwsSettings, keys: dict[str, Any], attempts: int = 3, read_seconds: int = READ_SECONDS
) -> Any:
    config = Config(
        connect_timeout=3,
        read_timeout=read_seconds,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=20,
        inject_host_prefix=settings.endpoint is None,
    )
    with _making:
        client = _session().client(
            service,  # type: ignore[call-overload]
            region_name=settings.region,
            endpoint_url=settings.endpoint,
            config=config,
            **keys,
        )
    client.meta.events.register("before-parameter-build", _note_resource)
    client.meta.events.register("after-call", _note_call)
    return client


def _note_resource(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    found = [str(params[name]) for name in RESOURCES if name in params] + list(params.get("RequestItems", ()))
    context["resource"] = "/".join(
        found + ([str(params["Key"])] if found and isinstance(params.get("Key"), str) else [])
    )


def _note_call(
    http_response: Any, parsed: dict[str, Any], model: OperationModel, context: dict[str, Any], **_: Any
) -> None:
    """Say what was called. A good answer whose JSON is cut short is none: botocore takes it for an empty one, and a
    session would be taken for one that does not exist.
    """
    action = f"{model.service_model.signing_name}:{model.name}"
    parsed[CALLED] = f"{ACTIONS.get(action, action)} on {context.get('resource') or 'a resource it did not name'}"
    is_json = model.service_model.metadata.get("protocol") == "json"
    if is_json and http_response.status_code == 200 and not http_response.content.rstrip().endswith(b"}"):
        raise AwsUnavailable(f"{parsed[CALLED]}: the answer is cut short")


@contextmanager
def translated() -> Iterator[None]:
    """Raise AWS's errors under names of ours: AwsUnavailable, ConfigurationError; others stay as they are."""
    try:
        yield
    except FAULTS as error:
        ours = named(error)
        if ours is None:
            raise
        raise ours from error


def named(error: Exception) -> StepgramError | None:
    """The error under a name of ours; None for what is a bug."""
    if isinstance(error, ClientError):
        return _named_answer(error.response)
    if isinstance(error, NETWORK):
        return AwsUnavailable(f"{type(error).__name__}: {error}")
    return ConfigurationError(str(error)) if isinstance(error, NO_KEYS) else None


def _named_answer(response: Any) -> StepgramError | None:
    code, status = str(response["Error"]["Code"]), int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = f"{response.get(CALLED, 'a call')}: {code}: {response['Error'].get('Message', '')}"
    reasons = {str(reason.get("Code")) for reason in response.get("CancellationReasons", [])} - {"None"}
    if reasons:
        what = f"{said} ({', '.join(sorted(reasons))})"
        if any(part in reason for reason in reasons for part in REFUSED):
            return ConfigurationError(what)
        passing = all(any(part in reason for part in PASSING) for reason in reasons)
        return AwsUnavailable(what) if passing else None
    if any(part in code for part in REFUSED) or status in (401, 403):
        return ConfigurationError(said)
    if any(part in code for part in PASSING) or status >= 500 or status == 429:
        return AwsUnavailable(said)
    return None


def refused_item(error: ClientError) -> dict[str, Any]:
    """The item whose condition did not hold; empty unless the request asked for it. Raises any other error."""
    if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
        raise error
    response: Any = error.response
    return dict(response.get("Item", {}))


def items(dynamodb: DynamoDBClient, table: str, keys: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """The items with these keys (pk, sk), in their order, in one consistent read; empty for one that is not there.

    Each is as it was at some moment of the read, not all at the same one. 100 keys at most. Raises AwsUnavailable when
    DynamoDB leaves some out (API reference, BatchGetItem, UnprocessedKeys).
    """
    asked: Any = {table: {"Keys": [item_key(*key) for key in keys], "ConsistentRead": True}}
    answer = dynamodb.batch_get_item(RequestItems=asked)
    if answer.get("UnprocessedKeys"):
        raise AwsUnavailable(f"dynamodb:BatchGetItem on {table} left out some items")
    found = {(item["pk"]["S"], item["sk"]["S"]): dict(item) for item in answer["Responses"][table]}
    return [found.get(key, {}) for key in keys]


def transacted(dynamodb: DynamoDBClient, writes: Sequence[Any]) -> bool:
    """Carry out a transaction; False when a condition did not hold, or others wrote meanwhile."""
    try:
        dynamodb.transact_write_items(TransactItems=writes)
    except ClientError as error:
        reasons: list[Any] = error.response.get("CancellationReasons", [])
        if not reasons or not MET.issuperset(reason.get("Code", "None") for reason in reasons):
            raise
        return False
    return True


class Collisions:
    """Waits between the tries of a transaction that others collide with, for so many seconds."""

    def __init__(self, seconds: float, what: str) -> None:
        self._end, self._pause, self._what = time.monotonic() + seconds, 0.05, what

    def wait(self) -> None:
        """Before the next try. Raises AwsUnavailable when they were too many."""
        if time.monotonic() > self._end:
            raise AwsUnavailable(f"{self._what} written all the time")
        time.sleep(random.uniform(0, self._pause))
        self._pause = min(2 * self._pause, 1.0)


def item_key(partition: str, sort_key: str) -> dict[str, Any]:
    """The key of an item."""
    return {"pk": {"S": partition}, "sk": {"S": sort_key}}


def dynamodb() -> DynamoDBClient:
    """The DynamoDB client."""
    client: DynamoDBClient = _client("dynamodb", AwsSettings.load())
    return client


def s3(credentials: Credentials | None = None) -> S3Client:
    """The S3 client of the function's role, or one with credentials of its own."""
    settings = AwsSettings.load()
    if credentials is None:
        own: S3Client = _client("s3", settings)
        return own
    keys = {
        "aws_access_key_id": credentials.key_id,
        "aws_secret_access_key": credentials.secret,
        "aws_session_token": credentials.token,
    }
    client: S3Client = _made("s3", settings, keys)
    return client


def sts() -> STSClient:
    """The STS client."""
    client: STSClient = _client("sts", AwsSettings.load())
    return client


def kms() -> KMSClient:
    """The KMS client."""
    client: KMSClient = _client("kms", AwsSettings.load())
    return client


def lambda_() -> LambdaClient:
    """The Lambda client. It does not try again: a caller that minds does."""
    client: LambdaClient = _client("lambda", AwsSettings.load(), attempts=1)
    return client


def step_functions() -> SFNClient:
    """The Step Functions client."""
    client: SFNClient = _client("stepfunctions", AwsSettings.load())
    return client


def whole_intake() -> SFNClient:
    """The Step Functions client for StartSyncExecution: one attempt, since a second one would be another execution."""
    client: SFNClient = _client("stepfunctions", AwsSettings.load(), attempts=1, read_seconds=WHOLE_INTAKE_SECONDS)
    return client


def transcribe() -> TranscribeServiceClient:
    """The Transcribe client."""
    client: TranscribeServiceClient = _client("transcribe", AwsSettings.load())
    return client


def secrets_manager() -> SecretsManagerClient:
    """The Secrets Manager client."""
    client: SecretsManagerClient = _client("secretsmanager", AwsSettings.load())
    return client
