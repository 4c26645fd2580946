"""Secrets, read from Secrets Manager at run time and kept for five minutes."""

from __future__ import annotations

from functools import lru_cache

from aws_lambda_powertools.utilities.parameters import SecretsProvider
from aws_lambda_powertools.utilities.parameters.exceptions import GetParameterError

from functions.common import aws
from functions.common.errors import ConfigurationError, StepgramError

MAX_AGE_SECONDS = 300


@lru_cache(maxsize=8)
def _provider(client: object) -> SecretsProvider:
    return SecretsProvider(boto3_client=client)  # type: ignore[arg-type]


def secret(secret_id: str) -> str:
    """The value of a secret. Raises AwsUnavailable, and ConfigurationError when it is absent, unreadable or empty."""
    try:
        value = _provider(aws.secrets_manager()).get(secret_id, max_age=MAX_AGE_SECONDS)
    except GetParameterError as error:
        cause = error.__context__
        ours = cause if isinstance(cause, StepgramError) else aws.named(cause) if isinstance(cause, Exception) else None
        raise ours or ConfigurationError(f"secret {secret_id} cannot be read: {error}") from error
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(f"secret {secret_id} is empty")
    return value
