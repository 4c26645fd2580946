"""The AWS endpoint of the embedded stack: moto on loopback, with Lambda, the HTTP API and the additions in front."""

from __future__ import annotations

import io
import json
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from xml.sax.saxutils import escape

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.stepfunctions.parser.api import ExecutionStatus

from stepgram.embedded.answers import Answer
from stepgram.embedded.client import client, trust
from stepgram.embedded.conflicts import TRANSACTION, WRITES, Conflict, Conflicts, items
from stepgram.embedded.functions import EVENT_LIMIT, FunctionHost, InvokeError
from stepgram.embedded.iam import INVOKE, Access, Denied, Wanted, allows
from stepgram.embedded.kept import Items, Objects
from stepgram.embedded.state import Change, Closed, Row, StateError, Store
from stepgram.embedded.step_functions import ApiError, StepFunctions
from stepgram.embedded.template import FunctionSpec, Route, Rule
from stepgram.embedded.transcribe import PREFIX, Transcribe, TranscribeError
from stepgram.server import Server

TARGET = "AWSStepFunctions."

Environ = dict[str, Any]
StartResponse = Callable[..., Any]


BACKGROUND = "in the background:"
"""What the names of threads begin with that carry out asynchronous invocations."""

DYNAMODB = "DynamoDB_"
UNKEPT = ("BatchWriteItem", "ExecuteStatement", "ExecuteTransaction", "BatchExecuteStatement")
"""DynamoDB's writes that nothing here uses: they are refused, since nobody would keep what they change."""

NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*")


class AwsEndpoint:
    """One port that answers for AWS. `functions`, `routes` and `rules` come with the deployment, and with them `items`
    and `objects`, which keep what a request changed before it is answered."""

    def __init__(self, step_functions: StepFunctions, access: Access, store: Store, port: int = 0) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._writing = threading.Lock()
        """moto checks a condition and writes in two steps; DynamoDB and S3 do it in one."""
        self._conflicts = Conflicts()
        self._step_functions = step_functions
        self._store = store
        self.items: Items | None = None
        self.objects: Objects | None = None
        self.access = access
        self._actions = step_functions.actions()
        self.functions: FunctionHost | None = None
        self.routes: list[Route] = []
        self.rules: list[Rule] = []
        self.server = Server(self, port)
        trust(self.server.url, access.operator)
        self.transcribe = Transcribe(lambda: client("s3", self.server.url))
        # moto's interpreter calls Lambda and DynamoDB at this port; it reads the variable at every call.
        os.environ["MOTO_PORT"] = str(self.server.port)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """The WSGI entry. What cannot be kept was not done."""
        try:
            return self._answer(environ, start_response)
        except StateError as error:
            return _json(start_response, 500, {"__type": "InternalServerError", "message": str(error)}, "text/plain")

    def _answer(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        for route in self.routes:
            if (method, path) == (route.method, route.path):
                return self._http_api(route, environ, start_response)
        raw = _body(environ)
        environ["wsgi.input"] = io.BytesIO(raw)
        try:
            self.access.authenticate(environ, raw)
            restricted = self.access.restricted(environ)
            if restricted:
                self.access.check(environ, raw)
        except Denied as denied:
            return _denied(start_response, denied)
        if path.lstrip("/").startswith(INVOKE):
            return self._invoke(raw, environ, start_response)
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        if target.startswith(PREFIX):
            return self._transcribe(target.removeprefix(PREFIX), raw, start_response)
        if target.startswith(TARGET):
            return self._api(target.removeprefix(TARGET), raw, environ, start_response)
        if target.startswith(DYNAMODB) and (wrong := _not_a_number(json.loads(raw))) is not None:
            message = f"The parameter cannot be converted to a numeric value: {wrong}"
            document = {"__type": "com.amazon.coral.validate#ValidationException", "message": message}
            return _json(start_response, 400, document, "application/x-amz-json-1.0")
        if target.startswith(DYNAMODB):
            return self._dynamodb(target.partition(".")[2], raw, environ, start_response)
        if method in ("PUT", "DELETE") or (method == "POST" and path != "/"):
            return self._write_object(environ, start_response)
        if "list-type" in environ["QUERY_STRING"]:
            with self._writing:
                return list(self._moto(environ, start_response))
        if method == "POST":
            answer = b"".join(self._moto(environ, start_response))
            self.access.role_taken(raw, answer)
            return [answer]
        with self._writing:
            if restricted and not self.access.may_list(environ, path.strip("/").partition("/")[0]):
                return self._object(environ, start_response)
            return list(self._moto(environ, start_response))

    def _dynamodb(self, operation: str, raw: bytes, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if operation in UNKEPT:
            document = {"__type": "com.amazon.coral.service#UnknownOperationException", "message": operation}
            return _json(start_response, 400, document, "application/x-amz-json-1.0")
        try:
            with self._conflicts.under_way(operation, raw), self._writing:
                answered: list[Any] = []
                answer = list(self._moto(environ, lambda *head: answered.append(head)))
                done = answered[-1][0].startswith("200")
                if done and self.items is not None and operation in (*WRITES, TRANSACTION):
                    self.items.keep(list(items(json.loads(raw))))
                start_response(*answered[-1])
                return answer
        except Conflict as conflict:
            return _json(start_response, 400, conflict.document, "application/x-amz-json-1.0")

    def _write_object(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """A request that may change objects: the one its path names, or several that its body does."""
        bucket, _, key = environ["PATH_INFO"].encode("latin-1").decode().lstrip("/").partition("/")
        with self._writing:
            answered: list[Any] = []
            answer = list(self._moto(environ, lambda *head: answered.append(head)))
            if self.objects is not None:
                self.objects.keep(bucket, key)
            start_response(*answered[-1])
            return answer

    def _object(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """An object for who may not list: S3 does not tell that it is not there."""
        answered: list[Any] = []
        body = list(self._moto(environ, lambda *answer: answered.append(answer)))
        status, headers, *_ = answered[-1]
        if status.startswith("404"):
            return _denied(start_response, Denied("s3", "AccessDenied", "Access Denied", 403))
        start_response(status, headers)
        return body

    def _transcribe(self, action: str, raw: bytes, start_response: StartResponse) -> Iterable[bytes]:
        try:
            return _json(start_response, 200, self.transcribe(action, json.loads(raw)), "application/x-amz-json-1.1")
        except TranscribeError as error:
            document = {"__type": error.code, "Message": str(error)}
            return _json(start_response, 400, document, "application/x-amz-json-1.1")

    def _api(self, action: str, raw: bytes, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        try:
            body = json.loads(raw or b"{}")
            self._step_functions.guard(action, body)
            if action in self._actions:
                status, answer = self._actions[action](body)
                return _json(start_response, status, answer, "application/x-amz-json-1.0")
        except ApiError as error:
            document = {"__type": error.code, "message": str(error)}
            return _json(start_response, 400, document, "application/x-amz-json-1.0")
        if action != "StartExecution":
            return list(self._moto(environ, start_response))
        with self._step_functions.starting:
            return list(self._moto(environ, start_response))

    def _invoke(self, body: bytes, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        assert self.functions is not None
        raw_path = environ.get("RAW_URI") or environ.get("REQUEST_URI") or environ["PATH_INFO"]
        reference = raw_path.split("/functions/", 1)[1].split("/invocations", 1)[0]
        tenant = environ.get("HTTP_X_AMZ_TENANT_ID")
        try:
            if environ.get("HTTP_X_AMZ_INVOCATION_TYPE") == "Event":
                spec = self.functions.admit(reference, body, tenant, EVENT_LIMIT)
                self._accept(spec, body, tenant)
                start_response("202 Accepted", [("Content-Type", "application/json")])
                return [b""]
            answer = self.functions.invoke(reference, body, tenant)
        except InvokeError as error:
            headers = [("x-amzn-ErrorType", error.code), ("x-amzn-RequestId", str(uuid.uuid4()))]
            document = {"Type": "User", "message": str(error)}
            return _json(start_response, error.status, document, "application/json", headers)
        headers = [("X-Amz-Function-Error", answer.function_error)] if answer.function_error else []
        headers += [("X-Amz-Executed-Version", "1"), ("x-amzn-RequestId", str(uuid.uuid4()))]
        start_response("200 OK", [("Content-Type", "application/json"), *headers])
        return [answer.payload]

    def _http_api(self, route: Route, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """The HTTP API's Lambda proxy, payload format 2.0
        (https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html)."""
        assert self.functions is not None
        headers = {
            name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name.startswith("HTTP_")
        }
        event = {
            "version": "2.0",
            "routeKey": f"{route.method} {route.path}",
            "rawPath": route.path,
            "rawQueryString": environ.get("QUERY_STRING", ""),
            "headers": {**headers, "content-type": environ.get("CONTENT_TYPE", "")},
            "requestContext": {"http": {"method": route.method, "path": route.path}, "timeEpoch": int(time.time())},
            "body": _body(environ).decode("utf-8", "replace"),
            "isBase64Encoded": False,
        }
        answer = self.functions.invoke(route.function, json.dumps(event).encode())
        result = json.loads(answer.payload)
        if answer.function_error or "statusCode" not in result:
            return _json(start_response, 500, {"message": "Internal Server Error"}, "application/json")
        status = HTTPStatus(result["statusCode"])
        start_response(f"{status.value} {status.phrase}", list(result.get("headers", {}).items()))
        return [result.get("body", "").encode()]

    def deliver_status(self, execution: Any) -> None:
        """EventBridge: *Step Functions Execution Status Change* to the functions whose rules match.

        https://docs.aws.amazon.com/step-functions/latest/dg/eventbridge-integration.html
        """
        event = {
            "source": "aws.states",
            "detail-type": "Step Functions Execution Status Change",
            "resources": [execution.exec_arn],
            "detail": {
                "executionArn": execution.exec_arn,
                "stateMachineArn": execution.state_machine.arn,
                "name": execution.name,
                "status": ExecutionStatus(execution.exec_status).value,
                "startDate": int(execution.start_date.timestamp() * 1000),
                "stopDate": int(execution.stop_date.timestamp() * 1000) if execution.stop_date else None,
            },
        }
        for rule in self.rules:
            if self.functions is not None and matches(rule.pattern, event):
                spec = self.functions.admit(rule.function, b"", None, EVENT_LIMIT)
                self._invoke_asynchronously(spec, json.dumps(event).encode())

    def _accept(self, spec: FunctionSpec, event: bytes, tenant: str | None = None) -> None:
        """Begin an asynchronous invocation; it is kept until it ends: what was accepted comes at least once."""
        row = Row(uuid.uuid4().hex, 0, [spec.name, event.decode(), tenant])
        self._store.keep(Change("invocation", *row))
        self.carry_out(row)

    def carry_out(self, invocation: Row) -> None:
        """Invoke asynchronously, in the background, and then forget it. Raises InvokeError when it can never be."""
        assert self.functions is not None
        name, event, tenant = invocation.value
        spec = self.functions.admit(name, b"", tenant, EVENT_LIMIT)

        def work() -> None:
            with suppress(Closed):
                self._invoke_asynchronously(spec, event.encode(), tenant)
                self._store.keep(Change("invocation", invocation.owner, invocation.number, None))

        threading.Thread(target=work, daemon=True, name=f"{BACKGROUND} {name}").start()

    def _invoke_asynchronously(self, spec: FunctionSpec, event: bytes, tenant: str | None = None) -> None:
        """As Lambda does for EventBridge and for asynchronous callers, here without the minutes in between.

        Twice again when the function fails, unless its configuration says otherwise; for as long as the configuration
        says when it cannot be started. Then the destination is told
        (https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-error-handling.html).
        """
        assert self.functions is not None
        began, pause, answer = time.monotonic(), 0.1, None
        for _ in range(1 + spec.retries):
            answer = None
            while answer is None and not self.functions.stopped and time.monotonic() - began < spec.max_age:
                try:
                    answer = self.functions.invoke(spec.name, event, tenant)
                except InvokeError:
                    time.sleep(pause)
                    pause = min(2 * pause, 5.0)
            if answer is None or answer.function_error is None:
                break
        if (answer is None or answer.function_error) and not self.functions.stopped:
            self._tell_destination(spec, event, answer)

    def _tell_destination(self, spec: FunctionSpec, event: bytes, answer: Answer | None) -> None:
        """The record of an invocation that failed, to the function that is to hear of it, by the failed one's own role
        (https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html)."""
        assert self.functions is not None
        may = self.access.policies.get(spec.name, [])
        if spec.on_failure is None or not allows(may, Wanted("lambda:InvokeFunction", spec.on_failure)):
            return
        record: dict[str, Any] = {
            "version": "1.0",
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "requestContext": {
                "requestId": str(uuid.uuid4()),
                "functionArn": f"{spec.arn}:$LATEST",
                "condition": "EventAgeExceeded" if answer is None else "RetriesExhausted",
                "approximateInvokeCount": 1 if answer is None else 1 + spec.retries,
            },
            "requestPayload": json.loads(event),
        }
        if answer is not None:
            record["responseContext"] = {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"}
            record["responsePayload"] = json.loads(answer.payload)
        destination = self.functions.admit(spec.on_failure, b"", None, EVENT_LIMIT)
        self._accept(destination, json.dumps(record).encode())


def matches(pattern: dict[str, Any], event: dict[str, Any]) -> bool:
    """Whether an event matches a pattern of exact values, the form the template uses."""
    for key, wanted in pattern.items():
        value = event.get(key)
        if isinstance(wanted, dict):
            if not isinstance(value, dict) or not matches(wanted, value):
                return False
        elif value not in wanted:
            return False
    return True


def _denied(start_response: StartResponse, denied: Denied) -> Iterable[bytes]:
    """The refusal, in the service's own form."""
    if denied.service not in ("s3", "sts"):
        document = {"__type": denied.code, "message": str(denied)}
        return _json(start_response, denied.status, document, "application/x-amz-json-1.0")
    error = f"<Error><Code>{denied.code}</Code><Message>{escape(str(denied))}</Message></Error>"
    body = error if denied.service == "s3" else f"<ErrorResponse>{error}</ErrorResponse>"
    start_response(f"{denied.status} {HTTPStatus(denied.status).phrase}", [("Content-Type", "application/xml")])
    return [body.encode()]


def _not_a_number(value: Any) -> str | None:
    """A value of DynamoDB's type N that is no number, which moto takes (API reference, AttributeValue)."""
    if isinstance(value, list):
        return next((wrong for item in value if (wrong := _not_a_number(item)) is not None), None)
    if not isinstance(value, dict):
        return None
    if set(value) == {"N"} and isinstance(value["N"], str):
        return None if NUMBER.fullmatch(value["N"]) else value["N"]
    return _not_a_number(list(value.values()))


def _body(environ: Environ) -> bytes:
    body: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    return body


def _json(
    start_response: StartResponse,
    status: int,
    document: dict[str, Any],
    content_type: str,
    headers: Iterable[tuple[str, str]] = (),
) -> Iterable[bytes]:
    given = [("Content-Type", content_type), ("x-amzn-RequestId", str(uuid.uuid4())), *headers]
    start_response(f"{status} {HTTPStatus(status).phrase}", given)
    return [json.dumps(document).encode()]
