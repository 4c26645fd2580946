"""Attacks on local ports: by pages of others, by names that lead here, by programs without a key, by files.

The attacker here knows every address, tokens included; only keys are secret.
"""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError
from flask import Flask
from playwright.sync_api import Browser, Error, Page

from docs.pictures import chromium
from stepgram.console.server import serve
from stepgram.embedded.client import OPERATOR, REGION, client, secret_key
from stepgram.embedded.runtime_api import Invocation, RuntimeApi
from stepgram.embedded.stack import EmbeddedStack
from stepgram.operators.stack import Stack, StackError, open_stack
from stepgram.server import HOST, Server, hosts
from tests.conftest import Faults, Person, until
from tests.e2e.test_command_line import Local, free_port
from tests.workflow.test_files import PNG

STOPPED_BY = (
    "One guard for all servers: their own `Host`, their own or no `Origin`, no leave for others to read; requests "
    "to AWS are signed with keys made anew at each start; files are attachments in a sandbox."
)

REBOUND = "rebound.example"
"""A name of the attacker's that means 127.0.0.1 by now."""


@dataclass(frozen=True)
class Ports:
    """All servers of a stack, and what can be read and started there by who knows the addresses."""

    stack: EmbeddedStack
    console: str
    turn: str
    chat: int
    picture: str

    @property
    def mark(self) -> str:
        """In what the attack sends."""
        return f"attack-{self.chat}-"

    @property
    def origins(self) -> list[str]:
        """Every server's address, without a path."""
        stack = self.stack
        others = (stack._telegram_server, stack._bedrock_server)
        return [stack.addresses.aws, *(server.url for server in others), "/".join(self.console.split("/")[:3])]

    @property
    def reads(self) -> list[str]:
        """What tells something to who may read it."""
        aws, telegram, model, _ = self.origins
        return [
            f"{aws}/",
            f"{aws}/{self.stack.deployment.outputs['SessionBucket']}?list-type=2",
            f"{self.stack.addresses.telegram}/",
            f"{self.stack.addresses.telegram}/chat.js",
            f"{self.stack.addresses.telegram}/person/chats/{self.chat}/messages",
            f"{self.stack.addresses.telegram}/person/files/{self.picture}",
            f"{telegram}/bot{self.stack.telegram.token}/getMe",
            f"{telegram}/file/bot{self.stack.telegram.token}/files/{self.picture}",
            f"{model}/inference-profiles",
            f"{self.console}api/turns",
            f"{self.console}console.js",
        ]

    @property
    def starts(self) -> list[tuple[str, dict[str, str]]]:
        """What a form can start, with the form's fields."""
        aws, telegram, model, _ = self.origins
        return [
            (f"{aws}/2015-03-31/functions/stepgram-IntakeFunction/invocations", {f'{{"state": "{self.mark}': '"}'}),
            (f"{aws}/webhook", {f'{{"update_id": 1, "a": "{self.mark}': '"}'}),
            (f"{aws}/", {"Action": "GetCallerIdentity", "Version": "2011-06-15"}),
            (f"{self.stack.addresses.telegram}/person/files", {"chat_id": str(self.chat)}),
            (f"{telegram}/bot{self.stack.telegram.token}/sendMessage", {"chat_id": str(self.chat), "text": "mine"}),
            (f"{model}/model/any/invoke", {f'{{"messages": [{{"role": "user", "content": "{self.mark}': '"}]}'}),
            (f"{self.console}api/turns/{self.turn}/rerun", {}),
        ]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium(f"--host-resolver-rules=MAP {REBOUND} {HOST}") as opened:
        yield opened


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    yield opened
    context.close()


@pytest.fixture
def ports(stack: EmbeddedStack, person: Person, chat: int) -> Iterator[Ports]:
    turn = person.ask(chat, "!error 403 1").name
    bot = f"{stack._telegram_server.url}/bot{stack.telegram.token}"
    sent = requests.post(f"{bot}/sendPhoto", {"chat_id": chat}, files={"photo": ("dot.png", PNG)}, timeout=10).json()
    picture = sent["result"]["photo"][0]["file_id"]
    server, address = serve(Stack(stack.addresses.outputs, stack.addresses.aws, stack.addresses.telegram))
    yield Ports(stack, address, turn, chat, picture)
    server.stop()


@dataclass
class Effects:
    """What an attack may have started."""

    ports: Ports
    faults: Faults

    def seen(self) -> tuple[Any, ...]:
        stack = self.ports.stack
        turn = next(e for e in stack.step_functions.executions() if e.name == self.ports.turn)
        return (
            [m["message_id"] for m in stack.telegram.state["chats"][str(self.ports.chat)]["messages"]],
            [method for method, given in stack.telegram.calls if str(given.get("chat_id")) == str(self.ports.chat)],
            [asked for asked in stack.bedrock.requests if self.ports.mark in json.dumps(asked)],
            turn.status,
            [event for _, event in self.faults.calls if self.ports.mark in json.dumps(event)],
        )


@pytest.fixture
def effects(ports: Ports, person: Person, faults: Faults) -> Effects:
    person.command(ports.chat, "/help")  # what came before is answered
    return Effects(ports, faults)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[int]:
    """The port of a page of others."""
    app = Flask("elsewhere", static_folder=None)
    app.add_url_rule("/", "page", lambda: "<title>Elsewhere</title>")
    server = Server(app)
    yield server.port
    server.stop()


ATTACK = """async ({reads, starts}) => {
  const read = [], soon = promise => Promise.race([promise, new Promise(done => setTimeout(done, 5000))]);
  const wait = (element, say) => soon(new Promise(done => {
    element.onload = () => { if (say) read.push(say); done(); };
    element.onerror = done;
    document.body.append(element);
  }));
  const make = (tag, attributes) => Object.assign(document.createElement(tag), attributes);
  for (const url of reads) {
    await fetch(url).then(async answer => read.push("fetch " + url + (await answer.text()))).catch(() => 0);
    await fetch(url, {headers: {"X-Amz-Target": "DynamoDB_20120810.ListTables"}, method: "POST", body: "{}"})
      .then(answer => read.push("fetch with headers " + url)).catch(() => 0);
    await fetch(url, {mode: "no-cors", credentials: "include"}).then(answer => answer.text()).catch(() => "")
      .then(text => text && read.push("no-cors " + url));
    await wait(make("img", {src: url}), "img " + url);
    await wait(make("script", {src: url}), "script " + url);
    await wait(make("link", {rel: "stylesheet", href: url}), "stylesheet " + url);
    const frame = make("iframe", {src: url});
    await wait(frame);
    if (frame.contentDocument?.body?.textContent) read.push("iframe " + url);
    await soon(new Promise(done => {
      const events = new EventSource(url);
      events.onopen = () => { read.push("EventSource " + url); done(); };
      events.onerror = () => { events.close(); done(); };
    }));
    await soon(new Promise(done => {
      const wire = new WebSocket(url.replace("http", "ws"));
      wire.onopen = () => { read.push("WebSocket " + url); done(); };
      wire.onclose = done;
    }));
  }
  for (const [url, fields] of starts) {
    const [name, value] = Object.entries(fields)[0] || ["", ""];
    const form = new FormData();
    for (const field in fields) form.append(field, fields[field]);
    form.append("file", new Blob(["mine"]), "mine.txt");
    for (const body of [name + "=" + value, new URLSearchParams(fields), form])
      await fetch(url, {method: "POST", mode: "no-cors", body}).catch(() => 0);
    navigator.sendBeacon(url, name + "=" + value);
    await wait(make("img", {src: url + "?" + new URLSearchParams(fields)}), "img " + url);
    for (const enctype of ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]) {
      const target = make("iframe", {name: "f" + Math.random()});
      document.body.append(target);
      const sent = make("form", {method: "POST", action: url, enctype, target: target.name});
      for (const field in fields) sent.append(make("input", {name: field, value: fields[field]}));
      document.body.append(sent);
      await soon(new Promise(done => { target.onload = done; sent.submit(); }));
    }
  }
  return read;
}"""


def carried_out(page: Page, ports: Ports, inside: Callable[[str], str] = str) -> tuple[list[str], set[int], int]:
    """Every attack of the page that is open: what it read, the statuses of the answers, and how many there were.

    `inside` changes the addresses.
    """
    statuses: list[int] = []
    page.on("response", lambda answer: statuses.append(answer.status))
    targets = {
        "reads": [inside(url) for url in ports.reads],
        "starts": [(inside(url), fields) for url, fields in ports.starts],
    }
    read: list[str] = page.evaluate(ATTACK, targets)
    return read, set(statuses), len(statuses)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"], ids=["same site", "other site"])
@pytest.mark.timeout(400)
def test_a_page_of_another_origin_reads_and_starts_nothing(
    page: Page, ports: Ports, effects: Effects, elsewhere: int, name: str
) -> None:
    before = effects.seen()
    page.goto(f"http://{name}:{elsewhere}/")

    read, statuses, count = carried_out(page, ports)

    assert read == []
    assert statuses == {403}
    assert count > 3 * (len(ports.reads) + len(ports.starts))
    assert effects.seen() == before


def test_a_link_of_another_page_leads_nowhere(page: Page, ports: Ports, elsewhere: int) -> None:
    for url in ports.reads:
        page.goto(f"http://{HOST}:{elsewhere}/")
        page.set_content(f"<a href='{url}'>win</a>")
        with page.expect_navigation() as led:
            page.get_by_text("win").click()
        assert led.value.status == 403
        assert "Refused" in page.content()


@pytest.mark.timeout(400)
def test_a_name_that_was_rebound_to_this_machine_reads_and_starts_nothing(
    page: Page, ports: Ports, effects: Effects
) -> None:
    """The attacker's page is there when its name begins to lead here: to Chromium all is its own origin."""
    before = effects.seen()
    for origin in ports.origins:
        port = origin.rpartition(":")[2]
        here = f"http://{REBOUND}:{port}"
        page.goto(here)
        own = [url.replace(origin, here) for url in ports.reads if url.startswith(origin)]
        for url in own:
            answer = page.evaluate("url => fetch(url).then(async a => [a.status, await a.text()])", url)
            assert answer == [
                403,
                f"Refused: this server is {HOST}:{port} or localhost:{port}, whatever else leads to it.",
            ]
        for url, fields in ports.starts:
            body = {"url": url.replace(origin, here), "fields": fields}
            page.evaluate("({url, fields}) => fetch(url, {method: 'POST', mode: 'no-cors', "
                          "body: new URLSearchParams(fields)}).catch(() => 0)", body)  # fmt: skip

    assert effects.seen() == before


def raw(port: int, *lines: str, body: str = "") -> str:
    """What a server says to a request as it is written, until it closes the connection."""
    with socket.create_connection((HOST, port)) as connection:
        connection.settimeout(30)
        connection.sendall(("\r\n".join((*lines, "", "")) + body).encode())
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode("utf-8", "replace")


FOREIGN = (
    "evil.example",
    "evil.example:{port}",
    "localhost.evil.example:{port}",
    "127.0.0.1",
    "127.0.0.1:1",
    "[::1]:{port}",
    "127.0.0.1:{port}.evil.example",
    "127.0.0.1:{port},evil.example",
    "0.0.0.0:{port}",
    "",
)


def test_a_wrong_host_is_refused_on_every_port(ports: Ports) -> None:
    for port in (int(origin.rpartition(":")[2]) for origin in ports.origins):
        for host in (name.format(port=port) for name in FOREIGN):
            said = raw(port, "GET / HTTP/1.1", f"Host: {host}")
            assert (said.split()[1], "Refused" in said) == ("403", True), host
        for lines in (["GET / HTTP/1.0"], ["GET / HTTP/1.1", f"Host: {HOST}:{port}", "Host: evil.example"]):
            assert "Refused" in raw(port, *lines)
        for host in (f"{HOST}:{port}", f"localhost:{port}"):
            assert "Refused" not in raw(port, "GET / HTTP/1.1", f"Host: {host}")


def test_on_the_port_that_is_not_said_it_is_not_said() -> None:
    assert hosts(80) == {"127.0.0.1", "localhost", "127.0.0.1:80", "localhost:80"}
    assert "127.0.0.1" not in hosts(8080)


def test_what_is_refused_hides_no_second_request(ports: Ports, effects: Effects) -> None:
    """The body of a refused form is not read; it must not be taken for the next request on the connection."""
    before = effects.seen()
    token, port = ports.stack.telegram.token, ports.stack._telegram_server.port
    hidden = (
        f"GET /bot{token}/sendMessage?chat_id={ports.chat}&text=smuggled HTTP/1.1\r\nHost: {HOST}:{port}\r\n"
        "Connection: close\r\n\r\n"
    )
    head = ("POST / HTTP/1.1", f"Host: {HOST}:{port}", "Origin: http://evil.example", f"Content-Length: {len(hidden)}")

    said = raw(port, *head, "Connection: keep-alive", body=hidden)

    assert said.count("HTTP/1.1 ") + said.count("HTTP/1.0 ") == 1
    assert effects.seen() == before


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://{own}"},
        {"Origin": "http://{own}.evil.example"},
        {"Origin": "http://{other}"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "same-origin, cross-site"},
        {"Origin": "http://{own}", "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_only_a_page_of_its_own_is_answered(stack: EmbeddedStack, headers: dict[str, str]) -> None:
    url = f"{stack._telegram_server.url}/bot{stack.telegram.token}/getMe"
    own, other = (origin.removeprefix("http://") for origin in (stack._telegram_server.url, stack.addresses.aws))
    given = {name: value.format(own=own, other=other) for name, value in headers.items()}

    assert requests.get(url, headers=given, timeout=10).status_code == 403
    for well in ({}, {"Origin": f"http://{own}", "Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}):
        assert requests.get(url, headers=well, timeout=10).status_code == 200


def test_no_answer_lets_another_page_read_it(stack: EmbeddedStack) -> None:
    def from_own_page(request: Any, **_: Any) -> None:
        request.headers["Origin"] = stack.addresses.aws

    for service, ask in (("dynamodb", "list_tables"), ("s3", "list_buckets"), ("secretsmanager", "list_secrets")):
        asking = client(service, stack.addresses.aws)
        asking.meta.events.register("before-send", from_own_page)
        headers = getattr(asking, ask)()["ResponseMetadata"]["HTTPHeaders"]
        assert [name for name in headers if name.startswith("access-control")] == []


def test_the_runtime_api_of_a_container_answers_no_page() -> None:
    api = RuntimeApi()
    own, port = api.address, int(api.address.rpartition(":")[2])
    following, failed = (
        "GET /2018-06-01/runtime/invocation/next HTTP/1.1",
        "POST /2018-06-01/runtime/init/error HTTP/1.1",
    )
    api.give(Invocation("one", b'"secret"', 10, "arn", "trace"))
    try:
        for lines in (
            [f"Host: {own}", "Origin: null"],
            [f"Host: {own}", "Sec-Fetch-Site: same-site"],
            ["Host: evil:1"],
        ):
            for what in (following, failed):
                assert raw(port, what, *lines, "Content-Length: 0").split()[1] == "403"
        assert api.outcomes.empty()
        assert "secret" in raw(port, following, f"Host: {own}", "Connection: close")
    finally:
        api.close()


# ---------------------------------------------------------------------- keys

CALLS: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "dynamodb": ("list_tables", {}, "UnrecognizedClientException", 400),
    "stepfunctions": ("list_state_machines", {}, "UnrecognizedClientException", 400),
    "secretsmanager": ("list_secrets", {}, "UnrecognizedClientException", 400),
    "kms": ("list_keys", {}, "UnrecognizedClientException", 400),
    "lambda": ("invoke", {"FunctionName": "none"}, "UnrecognizedClientException", 403),
    "s3": ("list_buckets", {}, "InvalidAccessKeyId", 403),
    "sts": ("get_caller_identity", {}, "InvalidClientTokenId", 403),
    "cloudformation": ("describe_stacks", {}, "InvalidClientTokenId", 403),
}
"""A call of each service; the code and the status with which AWS refuses an unknown key."""

FORGED = {"s3": "SignatureDoesNotMatch", "sts": "SignatureDoesNotMatch", "cloudformation": "SignatureDoesNotMatch"}
ANONYMOUS = {"s3": "AccessDenied", "sts": "MissingAuthenticationToken", "cloudformation": "MissingAuthenticationToken"}


def asked(
    service: str, endpoint: str, key: str | None, secret: str | None, token: str | None = None
) -> tuple[str, int]:
    """The code and the status of the answer to a service's call."""
    config = Config(retries={"total_max_attempts": 1}, **({} if key else {"signature_version": UNSIGNED}))
    made = boto3.session.Session(region_name=REGION).client(
        service,  # type: ignore[call-overload]
        endpoint_url=endpoint,
        config=config,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        aws_session_token=token,
    )
    call, parameters, _, _ = CALLS[service]
    try:
        getattr(made, call)(**parameters)
    except ClientError as error:
        return error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
    return "", 200


@pytest.mark.parametrize("service", CALLS)
def test_who_has_no_key_of_this_stack_is_refused_as_aws_refuses(stack: EmbeddedStack, service: str) -> None:
    endpoint = stack.addresses.aws
    _, _, code, status = CALLS[service]
    operator = secret_key(endpoint, OPERATOR)

    for key in ("local", "AKIAIOSFODNN7EXAMPLE", "ASIAIOSFODNN7EXAMPLE", "test"):
        assert asked(service, endpoint, key, "local", "token") == (code, status)
    forged = (FORGED.get(service, "InvalidSignatureException"), status)
    for name in (OPERATOR, "stepgram-TurnFunction", "stepgram-AgentFunction", "stepgram-TurnRole"):
        for secret in ("local", "any", name, "0" * 64):
            assert asked(service, endpoint, name, secret) == forged
    assert asked(service, endpoint, OPERATOR, secret_key(endpoint, "stepgram-AgentFunction")) == forged
    assert asked(service, endpoint, "stepgram-AgentFunction", operator) == forged
    anonymous = ANONYMOUS.get(service, "MissingAuthenticationTokenException")
    assert asked(service, endpoint, None, None) == (anonymous, status)
    assert asked(service, endpoint, OPERATOR, operator)[0] in ("", "ResourceNotFoundException")


def test_a_key_that_was_taken_needs_its_secret_and_its_token(stack: EmbeddedStack) -> None:
    endpoint = stack.addresses.aws
    role = next(name for name in stack.access.roles if name.endswith("SessionRole"))
    taken = client("sts", endpoint).assume_role(RoleArn=role, RoleSessionName="attack")["Credentials"]
    key, secret, token = (taken[name] for name in ("AccessKeyId", "SecretAccessKey", "SessionToken"))

    assert asked("s3", endpoint, key, secret, token) == ("AccessDenied", 403), "known, and may not"
    assert asked("s3", endpoint, key, secret, "another")[0] == "InvalidAccessKeyId"
    assert asked("s3", endpoint, key, secret)[0] == "InvalidAccessKeyId"
    assert asked("s3", endpoint, key, "another", token)[0] == "SignatureDoesNotMatch"


@pytest.mark.parametrize("part", ["url", "data", "X-Amz-Target"])
def test_a_signature_is_good_for_its_request_alone(stack: EmbeddedStack, part: str) -> None:
    changed = {"url": f"{stack.addresses.aws}/?a=b", "data": b'{"Limit": 1}', "X-Amz-Target": "DynamoDB_20120810.Scan"}

    def change(request: Any, **_: Any) -> None:
        if part in request.headers:
            request.headers[part] = changed[part]
        elif part == "data":
            request.body = changed[part]
            request.headers["Content-Length"] = str(len(request.body))
        else:
            request.url = changed[part]

    dynamodb = client("dynamodb", stack.addresses.aws)
    dynamodb.meta.events.register("before-send", change)

    with pytest.raises(ClientError, match="InvalidSignatureException"):
        dynamodb.list_tables()


@pytest.mark.parametrize(
    "line", ["", "AWS4-HMAC-SHA256", "Basic eDp5", "é" * 9, "AWS4-HMAC-SHA256 Credential=operator/1/a/b/c"]
)
def test_garbage_for_a_signature_is_refused_without_a_traceback(stack: EmbeddedStack, line: str) -> None:
    said = requests.get(stack.addresses.aws, headers={"Authorization": line.encode("latin-1")}, timeout=10)

    assert (said.status_code, "AccessDenied" in said.text) == (403, True)


# ---------------------------------------------------------------------- state


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[[], Local]]:
    started: list[Local] = []

    def start() -> Local:
        started.append(Local(tmp_path / "kept", free_port()))
        return started[-1]

    yield start
    for one in started:
        one._process.kill()
        one._process.wait()


def test_the_key_is_made_anew_at_each_start_and_kept_from_other_users(
    running: Callable[[], Local], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "kept"
    home.mkdir(mode=0o777)
    home.chmod(0o777)
    monkeypatch.setenv("STEPGRAM_HOME", str(home))
    old = os.umask(0)
    try:
        one = running()
        first = json.loads((home / "stack.json").read_text())
        one.say(5, "hello")
        with open_stack(None) as opened:
            assert opened.client("dynamodb").list_tables()["TableNames"], "commands find it"
        until(lambda: one.texts(5) != [])
        one._process.kill()
        one._process.wait()
        another = running()
        second = json.loads((home / "stack.json").read_text())
        another.say(6, "hello")
        until(lambda: another.texts(6) != [])
    finally:
        os.umask(old)

    assert first["operator"] != second["operator"]
    assert first["telegram"].rpartition("/")[2] != second["telegram"].rpartition("/")[2]
    assert asked("dynamodb", second["aws"], OPERATOR, first["operator"])[0] == "InvalidSignatureException"
    assert asked("dynamodb", second["aws"], OPERATOR, second["operator"]) == ("", 200)
    assert another.stop() == 0
    kept = {path.relative_to(home): path.stat().st_mode & 0o077 for path in (home, *home.rglob("*"))}
    ours = {path: mode for path, mode in kept.items() if path.parts[:1] != ("containers",) or len(path.parts) < 3}
    assert {"containers", "functions.log", "state.db"} <= {str(path) for path in ours}
    assert [path for path, mode in ours.items() if mode] == []


def test_a_folder_for_everybody_is_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o1777)
    monkeypatch.setenv("STEPGRAM_HOME", str(tmp_path))

    with pytest.raises(StackError, match=r"STEPGRAM_HOME.*everybody"), open_stack(None):
        pass
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o1777


def test_without_the_token_the_chat_page_tells_and_does_nothing(ports: Ports, effects: Effects) -> None:
    before = effects.seen()
    origin, token = ports.stack.addresses.telegram.rsplit("/", 1)  # type: ignore[union-attr]
    wrong = f"{origin}/{token[:-1]}{'A' if token[-1] != 'A' else 'B'}"
    say = {"chat_id": ports.chat, "text": "mine"}
    answers = [
        requests.get(f"{origin}/", timeout=10),
        requests.get(f"{wrong}/", timeout=10),
        requests.get(f"{wrong}/chat.js", timeout=10),
        requests.get(f"{wrong}/person/chats/{ports.chat}/messages", timeout=10),
        requests.get(f"{wrong}/person/files/{ports.picture}", timeout=10),
        requests.post(f"{wrong}/person/messages", json=say, timeout=10),
    ]

    assert [answer.status_code for answer in answers] == [403] * len(answers)
    assert {answer.text for answer in answers} == {
        "Open the address that `stepgram local` or `stepgram console` printed: it holds a token."
    }
    assert requests.post(f"{origin}/person/messages", json=say, timeout=10).status_code in (403, 404)
    assert requests.get(f"{origin}/bot7000000001:local-demo-token/getMe", timeout=10).status_code == 401
    assert requests.get(f"{origin}/file/bot1:a/files/{ports.picture}", timeout=10).status_code == 404
    assert effects.seen() == before


# ---------------------------------------------------------------------- files

SCRIPT = "document.title = 'ran'; top.ran = true; parent.ran = true; fetch('TARGET', {method: 'POST', body: FORM})"
FILES = {
    "page.html": "<!doctype html><body><script>{script}</script>",
    "page.xhtml": "<html xmlns='http://www.w3.org/1999/xhtml'><script>{script}</script></html>",
    "drawing.svg": "<svg xmlns='http://www.w3.org/2000/svg'><script>{script}</script></svg>",
    "style.xml": "<?xml version='1.0'?><x xmlns:h='http://www.w3.org/1999/xhtml'><h:script>{script}</h:script></x>",
    "code.js": "{script}",
    "both.html": "GIF89a/*<script>*/=0;{script}//</script>",
    "picture.png": "<script>{script}</script>",
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("sender", ["person", "bot"])
def test_a_file_that_was_sent_never_runs_as_a_page_of_ours(
    page: Page, ports: Ports, effects: Effects, name: str, sender: str
) -> None:
    address = str(ports.stack.addresses.telegram)
    form = f"(f => (f.append('chat_id', '{ports.chat}'), f.append('file', new Blob(['x']), 'x'), f))(new FormData())"
    script = SCRIPT.replace("TARGET", f"{address}/person/files").replace("FORM", form)
    content = FILES[name].replace("{script}", script).encode()
    telegram, token = ports.stack.telegram, ports.stack.telegram.token
    if sender == "person":
        telegram.send_file(ports.chat, "document", name, content, mime="text/html")
    else:
        bot = f"{ports.stack._telegram_server.url}/bot{token}/sendDocument"
        files = {"document": (name, content, "text/html")}
        requests.post(bot, {"chat_id": ports.chat}, files=files, timeout=10).raise_for_status()
    message = [m for m in telegram.state["chats"][str(ports.chat)]["messages"] if "document" in m][-1]
    file_id = message["document"]["file_id"]
    urls = [f"{address}/person/files/{file_id}", f"{ports.stack._telegram_server.url}/file/bot{token}/files/{file_id}"]
    before = [m["message_id"] for m in telegram.state["chats"][str(ports.chat)]["messages"] if not m["from"]["is_bot"]]

    for url in urls:
        headers = requests.get(url, timeout=10).headers
        assert headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
        assert headers["X-Content-Type-Options"] == "nosniff"
        image = name == "both.html"
        assert headers["Content-Type"] == ("image/gif" if image else "application/octet-stream")
        assert headers["Content-Disposition"] == ("inline" if image else "attachment")
        try:
            page.goto(url)  # as who follows the link
        except Error as error:
            assert "Download is starting" in error.message
        assert page.title() != "ran"
        page.goto(f"{address}/")
        ran = page.evaluate(EMBED, url)
        assert ran is False

    after = [m["message_id"] for m in telegram.state["chats"][str(ports.chat)]["messages"] if not m["from"]["is_bot"]]
    assert after == before


EMBED = """async url => {
  for (const tag of ["iframe", "img", "object", "embed", "script"]) {
    const element = document.createElement(tag);
    element[tag === "object" ? "data" : "src"] = url;
    const ended = new Promise(done => { element.onload = element.onerror = done; setTimeout(done, 700); });
    document.body.append(element);
    await ended;
  }
  return Boolean(window.ran) || document.title === "ran";
}"""
"""Even a page of ours that shows the file everywhere it can does not run it."""
