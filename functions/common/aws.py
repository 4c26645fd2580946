"""AWS clients, one per service and environment, made on first use and shared by threads."""

from __future__ import annotations

import threading
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from functions.common.settings import AwsSettings

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_kms import KMSClient
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_stepfunctions import SFNClient
    from mypy_boto3_sts import STSClient
    from mypy_boto3_transcribe import TranscribeServiceClient

    from functions.common.access import Credentials

_making = threading.Lock()


@cache
def _session() -> boto3.session.Session:
    return boto3.session.Session()


@lru_cache(maxsize=64)
def _client(service: str, settings: AwsSettings, attempts: int = 3) -> Any:
    own = (
        {"aws_access_key_id": settings.access_key or "local", "aws_secret_access_key": "local"}
        if settings.endpoint
        else {}
    )
    return _made(service, settings, own, attempts)


def _made(service: str, settings: AwsSettings, keys: dict[str, Any], attempts: int = 3) -> Any:
    config = Config(
        connect_timeout=3,
        read_timeout=20,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=20,
        inject_host_prefix=settings.endpoint is None,
    )
    with _making:
        return _session().client(
            service,  # type: ignore[call-overload]
            region_name=settings.region,
            endpoint_url=settings.endpoint,
            config=config,
            **keys,
        )


def refused_item(error: ClientError) -> dict[str, Any]:
    """The item whose condition did not hold; empty unless the request asked for it. Raises any other error."""
    if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
        raise error
    response: Any = error.response
    return dict(response.get("Item", {}))


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


def transcribe() -> TranscribeServiceClient:
    """The Transcribe client."""
    client: TranscribeServiceClient = _client("transcribe", AwsSettings.load())
    return client


def secrets_manager() -> SecretsManagerClient:
    """The Secrets Manager client."""
    client: SecretsManagerClient = _client("secretsmanager", AwsSettings.load())
    return client
