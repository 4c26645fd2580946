"""The webhook's registration with Telegram, from the stack's own secrets."""

from __future__ import annotations

from typing import Any

from functions.intake.run_command import menu
from functions.telegram.bot_api import BotApi
from functions.telegram.update import KINDS
from stepgram.operators.stack import Stack

MAX_CONNECTIONS = 40
SCOPES = ("default", "all_private_chats", "all_group_chats")
LANGUAGES = ("", "zh")
"""The languages of the menu; the first is for everybody else (Bot API, setMyCommands)."""


def webhook_set(stack: Stack) -> str:
    """Register the stack's webhook; returns its address."""
    url = stack.outputs["WebhookUrl"]
    bot_of(stack).call(
        "setWebhook",
        {
            "url": url,
            "secret_token": secret_of(stack, "WebhookSecretId"),
            "allowed_updates": list(KINDS),
            "max_connections": MAX_CONNECTIONS,
        },
    )
    set_commands(bot_of(stack))
    return url


def set_commands(bot: BotApi) -> None:
    """Give Telegram the menu of commands, for each language and for private chats and groups."""
    for scope in SCOPES:
        for language in LANGUAGES:
            commands = [{"command": name, "description": text} for name, text in menu(language or "en")]
            parameters = {"commands": commands, "scope": {"type": scope}, "language_code": language or None}
            bot.call("setMyCommands", parameters)


def webhook_info(stack: Stack) -> dict[str, Any]:
    """What Telegram knows of the webhook."""
    info: dict[str, Any] = bot_of(stack).call("getWebhookInfo", {})
    return info


def webhook_delete(stack: Stack) -> None:
    """Take the webhook away."""
    bot_of(stack).call("deleteWebhook", {})


def bot_of(stack: Stack) -> BotApi:
    """The stack's bot."""
    return BotApi(stack.outputs["TelegramApiUrl"], secret_of(stack, "BotTokenSecretId"))


def secret_of(stack: Stack, output: str) -> str:
    """The value of the secret an output names."""
    value: str = stack.client("secretsmanager").get_secret_value(SecretId=stack.outputs[output])["SecretString"]
    return value
