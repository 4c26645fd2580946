"""Real Telegram without a public address: updates are fetched by long polling and posted to the local webhook.

An update is confirmed (by the next call's `offset`) only when the webhook answered 2xx, so nothing is lost when this
machine stops. Source: getUpdates, https://core.telegram.org/bots/api#getupdates.
"""

from __future__ import annotations

import threading
from typing import Any

import requests

from functions.common.errors import ChannelError
from functions.common.observability import logger
from functions.telegram.bot_api import BotApi
from functions.telegram.update import KINDS
from stepgram.embedded.state import Change, Closed, StateError, Store

POLL_SECONDS = 15
"""Telegram holds the call open for so long; below the Bot API client's read timeout."""

RETRY_SECONDS = 2.0
WEBHOOK_TIMEOUT_SECONDS = 60


class WebhookInTheWay(Exception):
    """The bot has a webhook: Telegram refuses getUpdates, and taking the webhook away would stop another stack."""


class Poller:
    """Fetches updates in a thread. The offset is kept: the first update not yet confirmed."""

    def __init__(self, bot: BotApi, webhook_url: str, secret: str, store: Store) -> None:
        self._bot = bot
        self._webhook_url = webhook_url
        self._secret = secret
        self._store = store
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="polling")

    def start(self) -> None:
        """Begin. Raises WebhookInTheWay when the bot is registered elsewhere."""
        url = self._bot.call("getWebhookInfo", {})["url"]
        if url:
            raise WebhookInTheWay(f"the bot delivers to {url}; take that webhook away first, or use another bot")
        self._thread.start()

    def stop(self) -> None:
        """Fetch nothing more; what is not confirmed comes again at the next start."""
        self._stopped.set()

    def _run(self) -> None:
        offset = next((int(row.value) for row in self._store.rows("offset")), 0)
        while not self._stopped.is_set():
            try:
                updates = self._bot.call(
                    "getUpdates", {"offset": offset, "timeout": POLL_SECONDS, "allowed_updates": list(KINDS)}
                )
            except ChannelError as error:
                logger.warning("updates cannot be fetched", cause=str(error))
                self._stopped.wait(RETRY_SECONDS)
                continue
            for update in updates:
                if not self._deliver(update):
                    return
                offset = int(update["update_id"]) + 1
                try:
                    self._store.keep(Change("offset", "", 0, offset))
                except Closed:
                    return
                except StateError as error:  # it is written with the next one
                    logger.warning("where polling is cannot be kept yet", cause=str(error))

    def _deliver(self, update: dict[str, Any]) -> bool:
        """Post until the webhook takes it; False when the stack stops first."""
        headers = {"X-Telegram-Bot-Api-Secret-Token": self._secret}
        while not self._stopped.is_set():
            try:
                answer = requests.post(self._webhook_url, json=update, headers=headers, timeout=WEBHOOK_TIMEOUT_SECONDS)
                if answer.ok or answer.status_code == 400:
                    return True
                logger.warning("the webhook did not take an update", status=answer.status_code)
            except requests.RequestException as error:
                logger.warning("the webhook did not take an update", cause=str(error))
            self._stopped.wait(RETRY_SECONDS)
        return False
