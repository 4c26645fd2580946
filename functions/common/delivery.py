"""Delivery with a ledger: every part of what a turn says reaches the chat once, however often a step runs."""

from __future__ import annotations

from collections.abc import Callable

from functions.common.envelope import Chat
from functions.common.errors import TelegramRefused
from functions.common.rendering import Classic, classic_parts, plain_parts
from functions.common.sessions import SessionTable
from functions.common.telegram import BotApi

FORMAT_REFUSED = 400
"""Telegram answers 400 to a message it cannot show; 403 says that nothing can be sent at all."""


class Delivery:
    """Sends the parts of one turn. A part is known by its name in the turn's ledger."""

    def __init__(
        self, bot: BotApi, table: SessionTable, session_key: str, turn_id: str, chat: Chat, reply_to: int | None
    ) -> None:
        self._bot = bot
        self._table = table
        self._session_key = session_key
        self._turn_id = turn_id
        self._chat = chat
        self._reply_to = reply_to
        self.sent = dict(table.turn(session_key, turn_id).delivered)

    def text(self, part: str, text: str) -> None:
        """A plain text."""
        self._each(part, [(f"{part}.{n}", Classic(t, ())) for n, t in enumerate(plain_parts(text))])

    def classic(self, part: str, markdown: str) -> None:
        """Markdown as classic messages; what Telegram refuses goes as plain text."""
        pieces = [(f"{part}.{number}", piece) for number, piece in enumerate(classic_parts(markdown))]
        self._each(part, pieces)

    def rich(self, part: str, markdown: str) -> None:
        """Markdown as one rich message; what Telegram refuses goes as classic messages."""
        if f"{part}.0" in self.sent:
            self.classic(part, markdown)
            return
        try:
            self._once(part, lambda: self._send("sendRichMessage", {"rich_message": {"markdown": markdown}}))
        except TelegramRefused as error:
            if error.status != FORMAT_REFUSED:
                raise
            self.classic(part, markdown)

    def document(self, part: str, name: str, content: bytes, caption: str | None = None) -> None:
        """A file."""
        self._once(part, lambda: self._send("sendDocument", {"caption": caption}, {"document": (name, content)}))

    def _each(self, part: str, pieces: list[tuple[str, Classic]]) -> None:
        for name, piece in pieces:
            self._once(name, lambda piece=piece: self._classic(piece))  # type: ignore[misc]

    def _classic(self, piece: Classic) -> int:
        try:
            return self._send("sendMessage", {"text": piece.text, "entities": list(piece.entities) or None})
        except TelegramRefused as error:
            if error.status != FORMAT_REFUSED or not piece.entities:
                raise
            return self._send("sendMessage", {"text": piece.text})

    def _send(
        self, method: str, parameters: dict[str, object], files: dict[str, tuple[str, bytes]] | None = None
    ) -> int:
        return self._bot.send(method, self._chat.id, self._chat.thread_id, parameters, self._reply_to, files)

    def _once(self, part: str, send: Callable[[], int]) -> None:
        if part in self.sent:
            return
        message_id = send()
        self._table.delivered(self._session_key, self._turn_id, part, message_id)
        self.sent[part] = message_id
