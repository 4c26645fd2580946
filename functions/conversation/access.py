"""What the agent may touch: S3 credentials for one session alone, sealed on their way through the workflow.

The agent's own role has no rights in S3. Whoever prepares a turn takes the session role narrowed by a *session policy*
to one folder, and encrypts the credentials with the stack's KMS key under the session and the turn, so that an event
that Lambda keeps or hands on shows only ciphertext.
Sources: STS AssumeRole (Policy; an hour at most for a role taken by a role), KMS Encrypt (4,096 bytes at a time).
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from botocore.exceptions import ClientError
from pydantic import ValidationError

from functions.common import aws
from functions.common.errors import BadInput
from functions.common.settings import AccessSettings
from functions.conversation.files.documents import session_prefix, turn_prefix

SECONDS = 1500
"""How long the credentials of a run live: five minutes to be started, 15 to work, and some to spare."""

PIECE = 4096


WRITTEN = ("manifests", "transcript", "trees", "blobs")
"""Folders of a session that a turn adds to, beside its own."""


def session_policy(partition: str, bucket: str, session_id: str, turn_id: str) -> dict[str, Any]:
    """The session policy: read the objects of one session and their names, write what this turn makes."""
    folder = session_prefix(session_id)
    objects = f"arn:{partition}:s3:::{bucket}/"
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": "s3:GetObject",
                "Resource": f"{objects}{folder}*",
            },
            {
                "Effect": "Allow",
                "Action": "s3:PutObject",
                "Resource": [
                    f"{objects}{turn_prefix(session_id, turn_id)}*",
                    *(f"{objects}{folder}{name}/*" for name in WRITTEN),
                ],
            },
            {
                "Effect": "Allow",
                "Action": "s3:ListBucket",
                "Resource": f"arn:{partition}:s3:::{bucket}",
                "Condition": {"StringLike": {"s3:prefix": f"{folder}*"}},
            },
        ],
    }


def seal(settings: AccessSettings, session_id: str, turn_id: str) -> str:
    """Credentials for the session's folder, for this turn, encrypted (base64; pieces separated by a dot)."""
    partition = settings.session_role_arn.split(":")[1]
    taken = aws.sts().assume_role(
        RoleArn=settings.session_role_arn,
        RoleSessionName=session_id,
        Policy=json.dumps(session_policy(partition, settings.bucket, session_id, turn_id)),
        DurationSeconds=SECONDS,
    )
    plain = aws.Credentials.model_validate(taken["Credentials"]).model_dump_json(by_alias=True).encode()
    return encrypt(settings.session_key_arn, plain, _context(session_id, turn_id))


def unseal(sealed: str, session_id: str, turn_id: str) -> aws.Credentials:
    """The credentials. Raises BadInput when they were not sealed for this session and turn."""
    try:
        return aws.Credentials.model_validate_json(decrypt(sealed, _context(session_id, turn_id)))
    except (NotSealed, ValidationError) as error:
        raise BadInput(f"access: not sealed for session {session_id} and turn {turn_id}") from error


class NotSealed(Exception):
    """The text was not encrypted by this stack's key for this context."""


def encrypt(key_arn: str, plain: bytes, context: dict[str, str]) -> str:
    """Encrypted by KMS for this context (base64; pieces separated by a dot)."""
    sealed = [
        aws.kms().encrypt(KeyId=key_arn, Plaintext=plain[start : start + PIECE], EncryptionContext=context)
        for start in range(0, len(plain), PIECE)
    ]
    return ".".join(base64.b64encode(piece["CiphertextBlob"]).decode() for piece in sealed)


def decrypt(sealed: str, context: dict[str, str]) -> bytes:
    """What `encrypt` made. Raises NotSealed for anything else, and for another context."""
    try:
        pieces = [base64.b64decode(piece, validate=True) for piece in sealed.split(".")]
        return b"".join(
            aws.kms().decrypt(CiphertextBlob=piece, EncryptionContext=context)["Plaintext"] for piece in pieces
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != "InvalidCiphertextException":
            raise
        raise NotSealed(str(error)) from error
    except (binascii.Error, ValueError) as error:
        raise NotSealed(str(error)) from error


def _context(session_id: str, turn_id: str) -> dict[str, str]:
    return {"session_id": session_id, "turn_id": turn_id}
