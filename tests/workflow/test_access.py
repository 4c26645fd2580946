"""Who may talk to the bot, how fast, and for how much; groups and topics."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, get_args

import pytest

from functions.conversation.admission import Admission, Guest
from functions.conversation.budget import ALL, periods
from functions.conversation.files.documents import LeftOut, Reason
from functions.conversation.texts import say
from functions.telegram.channel import Telegram
from functions.turn.reply import left_out
from stepgram.embedded.client import client
from stepgram.embedded.stack import EmbeddedStack
from tests.conftest import Person, until


@pytest.fixture
def admission(stack: EmbeddedStack) -> Admission:
    return Admission(stack.deployment.outputs["SessionTable"], client("dynamodb", stack.addresses.aws))


class Settings:
    """Changes the environment of one function of the running stack."""

    def __init__(self, stack: EmbeddedStack) -> None:
        self._specs = stack.functions.specs
        self._before = dict(self._specs)

    def set(self, function: str, **values: str) -> None:
        spec = self._specs[f"stepgram-{function}"]
        self._specs[spec.name] = replace(spec, environment={**spec.environment, **values})

    def undo(self) -> None:
        self._specs.update(self._before)


@pytest.fixture
def environment(stack: EmbeddedStack) -> Iterator[Settings]:
    changed = Settings(stack)
    yield changed
    changed.undo()


def taken(person: Person, update_id: int) -> dict[str, Any]:
    """The webhook's answer to an update."""
    record = person.stack.telegram.state["updates"][str(update_id)]
    until(lambda: record["status"] is not None)
    answer: dict[str, Any] = json.loads(record["body"])
    return answer


def test_a_stranger_gets_a_code_and_may_talk_once_it_is_allowed(
    person: Person, chat: int, environment: Settings, admission: Admission
) -> None:
    environment.set("WebhookFunction", ALLOWED_USERS="1")
    assert person.command(chat, "hello")["outcome"] == "refused not_allowed"
    code = re.search(r"stepgram access allow (\w{8})", person.texts(chat)[0])
    assert code is not None
    assert person.command(chat, "hello?")["outcome"] == "refused not_allowed before"
    assert len(person.replies(chat)) == 1

    assert admission.redeem("WRONGONE", "test") is None
    guest = admission.redeem(code[1].lower(), "test")
    assert guest is not None
    assert (guest.id, guest.name) == (chat, "You")
    assert admission.redeem(code[1], "test") is None
    assert person.ask(chat, "hello!").output["outcome"] == "DELIVERED"

    assert Guest(kind="user", id=chat, name="You", by="test") in admission.guests()
    assert admission.remove("user", chat)
    assert not admission.remove("user", chat)
    assert person.command(chat, "and now?")["outcome"] == "refused not_allowed"


def test_a_chat_that_is_allowed_lets_everybody_in_it_talk(
    person: Person, group: int, environment: Settings, admission: Admission
) -> None:
    environment.set("WebhookFunction", ALLOWED_USERS="")
    sent = person.stack.telegram.say(group, "hello")
    assert taken(person, sent["update_id"])["outcome"] == "ignored"

    admission.add(Guest(kind="chat", id=group))
    assert person.ask(group, "hello").output["outcome"] == "DELIVERED"


def test_who_writes_too_fast_is_told_once_and_then_not_read(person: Person, chat: int, environment: Settings) -> None:
    environment.set("WebhookFunction", MESSAGES_PER_MINUTE="3")
    outcomes: list[str] = []
    while "refused too_fast" not in outcomes:  # a new minute may begin in between
        outcomes.append(person.command(chat, "/whoami")["outcome"])
        assert len(outcomes) < 10

    assert outcomes[:3] == ["command whoami"] * 3
    assert person.command(chat, "/whoami")["outcome"] in ("ignored", "command whoami")
    assert person.texts(chat).count(say("too_fast", "en")) == 1


def spend(stack: EmbeddedStack, partition: str, dollars: float) -> None:
    """Note that this has been spent today and this month."""
    for sort_key in periods(datetime.now(UTC)).values():
        client("dynamodb", stack.addresses.aws).update_item(
            TableName=stack.deployment.outputs["SessionTable"],
            Key={"pk": {"S": partition}, "sk": {"S": sort_key}},
            UpdateExpression="ADD cost_usd :cost",
            ExpressionAttributeValues={":cost": {"N": str(dollars)}},
        )


def test_a_budget_warns_near_its_end_and_refuses_at_it(stack: EmbeddedStack, person: Person, chat: int) -> None:
    first = person.ask(chat, "what does this cost?").output["cost_usd"]
    assert first > 0
    spend(stack, f"{chat}:0", 8.0 - first * 1.5)
    assert person.ask(chat, "nearly").output["outcome"] == "DELIVERED"
    said = person.texts(chat)[-1]
    spent = re.search(r"\$(8\.\d\d) of", said)
    assert spent is not None
    warning = say("budget_warning", "en", budget=say("budget_chat_day", "en"), spent=spent[1], limit="10.00")
    assert said == warning
    assert person.ask(chat, "no second warning").output["outcome"] == "DELIVERED"
    assert person.texts(chat).count(warning) == 1

    spend(stack, f"{chat}:0", 2.0)
    turn = person.ask(chat, "too much")
    assert (turn.status, turn.error) == ("FAILED", "BudgetSpent")
    assert person.texts(chat)[-1] == say("budget_spent", "en", turn=turn.name)
    person.command(chat, "/cost", language="zh")
    line = person.texts(chat)[-1].splitlines()[1]
    assert line.startswith("本对话今日：$10.0")
    assert line.endswith("/ $10.00")


def test_costs_are_counted_for_the_conversation_and_over_all(stack: EmbeddedStack, person: Person, chat: int) -> None:
    def total(partition: str) -> float:
        key = {"pk": {"S": partition}, "sk": {"S": periods(datetime.now(UTC))["day"]}}
        table = stack.deployment.outputs["SessionTable"]
        item = client("dynamodb", stack.addresses.aws).get_item(TableName=table, Key=key).get("Item", {})
        return float(item.get("cost_usd", {"N": "0"})["N"])

    before = total(ALL)
    cost = person.ask(chat, "hello").output["cost_usd"]

    assert total(f"{chat}:0") == pytest.approx(cost)
    assert total(ALL) >= before + cost - 1e-9


def joined(person: Person, group: int, old: str, new: str, **more: Any) -> str:
    update = person.stack.telegram.member(group, old, new, 42, **more)
    return str(taken(person, update)["outcome"])


def test_a_group_is_told_what_is_missing_until_nothing_is(person: Person, group: int) -> None:
    assert joined(person, group, "left", "member") == "membership group_without_topics"
    assert joined(person, group, "member", "member", forum=True) == "membership group_not_admin"
    assert joined(person, group, "member", "administrator", forum=True) == "membership group_without_right"
    assert (
        joined(person, group, "administrator", "administrator", forum=True, can_manage_topics=True)
        == "membership group_ready"
    )
    names = ("group_without_topics", "group_not_admin", "group_without_right", "group_ready")
    assert person.texts(group) == [say(name, "en") for name in names]


def test_a_group_a_stranger_added_the_bot_to_is_left(person: Person, group: int, environment: Settings) -> None:
    environment.set("WebhookFunction", ALLOWED_USERS="1")

    assert joined(person, group, "left", "member") == "left the group"
    assert person.texts(group) == [say("group_left", "en")]
    assert person.stack.telegram.state["chats"][str(group)]["left"]
    assert joined(person, group, "member", "administrator") == "membership changed by a stranger"


def test_newchat_with_a_text_opens_a_topic_and_starts_there(person: Person, group: int) -> None:
    person.stack.telegram.say(group, "hi", thread_id=5)
    sent = person.stack.telegram.say(group, "/newchat plan a trip")
    assert taken(person, sent["update_id"])["outcome"] == "started"
    topic = next(m for m in person.replies(group) if "forum_topic_created" in m)
    assert topic["forum_topic_created"]["name"] == "plan a trip"
    thread = topic["message_thread_id"]
    turn = person.wait(f"c{group}-t{thread}-u{sent['update_id']}")

    assert turn.output["session_key"] == f"{group}:{thread}"
    answer = next(m for m in person.replies(group) if "plan a trip" in m.get("text", ""))
    assert answer["message_thread_id"] == thread


def test_newchat_in_a_private_chat_starts_afresh_with_the_text(person: Person, chat: int) -> None:
    person.ask(chat, "one")
    sent = person.stack.telegram.say(chat, "/newchat two")
    turn = person.wait(f"c{chat}-t0-u{sent['update_id']}")

    assert turn.output["version"] == 1
    assert "You said: two\n\nThis is message 1" in person.texts(chat)[-1]


def test_newchat_without_a_text_opens_an_empty_topic(person: Person, group: int) -> None:
    person.stack.telegram.say(group, "hi", thread_id=5)
    sent = person.stack.telegram.say(group, "/newchat")
    taken(person, sent["update_id"])

    topic = next(m for m in person.replies(group) if "forum_topic_created" in m)
    assert topic["forum_topic_created"]["name"] == say("topic_name", "en")
    assert say("new_topic", "en") in person.texts(group)
    assert say("new_chat_opened", "en") in person.texts(group)


def test_the_general_topic_refuses_politely(person: Person, group: int) -> None:
    person.stack.telegram.say(group, "hi", thread_id=5)
    sent = person.stack.telegram.say(group, "hello bot")

    assert taken(person, sent["update_id"])["outcome"] == "refused general_topic"
    assert say("general_topic", "en") in person.texts(group)


def test_what_is_not_there_cannot_be_forked_or_shown(person: Person, chat: int) -> None:
    person.command(chat, "/fork")
    person.command(chat, "/debug")

    assert person.texts(chat) == [say("fork_nothing", "en"), say("debug_nothing", "en")]


def test_an_undo_whose_version_is_gone_says_so(stack: EmbeddedStack, person: Person, chat: int) -> None:
    session = person.ask(chat, "one").output["session_id"]
    person.ask(chat, "two")
    s3, bucket = client("s3", stack.addresses.aws), stack.deployment.outputs["SessionBucket"]
    listed = s3.list_objects_v2(Bucket=bucket, Prefix=f"sessions/{session}/manifests/1-")["Contents"]
    s3.delete_object(Bucket=bucket, Key=listed[0]["Key"])
    person.command(chat, "/undo")

    assert person.texts(chat)[-1] == say("undo_gone", "en")


def test_a_topic_that_telegram_refuses_is_told(person: Person, group: int) -> None:
    person.ask(group, "hello", thread=5)
    person.stack.telegram.state["chats"][str(group)]["no_topics"] = True
    person.command(group, "/fork", thread=5)

    reason = "Bad Request: not enough rights to create a topic"
    assert person.texts(group)[-1] == say("fork_refused", "en", reason=reason)


def test_files_too_large_for_telegram_are_named(person: Person, chat: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Telegram, "sent_bytes", 10)
    person.ask(chat, "!file big.txt more than ten bytes")
    assert person.texts(chat)[-1] == say("not_sent_too_large", "en", name="big.txt", megabytes="0")
    person.command(chat, "/debug")

    assert say("debug_too_large", "en", name="conversation.jsonl", megabytes="0") in person.texts(chat)


def test_who_else_may_decide_is_said_in_the_question(person: Person, chat: int, environment: Settings) -> None:
    environment.set("TurnFunction", APPROVERS="77")
    name = person.say(chat, '!tool Glob {"pattern": "*"}')
    until(lambda: say("approval_others", "en") in " ".join(person.texts(chat)))
    person.command(chat, "/stop")

    assert person.wait(name).output["outcome"] == "STOPPED"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_reason_to_leave_a_file_out_is_told(language: str) -> None:
    paths = [LeftOut(path=f"file-{reason}", reason=reason, size=1024**2) for reason in get_args(Reason)]
    told = left_out(tuple(paths), language).splitlines()
    shown = [f"left_out_{path.reason}" for path in paths[:5]]

    assert told[1:6] == [say(n, language, path=p.path, megabytes="1.0") for n, p in zip(shown, paths, strict=False)]
    assert told[6] == say("left_out_more", language, count=len(paths) - 5)
    assert say("left_out_bad_name", language, path="x") in left_out((LeftOut(path="x", reason="bad_name"),), language)


def test_an_answer_no_messages_can_carry_comes_as_a_file(person: Person, chat: int) -> None:
    person.ask(chat, "!long 400000")
    document = next(m for m in person.replies(chat) if "document" in m)

    assert document["caption"] == say("answer_as_document", "en")
    assert document["document"]["file_size"] >= 400_000
