"""IAM on the embedded stack: functions and state machines may do what the template's policies allow, and nothing else.

A function signs with a key of its own, a Task with its state machine's; whoever takes a role gets keys that are
narrowed by the session policy, as STS makes them. The operator's key, made anew at each start, may do everything; any
other is refused, and so is a signature that was not made with the key's secret. What is not checked is the age of a
signature, nor who may invoke a function as a service: SAM writes that permission from the very event that the route
or rule comes from, so none can lack it.
Sources: IAM policy evaluation (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html),
the actions and resources of each service (Service Authorization Reference), AssumeRole's session policies, and S3's
403 instead of 404 for who may not list (https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html); signatures
(https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html).
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qs, unquote

from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from moto.kms.models import kms_backends

from stepgram.embedded.client import ACCOUNT, OPERATOR, REGION, derived
from stepgram.embedded.state import Change, Store

Statement = Mapping[str, Any]
SIGNED = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/, ]+)/\d{8}/(?P<region>[^/, ]+)/(?P<service>[^/, ]+)/aws4_request, *"
    r"SignedHeaders=(?P<headers>([^, ]+;)?host(;[^, ]+)?), *Signature=(?P<signature>[0-9a-f]{64})"
)
"""The header of a signed request. Its host is always signed; the scope's day is that of the time in `X-Amz-Date`."""

TEMPORARY = "ASIA"
"""What the key ids that STS gives out begin with."""

UNSIGNED, UNKNOWN, FORGED = (
    "Missing Authentication Token",
    "The security token included in the request is invalid.",
    "The request signature we calculated does not match the signature you provided.",
)
REFUSALS = {
    "s3": {UNSIGNED: "AccessDenied", UNKNOWN: "InvalidAccessKeyId", FORGED: "SignatureDoesNotMatch"},
    "sts": {UNSIGNED: "MissingAuthenticationToken", UNKNOWN: "InvalidClientTokenId", FORGED: "SignatureDoesNotMatch"},
    "": {
        UNSIGNED: "MissingAuthenticationTokenException",
        UNKNOWN: "UnrecognizedClientException",
        FORGED: "InvalidSignatureException",
    },
}
"""The codes of who is not known, by the form of the answer: S3's, that of STS and CloudFormation, everybody else's."""

TAKEN = re.compile(
    rb"<AccessKeyId>(\w+)</AccessKeyId>\s*<SecretAccessKey>([^<]+)</SecretAccessKey>\s*<SessionToken>([^<]+)<"
)
"""What STS gives out: key id, secret, token."""

INVOKE = "2015-03-31/functions/"
"""The path of Lambda's Invoke API."""

ANYTHING = "*"
"""The resource of a request that does not name it, such as SendTaskSuccess: the action decides."""

TRANSACTION = {
    "Get": "GetItem",
    "Update": "UpdateItem",
    "Put": "PutItem",
    "Delete": "DeleteItem",
    "ConditionCheck": "ConditionCheckItem",
}
OBJECT = {"GET": "GetObject", "HEAD": "GetObject", "PUT": "PutObject", "DELETE": "DeleteObject"}


@dataclass(frozen=True)
class Wanted:
    """One action on one resource; `prefix` is the condition key `s3:prefix`."""

    action: str
    resource: str
    prefix: str | None = None


class Denied(Exception):
    """The request is refused: an HTTP status and an error code of the service."""

    def __init__(self, service: str, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.service = service
        self.code = code
        self.status = status


class Access:
    """Who may do what. Keys of taken roles, and the stack's KMS key, are kept between runs."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.operator = secrets.token_urlsafe(30)
        """The operator's secret key."""
        self._taken: dict[str, dict[str, Any]] = {row.owner: row.value for row in store.rows("taken")}
        over = [key for key, role in self._taken.items() if role["expires"] < time.time()]
        store.keep(*(Change("taken", key, 0, None) for key in over))
        self.refused: list[tuple[str, str, str]] = []
        """Whose request was refused for want of a permission, the action and the resource; in order."""
        self.policies: dict[str, list[Statement]] = {}
        """What the policies say of each function, by its name, and of each state machine, by its role's name."""
        self.machines: dict[str, str] = {}
        """The state machine that acts by a role, by the role's name."""
        self.acting: dict[str, str] = {}
        """The ARN of each function's role."""
        self.roles: dict[str, list[Statement]] = {}
        self.trusts: dict[str, list[str]] = {}
        """Who may take each role, by the ARNs of theirs."""

    def kms_key(self) -> str:
        """The stack's KMS key, the same in every run; returns its ARN."""
        backend = kms_backends[ACCOUNT][REGION]
        key = backend.create_key(None, "ENCRYPT_DECRYPT", "SYMMETRIC_DEFAULT", "sessions", None)
        kept = next((row.value for row in self._store.rows("kms")), None)
        if kept is None:
            self._store.keep(Change("kms", "sessions", 0, {"id": key.id, "material": key.key_material.hex()}))
        else:
            del backend.keys[key.id]
            key.id, key.key_material = kept["id"], bytes.fromhex(kept["material"])
            key.arn = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{key.id}"
            backend.keys[key.id] = key
        return str(key.arn)

    def role_taken(self, request: bytes, answer: bytes) -> None:
        """Remember what AssumeRole gave out."""
        asked = {name: values[0] for name, values in parse_qs(request.decode()).items()}
        found = TAKEN.search(answer)
        if asked.get("Action") == "AssumeRole" and found is not None:
            policy = json.loads(asked["Policy"])["Statement"] if "Policy" in asked else None
            expires = time.time() + int(asked.get("DurationSeconds", 3600))
            key, secret, token = (part.decode() for part in found.groups())
            given = {"role": asked["RoleArn"], "policy": policy, "expires": expires}
            role = {**given, "secret": secret, "token": token}
            self._store.keep(Change("taken", key, 0, role))
            self._taken[key] = role

    def authenticate(self, environ: Mapping[str, Any], body: bytes) -> None:
        """Raise Denied unless the request is signed with the secret of a key that is known."""
        signed = SIGNED.fullmatch(environ.get("HTTP_AUTHORIZATION", ""))
        if signed is None:
            raise _unknown(environ, "", UNSIGNED)
        key, service = signed["key"], signed["service"]
        taken = self._taken.get(key)
        if taken is not None and not hmac.compare_digest(
            taken["token"].encode(), environ.get("HTTP_X_AMZ_SECURITY_TOKEN", "").encode()
        ):
            raise _unknown(environ, service, UNKNOWN)
        if taken is None and key not in self.policies and key != OPERATOR:
            raise _unknown(environ, service, UNKNOWN)
        secret = derived(self.operator, key) if taken is None else taken["secret"]
        if not hmac.compare_digest(_signature(environ, body, signed, secret), signed["signature"]):
            raise _unknown(environ, service, FORGED)

    def restricted(self, environ: Mapping[str, Any]) -> bool:
        """Whether the request is signed with a key that is checked."""
        key = _key_of(environ)
        return key in self.policies or key.startswith(TEMPORARY)

    def check(self, environ: Mapping[str, Any], body: bytes) -> None:
        """Raise Denied when the request's key does not allow what it asks for."""
        key = _key_of(environ)
        for wanted in actions(environ, body):
            service = wanted.action.partition(":")[0]
            if key not in self.policies and self._taken.get(key, {"expires": 0})["expires"] < time.time():
                raise Denied(service, "ExpiredToken", "The provided token has expired.")
            trusted = wanted.action != "sts:AssumeRole" or self.acting.get(key) in self.trusts.get(wanted.resource, [])
            if not trusted or not all(allows(statements, wanted) for statements in self._statements(key)):
                self.refused.append((self._who(key), wanted.action, wanted.resource))
                message = f"User: {key} is not authorized to perform: {wanted.action} on resource: {wanted.resource}"
                raise Denied(service, "AccessDenied" if service == "s3" else "AccessDeniedException", message, 403)

    def _who(self, key: str) -> str:
        """The function, the state machine, or the role that was taken."""
        if key in self.policies:
            return self.machines.get(key, key)
        return role_name(self._taken[key]["role"])

    def _statements(self, key: str) -> list[list[Statement]]:
        """The policies that must all allow: a function's or state machine's own, or a role's and the session's."""
        if key in self.policies:
            return [self.policies[key]]
        taken = self._taken[key]
        own = self.roles.get(taken["role"], [])
        return [own] if taken["policy"] is None else [own, taken["policy"]]

    def may_list(self, environ: Mapping[str, Any], bucket: str) -> bool:
        """Whether the key may list the whole bucket: only then S3 says that an object is not there."""
        wanted = Wanted("s3:ListBucket", f"arn:aws:s3:::{bucket}")
        return all(allows(statements, wanted) for statements in self._statements(_key_of(environ)))


def role_name(arn: str) -> str:
    """A role's name, by its ARN; Tasks sign with it as their key id, in which there is no slash."""
    return arn.rpartition("/")[2]


def allows(statements: list[Statement], wanted: Wanted) -> bool:
    """Whether an Allow matches; the template has no Deny for its own functions."""
    return any(
        statement["Effect"] == "Allow"
        and any(fnmatchcase(wanted.action.lower(), pattern.lower()) for pattern in _list(statement["Action"]))
        and (
            wanted.resource == ANYTHING
            or any(fnmatchcase(wanted.resource, pattern) for pattern in _list(statement["Resource"]))
        )
        and _condition(statement.get("Condition", {}), wanted)
        for statement in statements
    )


def _condition(condition: Mapping[str, Any], wanted: Wanted) -> bool:
    """StringLike on s3:prefix, the only condition in use; a key the request does not have does not match."""
    patterns = _list(condition.get("StringLike", {}).get("s3:prefix", [])) if condition else []
    if not condition:
        return True
    return wanted.prefix is not None and any(fnmatchcase(wanted.prefix, pattern) for pattern in patterns)


def actions(environ: Mapping[str, Any], body: bytes) -> Iterator[Wanted]:
    """What a request asks for, in IAM's terms."""
    service, _, operation = environ.get("HTTP_X_AMZ_TARGET", "").partition(".")
    if not operation:
        yield from _query(environ, body)
        return
    document = json.loads(body or b"{}")
    if service.startswith("DynamoDB_"):
        yield from _dynamodb(operation, document)
    elif service == "AWSStepFunctions":
        arn = document.get("executionArn") or document.get("stateMachineArn") or ANYTHING
        yield Wanted(f"states:{operation}", arn)
    elif service == "secretsmanager":
        yield Wanted(f"secretsmanager:{operation}", document.get("SecretId", ANYTHING))
    elif service == "TrentService":
        yield Wanted(f"kms:{operation}", document.get("KeyId", ANYTHING))
    elif service == "Transcribe":
        yield Wanted(f"transcribe:{operation}", ANYTHING)
    else:
        yield Wanted(f"{service}:{operation}", "a service no policy is known for")


def _dynamodb(operation: str, document: dict[str, Any]) -> Iterator[Wanted]:
    if "RequestItems" in document:
        for table in document["RequestItems"]:
            yield Wanted(f"dynamodb:{operation}", _table(table))
    elif "TransactItems" in document:
        for item in document["TransactItems"]:
            for kind, given in item.items():
                yield Wanted(f"dynamodb:{TRANSACTION[kind]}", _table(given["TableName"]))
    else:
        yield Wanted(f"dynamodb:{operation}", _table(document["TableName"]))


def _table(name: str) -> str:
    return f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{name}"


def _query(environ: Mapping[str, Any], body: bytes) -> Iterator[Wanted]:
    """S3's and Lambda's requests by method and path; STS's by form."""
    method, path = environ["REQUEST_METHOD"], unquote(environ["PATH_INFO"]).lstrip("/")
    if path.startswith(INVOKE) and path.endswith("/invocations"):
        function = path.removeprefix(INVOKE).removesuffix("/invocations")
        arn = function if function.startswith("arn:") else f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{function}"
        yield Wanted("lambda:InvokeFunction", arn)
        return
    if method == "POST" and not path:
        asked = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        yield Wanted(f"sts:{asked.get('Action', '')}", asked.get("RoleArn", ANYTHING))
        return
    bucket, _, key = path.partition("/")
    query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    if not key:
        action = "s3:ListBucket" if method == "GET" and ("list-type" in query or not query) else f"s3:{method}"
        yield Wanted(action, f"arn:aws:s3:::{bucket}", query.get("prefix", [""])[0])
        return
    source = unquote(environ.get("HTTP_X_AMZ_COPY_SOURCE", "")).lstrip("/")
    if source:
        yield Wanted("s3:GetObject", f"arn:aws:s3:::{source}")
    yield Wanted(f"s3:{OBJECT.get(method, method)}", f"arn:aws:s3:::{bucket}/{key}")


def _key_of(environ: Mapping[str, Any]) -> str:
    """The key of a request that is authenticated."""
    found = SIGNED.fullmatch(environ["HTTP_AUTHORIZATION"])
    assert found is not None
    return found["key"]


def _signature(environ: Mapping[str, Any], body: bytes, signed: re.Match[str], secret: str) -> str:
    """What the signature must be, by botocore's own signer; the body's hash is taken as signed where it is a header."""
    request = AWSRequest(environ["REQUEST_METHOD"], f"http://{environ['HTTP_HOST']}{environ['REQUEST_URI']}", data=body)
    for name in signed["headers"].split(";"):
        request.headers[name] = environ.get(_variable(name), "")
    request.context["timestamp"] = environ.get("HTTP_X_AMZ_DATE", "")
    signer = S3SigV4Auth if signed["service"] == "s3" else SigV4Auth
    auth = signer(Credentials(signed["key"], secret), signed["service"], signed["region"])
    return str(auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request))


def _variable(header: str) -> str:
    """The name of a header in WSGI's environment (PEP 3333)."""
    name = header.upper().replace("-", "_")
    return name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"


def _unknown(environ: Mapping[str, Any], service: str, reason: str) -> Denied:
    """The refusal of a request from nobody knows whom, in the service's own code, status and form."""
    path = environ["PATH_INFO"].lstrip("/")
    if environ.get("HTTP_X_AMZ_TARGET"):
        form, status = "", 400
    elif path.startswith(INVOKE):
        form, status = "", 403
    else:
        form, status = "sts" if environ["REQUEST_METHOD"] == "POST" and not path else "s3", 403
    return Denied(form or service, REFUSALS[form][reason], reason, status)


def _list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
