"""The Intake: commands, refusals, and what the HTTP entry answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from functions.common.errors import ConfigurationError
from functions.conversation import commands
from functions.conversation.sessions import SessionTable
from functions.conversation.texts import CATALOGUE, say
from functions.intake.run_command import MENU
from functions.telegram.bot_api import BotApi
from stepgram.embedded.client import client
from stepgram.embedded.stack import EmbeddedStack
from stepgram.operators.webhook import set_commands
from tests.conftest import Person, until


def post(person: Person, body: bytes | str, **headers: str) -> requests.Response:
    webhook = person.stack.telegram.state["webhook"]
    given = {"X-Telegram-Bot-Api-Secret-Token": webhook["secret_token"], **headers}
    data = body if isinstance(body, bytes) else body.encode()
    return requests.post(webhook["url"], data=data, headers=given, timeout=30)


@pytest.mark.parametrize("secret", ["wrong", "", "é"])
def test_a_wrong_secret_is_401(person: Person, secret: str) -> None:
    headers = {"X-Telegram-Bot-Api-Secret-Token": secret.encode().decode("latin-1")}

    assert post(person, '{"update_id": 1}', **headers).status_code == 401


def test_a_missing_secret_is_401(person: Person) -> None:
    url = person.stack.telegram.state["webhook"]["url"]

    assert requests.post(url, json={"update_id": 1}, timeout=30).status_code == 401


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("not json", "Invalid JSON"),
        ("", "Invalid JSON"),
        ("[]", "body"),
        ("{}", "update_id: Field required"),
        ('{"update_id": "7"}', "update_id: Input should be a valid integer"),
        ('{"update_id": 7, "message": {"text": "x"}}', "message.message_id: Field required"),
        (b'{"update_id": 7, "message": "\xff"}', "message"),
    ],
)
def test_what_is_no_update_is_acknowledged_and_names_the_field(person: Person, body: bytes | str, field: str) -> None:
    """It would be none the next time either, so Telegram need not deliver it for a day."""
    answer = post(person, body)

    assert (answer.status_code, answer.json()["outcome"]) == (200, "not understood")
    assert field in answer.json()["error"]


@pytest.mark.parametrize(
    "update",
    [
        {"update_id": 9},
        {"update_id": 9, "poll_answer": {"poll_id": "1"}},
        {"update_id": 9, "message": {"message_id": 1, "date": 1, "chat": {"id": 5, "type": "channel"}}},
    ],
)
def test_an_update_that_needs_nothing_is_acknowledged(person: Person, update: dict[str, Any]) -> None:
    answer = post(person, json.dumps(update))

    assert (answer.status_code, answer.json()["outcome"]) == (200, "ignored")


@pytest.mark.parametrize(("language", "said"), [("en", "Write anything"), ("zh-hans", "发送任何内容"), ("fr", "Write")])
def test_help_speaks_the_users_language(person: Person, chat: int, language: str, said: str) -> None:
    answer = person.command(chat, "/help", language)

    assert answer["outcome"] == "command help"
    assert person.texts(chat)[0].startswith(said)


def test_start_greets_by_name_and_whoami_tells_the_ids(person: Person, chat: int) -> None:
    person.command(chat, "/start@stepgram_demo_bot")
    person.command(chat, "/whoami")

    assert person.texts(chat)[0].startswith("Hello You.")
    assert person.texts(chat)[1] == f"User {chat}, chat {chat}, topic 0."


def test_an_unknown_command_gets_help(person: Person, chat: int) -> None:
    person.command(chat, "/nonsense")

    assert person.texts(chat)[0] == "I do not know /nonsense."
    assert person.texts(chat)[1].startswith("Write anything")


def test_new_forgets_the_conversation(person: Person, chat: int) -> None:
    person.ask(chat, "one")
    person.command(chat, "/new")
    found = person.ask(chat, "two")

    assert "message 1 of this conversation" in person.texts(chat)[2]
    assert found.output["version"] == 1


def test_new_while_a_turn_runs_keeps_its_answer_but_not_its_snapshot(person: Person, chat: int) -> None:
    name = person.say(chat, "!slow 2")
    person.wait_for_state(name, "RunAgent")
    person.command(chat, "/new")

    found = person.wait(name)

    assert found.status == "SUCCEEDED"
    assert next(s for s in found.states if s.name == "Persist").output["persisted"]["status"] == "superseded"
    person.ask(chat, "after")
    assert "message 1 of this conversation" in person.texts(chat)[-1]


def test_stop_with_nothing_to_stop_says_so(person: Person, chat: int) -> None:
    person.command(chat, "/stop")

    assert person.texts(chat) == ["Nothing is running here."]


def test_an_old_button_is_answered(person: Person, chat: int) -> None:
    person.command(chat, "/help")
    user = {"id": chat, "is_bot": False, "first_name": "You"}
    message = {"message_id": 2, "date": 1, "chat": {"id": chat, "type": "private"}}
    query = {"id": "q1", "from": user, "chat_instance": "x", "data": "old", "message": message}

    update_id = person.stack.telegram.queue({"callback_query": query}, chat)

    record = person.stack.telegram.state["updates"][str(update_id)]
    until(lambda: record["status"] == 200)
    method, parameters = person.stack.telegram.calls[-1]
    assert method == "answerCallbackQuery"
    assert parameters["text"] == CATALOGUE["button_gone"]["en"]


def test_a_message_nobody_can_read_is_refused_with_a_reason(person: Person, chat: int) -> None:
    person.command(chat, "/help")
    user = {"id": chat, "is_bot": False, "first_name": "You", "language_code": "zh"}
    message = {
        "message_id": 3,
        "date": 1,
        "chat": {"id": chat, "type": "private"},
        "from": user,
        "story": {"id": 1},
    }

    person.stack.telegram.queue({"message": message}, chat)

    until(lambda: len(person.texts(chat)) == 2)
    assert person.texts(chat)[1] == CATALOGUE["unsupported"]["zh"]


@pytest.fixture
def closed(stack: EmbeddedStack) -> Iterator[None]:
    """The webhook with an empty allowlist."""
    specs = stack.functions.specs
    spec = specs["stepgram-WebhookFunction"]
    specs[spec.name] = replace(spec, environment={**spec.environment, "ALLOWED_USERS": ""})
    yield
    specs[spec.name] = spec


def test_without_an_allowlist_nobody_may_talk_to_the_bot(person: Person, chat: int, closed: None) -> None:
    answer = person.command(chat, "hello")

    assert answer["outcome"] == "refused not_allowed"
    assert len(person.texts(chat)) == 1
    assert person.texts(chat)[0].startswith("You may not use this bot yet.")


@pytest.fixture
def unconfigured(stack: EmbeddedStack) -> Iterator[None]:
    """The webhook without its secret's id."""
    specs = stack.functions.specs
    spec = specs["stepgram-WebhookFunction"]
    specs[spec.name] = replace(spec, environment={**spec.environment, "WEBHOOK_SECRET_ID": ""})
    yield
    specs[spec.name] = spec


def test_a_webhook_without_its_secret_never_opens_the_door(person: Person, unconfigured: None) -> None:
    for headers in ({}, {"X-Telegram-Bot-Api-Secret-Token": ""}):
        assert post(person, '{"update_id": 1}', **headers).status_code == 500


def test_status_model_verbose_and_cost_tell_and_change(person: Person, chat: int) -> None:
    person.command(chat, "/status")
    assert person.texts(chat)[-1].splitlines() == [
        say("status_session", "en", session="-", version=0),
        say("status_model", "en", model="default", verbose=1),
        say("status_idle", "en"),
    ]
    turn = person.ask(chat, "hello")
    person.command(chat, "/model opus")
    assert person.texts(chat)[-1].startswith("Model of this conversation: opus.")
    person.command(chat, "/verbose 2")
    assert person.texts(chat)[-1] == say("verbose", "en", verbose=2)
    person.command(chat, "/model nonsense")
    assert "opus" in person.texts(chat)[-1].partition(".")[0]
    person.command(chat, "/status", language="zh")
    lines = person.texts(chat)[-1].splitlines()
    assert lines[0] == say("status_session", "zh", session=turn.output["session_id"], version=1)
    assert lines[1] == say("status_model", "zh", model="opus", verbose=2)
    assert lines[3:] == [f"最近一次执行：{turn.name}", f"stepgram show {turn.name}"]
    person.command(chat, "/cost")
    assert person.texts(chat)[-1].startswith(say("cost_session", "en", cost=f"{turn.output['cost_usd']:.4f}"))

    again = person.ask(chat, "with opus")
    opus = next(s for s in person.stack.deployment.functions.values() if s.is_image).environment
    run = next(s for s in again.states if s.name == "RunAgent").output["run"]
    assert run["model"] == opus["ANTHROPIC_DEFAULT_OPUS_MODEL"]
    person.command(chat, "/model default")
    assert "default." in person.texts(chat)[-1]


def test_status_says_what_runs_and_how_many_wait(person: Person, chat: int) -> None:
    first = person.say(chat, "!slow 10")
    person.wait_for_state(first, "RunAgent")
    second = person.say(chat, "next")
    until(lambda: say("waiting", "en", count=1) in person.texts(chat))
    person.command(chat, "/status")

    status = next(text for text in person.texts(chat) if text.startswith("Session"))
    assert say("status_queue", "en", waiting=1) in status
    assert first in status
    person.wait(second)


def test_an_agent_command_reaches_the_agent_as_its_prompt(person: Person, chat: int) -> None:
    sent = person.stack.telegram.say(chat, "/hello in French")
    person.wait(f"c{chat}-t0-u{sent['update_id']}")

    assert person.texts(chat)[0].startswith("You said: Use the skill hello-world. in French")


def test_a_local_command_is_answered_at_once(
    person: Person, chat: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "commands.toml"
    path.write_text('[local.hours]\nmenu = { en = "When" }\ntext = { en = "9 to 17", zh = "9 点到 17 点" }\n')
    given = commands.configured(path)
    monkeypatch.setattr("functions.intake.run_command.configured", lambda: given)
    person.command(chat, "/hours", language="zh-hans")
    person.command(chat, "/help")

    assert person.texts(chat)[0] == "9 点到 17 点"
    assert "/hours - When" in person.texts(chat)[1]


@pytest.mark.parametrize(
    "text", ["[local.x]", "[agent.x]\nprompt = 1", "not toml", '[agent.x]\nmenu = {}\nprompt = "p"']
)
def test_a_bad_file_of_commands_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "commands.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"commands\.toml"):
        commands.configured(path)


def test_telegram_shows_a_menu_in_each_language_and_scope(person: Person) -> None:
    bot = BotApi(person.stack.deployment.outputs["TelegramApiUrl"], person.stack.telegram.token)
    set_commands(bot)

    english = bot.call("getMyCommands", {"scope": {"type": "all_private_chats"}})
    chinese = bot.call("getMyCommands", {"scope": {"type": "all_group_chats"}, "language_code": "zh"})
    assert [entry["command"] for entry in english] == [*MENU, *commands.configured().agent]
    assert {"command": "stop", "description": say("menu_stop", "zh")} in chinese
    assert {f"menu_{name}" for name in MENU} == {name for name in CATALOGUE if name.startswith("menu_")}


def test_what_is_chosen_before_the_first_message_holds(person: Person, chat: int) -> None:
    person.command(chat, "/verbose 2")
    status = person.command(chat, "/status")
    turn = person.ask(chat, "hello")

    outputs, endpoint = person.stack.deployment.outputs, person.stack.addresses.aws
    chosen = SessionTable(outputs["SessionTable"], client("dynamodb", endpoint)).preferences(f"{chat}:0")
    assert status["outcome"] == "command status"
    assert turn.output["outcome"] == "DELIVERED"
    assert chosen.verbose == 2
