"""Delivery with a ledger: every part of what a turn says reaches the chat once, however often a step runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from functions.channel import Asking, SentFile
from functions.common.envelope import Chat
from functions.common.errors import TelegramRefused
from functions.common.observability import StepRequest, logger
from functions.conversation.progress import Shown
from functions.conversation.sessions import COMPLETE, NOTICE, QUESTION, SessionTable, answer_messages
from functions.telegram.bot_api import TOO_LARGE, BotApi
from functions.telegram.buttons import rerun_data
from functions.telegram.questions import asked, choices, is_cut
from functions.telegram.rendering import Classic, classic_parts, plain_parts, plan
from functions.telegram.settings import RichSetting

FORMAT_REFUSED = 400
"""Telegram answers 400 to a message it cannot show, and 413 (TOO_LARGE) to a request of more than about 50 MB; 403 says
that nothing can be sent at all."""

SENT_BYTES, PHOTO_BYTES = 50 * 1024 * 1024, 10 * 1024 * 1024
"""Bytes of a file, and of a photo, that a bot may send (Bot API, Sending files)."""

ALBUM_FILES, ALBUM_BYTES = 10, 47 * 1024 * 1024
"""What goes as one album, which is one request: fewer than 50 MB, however Telegram reckons them, the form included."""

ALBUM_KINDS = ("photo", "video")
PHOTOS, VIDEOS, AUDIOS = ("jpg", "jpeg", "png", "webp"), ("mp4",), ("mp3", "m4a")

NOT_MODIFIED = "message is not modified"
NOT_EDITABLE = ("message to edit not found", "message can't be edited")
"""Descriptions of editMessageText: it says so already, and it can say nothing any more."""


def delete_message(bot: BotApi, chat_id: int, message_id: int) -> None:
    """Take a message away; one that is gone, or too old to be taken away, is left."""
    try:
        bot.call("deleteMessage", {"chat_id": chat_id, "message_id": message_id})
    except TelegramRefused as error:
        logger.info("the message is not deleted", cause=str(error))


def kind_of(name: str, size: int) -> str:
    """How a file is sent, by its name: photo, video, audio or document."""
    suffix = name.rpartition(".")[2].lower()
    if suffix in PHOTOS:
        return "photo" if size <= PHOTO_BYTES else "document"
    return "video" if suffix in VIDEOS else "audio" if suffix in AUDIOS else "document"


def albums(files: Sequence[tuple[str, SentFile]]) -> list[list[tuple[str, SentFile]]]:
    """The files in their order, as albums that fit into one request each."""
    packed: list[list[tuple[str, SentFile]]] = []
    for kind, file in files:
        last = packed[-1] if packed else []
        if not last or len(last) == ALBUM_FILES or sum(f.size for _, f in last) + file.size > ALBUM_BYTES:
            packed.append(last := [])
        last.append((kind, file))
    return packed


def _uploads(files: list[tuple[str, SentFile]]) -> dict[str, tuple[str, bytes]]:
    return {f"file{number}": (file.name, file.content()) for number, (_, file) in enumerate(files)}


class TelegramDelivery:
    """Sends the parts of one turn into a chat."""

    def __init__(
        self,
        bot: BotApi,
        table: SessionTable,
        turn: StepRequest,
        chat: Chat,
        reply_to: int | None,
        rich: RichSetting,
        progress: Shown | None = None,
    ) -> None:
        """`progress` is how the turn's progress was closed: the message that showed it makes room for what is said."""
        self._bot = bot
        self._table = table
        self._session_key = session_key = turn.session_key
        self._turn_id = turn_id = turn.turn_id
        self._chat = chat
        self._reply_to = reply_to
        self._rich = rich
        self.sent = dict(progress.delivered if progress else table.turn(session_key, turn_id).delivered)
        self._placeholder = self._open_message(progress)

    @property
    def message_ids(self) -> list[int]:
        """The messages of the answer."""
        return answer_messages(self.sent)

    def complete(self) -> None:
        """Note that nothing of the answer is missing: from now on no failure of the turn is worth a notice."""
        self._once(COMPLETE, lambda: 0)

    def _open_message(self, progress: Shown | None) -> int | None:
        """The message whose place the next text takes: the failure notice, or what showed progress.

        One that may still be edited by a report on its way is deleted instead, and so is a place in the queue, which
        stands above the answers that came before.
        """
        messages = {message for part, message in self.sent.items() if part.startswith(NOTICE)}
        if progress is not None and progress.message_id is not None:
            if (progress.busy or progress.waiting) and progress.message_id not in self.sent.values():
                delete_message(self._bot, self._chat.id, progress.message_id)
            else:
                messages.add(progress.message_id)
        return max(messages - set(self.message_ids), default=None)

    def notice(self, number: int, text: str, again: str) -> int:
        """The turn's failure notice, the `number`th, with a button; it takes the place of the one before."""
        part, button = f"{NOTICE}{number}", {"text": again, "callback_data": rerun_data(self._turn_id)}
        keyboard = {"inline_keyboard": [[button]]}
        self._once(part, lambda: self._send("sendMessage", {"text": text, "reply_markup": keyboard}))
        return self.sent[part]

    def question(self, asking: Asking) -> None:
        """A text with buttons; a call that is longer than it may be goes along whole, as a document."""
        part, piece = f"{QUESTION}{asking.number}", asked(asking)
        if is_cut(asking):
            name = re.sub(r"\W", "_", asking.tool)
            self.document(f"{part}.call", f"{name}.txt", asking.call.encode())
        entities = list(piece.entities) or None
        body: dict[str, object] = {
            "text": piece.text,
            "entities": entities,
            "reply_markup": choices(asking, self._turn_id),
        }
        self._once(part, lambda: self._send("sendMessage", body))

    def answer(self, markdown: str, caption: str) -> str:
        """As classic messages where every client can show them, as rich ones where it takes those."""
        how = plan(markdown, self._rich)
        for number, part in enumerate(how.parts):
            if how.form == "rich":
                self.rich(f"answer{number}", part)
            else:
                self.classic(f"answer{number}", part)
        if how.as_document:
            self.document("document", "answer.md", markdown.encode("utf-8", "replace"), caption)
        return how.form

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

    def document(self, part: str, name: str, content: bytes, caption: str | None = None) -> bool:
        """A file; False when it is too large for Telegram."""
        try:
            self._once(part, lambda: self._send("sendDocument", {"caption": caption}, {"document": (name, content)}))
        except TelegramRefused as error:
            if error.status != TOO_LARGE:
                raise
            logger.warning("a file is too large for Telegram", bytes=len(content))
            return False
        return True

    def files(self, part: str, files: Sequence[SentFile]) -> list[SentFile]:
        """Files by their kind: photos and videos as albums, audio as audio, the others as documents.

        Returns those that are too large for Telegram.
        """
        kinds = [(kind_of(file.name, file.size), file) for file in files]
        refused: list[SentFile] = []
        first = 0
        for album in albums([(kind, file) for kind, file in kinds if kind in ALBUM_KINDS]):
            refused += self._album(f"{part}.album{first}", album)
            first += len(album)
        for number, (kind, file) in enumerate(kinds):
            if kind not in ALBUM_KINDS and not self._file(f"{part}{number}", kind, file):
                refused.append(file)
        return refused

    def _album(self, part: str, files: list[tuple[str, SentFile]]) -> list[SentFile]:
        """Several photos and videos as one album; what Telegram refuses so goes as documents.

        Returns those that are too large even so.
        """
        if len(files) == 1:
            return [] if self._file(part, *files[0]) else [files[0][1]]
        media = [{"type": kind, "media": f"attach://file{n}"} for n, (kind, _) in enumerate(files)]
        if not any(f"{part}.{number}" in self.sent for number in range(len(files))):
            try:
                self._once(part, lambda: self._send("sendMediaGroup", {"media": media}, _uploads(files)))
                return []
            except TelegramRefused as error:
                if error.status not in (FORMAT_REFUSED, TOO_LARGE):
                    raise
        return [file for n, (_, file) in enumerate(files) if not self._file(f"{part}.{n}", "document", file)]

    def _file(self, part: str, kind: str, file: SentFile) -> bool:
        """One file; what Telegram does not take as its kind goes as a document. False when it is too large."""
        if kind == "document":
            return part in self.sent or self.document(part, file.name, file.content())
        try:
            self._once(part, lambda: self._send(f"send{kind.capitalize()}", {}, {kind: (file.name, file.content())}))
        except TelegramRefused as error:
            if error.status not in (FORMAT_REFUSED, TOO_LARGE):
                raise
            return self.document(part, file.name, file.content())
        return True

    def topic(self, part: str, name: str) -> int:
        """A new forum topic; returns its id."""
        self._once(
            part,
            lambda: int(
                self._bot.call("createForumTopic", {"chat_id": self._chat.id, "name": name})["message_thread_id"]
            ),
        )
        return self.sent[part]

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
        if self._placeholder is not None and files is None:
            placeholder = self._placeholder
            edited = self._edit(placeholder, parameters)
            self._placeholder = None
            if edited:
                return placeholder
        return self._bot.send(method, self._chat.id, self._chat.thread_id, parameters, self._reply_to, files)

    def _edit(self, message_id: int, parameters: dict[str, object]) -> bool:
        """Put something else into a message; False when it can no longer be edited."""
        try:
            self._bot.call("editMessageText", {"chat_id": self._chat.id, "message_id": message_id, **parameters})
        except TelegramRefused as error:
            if any(description in error.description for description in NOT_EDITABLE):
                return False
            if NOT_MODIFIED not in error.description:
                raise
        return True

    def _once(self, part: str, send: Callable[[], int]) -> None:
        if part in self.sent:
            return
        message_id = send()
        self._table.delivered(self._session_key, self._turn_id, part, message_id)
        self.sent[part] = message_id
