"""The webhook's registration with Telegram, from the stack's own secrets."""

from __future__ import annotations

from typing import Any

from functions.common.telegram import BotApi
from functions.webhook.update import KINDS
from stepgram.stack import Stack

MAX_CONNECTIONS = 40


def webhook_set(stack: Stack) -> str:
    """Register the stack's webhook; returns its address."""
    url = stack.outputs["WebhookUrl"]
    _bot(stack).call(
        "setWebhook",
        {
            "url": url,
            "secret_token": _secret(stack, "WebhookSecretId"),
            "allowed_updates": list(KINDS),
            "max_connections": MAX_CONNECTIONS,
        },
    )
    return url


def webhook_info(stack: Stack) -> dict[str, Any]:
    """What Telegram knows of the webhook."""
    info: dict[str, Any] = _bot(stack).call("getWebhookInfo", {})
    return info


def webhook_delete(stack: Stack) -> None:
    """Take the webhook away."""
    _bot(stack).call("deleteWebhook", {})


def _bot(stack: Stack) -> BotApi:
    return BotApi(stack.outputs["TelegramApiUrl"], _secret(stack, "BotTokenSecretId"))


def _secret(stack: Stack, output: str) -> str:
    value: str = stack.client("secretsmanager").get_secret_value(SecretId=stack.outputs[output])["SecretString"]
    return value
