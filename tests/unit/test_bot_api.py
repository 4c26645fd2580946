"""The Bot API client and the stand-in it is tested against: every refusal has its name, and limits are Telegram's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from flask import Flask, Response, request

from functions.common.errors import ConfigurationError, TelegramRateLimited, TelegramRefused, TelegramUnavailable
from functions.telegram.bot_api import BotApi
from stepgram.embedded.telegram import BotApiError, Telegram
from stepgram.server import Server
from tests import telegram_contract
from tests.conftest import until

CHAT = 5
TOKEN = "1:token"


@pytest.fixture
def telegram(tmp_path: Path) -> Telegram:
    stand_in = Telegram(TOKEN, tmp_path)
    stand_in.say(CHAT, "hello")
    return stand_in


@pytest.fixture
def url(telegram: Telegram) -> Iterator[str]:
    server = Server(telegram.app())
    yield server.url
    telegram.stop()
    server.stop()


@pytest.fixture
def bot(url: str) -> BotApi:
    return BotApi(url, TOKEN)


def refused(bot: BotApi, method: str, parameters: dict[str, object]) -> str:
    with pytest.raises(TelegramRefused) as error:
        bot.call(method, {"chat_id": CHAT, **parameters})
    return error.value.description


@pytest.mark.parametrize(
    ("parameters", "description"),
    [
        ({"text": "x" * 4097}, "Bad Request: message is too long"),
        ({"text": "😀" * 2049}, "Bad Request: message is too long"),
        ({"text": " \n"}, "Bad Request: message text is empty"),
        ({"text": "x", "chat_id": 99}, "Bad Request: chat not found"),
        ({"text": "x", "message_thread_id": 4}, "Bad Request: message thread not found"),
        ({"text": "x", "reply_parameters": {"message_id": 99}}, "Bad Request: message to be replied not found"),
        ({"text": "ab", "entities": [{"type": "bold", "offset": 1, "length": 5}]}, "Bad Request: entity beginning at"),
        ({"text": "😀b", "entities": [{"type": "bold", "offset": 1, "length": 1}]}, "splits a symbol"),
        ({"text": ["x"]}, "Bad Request: parameter text"),
    ],
)
def test_the_stand_in_refuses_what_telegram_refuses(
    bot: BotApi, parameters: dict[str, object], description: str
) -> None:
    assert description in refused(bot, "sendMessage", parameters)


def test_the_longest_message_passes(bot: BotApi) -> None:
    assert bot.send("sendMessage", CHAT, 0, {"text": "😀" * 2048}) == 2


def test_rich_messages_have_their_own_limits(bot: BotApi) -> None:
    assert "too long" in refused(bot, "sendRichMessage", {"rich_message": {"markdown": "x" * 32_769}})
    assert "exactly one" in refused(bot, "sendRichMessage", {"rich_message": {"markdown": "x", "html": "x"}})


def test_documents_must_not_be_empty(bot: BotApi) -> None:
    with pytest.raises(TelegramRefused, match="non-empty"):
        bot.send("sendDocument", CHAT, 0, {}, files={"document": ("a.md", b"")})
    assert bot.send("sendDocument", CHAT, 0, {}, files={"document": ("a.md", b"x")}) == 2


def test_a_request_of_more_than_fifty_megabytes_is_refused_unread(bot: BotApi, telegram: Telegram) -> None:
    half = {name: (f"{name}.mp4", bytes(26 * 1024 * 1024)) for name in ("a", "b")}
    media = [{"type": "video", "media": f"attach://{name}"} for name in half]

    with pytest.raises(TelegramRefused, match="Request Entity Too Large") as error:
        bot.call("sendMediaGroup", {"chat_id": CHAT, "media": media}, half)

    assert error.value.status == 413
    assert "sendMediaGroup" not in [method for method, _ in telegram.calls]


def test_too_large_said_by_a_web_server_is_the_same_refusal() -> None:
    app = Flask("proxy")
    app.add_url_rule("/<path:any>", view_func=lambda any: Response("<html>", 413), methods=["POST"])
    proxy = Server(app)

    with pytest.raises(TelegramRefused, match="413"):
        BotApi(proxy.url, TOKEN).call("sendDocument", {"chat_id": CHAT})
    proxy.stop()


def test_a_group_takes_twenty_messages_a_minute(bot: BotApi, telegram: Telegram) -> None:
    telegram.say(-7, "hi")
    for _ in range(20):
        bot.send("sendMessage", -7, 0, {"text": "x"})

    with pytest.raises(TelegramRateLimited) as error:
        bot.send("sendMessage", -7, 0, {"text": "x"})
    assert 50 < error.value.retry_after <= 61


def test_a_topic_that_is_gone_is_left_out_the_second_time(bot: BotApi, telegram: Telegram) -> None:
    assert bot.send("sendMessage", CHAT, 44, {"text": "x"}) == 2
    assert [p.get("message_thread_id") for m, p in telegram.calls] == [44, None]


def test_errors_by_status(bot: BotApi, telegram: Telegram) -> None:
    telegram.fail_next(
        BotApiError(403, "Forbidden: bot was blocked by the user"),
        BotApiError(502, "Bad Gateway"),
        BotApiError(429, "Too Many Requests: retry after 7", {"retry_after": 7}),
    )

    assert "blocked" in refused(bot, "sendMessage", {"text": "x"})
    with pytest.raises(TelegramUnavailable):
        bot.call("sendMessage", {"chat_id": CHAT, "text": "x"})
    with pytest.raises(TelegramRateLimited, match="wait #7# seconds"):
        bot.call("sendMessage", {"chat_id": CHAT, "text": "x"})


def test_a_wrong_token_or_method_is_a_matter_of_configuration(url: str) -> None:
    with pytest.raises(ConfigurationError):
        BotApi(url, "2:other").call("getMe", {})
    with pytest.raises(ConfigurationError):
        BotApi(url, TOKEN).call("noSuchMethod", {})


def test_a_dead_network_names_the_method_and_never_the_token() -> None:
    with pytest.raises(TelegramUnavailable) as error:
        BotApi("http://127.0.0.1:1", TOKEN).call("getMe", {})
    assert str(error.value) == "getMe: ConnectionError"


def test_an_answer_that_is_no_json_is_an_outage() -> None:
    app = Flask("gateway")
    app.add_url_rule("/<path:path>", view_func=lambda path: Response("<html>", 502), methods=["POST"])
    server = Server(app)

    with pytest.raises(TelegramUnavailable, match="502"):
        BotApi(server.url, TOKEN).call("getMe", {})
    server.stop()


def test_the_webhooks_secret_has_telegrams_alphabet(bot: BotApi) -> None:
    assert "illegal characters" in refused(bot, "setWebhook", {"url": "https://x", "secret_token": "a b"})


def test_updates_of_a_chat_are_delivered_one_at_a_time_until_they_are_taken(tmp_path: Path) -> None:
    seen: list[int] = []
    app = Flask("webhook")

    def receive() -> Response:
        seen.append(request.get_json()["update_id"])
        return Response("{}", 500 if len(seen) == 1 else 200)

    app.add_url_rule("/webhook", view_func=receive, methods=["POST"])
    server = Server(app)
    telegram = Telegram(TOKEN, tmp_path)
    telegram.state["webhook"] = {"url": f"{server.url}/webhook", "secret_token": ""}

    first = telegram.say(6, "one")["update_id"]
    second = telegram.say(6, "two")["update_id"]

    until(lambda: telegram.state["updates"][str(second)]["status"] is not None)
    assert seen == [first, first, second]
    telegram.stop()
    server.stop()


def test_an_unmodified_client_gets_through_the_contract(telegram: Telegram, url: str) -> None:
    telegram.state["updates"].clear()
    server = TelegramAPIServer.from_base(url)

    steps = telegram_contract.run(lambda: Bot(TOKEN, session=AiohttpSession(api=server)), telegram, CHAT, -7)

    assert len(steps) == 9
