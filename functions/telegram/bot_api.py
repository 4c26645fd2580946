"""The Bot API over requests: one session a container, timeouts on every call, errors by name.

Source: https://core.telegram.org/bots/api#making-requests (answers carry `ok`, `description`, `parameters`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import requests

from functions.common.errors import ConfigurationError, TelegramRateLimited, TelegramRefused, TelegramUnavailable
from functions.common.secrets import secret
from functions.telegram.settings import TelegramSettings

TIMEOUT_SECONDS = (3.05, 20)
"""To connect, and between bytes."""

UPLOAD_TIMEOUT_SECONDS = (3.05, 60)
DEFAULT_RETRY_AFTER = 5
TOO_LARGE = 413
THREAD_GONE = "message thread not found"


class BotApi:
    """The methods of one bot. Raises the ChannelError that says what to do next."""

    def __init__(self, api_url: str, token: str) -> None:
        self._root = f"{api_url.rstrip('/')}/bot{token}/"
        self._files = f"{api_url.rstrip('/')}/file/bot{token}/"
        self._session = requests.Session()

    def call(
        self, method: str, parameters: Mapping[str, Any], files: Mapping[str, tuple[str, bytes]] | None = None
    ) -> Any:
        """Call a method and return its `result`. `files` maps a parameter to (name, content)."""
        given = {name: value for name, value in parameters.items() if value is not None}
        try:
            if files:
                flat = {k: v if isinstance(v, str | int) else json.dumps(v) for k, v in given.items()}
                response = self._session.post(
                    self._root + method, data=flat, files=files, timeout=UPLOAD_TIMEOUT_SECONDS
                )
            else:
                response = self._session.post(self._root + method, json=given, timeout=TIMEOUT_SECONDS)
        except requests.RequestException as error:
            # The address holds the token, so only the kind of failure is told.
            raise TelegramUnavailable(f"{method}: {type(error).__name__}") from None
        return _result(method, response)

    def download(self, file_id: str) -> bytes:
        """A file somebody sent, up to 20 MB (Bot API, getFile). Raises TelegramRefused when it is not given."""
        path = self.call("getFile", {"file_id": file_id})["file_path"]
        try:
            response = self._session.get(self._files + path, timeout=UPLOAD_TIMEOUT_SECONDS)
        except requests.RequestException as error:
            raise TelegramUnavailable(f"file: {type(error).__name__}") from None
        if response.status_code >= 500:
            raise TelegramUnavailable(f"file: HTTP {response.status_code}")
        if not response.ok:
            raise TelegramRefused(response.status_code, "the file cannot be downloaded")
        return response.content

    def send(
        self,
        method: str,
        chat_id: int,
        thread_id: int,
        parameters: Mapping[str, Any],
        reply_to: int | None = None,
        files: Mapping[str, tuple[str, bytes]] | None = None,
    ) -> int:
        """Send into a chat and its topic (0: none), quoting `reply_to`; returns the message id, of an album the first.

        A topic that is gone (seen in private chats with topics) is left out the second time.
        """
        quote = {"message_id": reply_to, "allow_sending_without_reply": True} if reply_to else None
        body = {**parameters, "chat_id": chat_id, "reply_parameters": quote}
        try:
            sent = self.call(method, {**body, "message_thread_id": thread_id or None}, files)
        except TelegramRefused as error:
            if not thread_id or THREAD_GONE not in error.description:
                raise
            sent = self.call(method, body, files)
        return int(sent[0]["message_id"] if isinstance(sent, list) else sent["message_id"])


def _result(method: str, response: requests.Response) -> Any:
    if response.status_code == TOO_LARGE:
        # The web server in front of the Bot API says so in HTML
        # (https://github.com/TelegramBots/Telegram.Bot/issues/476).
        raise TelegramRefused(TOO_LARGE, "Request Entity Too Large")
    try:
        answer = response.json()
    except requests.JSONDecodeError:
        raise TelegramUnavailable(f"{method}: HTTP {response.status_code} without JSON") from None
    if answer.get("ok"):
        return answer["result"]
    status, description = response.status_code, str(answer.get("description", ""))
    if status == 429:
        raise TelegramRateLimited(int(answer.get("parameters", {}).get("retry_after", DEFAULT_RETRY_AFTER)))
    if status >= 500:
        raise TelegramUnavailable(f"{method}: {status} {description}")
    if status in (401, 404):
        raise ConfigurationError(f"Telegram does not know this bot or method ({method}: {status} {description})")
    raise TelegramRefused(status, description)


@lru_cache(maxsize=4)
def _bot(api_url: str, token: str) -> BotApi:
    return BotApi(api_url, token)


def bot_api(settings: TelegramSettings) -> BotApi:
    """The bot of this function's settings; its connections live as long as the container."""
    return _bot(settings.api_url, secret(settings.token_secret_id))
