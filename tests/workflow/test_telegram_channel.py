"""Telegram keeps the contract of a channel, on the stand-in that is as strict as the Bot API."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from botocore.model import OperationModel

from functions.common import aws
from functions.common.envelope import Attachment, Button, Chat
from functions.common.errors import TelegramUnavailable
from functions.common.settings import use_environment
from functions.telegram.bot_api import BotApi
from stepgram.embedded.stack import EmbeddedStack
from stepgram.embedded.telegram import BotApiError
from tests.channel_contract import ChannelContract, Killed, World
from tests.conftest import Person

ERRORS = {
    "limited": BotApiError(429, "Too Many Requests: retry after 1", {"retry_after": 1}),
    "unavailable": BotApiError(502, "Bad Gateway"),
    "refused": BotApiError(403, "Forbidden: bot was blocked by the user"),
    "format": BotApiError(400, "Bad Request: can't parse rich message"),
}
_elsewhere = itertools.count(750_000)
WRITES = ("PutItem", "UpdateItem", "TransactWriteItems")


class TelegramWorld(World):
    """A private chat, or a group, of the embedded stack."""

    def __init__(self, stack: EmbeddedStack, chat: Chat) -> None:
        super().__init__(chat)
        self._stack, self._telegram, self._person, self._chat = stack, stack.telegram, Person(stack), chat
        self._person.command(chat.id, "/whoami", thread=chat.thread_id)  # somebody was here

    def elsewhere(self) -> TelegramWorld:
        number = next(_elsewhere)
        chat = self._chat.model_copy(update={"id": number if self._chat.type == "private" else -number})
        return TelegramWorld(self._stack, chat)

    def seen(self) -> list[str]:
        assert {m.get("message_thread_id", 0) for m in self._person.replies(self._chat.id)} <= {self._chat.thread_id}
        return [text for text in self._person.texts(self._chat.id) if text]

    def files(self) -> dict[str, bytes]:
        found = [m["document"] for m in self._person.replies(self._chat.id) if "document" in m]
        return {file["file_name"]: self.channel.fetch("", self._attachment(file["file_id"])) for file in found}

    def buttons(self, message_id: int) -> list[Button]:
        found = next(m for m in self._person.replies(self._chat.id) if m["message_id"] == message_id)
        rows = found.get("reply_markup", {}).get("inline_keyboard", [])
        return [
            Button(id="query", data=button["callback_data"], message_id=message_id) for row in rows for button in row
        ]

    def labels(self, message_id: int) -> list[str]:
        found = next(m for m in self._person.replies(self._chat.id) if m["message_id"] == message_id)
        rows = found.get("reply_markup", {}).get("inline_keyboard", [])
        return [button["text"] for row in rows for button in row]

    def passing(self) -> str | None:
        draft = self._telegram.signs(self._chat.id)["draft"]
        return json.dumps(draft) if draft else None

    def stored(self, content: bytes) -> str:
        return "sessions/a/turns/b/outbox/c"  # Telegram is given the content

    @contextmanager
    def fetching_fails(self) -> Iterator[None]:
        def fails(*_: Any) -> bytes:
            raise TelegramUnavailable("file: HTTP 502")

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(BotApi, "download", fails)
            yield

    def attached(self, content: bytes) -> Attachment:
        self._telegram.send_file(self._chat.id, "document", "picture.bin", content)
        message = self._telegram.state["chats"][str(self._chat.id)]["messages"][-1]
        return self._attachment(message["document"]["file_id"])

    def no_attachment(self) -> Attachment:
        return self._attachment("no-such-file")

    def failing(self, error: str) -> None:
        self._telegram.fail_next(ERRORS[error])

    @contextmanager
    def killed_after(self, writes: int) -> Iterator[None]:
        left = [writes]

        def wrote() -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Killed

        def call(self: BotApi, method: str, *arguments: Any) -> Any:
            result = called(self, method, *arguments)
            wrote()
            return result

        def after_call(model: OperationModel, **_: Any) -> None:
            if model.name in WRITES:
                wrote()

        called, events = BotApi.call, aws.dynamodb().meta.events
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(BotApi, "call", call)
            events.register("after-call.*.*", after_call)
            try:
                yield
            finally:
                events.unregister("after-call.*.*", after_call)

    @staticmethod
    def _attachment(file_id: str) -> Attachment:
        return Attachment(kind="document", file_id=file_id, name="picture.bin", mime="application/octet-stream")


@pytest.fixture(params=["private", "supergroup", "topic"])
def world(request: pytest.FixtureRequest, stack: EmbeddedStack, chat: int) -> Iterator[TelegramWorld]:
    place = Chat(id=chat, type="private")
    if request.param != "private":
        place = Chat(
            id=-chat, type="supergroup", thread_id=7 * (request.param == "topic"), forum=request.param == "topic"
        )
    turn = next(spec for spec in stack.functions.specs.values() if spec.logical_id == "TurnFunction")
    use_environment(stack.functions.environment(turn))
    yield TelegramWorld(stack, place)
    use_environment(None)
    stack.telegram.fail_none()


class TestTelegram(ChannelContract):
    """The contract, in private chats and in groups."""
