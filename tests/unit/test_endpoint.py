"""The model's endpoint on loopback, in front of a stand-in of the model: what passes, what it costs, what does not."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from functions.agent.model import endpoint, request, spending, upstream
from functions.agent.model.endpoint import Endpoint
from functions.agent.model.metering import Form, Meter, NotCounted, Spent
from functions.agent.model.spending import Spending
from functions.agent.settings import AgentSettings
from functions.common import aws
from functions.common.errors import ConfigurationError
from functions.common.models import Usage, known
from functions.conversation.files.snapshots import Snapshots
from stepgram.embedded.bedrock import chunk, exception
from tests.conftest import until

MODEL = "global.anthropic.claude-opus-5-5"
STREAM, INVOKE = f"/model/{MODEL}/invoke-with-response-stream", f"/model/{MODEL}/invoke"
BODY = b'{"messages": [], "max_tokens": 1000}'
SECONDS = 10
ROLE = Credentials("role-key", "role-secret", "role-token")


class Kept(Snapshots):
    """Keeps records in memory."""

    def __init__(self) -> None:
        self.records: list[Any] = []

    def write(self, key: str, value: Any) -> None:
        self.records.append(value)


@dataclass
class Model:
    """A server that answers as it is told, byte by byte: `plays` are what is sent, a number a pause in seconds."""

    plays: list[list[bytes | float]] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    connections: int = 0
    played: int = 0

    def __post_init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError), near, near.makefile("rb") as incoming:
            while line := incoming.readline().decode():
                method, target, _ = line.split(" ", 2)
                headers = {k.lower(): v for k, v in http.client.parse_headers(incoming).items()}
                body = incoming.read(int(headers.get("content-length", 0)))
                self.requests.append((method, target, headers, body))
                for part in self.plays.pop(0):
                    time.sleep(part) if isinstance(part, float) else near.sendall(part)
                self.played += 1
                if not self.plays:
                    return


def whole(body: bytes, status: int = 200, *headers: str) -> list[bytes | float]:
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers]
    return ["\r\n".join(lines).encode() + b"\r\n\r\n" + body]


def streamed(*pieces: bytes | float, kind: str = "application/vnd.amazon.eventstream") -> list[bytes | float]:
    """A chunked answer; without its last piece the stream breaks."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\nx-amzn-requestid: r1\r\n\r\n"
    return [head.encode(), *(p if isinstance(p, float) else b"%x\r\n%b\r\n" % (len(p), p) for p in pieces)]


END = b"0\r\n\r\n"


def message_start(tokens: int = 1000, model: str = "claude-opus-5-5") -> dict[str, Any]:
    message = {"id": "m", "type": "message", "model": model, "usage": {"input_tokens": tokens, "output_tokens": 1}}
    return {"type": "message_start", "message": message}


def delta(text: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}


def message_delta(tokens: int) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": tokens}}


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in events)


def named(model: str = "claude-opus-5-5", **more: Any) -> bytes:
    return json.dumps({"model": model, **json.loads(BODY), **more}).encode()


def cost(input_tokens: int, output_tokens: int, model: str = MODEL) -> float:
    return known().cost(model, Usage(input_tokens=input_tokens, output_tokens=output_tokens))


ANSWER = chunk(message_start()) + chunk(delta("hello")) + chunk(message_delta(100))


@pytest.fixture
def model() -> Iterator[Model]:
    served = Model()
    yield served
    served.close()


@dataclass
class Cli:
    """What speaks to the endpoint as the CLI does."""

    endpoint: Endpoint
    spending: Spending

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", urlsplit(self.endpoint.url).port or 0, timeout=SECONDS)

    def begin(
        self, path: str, body: bytes = BODY, method: str = "POST", key: bool = True, **headers: str
    ) -> http.client.HTTPResponse:
        connection = self.connect()
        connection.request(
            method,
            (urlsplit(self.endpoint.url).path if key else "") + path,
            body,
            {k.replace("_", "-"): v for k, v in headers.items()},
        )
        return connection.getresponse()

    def ask(self, path: str = STREAM, body: bytes = BODY, **given: Any) -> tuple[int, bytes]:
        answer = self.begin(path, body, **given)
        return answer.status, answer.read()


Opens = Callable[..., Cli]


@pytest.fixture
def opens(model: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opens]:
    """Opens an endpoint whose run goes on; other variables may be given, and the secret's document."""
    with contextlib.ExitStack() as closing:

        def opened(secret: dict[str, str] | None = None, budget: float = 1.0, **more: str) -> Cli:
            monkeypatch.setattr(upstream, "secret", lambda name: json.dumps(secret))
            monkeypatch.setattr(aws, "credentials", lambda: ROLE.get_frozen_credentials())
            names = {f"ANTHROPIC_DEFAULT_{name}_MODEL": name.lower() for name in ("OPUS", "SONNET", "HAIKU")}
            given = {"SESSION_BUCKET": "b", "CALLBACK_FUNCTION": "p", "AWS_REGION": "eu-west-1", "MODEL_ID": MODEL}
            secret_id = {"MODEL_SECRET_ID": "arn"} if secret else {}
            where = {"MODEL_BASE_URL": model.url} | more
            settings = AgentSettings.model_validate(
                {**given, **names, **secret_id, **{k: v for k, v in where.items() if v}}
            )
            made = Endpoint(settings, frozenset({MODEL, "claude-opus-5-5", "arn:aws:bedrock:profile/x"}))
            closing.callback(made.close)
            spending = Spending(Kept(), "s", "t", 1, MODEL)
            spending.budget_usd = budget
            closing.enter_context(made.serving(spending))
            return Cli(made, spending)

        yield opened


# ------------------------------------------------------------------------------------------------ what passes


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_stream_passes_byte_by_byte_and_is_counted(model: Model, opens: Opens, size: int) -> None:
    pieces = [ANSWER[at : at + size] for at in range(0, len(ANSWER), size)]
    model.plays = [[*streamed(*pieces), END]]
    cli = opens()

    answer = cli.begin(STREAM, BODY, anthropic_beta="a,b", anthropic_version="v")

    assert (answer.status, answer.read()) == (200, ANSWER)
    assert answer.getheader("x-amzn-requestid") == "r1"
    assert cli.spending.cost_usd == pytest.approx(cost(1000, 100))
    assert (cli.spending.input_tokens, cli.spending.output_tokens) == (1000, 100)
    method, target, headers, body = model.requests[0]
    assert (method, target, body) == ("POST", STREAM, BODY)
    assert (headers["anthropic-beta"], headers["anthropic-version"]) == ("a,b", "v")
    assert headers["accept-encoding"] == "identity"


def test_nothing_is_held_back(model: Model, opens: Opens) -> None:
    """The next piece comes only when the last one was read."""
    first, rest = chunk(message_start()), chunk(message_delta(1))
    model.plays = [[*streamed(first, 0.5, rest), END]]
    answer = opens().begin(STREAM)
    started = time.monotonic()

    seen = answer.read1()

    assert seen == first
    assert time.monotonic() - started < 0.4
    assert answer.read() == rest


def test_the_messages_api_passes_and_is_counted(model: Model, opens: Opens) -> None:
    events = sse(message_start(), delta("data: [x]"), message_delta(50))
    model.plays = [[*streamed(events[:33], events[33:], kind="text/event-stream"), END]]
    cli = opens({"ANTHROPIC_API_KEY": "sk"}, MODEL_PROVIDER="anthropic")

    status, body = cli.ask("/v1/messages?beta=true", named(), x_api_key="the agent's")

    assert (status, body) == (200, events)
    assert cli.spending.cost_usd == pytest.approx(cost(1000, 50))
    assert model.requests[0][1] == "/v1/messages?beta=true"
    assert model.requests[0][2]["x-api-key"] == "sk"


@pytest.mark.parametrize("provider", ["bedrock", "anthropic"])
def test_a_whole_answer_passes_and_is_counted(model: Model, opens: Opens, provider: str) -> None:
    document = json.dumps({"type": "message", "model": MODEL, "usage": {"input_tokens": 10, "output_tokens": 5}})
    model.plays = [whole(document.encode(), 200, "Content-Type: application/json")]
    cli = opens(MODEL_PROVIDER=provider)
    path, body = (INVOKE, BODY) if provider == "bedrock" else ("/v1/messages", named())

    assert cli.ask(path, body) == (200, document.encode())
    assert cli.spending.cost_usd == pytest.approx(cost(10, 5))


def test_counting_tokens_costs_nothing(model: Model, opens: Opens) -> None:
    model.plays = [whole(b'{"input_tokens": 9}', 200, "Content-Type: application/json")]
    cli = opens(MODEL_PROVIDER="anthropic")

    assert cli.ask("/v1/messages/count_tokens?beta=true", named())[0] == 200
    assert cli.spending.cost_usd == 0


def test_a_model_that_is_asked_for_by_an_arn_keeps_its_form(model: Model, opens: Opens) -> None:
    model.plays = [whole(b"{}", 429)]

    opens().ask("/model/arn:aws:bedrock:profile%2fx/invoke")

    assert model.requests[0][1] == "/model/arn:aws:bedrock:profile%2Fx/invoke"


# ------------------------------------------------------------------------------------------------ errors


def test_a_refusal_of_the_models_passes_with_what_the_clis_retries_go_by(model: Model, opens: Opens) -> None:
    model.plays = [whole(b'{"message": "slow down"}', 429, "Retry-After: 7", "x-amzn-errortype: ThrottlingException")]
    cli = opens()

    answer = cli.begin(STREAM)

    assert (answer.status, answer.read()) == (429, b'{"message": "slow down"}')
    assert answer.getheader("retry-after") == "7"
    assert answer.getheader("x-amzn-errortype") == "ThrottlingException"
    assert cli.spending.cost_usd == 0


@pytest.mark.parametrize("length", [None, 2**31], ids=["chunked", "by length"])
def test_a_stream_that_breaks_off_breaks_off_and_what_was_said_counts(
    model: Model, opens: Opens, length: int | None
) -> None:
    said = chunk(message_start()) + chunk(delta("x" * 4000))
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode()
    model.plays = [[head, said] if length else streamed(said)]
    cli = opens()

    with pytest.raises(http.client.IncompleteRead) as broken:
        cli.ask()

    assert broken.value.partial in (said, b"")
    until(lambda: cli.spending.output_tokens == 1000, SECONDS)
    assert cli.spending.cost_usd == pytest.approx(cost(1000, 1000))


def test_an_error_that_ends_a_stream_passes(model: Model, opens: Opens) -> None:
    said = chunk(message_start()) + exception("throttlingException")
    model.plays = [[*streamed(said), END]]

    assert opens().ask() == (200, said)


def test_what_cannot_be_counted_does_not_pass(model: Model, opens: Opens) -> None:
    model.plays = [[*streamed(b"x" * 100), END], whole(b"[1]", 200)]
    cli = opens()

    with pytest.raises(http.client.IncompleteRead):
        cli.ask()
    assert cli.ask(INVOKE)[0] == 502


@pytest.mark.parametrize(
    "play", [[b""], [b"nonsense\r\n\r\n"], whole(b"", 307, "Location: http://127.0.0.1:9/"),
             whole(b"x", 200, "Content-Encoding: gzip")], ids=["hung up", "no HTTP", "redirects", "compresses"],
)  # fmt: skip
def test_no_answer_is_an_error_that_the_cli_repeats(model: Model, opens: Opens, play: list[bytes | float]) -> None:
    model.plays = [play]

    assert opens().ask()[0] == 502
    assert len(model.requests) == 1


def test_nobody_there_is_an_error_that_the_cli_repeats(model: Model, opens: Opens) -> None:
    cli = opens(MODEL_BASE_URL="http://127.0.0.1:9")

    assert cli.ask()[0] == 502


def test_an_error_that_quotes_the_request_tells_no_key(model: Model, opens: Opens) -> None:
    """AWS's SignatureDoesNotMatch quotes the headers it was sent."""
    model.plays = [whole(b'{"message": "x-amz-security-token:another-token, key another"}', 403)]
    cli = opens({"AWS_ACCESS_KEY_ID": "another", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "another-token"})

    assert b"another" not in cli.ask()[1]


# ------------------------------------------------------------------------------------------------ who asks


def signature(request: tuple[str, str, dict[str, str], bytes], credentials: Credentials) -> str:
    """The authorisation that botocore's own signer gives such a request at that time."""
    method, target, headers, body = request
    signed = AWSRequest(method, f"http://{headers['host']}{target}", data=body)
    moment = datetime.strptime(headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("botocore.auth.get_current_datetime", lambda: moment)
        SigV4Auth(credentials, "bedrock", "eu-west-1").add_auth(signed)
    return str(signed.headers["Authorization"])


@pytest.mark.parametrize("path", [STREAM, "/model/arn:aws:bedrock:profile%2Fx/invoke"])
def test_another_accounts_keys_sign(model: Model, opens: Opens, path: str) -> None:
    model.plays = [whole(b"{}", 400)]
    keys = {"AWS_ACCESS_KEY_ID": "other", "AWS_SECRET_ACCESS_KEY": "hidden", "AWS_SESSION_TOKEN": "t"}

    opens(keys).ask(path, BODY, x_amz_security_token="the agent's", authorization="the agent's")

    headers = model.requests[0][2]
    assert headers["authorization"] == signature(model.requests[0], Credentials("other", "hidden", "t"))
    assert "Credential=other/" in headers["authorization"]
    assert headers["x-amz-security-token"] == "t"


def test_the_functions_role_signs_for_bedrock_itself(opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        "urllib3.HTTPSConnectionPool.urlopen", lambda pool, *given, **_: asked.append((pool.host, *given))
    )
    up = upstream.Upstream(opens(MODEL_BASE_URL="").endpoint._settings)

    up.ask(STREAM, {"anthropic-version": "v"}, b"{}")

    host, method, target, body, headers = asked[0]
    assert (host, method, target, body) == ("bedrock-runtime.eu-west-1.amazonaws.com", "POST", STREAM, b"{}")
    assert "Credential=role-key/" in headers["Authorization"]
    sent = {name.lower(): value for name, value in headers.items()} | {"host": host}
    assert headers["Authorization"] == signature((method, target, sent, body), ROLE)
    assert sent["x-amz-security-token"] == "role-token"


@pytest.mark.parametrize(
    ("secret", "header", "value"),
    [
        ({"AWS_BEARER_TOKEN_BEDROCK": "b"}, "authorization", "Bearer b"),
        ({"ANTHROPIC_API_KEY": "k"}, "x-api-key", "k"),
        (None, "authorization", None),
    ],
)
def test_an_api_key_is_carried_and_a_gateway_without_a_secret_gets_none(
    model: Model, opens: Opens, secret: dict[str, str] | None, header: str, value: str | None
) -> None:
    model.plays = [whole(b"{}", 400)]

    sent = ("authorization", "cookie", "x_amz_date", "proxy_authorization", "x_forwarded_for")
    opens(secret).ask(**dict.fromkeys(sent, "the agent's"))

    headers = model.requests[0][2]
    assert headers.get(header) == value
    assert "the agent's" not in headers.values()


def test_a_gateway_below_a_path_is_asked_there(model: Model, opens: Opens) -> None:
    model.plays = [whole(b"{}", 400)]

    opens({"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}, MODEL_BASE_URL=f"{model.url}/bedrock/").ask()

    assert model.requests[0][1] == f"/bedrock{STREAM}"
    assert model.requests[0][2]["authorization"] == signature(model.requests[0], Credentials("k", "s"))


@pytest.mark.parametrize(
    ("secret", "provider"),
    [({"ANTHROPIC_API_KEY": "k"}, "bedrock"), ({"AWS_ACCESS_KEY_ID": "k"}, "anthropic"), (None, "anthropic")],
)
def test_a_secret_without_the_providers_keys_is_named(
    opens: Opens, secret: dict[str, str] | None, provider: str
) -> None:
    with pytest.raises(ConfigurationError, match="secret"):
        opens(secret, MODEL_BASE_URL="", MODEL_PROVIDER=provider)


def test_no_proxy_of_the_environment_is_used(model: Model, opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    model.plays = [whole(b"{}", 400)]

    assert opens().ask()[0] == 400


# ------------------------------------------------------------------------------------------------ what does not pass


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/model/anthropic.claude-3-haiku/invoke", 403),
        ("POST", f"/model/{MODEL}%2f..%2fother/invoke", 403),
        ("POST", f"/model/{MODEL}/converse", 404),
        ("POST", f"/model/{MODEL}/invoke?x=1", 404),
        ("POST", "/v1/messages", 404),
        ("POST", "//169.254.169.254/", 404),
        ("GET", STREAM, 404),
        ("GET", "/inference-profiles/other", 403),
        ("GET", "/foundation-models", 404),
        ("PUT", STREAM, 501),
        ("CONNECT", STREAM, 501),
    ],
)
def test_nothing_else_passes(model: Model, opens: Opens, method: str, path: str, status: int) -> None:
    assert opens().ask(path, method=method)[0] == status
    assert model.requests == []


@pytest.mark.parametrize("body", [b'{"model": "claude-haiku-5-5"}', b"[]", b"nonsense", b"[" * 100_000])
def test_another_model_does_not_pass_in_a_body(model: Model, opens: Opens, body: bytes) -> None:
    assert opens(MODEL_PROVIDER="anthropic").ask("/v1/messages", body)[0] in (400, 403)
    assert model.requests == []


def test_who_does_not_know_the_address_gets_nothing(model: Model, opens: Opens) -> None:
    cli = opens()

    assert cli.ask(STREAM, key=False)[0] == 404
    assert cli.ask("/" + "x" * 22 + STREAM, key=False)[0] == 404
    assert cli.ask("/inference-profiles", method="GET", key=False)[0] == 404
    assert model.requests == []


def test_the_clis_question_at_its_start_is_answered_here(model: Model, opens: Opens) -> None:
    status, body = opens().ask("/inference-profiles?type=SYSTEM_DEFINED", method="GET")

    assert (status, json.loads(body)) == (200, {"inferenceProfileSummaries": []})
    assert model.requests == []


def test_a_configured_profile_is_looked_up(model: Model, opens: Opens) -> None:
    model.plays = [whole(b'{"models": []}', 200), whole(b"no", 403)]
    cli = opens()
    path = "/inference-profiles/arn:aws:bedrock:profile%2Fx"

    assert cli.ask(path, method="GET") == (200, b'{"models": []}')
    assert cli.ask(path, method="GET")[0] == 404


def test_a_body_that_is_too_large_or_has_no_length_does_not_pass(model: Model, opens: Opens) -> None:
    cli = opens()
    path = urlsplit(cli.endpoint.url).path + STREAM
    for header, status in (("Content-Length", 413), ("Transfer-Encoding", 411)):
        connection = cli.connect()
        connection.putrequest("POST", path)
        connection.putheader(header, str(endpoint.BODY_BYTES + 1) if header == "Content-Length" else "chunked")
        connection.endheaders()
        assert connection.getresponse().status == status
    assert model.requests == []


def test_outside_a_run_nothing_passes_and_what_passes_at_its_end_is_cut(model: Model, opens: Opens) -> None:
    model.plays = [[*streamed(chunk(message_start()), 30.0)]]
    cli = opens()
    with cli.endpoint.serving(cli.spending):
        answer = cli.begin(STREAM)
        assert answer.read1() == chunk(message_start())

    with pytest.raises(http.client.IncompleteRead):
        answer.read()
    assert cli.ask()[0] == 403


def test_many_at_once_wait_for_a_place(model: Model, opens: Opens) -> None:
    model.plays = [[0.2, *whole(b"{}", 429)] for _ in range(12)]
    model.plays = [[*play] for play in model.plays]
    cli = opens()
    threads = [threading.Thread(target=cli.ask) for _ in range(12)]

    for thread in threads:
        thread.start()
    time.sleep(0.1)
    at_once = len(model.requests)
    for thread in threads:
        thread.join(SECONDS)

    assert at_once <= upstream.CONNECTIONS
    assert len(model.requests) == 12


# ------------------------------------------------------------------------------------------------ the budget


def test_a_spent_budget_refuses_at_once_and_the_next_run_has_its_own(model: Model, opens: Opens) -> None:
    model.plays = [[*streamed(ANSWER), END], [*streamed(ANSWER), END]]
    cli = opens(budget=cost(1000, 50))
    assert cli.ask()[0] == 200
    assert not cli.spending.refused

    status, words = cli.ask()

    assert (status, json.loads(words)["message"]) == (402, endpoint.SPENT)
    assert cli.spending.refused
    assert len(model.requests) == 1
    later = Spending(Kept(), "s", "t2", 1, MODEL)
    with cli.endpoint.serving(later):
        assert cli.ask()[0] == 200
    assert later.cost_usd == cli.spending.cost_usd


def test_the_record_says_what_may_be_spent_before_it_is_and_in_the_end_what_was(model: Model, opens: Opens) -> None:
    """Whoever kills this process in the middle of a request has been counted."""
    model.plays = [[*streamed(chunk(message_start()), 1.0, chunk(message_delta(100))), END]]
    cli = opens()
    kept: Any = cli.spending._snapshots
    answer = cli.begin(STREAM)

    assert [record.cost_usd for record in kept.records] == [pytest.approx(0.25 + cost(0, 1000), rel=0.1)]
    answer.read()
    until(lambda: cli.spending.ended(0), SECONDS)
    cli.spending.keep()
    assert kept.records[-1].cost_usd == round(cost(1000, 100), 6)


@pytest.mark.parametrize(("path", "output_tokens"), [(INVOKE, 1000), (STREAM, 0)])
def test_what_had_no_answer_when_its_run_ended_counts_and_goes_no_further(
    model: Model, opens: Opens, path: str, output_tokens: int
) -> None:
    """A whole answer is made, and paid for, whoever hangs up; one that streams is not."""
    model.plays = [[30.0]]
    cli, later = opens(), Spending(Kept(), "s", "t2", 1, MODEL)
    asking = threading.Thread(target=_quietly, args=(cli, path))

    with cli.endpoint.serving(later):
        asking.start()
        until(lambda: bool(model.requests), SECONDS)

    prompt = 1.25 * cost(len(BODY) // request.BYTES_A_TOKEN, 0)  # as it may be kept for the next one
    assert later.cost_usd == pytest.approx(prompt + cost(0, output_tokens), rel=0.1), "when the run has ended"
    asking.join(SECONDS)
    assert not asking.is_alive()


def test_what_was_refused_or_never_reached_the_model_costs_nothing(model: Model, opens: Opens) -> None:
    model.plays = [whole(b"{}", 429)]
    cli = opens()
    assert cli.ask(INVOKE)[0] == 429
    nowhere = opens(MODEL_BASE_URL="http://127.0.0.1:9")
    assert nowhere.ask(INVOKE)[0] == 502

    assert (cli.spending.cost_usd, nowhere.spending.cost_usd) == (0, 0)


def test_requests_at_once_cannot_spend_what_is_left_many_times(model: Model, opens: Opens) -> None:
    most = cost(len(BODY), 1000)
    document = json.dumps({"type": "message", "model": MODEL, "usage": {"input_tokens": 10, "output_tokens": 1000}})
    model.plays = [[0.1, *whole(document.encode())] for _ in range(20)]
    cli = opens(budget=3 * most)
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(cli.ask(INVOKE)[0])) for _ in range(20)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)

    assert sorted(set(answers)) == [200, 402]
    assert cli.spending.cost_usd <= 4 * most


def test_who_waits_too_long_for_room_is_told_to_come_again(
    model: Model, opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spending, "ROOM_SECONDS", 0.1)
    model.plays = [[*streamed(chunk(message_start()), 30.0)]]
    cli = opens(budget=cost(1500, 1000))
    assert cli.begin(STREAM).status == 200

    refused = cli.begin(STREAM)

    assert (refused.status, refused.getheader("retry-after")) == (429, str(endpoint.RETRY_AFTER))
    assert len(model.requests) == 1


def test_an_answer_far_beyond_the_budget_is_cut_in_its_middle(model: Model, opens: Opens) -> None:
    said = chunk(delta("x" * 40_000))
    model.plays = [[*streamed(chunk(message_start()), *[said] * 12, 30.0)]]
    cli = opens(budget=cost(1000, 50_000))

    with pytest.raises(http.client.IncompleteRead):
        cli.begin(STREAM, _with(max_tokens=10**6)).read()

    assert 2 * cost(1000, 50_000) <= cli.spending.cost_usd
    assert cli.ask()[0] == 402


def test_what_arrived_before_it_was_cut_counts(model: Model, opens: Opens) -> None:
    """Whoever hangs up pays for what was made until then."""
    model.plays = [[*streamed(chunk(message_start()), chunk(delta("x" * 40_000)), chunk(message_delta(12_345))), END]]
    cli = opens()
    answer = cli.endpoint._upstream.ask(STREAM, {}, BODY)
    meter = Meter("eventstream", MODEL, lambda spent: cli.spending.told("r", spent))
    until(lambda: model.played, SECONDS)

    endpoint._hear_rest(answer, meter)

    assert cli.spending.cost_usd == pytest.approx(cost(1000, 12_345))


def _quietly(cli: Cli, path: str) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        cli.ask(path)


def _with(**more: Any) -> bytes:
    return json.dumps({**json.loads(BODY), **more}).encode()


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (_with(tools=[{"type": "web_search_20250305", "name": "web_search"}]), "web_search"),
        (_with(tools={"type": "web_search_20250305"}), "tools"),
        (_with(mcp_servers=[{"url": "https://x"}]), "mcp_servers"),
        (_with(speed="fast"), "speed"),
        (_with(service_tier="priority"), "service_tier"),
        (_with(inference_geo="us"), "inference_geo"),
        (_with(container={"skills": []}), "container"),
        (_with(context_management={"edits": [{"type": "compact_20260112"}]}), "context_management"),
        (_with(context_management={"edits": {}}), "context_management"),
        (_with(max_tokens=None), "max_tokens"),
        (_with(max_tokens=-1), "max_tokens"),
        (_with(max_tokens=True), "max_tokens"),
        (BODY[:-1] + b', "max_tokens": 2}', "twice"),
        (b"[]", "object"),
        (b"[" * 100_000, "JSON"),
    ],
)
def test_what_costs_more_than_its_tokens_does_not_pass(model: Model, opens: Opens, body: bytes, named: str) -> None:
    status, words = opens().ask(STREAM, body)

    assert status == 400
    assert named in json.loads(words)["message"]
    assert model.requests == []


def test_headers_that_ask_for_more_do_not_pass(model: Model, opens: Opens) -> None:
    model.plays = [whole(b"{}", 429)]

    opens().ask(
        x_amzn_bedrock_service_tier="priority",
        x_amzn_bedrock_performanceconfig_latency="optimized",
        x_http_method_override="GET",
        x_stepgram_process="p",
        x_claude_code_session_id="s",
    )

    names = model.requests[0][2].keys()
    assert {"x-stepgram-process", "x-claude-code-session-id"} <= names
    assert not [name for name in names if name.startswith(("x-amzn", "x-http"))]


def test_an_image_is_reckoned_as_an_image() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "A" * 4_000_000}
    body = _with(messages=[{"role": "user", "content": [{"type": "image", "source": source}]}])

    tokens = request.read(body).prompt_tokens

    assert request.IMAGE_TOKENS <= tokens < request.IMAGE_TOKENS + 100


@given(st.lists(st.binary(max_size=200), max_size=10), st.sampled_from(["eventstream", "sse", "json"]))
def test_no_bytes_break_the_meter(pieces: list[bytes], form: Form) -> None:
    spent: list[Spent] = []
    meter = Meter(form, MODEL, spent.append)

    with contextlib.suppress(NotCounted):
        for piece in pieces:
            meter.hear(piece)
    meter.cut_off()

    assert all(one.cost_usd >= 0 for one in spent)


@given(st.lists(st.integers(1, 400), max_size=50), st.booleans(), st.integers(0, 10**6), st.integers(1, 10**5))
def test_the_cost_is_the_same_however_the_stream_is_cut(cuts: list[int], frames: bool, read: int, written: int) -> None:
    events = [message_start(read), delta("text"), message_delta(written)]
    stream = b"".join(map(chunk, events)) if frames else sse(*events)
    spent: list[Spent] = []
    meter = Meter("eventstream" if frames else "sse", MODEL, spent.append)

    for cut in cuts:
        meter.hear(stream[:cut])
        stream = stream[cut:]
    meter.hear(stream)

    assert spent[-1] == Spent(cost(read, written), read, written)


def test_the_answers_own_model_counts() -> None:
    spent: list[Spent] = []
    Meter("sse", MODEL, spent.append).hear(sse(message_start(1000, "claude-haiku-5-5")))

    assert spent[-1].cost_usd == cost(1000, 1, "claude-haiku-5-5")


def test_connections_are_checked_against_the_roots_of_trust() -> None:
    pool: Any = upstream._pool("https://bedrock-runtime.eu-west-1.amazonaws.com")

    assert pool.ca_certs
    assert pool.cert_reqs in (None, "CERT_REQUIRED", ssl.CERT_REQUIRED)
