"""The API of the web on the embedded stack: what a browser can do, and what it cannot."""

from __future__ import annotations

import contextvars
import io
import itertools
import json
import random
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin

import pytest
import requests
import uvicorn

from functions.common.settings import use_environment
from functions.web.app import app
from functions.web.asking import COOKIE
from functions.web.sign_in import Person, SignIns
from stepgram.embedded.client import OPERATOR, REGION, client, secret_key
from stepgram.embedded.stack import EmbeddedStack
from tests.conftest import Person as Waiter
from tests.conftest import until

SECONDS = 60
_people = itertools.count(910_000)


@contextmanager
def served(stack: EmbeddedStack, messages_per_minute: int) -> Iterator[str]:
    """The API, by uvicorn; its address."""
    outputs, endpoint = stack.deployment.outputs, stack.addresses.aws
    environment = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": OPERATOR,
        "AWS_SECRET_ACCESS_KEY": secret_key(endpoint, OPERATOR),
        "SESSION_TABLE": outputs["SessionTable"],
        "SESSION_BUCKET": outputs["SessionBucket"],
        "INTAKE_ARN": outputs["TurnArn"].replace("-turn", "-intake"),
        "MESSAGES_PER_MINUTE": str(messages_per_minute),
    }
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none", timeout_graceful_shutdown=1))

    def serve() -> None:
        use_environment(environment)
        server.run(sockets=[listening])

    thread = threading.Thread(target=contextvars.Context().run, args=(serve,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(SECONDS)


@pytest.fixture(scope="module")
def url(stack: EmbeddedStack) -> Iterator[str]:
    """The API for whoever may write as much as they like."""
    with served(stack, 0) as address:
        yield address


@dataclass
class Browser:
    """Somebody with a cookie."""

    stack: EmbeddedStack
    url: str
    person: Person
    http: requests.Session = field(default_factory=requests.Session)

    def sign_in(self) -> requests.Response:
        table = SignIns(self.stack.deployment.outputs["SessionTable"], client("dynamodb", self.stack.addresses.aws))
        code = table.offer(self.person)
        return self.http.get(f"{self.url}/sign-in/{code}", allow_redirects=False, timeout=SECONDS)

    def ask(self, method: str, path: str, body: Any = None, status: int | None = None, **headers: str) -> Any:
        """A request; its JSON."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.http.request(method, urljoin(self.url, path), json=body, headers=named, timeout=SECONDS)
        assert status is None or answer.status_code == status, (answer.status_code, answer.text)
        return answer.json() if answer.content else None

    def conversation(self, title: str = "") -> str:
        return str(self.ask("POST", "/sessions", {"title": title}, 201)["id"])

    def write(self, session: str, text: str, client_id: str = "") -> Any:
        body = {"id": client_id or f"m{time.monotonic_ns()}", "text": text}
        return self.ask("POST", f"/sessions/{session}/messages", body, 202)

    def listen(self, session: str, after: int = 0, cut_after: int | None = None) -> Iterator[tuple[int, Any]]:
        """Events from the stream, with their numbers; the connection is cut after so many."""
        headers = {"last-event-id": str(after)} if after else {}
        path = f"{self.url}/sessions/{session}/events"
        with self.http.get(path, headers=headers, stream=True, timeout=SECONDS) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            number, count = 0, 0
            for line in answer.iter_lines(chunk_size=1):
                if line.startswith(b"id:"):
                    number = int(line[3:])
                elif line.startswith(b"data:"):
                    yield number, json.loads(line[5:])
                    count += 1
                    if count == cut_after:
                        return

    def until(self, session: str, kind: str, turn: str, after: int = 0) -> list[tuple[int, Any]]:
        """All events up to the first of this kind of the turn."""
        found = []
        for number, event in self.listen(session, after):
            found.append((number, event))
            if event["kind"] == kind and event["turn_id"] == turn:
                return found
        raise AssertionError(f"the stream ended before {kind}")

    def answer(self, session: str, text: str) -> str:
        """Write, and wait for what the agent says."""
        turn = self.write(session, text)["execution"]
        events = [event for _, event in self.until(session, "complete", turn) if event["turn_id"] == turn]
        return next(str(event["markdown"]) for event in events if event["kind"] == "answered")


@pytest.fixture
def ada(stack: EmbeddedStack, url: str) -> Browser:
    made = Browser(stack, url, Person(id=next(_people), name="Ada"))
    made.sign_in()
    return made


@pytest.fixture
def eve(stack: EmbeddedStack, url: str) -> Browser:
    made = Browser(stack, url, Person(id=next(_people), name="Eve"))
    made.sign_in()
    return made


# ------------------------------------------------------------------------------------------------ signing in


def test_a_code_signs_in_once_and_signing_out_ends_it(stack: EmbeddedStack, url: str) -> None:
    browser = Browser(stack, url, Person(id=next(_people), name="Ada"))
    browser.ask("GET", "/me", status=401)
    came = browser.sign_in()

    assert (came.status_code, came.headers["location"]) == (303, "/")
    assert {"HttpOnly", "SameSite=strict"} <= set(came.headers["set-cookie"].split("; "))
    assert browser.ask("GET", "/me", status=200) == {"id": browser.person.id, "name": "Ada", "language": "en"}
    again = requests.get(came.url, allow_redirects=False, timeout=SECONDS)
    assert again.status_code == 401

    token = browser.http.cookies[COOKIE]
    browser.ask("POST", "/sign-out", status=204)
    browser.http.cookies.set(COOKIE, token)
    browser.ask("GET", "/me", status=401)


@pytest.mark.parametrize("token", ["", "x", "x" * 10_000, "é", '"'])
def test_a_made_up_session_is_none(stack: EmbeddedStack, url: str, token: str) -> None:
    answer = requests.get(f"{url}/me", headers={"cookie": f"{COOKIE}={token}".encode()}, timeout=SECONDS)

    assert answer.status_code in (400, 401, 431)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
def test_another_page_changes_nothing(ada: Browser, headers: dict[str, str]) -> None:
    ada.ask("POST", "/sessions", {"title": "stolen"}, 403, **headers)

    assert ada.ask("GET", "/sessions") == []
    assert ada.ask("POST", "/sessions", {"title": "mine"}, 201, origin=ada.url, sec_fetch_site="same-origin")


# ------------------------------------------------------------------------------------------------ conversations


def test_conversations_are_their_owners_alone(ada: Browser, eve: Browser) -> None:
    first, second = ada.conversation("first"), ada.conversation("second")
    ada.write(first, "hello")
    assert [one["title"] for one in ada.ask("GET", "/sessions")] == ["first", "second"], "the one used last"
    assert ada.ask("PATCH", f"/sessions/{second}", {"title": "other"}, 200)["title"] == "other"
    assert ada.ask("GET", f"/sessions/{second}", status=200)["title"] == "other"

    assert eve.ask("GET", "/sessions") == []
    turn = f"w{first}-mx"
    for method, path, body in (
        ("GET", "", None),
        ("PATCH", "", {"title": "x"}),
        ("DELETE", "", None),
        ("POST", "/messages", {"id": "1", "text": "x"}),
        ("GET", "/events", None),
        ("GET", "/status", None),
        ("POST", "/stop", None),
        ("POST", "/answers", {"turn_id": turn, "number": 0, "choice": "allow"}),
        ("POST", f"/turns/{turn}/rerun", None),
        ("GET", "/history", None),
        ("GET", "/versions", None),
        ("GET", "/files", None),
        ("GET", "/files/report.txt", None),
        ("GET", "/archive", None),
        ("POST", "/undo", None),
        ("POST", "/fork", {"title": "x"}),
    ):
        eve.ask(method, f"/sessions/{first}{path}", body, 404)

    ada.ask("DELETE", f"/sessions/{second}", status=204)
    ada.ask("GET", f"/sessions/{second}", status=404)
    assert [one["id"] for one in ada.ask("GET", "/sessions")] == [first]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"id": "a b", "text": "x"}, "body.id"),
        ({"id": "a", "text": ""}, "body.text"),
        ({"id": "a"}, "body.text"),
        ({"id": "a", "text": "x", "user": 5}, "body.user"),
        ({"id": "a", "text": 5}, "body.text"),
    ],
)
def test_what_is_wrong_is_named(ada: Browser, body: Any, named: str) -> None:
    found = ada.ask("POST", f"/sessions/{ada.conversation()}/messages", body, 422)

    assert found["title"] == "Unprocessable Content" or found["title"] == "Unprocessable Entity"
    assert found["detail"].startswith(named)


# ------------------------------------------------------------------------------------------------ messages


def test_a_message_is_answered_and_the_next_one_remembers(ada: Browser) -> None:
    session = ada.conversation()

    assert "You said: hello" in ada.answer(session, "hello")
    assert "message 2 of this conversation" in ada.answer(session, "again")
    status = ada.ask("GET", f"/sessions/{session}/status")
    assert (status["version"], status["question"]) == (2, None)


def test_a_message_that_is_sent_twice_is_one_turn(ada: Browser) -> None:
    session = ada.conversation()
    first, second = ada.write(session, "hello", "same"), ada.write(session, "hello", "same")

    assert first["execution"] == second["execution"] == f"w{session}-msame"
    assert (first["outcome"], second["outcome"]) == ("started", "duplicate")
    ada.until(session, "complete", first["execution"])
    assert "message 2 of this conversation" in ada.answer(session, "again")


def test_messages_at_once_are_answered_in_their_order(ada: Browser) -> None:
    session = ada.conversation()
    turns = [ada.write(session, f"!slow 1 number {number}")["execution"] for number in range(3)]
    events = [event for _, event in ada.until(session, "complete", turns[-1])]

    assert [event["turn_id"] for event in events if event["kind"] == "complete"] == turns
    waited = [event for event in events if event["kind"] == "working" and event["waiting"]]
    assert {event["turn_id"] for event in waited} <= set(turns[1:])


def test_too_many_messages_are_refused_by_name(stack: EmbeddedStack) -> None:
    with served(stack, 3) as paced:
        ada = Browser(stack, paced, Person(id=next(_people), name="Ada"))
        ada.sign_in()
        session = ada.conversation()
        for _ in range(5):
            ada.write(session, "hello", "same")  # one that is sent again counts once
        path = f"{paced}/sessions/{session}/messages"
        told = [ada.http.post(path, json={"id": f"n{n}", "text": "x"}, timeout=SECONDS) for n in range(8)]

    refused = next(answer for answer in told if answer.status_code != 202)
    assert (refused.status_code, refused.json()["title"]) == (429, "Too Many Requests")
    assert refused.headers["retry-after"] == "60"


def test_whoever_comes_back_has_every_event_once_in_order(ada: Browser) -> None:
    session = ada.conversation()
    turn = ada.write(session, "!slow 3 and some more words")["execution"]
    random.seed(turn)
    last, found = 0, []
    while not found or (found[-1][1]["kind"], found[-1][1]["turn_id"]) != ("complete", turn):
        for number, event in ada.listen(session, last, cut_after=random.randint(1, 4)):
            found.append((number, event))
            last = number
            if event["kind"] == "complete":
                break

    assert [number for number, _ in found] == list(range(1, len(found) + 1))
    assert found == ada.until(session, "complete", turn)


def test_a_turn_stops_when_it_is_asked_to(ada: Browser) -> None:
    session = ada.conversation()
    turn = ada.write(session, "!slow 60")["execution"]
    until(lambda: ada.ask("GET", f"/sessions/{session}/status")["turn"] == turn)

    assert ada.ask("POST", f"/sessions/{session}/stop", status=200)["outcome"] == f"stopping {turn}"
    ada.until(session, "complete", turn)


def test_a_question_is_answered_here(ada: Browser) -> None:
    session = ada.conversation()
    turn = ada.write(session, '!tool Glob {"pattern": "*"}')["execution"]
    events = ada.until(session, "asked", turn)
    question = events[-1][1]
    assert (question["tool"], question["choices"]) == ("Glob", ["allow", "always", "deny"])
    body = {"turn_id": turn, "number": question["number"], "choice": "allow"}

    ada.ask("POST", f"/sessions/{session}/answers", body | {"choice": "stop"}, 422)
    ada.ask("POST", f"/sessions/{session}/answers", body | {"turn_id": f"w{'0' * 32}-m1"}, 404)
    assert ada.ask("POST", f"/sessions/{session}/answers", body, 200)["outcome"] == "button approved_allow"
    after = [event["kind"] for _, event in ada.until(session, "complete", turn, events[-1][0])]
    assert "decided" in after


def test_a_turn_that_failed_runs_again(ada: Browser, stack: EmbeddedStack) -> None:
    session = ada.conversation()
    turn = ada.write(session, "!error 403 1")["execution"]
    last, notice = ada.until(session, "failed", turn)[-1]
    assert "ModelAccessDenied" in notice["text"]
    Waiter(stack).wait(turn)

    assert ada.ask("POST", f"/sessions/{session}/turns/{turn}/rerun", status=200)["outcome"] == "button running_again"
    kinds = [event["kind"] for _, event in ada.until(session, "complete", turn, last)]
    assert {"withdrawn", "answered"} <= set(kinds)


def test_a_turn_whose_conversation_is_deleted_ends_quietly(ada: Browser, stack: EmbeddedStack) -> None:
    session = ada.conversation()
    turn = ada.write(session, "!slow 2")["execution"]
    until(lambda: ada.ask("GET", f"/sessions/{session}/status")["turn"] == turn)
    ada.ask("DELETE", f"/sessions/{session}", status=204)

    assert Waiter(stack).wait(turn).output["outcome"] == "UNDELIVERABLE"
    ada.ask("GET", f"/sessions/{session}/events", status=404)


# ------------------------------------------------------------------------------------------------ versions and files


def test_what_was_said_is_read_page_by_page(ada: Browser) -> None:
    session = ada.conversation()
    assert ada.ask("GET", f"/sessions/{session}/history") == {"entries": [], "before": None}
    for text in ("one", "!bash echo two", "three"):
        ada.answer(session, text)

    whole = ada.ask("GET", f"/sessions/{session}/history", status=200)
    said = [(entry["role"], piece["kind"], piece["text"]) for entry in whole["entries"] for piece in entry["pieces"]]
    assert whole["before"] is None
    assert said[0] == ("user", "text", "one")
    assert ("assistant", "tool", "echo two") in said
    assert any(kind == "result" and "two" in text for _, kind, text in said)
    assert said[-1][0] == "assistant"

    pages, before = [], ""
    while before is not None:
        found = ada.ask("GET", f"/sessions/{session}/history?limit=2{before and '&before=' + before}", status=200)
        pages, before = [*found["entries"], *pages], found["before"]
    assert pages == whole["entries"]
    first = ada.ask("GET", f"/sessions/{session}/history?version=1", status=200)["entries"]
    assert first == whole["entries"][: len(first)]
    for wrong in ("before=x", "before=9.9.9", "version=77"):
        assert ada.ask("GET", f"/sessions/{session}/history?{wrong}", status=404)["status"] == 404
    ada.ask("GET", f"/sessions/{session}/history?limit=0", status=422)


def test_files_come_out_as_they_are_and_as_no_page(ada: Browser) -> None:
    session = ada.conversation()
    assert ada.ask("GET", f"/sessions/{session}/files") == []
    ada.ask("GET", f"/sessions/{session}/archive", status=404)
    ada.answer(session, "!bash mkdir -p sub && printf '<script>' > 'sub/päge 1.html' && printf x > plain.txt")

    listed = {one["path"]: one for one in ada.ask("GET", f"/sessions/{session}/files", status=200)}
    assert {"sub", "sub/päge 1.html", "plain.txt"} <= listed.keys()
    assert (listed["sub"]["kind"], listed["sub/päge 1.html"]["size"]) == ("folder", 8)
    page = ada.http.get(f"{ada.url}/sessions/{session}/files/sub/päge 1.html", timeout=SECONDS)
    assert page.content == b"<script>"
    assert page.headers["content-type"] == "application/octet-stream"
    assert page.headers["content-disposition"] == "attachment; filename*=UTF-8''p%C3%A4ge%201.html"
    assert (page.headers["content-security-policy"], page.headers["x-content-type-options"]) == (
        "sandbox; default-src 'none'",
        "nosniff",
    )
    for nothing in ("none.txt", "sub", "../plain.txt", "%2e%2e/plain.txt", "/etc/passwd"):
        assert ada.http.get(f"{ada.url}/sessions/{session}/files/{nothing}", timeout=SECONDS).status_code == 404
    packed = ada.http.get(f"{ada.url}/sessions/{session}/archive", timeout=SECONDS)
    with zipfile.ZipFile(io.BytesIO(packed.content)) as archive:
        assert archive.read("plain.txt") == b"x"


def test_undo_and_fork_go_back_and_on(ada: Browser) -> None:
    session = ada.conversation("first")
    ada.ask("POST", f"/sessions/{session}/fork", {"title": ""}, 409)
    for text in ("one", "!bash printf x > made.txt"):
        ada.answer(session, text)
    until(lambda: ada.ask("GET", f"/sessions/{session}/status")["turn"] is None)
    fork = ada.ask("POST", f"/sessions/{session}/fork", {"title": ""}, 201)
    assert fork["title"] == "first"
    before = [number for number, _ in itertools.islice(ada.listen(session), 3)][-1]

    assert ada.ask("POST", f"/sessions/{session}/undo", status=200)["outcome"] == "command undo"
    assert next(event["kind"] for _, event in ada.listen(session, before) if event["kind"] == "said") == "said"
    assert [one["version"] for one in ada.ask("GET", f"/sessions/{session}/versions")] == [1]
    assert ada.ask("GET", f"/sessions/{session}/files") == []

    other = fork["id"]
    assert "made.txt" in [one["path"] for one in ada.ask("GET", f"/sessions/{other}/files")]
    assert "message 3 of this conversation" in ada.answer(other, "on")
    assert "message 2 of this conversation" in ada.answer(session, "back")
