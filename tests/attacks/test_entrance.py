"""The entrance: whatever is posted, Telegram hears a status that says what to do, and no later step breaks on it."""

from __future__ import annotations

import base64
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest
import requests
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from botocore.validate import ParamValidator
from hypothesis import given
from hypothesis import strategies as st

from functions.common import errors
from functions.common.envelope import NAME_LIMIT, Envelope
from functions.common.observability import logger
from functions.common.settings import own_environment, use_environment
from functions.telegram.context import attachments
from functions.telegram.normalise import Rules, normalise
from functions.telegram.update import MAX_ID, MAX_TIME, Update
from functions.telegram.webhook import SECRET_HEADER, handler, read_update
from stepgram.console.server import app
from stepgram.embedded.functions import Answer
from stepgram.embedded.stack import EmbeddedStack
from stepgram.operators.stack import Stack
from tests.conftest import Person, until
from tests.unit.test_normalise import GROUP, USER, message
from tests.workflow.fast_agent import fast_agent

STOPPED_BY = (
    "Everything is bounded or mended where it enters; what carries the secret and is no update is answered 200 and "
    "counted."
)

Call = Callable[[str, dict[str, Any]], Answer]

SECRET, ENDPOINT = "the-webhook-secret", "http://fuzz.invalid"
UPDATES = 100_000
HEALS = {"ThrottlingException": 503, "ServiceUnavailable": 503, "FAILED": 502, "TIMED_OUT": 502}
"""What the Intake's call may come to that a later one may not, and what Telegram hears then."""

FILE = {"file_id": "AgAD", "file_unique_id": "u", "file_name": "a.pdf", "mime_type": "application/pdf", "file_size": 9}
MESSAGES = [
    message("hello"),
    message("/newchat with a title"),
    message("/stop"),
    message("hello @stepgram_bot", chat=GROUP, entities=[{"type": "mention", "offset": 6, "length": 13}]),
    message("hi", chat={**GROUP, "is_forum": True}, message_thread_id=4, is_topic_message=True),
    message("yes", reply_to_message={"message_id": 1, "from": USER, "text": "before"}, quote={"text": "bef"}),
    message(None, photo=[FILE, {**FILE, "file_size": 99}], caption="look", media_group_id="13000"),
    message(None, document=FILE, forward_origin={"sender_user": USER}),
    message(None, voice=FILE),
    message(None, sticker={**FILE, "emoji": "😀"}),
    message(None, venue={"location": {"latitude": 1.5, "longitude": 2.5}, "title": "x", "address": "y"}),
    message(None, contact={"phone_number": "1", "first_name": "Ada"}),
    message(None, poll={"question": "?", "options": [{"text": "a"}]}),
    message(None, dice={"emoji": "🎲", "value": 3}),
    message(None, story={"id": 1}),
]
MEMBER = {"chat": GROUP, "from": USER, "date": 1, "old_chat_member": {"status": "left"},
          "new_chat_member": {"status": "administrator", "can_manage_topics": True}}  # fmt: skip
SAMPLES: list[dict[str, Any]] = [
    *({"update_id": 9, "message": one} for one in MESSAGES),
    {"update_id": 9, "callback_query": {"id": "q", "from": USER, "data": "rerun:9", "message": message()}},
    {"update_id": 9, "stopped_message_generation": {"chat": {"id": 5, "type": "private"}, "draft_id": 1}},
    {"update_id": 9, "my_chat_member": MEMBER},
    {"update_id": 9, "edited_message": message()},
]
NASTY: list[Any] = [
    None, True, 0, -1, 1, 2**31, 2**53, -(2**53), 2**63, 10**30, 10**4000, 1.5, -0.0, float("nan"), float("inf"), "",
    " ", "0", "a" * 81, "a" * 5000, "a" * 270_000, "😀" * 80, "\ud800", "x\udfffy", "\udc00\ud800", "\x00", "\u202e",
    "\\ud800", "../../x", "{{0}}", "{}", "States.Format('{}')", "$.message", "@" * 99, "/new@", "/" + "x" * 99, [], {},
    [[]], [1] * 2000, [None], {"id": 1}, {"a": {"b": {}}}, [[[[[[[[[[]]]]]]]]]],
]  # fmt: skip


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every container and key of a document."""
    found = []
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        found.append((tree, key))
        if isinstance(value, dict | list):
            found += places(value)
    return found


def mutated(chance: random.Random) -> dict[str, Any]:
    """An update that Telegram never sent: values, keys and types of a real one changed in a few places."""
    update = deepcopy(chance.choice(SAMPLES))
    update["update_id"] = chance.randrange(1, 10**9)
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3, 6))):
        where = places(update)
        if not where:
            break
        tree, key = chance.choice(where)
        kind = chance.randrange(6)
        if kind < 3:
            tree[key] = deepcopy(chance.choice(NASTY))
        elif kind == 3:
            del tree[key]
        elif kind == 4 and isinstance(tree, dict):
            tree[chance.choice(("", "id", "text", "\ud83d", "from", "chat", "x" * 99))] = deepcopy(tree[key])
        else:
            others, name = chance.choice(places(chance.choice(SAMPLES)))
            tree[key] = deepcopy(others[name])
    return update


def posted(update: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """The event of a request with this update, sometimes broken on the way."""
    body: Any = json.dumps(update, ensure_ascii=chance.random() < 0.7)
    event: dict[str, Any] = {"headers": {SECRET_HEADER: SECRET}, "body": body}
    kind = chance.randrange(20)
    if kind == 0:
        event["body"] = body[: chance.randrange(len(body))]
    elif kind == 1:
        at = chance.randrange(len(body))
        event["body"] = body[:at] + chance.choice('{}[]",:\\\x00é\ud800') + body[at:]
    elif kind in (2, 3):
        raw = bytearray(body.encode("utf-8", "surrogatepass"))
        if kind == 3:
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        event |= {"body": base64.b64encode(bytes(raw)).decode(), "isBase64Encoded": True}
    elif kind == 4:
        event["isBase64Encoded"] = True
    elif kind == 5:
        event["body"] = chance.choice(
            (None, "", "null", "[]", "1", '"x"', "[" * 9000, '{"update_id":' * 9000, "\ufeff{}", "9" * 5000)
        )
    elif kind == 6:
        wrong: Any = ({}, None, {SECRET_HEADER: None}, {SECRET_HEADER: ""}, {SECRET_HEADER: "é\ud800"}, {"x": SECRET})
        event["headers"] = chance.choice(wrong)
    elif kind == 7:
        event["headers"] |= {"content-type": None, "content-length": "-1", "x-forwarded-for": "\x00"}
    return event


class Aws:
    """AWS as the webhook sees it: takes what the services take, and now and then has a bad moment."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._validator = ParamValidator()
        self.moment: str | None = None
        self.started: list[Envelope] = []

    def call(self, client: Any, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        shape = client.meta.service_model.operation_model(operation).input_shape
        assert not self._validator.validate(given, shape).has_errors()
        if operation == "GetSecretValue":
            return {"SecretString": SECRET}
        if operation == "StartSyncExecution":
            return self._intake(given["input"])
        for name in ("pk", "sk"):
            assert 0 < len(given["Key"][name]["S"].encode()) <= 1024
        return {"Attributes": {"updates": {"NS": ["1"]}}}

    def _intake(self, document: str) -> dict[str, Any]:
        size = len(document.encode())  # a client encodes it, too
        if size > 262_144:
            raise refusal("InvalidExecutionInput")
        envelope = Envelope.model_validate_json(document)
        assert json.loads(document)["turn_id"] == envelope.turn_id
        assert re.fullmatch(r"[A-Za-z0-9_-]+", envelope.turn_id) and len(envelope.turn_id) <= NAME_LIMIT
        self.started.append(envelope)
        self.moment = self._chance.choice(list(HEALS)) if self._chance.random() < 0.02 else None
        if self.moment in ("FAILED", "TIMED_OUT"):
            return {"status": self.moment, "error": "Broken", "cause": "x"}
        if self.moment is not None:
            raise refusal(self.moment)
        return {"status": "SUCCEEDED", "output": '{"outcome": "started"}'}


def refusal(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "StartSyncExecution")


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """The webhook's environment, and the answers to its calls; other clients of this process are left alone."""
    chance = random.Random(1)
    found, call = Aws(chance), BaseClient._make_api_call  # type: ignore[attr-defined]

    def routed(self: Any, operation: str, given: dict[str, Any]) -> Any:
        if self.meta.endpoint_url == ENDPOINT:
            return found.call(self, operation, given)
        return call(self, operation, given)

    monkeypatch.setattr(BaseClient, "_make_api_call", routed)
    before = own_environment()
    use_environment({
        "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": ENDPOINT, "AWS_ACCESS_KEY_ID": "fuzz",
        "AWS_SECRET_ACCESS_KEY": "fuzz", "SESSION_TABLE": "table", "WEBHOOK_SECRET_ID": "secret",
        "INTAKE_ARN": "arn:aws:states:us-east-1:123456789012:stateMachine:stepgram-intake",
        "ALLOWED_USERS": "5", "ALLOWED_CHATS": "-100",
    })  # fmt: skip
    level = logger.log_level
    logger.setLevel("CRITICAL")
    yield found
    logger.setLevel(level)
    use_environment(before)


@pytest.mark.timeout(300)
def test_no_update_ends_in_a_traceback(aws: Aws) -> None:
    chance, seen = random.Random(7), Counter[str]()
    for number in range(UPDATES):
        event = posted(mutated(chance), chance)
        aws.moment = None
        try:
            answer = handler(event, None)
        except Exception as error:
            raise AssertionError(f"update {number}: {ascii(event)[:3000]}") from error
        status, body = answer["statusCode"], json.loads(answer["body"])
        right = (event["headers"] or {}).get(SECRET_HEADER) == SECRET
        assert status == (HEALS[aws.moment] if aws.moment else 200 if right else 401), ascii(event)[:3000]
        assert body.get("error") or status == 200
        assert len(answer["body"]) < 10_000
        seen[str(body.get("outcome") or status)] += 1

    assert seen["started"] > UPDATES / 10
    assert seen["not understood"] > UPDATES / 10
    assert min(seen[name] for name in ("ignored", "401", "502", "503")) > 0
    routes = Counter(envelope.route for envelope in aws.started)
    assert set(routes) == {"message", "album", "command", "stop", "button", "membership", "refused"}


@given(
    before=st.text(max_size=9), half=st.characters(categories=["Cs"]), after=st.text(max_size=9), escaped=st.booleans()
)
def test_half_a_character_costs_no_message(before: str, half: str, after: str, escaped: bool) -> None:
    """In a text, a name, wherever: it becomes U+FFFD, and all around it stays."""
    text = f"{before}\\ {half} {after}"
    given = {"update_id": 9, "message": message(text, entities=[], document={**FILE, "file_name": f"{half}.pdf"})}
    body = json.dumps(given, ensure_ascii=escaped)

    read = read_update({"body": body})

    assert read.message is not None and read.message.text is not None
    mark = "\ufffd" if escaped else "?"
    assert read.message.text == f"{before}\\ {mark} {after}"
    normalise(read, Rules(("*",))).model_dump_json().encode()


@given(text=st.text(max_size=50), escaped=st.booleans())
def test_whole_characters_pass_unchanged(text: str, escaped: bool) -> None:
    read = read_update({"body": json.dumps({"update_id": 9, "message": message(text)}, ensure_ascii=escaped)})

    assert read.message is not None
    assert read.message.text == text


@given(name=st.text(max_size=300), suffix=st.text(max_size=20))
def test_a_files_name_is_one_that_a_disk_takes(name: str, suffix: str) -> None:
    given = {"update_id": 9, "message": message(None, document={**FILE, "file_name": f"{name}.{suffix}"})}
    read = Update.model_validate_json(json.dumps(given))
    assert read.message is not None

    found = attachments(read.message)[0].name

    assert 0 < len(found.encode()) <= 255
    assert not re.search(r"[\x00-\x1f/\\]", found)
    assert found not in (".", "..")


@pytest.mark.parametrize(
    "change",
    [
        {"message_thread_id": 10**100, "is_topic_message": True},
        {"message_thread_id": MAX_ID, "is_topic_message": True},
        {"message_thread_id": -4, "is_topic_message": True},
        {"date": MAX_TIME},
        {"date": 10**30},
        {"message_id": 2**80},
        {"media_group_id": "x" * 2000},
        {"document": {**FILE, "file_size": -1}},
        {"entities": [1] * 100_000},
    ],
)
def test_what_no_later_step_could_take_is_not_understood(aws: Aws, change: dict[str, Any]) -> None:
    body = json.dumps({"update_id": 9, "message": message("hi", **change)})

    answer = handler({"headers": {SECRET_HEADER: SECRET}, "body": body}, None)

    assert (answer["statusCode"], json.loads(answer["body"])["outcome"]) == (200, "not understood")
    assert next(iter(change)) in json.loads(answer["body"])["error"]
    assert len(answer["body"]) < 1000


def test_a_thread_that_cannot_be_is_no_stop(aws: Aws) -> None:
    stopped = {"chat": {"id": 5, "type": "private"}, "draft_id": 1, "message_thread_id": -1}

    answer = handler(
        {
            "headers": {SECRET_HEADER: SECRET},
            "body": json.dumps({"update_id": 9, "stopped_message_generation": stopped}),
        },
        None,
    )

    assert json.loads(answer["body"])["outcome"] == "not understood"


def test_what_was_mutated_goes_through_the_real_workflow(stack: EmbeddedStack, person: Person, call: Call) -> None:
    """The real Intake and Turn take what the webhook lets through; errors have names of ours."""
    secret = stack.telegram.state["webhook"]["secret_token"]
    chance = random.Random(11)
    started = []
    with fast_agent(stack):
        for number in range(120):
            update = mutated(chance)
            update["update_id"] = 880_000_000 + number
            event = {"headers": {SECRET_HEADER: secret}, "body": json.dumps(update)}
            answer = json.loads(call("WebhookFunction", event).payload)
            body = json.loads(answer["body"])
            assert answer["statusCode"] == 200, f"{body} {ascii(update)[:2000]}"
            if body.get("outcome") not in ("ignored", "not understood", "failed"):
                started.append(body["turn_id"])
        running = [name for name in started if person.status(name) != "NONE"]
        assert len(running) > 20
        until(lambda: not [name for name in running if person.status(name) == "RUNNING"])
    ended = [person.wait(name) for name in running]
    assert {one.error for one in ended if one.status != "SUCCEEDED"} <= set(vars(errors))


@pytest.mark.parametrize(
    "text", ["half \ud800 a character", "x" * 190_000, "\x00\u202e\ufeff", "{}{0}$.x States.Format"]
)
def test_a_text_of_any_kind_is_answered(stack: EmbeddedStack, person: Person, chat: int, call: Call, text: str) -> None:
    person.command(chat, "/help")
    secret = stack.telegram.state["webhook"]["secret_token"]
    more = {"chat": {"id": chat, "type": "private"}, "from": {**USER, "id": chat, "first_name": "A\udfff"}}
    update = {"update_id": 890_000_000 + chat, "message": message(text, **more)}

    with fast_agent(stack):
        answer = json.loads(
            call("WebhookFunction", {"headers": {SECRET_HEADER: secret}, "body": json.dumps(update)}).payload
        )
        found = person.wait(json.loads(answer["body"])["turn_id"])

    assert answer["statusCode"] == 200
    assert (found.status, found.output["outcome"]) == ("SUCCEEDED", "DELIVERED")


@pytest.mark.parametrize(
    "path",
    [
        "/person/chats/x/signs",
        "/person/chats/1e9/messages",
        "/person/chats/5/messages?after=x",
        "/person/chats/5/messages?after=%ff",
        "/person/updates/x",
        "/person/files/%00",
        "/person/files/..%2f..%2fetc%2fpasswd",
    ],
)
def test_no_address_of_the_chat_page_ends_in_a_traceback(stack: EmbeddedStack, path: str) -> None:
    assert requests.get(f"{stack.addresses.telegram}{path}", timeout=10).status_code < 500


@pytest.mark.parametrize("body", ["[]", "1", "null", '{"chat_id": []}', '{"chat_id": 1e999}', '{"chat_id": {}}'])
@pytest.mark.parametrize("what", ["messages", "buttons", "stop"])
def test_no_form_of_the_chat_page_ends_in_a_traceback(stack: EmbeddedStack, what: str, body: str) -> None:
    headers = {"content-type": "application/json"}
    answer = requests.post(f"{stack.addresses.telegram}/person/{what}", data=body, headers=headers, timeout=10)

    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("since=2026-11-24T10:00:00", "since"),
        ("until=2026-11-24", "until"),
        ("since=yesterday", "since"),
        ("since=%ff%00", "since"),
        ("chat=five", "chat"),
        (f"chat={'9' * 5000}", "chat"),
        ("next=x", "error"),
        ("since=0001-01-01T00:00:00%2B14:00", ""),
        ("until=9999-12-31T23:59:59-14:00&chat=-1&text=%ff", ""),
    ],
)
def test_no_query_of_the_console_page_ends_in_a_traceback(
    stack: EmbeddedStack, person: Person, chat: int, query: str, names: str
) -> None:
    """What the page cannot have asked for is refused by name; what AWS refuses is said so."""
    person.command(chat, "/help")
    page = app(Stack(stack.addresses.outputs, stack.addresses.aws, stack.addresses.telegram), "token").test_client()

    answer = page.get(f"/token/api/turns?{query}")

    assert answer.status_code == (200 if not names else 502 if names == "error" else 400), answer.text
    assert names in answer.text
