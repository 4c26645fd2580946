"""Telegram as a channel: what the workflow needs of it (`functions/channel.py`), each on its Bot API method."""

from __future__ import annotations

from functions.channel import Answer, Channel, Rerun
from functions.common import aws
from functions.common.envelope import Attachment, Button, Chat, Message, Place
from functions.common.errors import AlbumIncomplete, ChannelError, ChannelRefused
from functions.common.observability import StepRequest, logger
from functions.common.settings import TableSettings
from functions.conversation.approvals import Question
from functions.conversation.progress import ProgressTable, Report, Shown, Ticket
from functions.conversation.sessions import SessionTable
from functions.telegram import buttons
from functions.telegram.albums import AlbumTable
from functions.telegram.bot_api import BotApi, bot_api
from functions.telegram.delivery import SENT_BYTES, TelegramDelivery
from functions.telegram.settings import TelegramSettings
from functions.telegram.signs import TelegramSign, pause_in


class Telegram:
    """Chats and their topics, by one bot."""

    sent_bytes = SENT_BYTES

    def delivery(
        self, turn: StepRequest, place: Chat, reply_to: int | None, shown: Shown | None = None
    ) -> TelegramDelivery:
        """What a turn says in a chat."""
        own, table = TelegramSettings.load(), SessionTable(TableSettings.load().table, aws.dynamodb())
        return TelegramDelivery(bot_api(own), table, turn, place, reply_to, own.rich, shown)

    def sign(self, ticket: Ticket, report: Report, table: ProgressTable) -> TelegramSign:
        """A draft, "typing", or a message that is edited."""
        return TelegramSign(_bot(), _chat(ticket.chat), ticket, report, table)

    def pause(self, place: Chat) -> float:
        """Seconds between two signs, as Telegram allows."""
        return pause_in(place)

    def verdict(self, question: Question, message_id: int, text: str) -> None:
        """One button that says it, in the place of those that asked."""
        button = {"text": text, "callback_data": buttons.DONE}
        keyboard = {"inline_keyboard": [[button]]}
        given = {"chat_id": _chat(question.chat).id, "message_id": message_id, "reply_markup": keyboard}
        try:
            _bot().call("editMessageReplyMarkup", given)
        except ChannelError as error:
            logger.info("the question does not show the decision", cause=str(error))

    def press(self, button: Button, place: Chat) -> Rerun | Answer | None:
        """What its data says."""
        return buttons.press(button.data, place)

    def acknowledge(self, button: Button, text: str, alert: bool) -> None:
        """The client stops its spinner and shows the text."""
        try:
            _bot().call("answerCallbackQuery", {"callback_query_id": button.id, "text": text, "show_alert": alert})
        except ChannelRefused as error:
            logger.warning("the callback query is too old to answer", cause=str(error))

    def withdraw(self, button: Button, place: Chat) -> None:
        """Remove the button. The text is left alone: the turn's answer may stand there already."""
        if button.data == buttons.DONE:
            return
        try:
            _bot().call("editMessageReplyMarkup", {"chat_id": place.id, "message_id": button.message_id})
        except ChannelRefused as error:
            logger.info("the button is gone already", cause=str(error))

    def messages(self, session_key: str, turn_id: str, message: Message) -> tuple[Message, ...]:
        """The message, or all of the album it leads. Raises AlbumIncomplete while more may come."""
        if message.album is None:
            return (message,)
        albums = _albums()
        album = albums.read(session_key, message.album)
        if album is None or album.leader != turn_id:
            return (message,)
        if not album.closed:
            if not album.quiet:
                raise AlbumIncomplete(f"album {message.album} has {len(album.parts)} messages so far")
            album = albums.close(session_key, message) or album
        return album.parts

    def joins(self, session_key: str, turn_id: str, message: Message) -> bool:
        """Add it to its album; True when its own turn must run."""
        return _albums().join(session_key, turn_id, message)

    def fetch(self, session_key: str, attachment: Attachment) -> bytes:
        """The file, from Telegram's server of files."""
        return _bot().download(attachment.file_id)

    def leave(self, place: Chat) -> None:
        """Leave the group."""
        try:
            _bot().call("leaveChat", {"chat_id": place.id})
        except ChannelRefused as error:
            logger.warning("the group cannot be left", cause=str(error))


def _chat(place: Place) -> Chat:
    """What is told by Telegram is in Telegram."""
    assert isinstance(place, Chat), place
    return place


def _bot() -> BotApi:
    return bot_api(TelegramSettings.load())


def _albums() -> AlbumTable:
    return AlbumTable(TableSettings.load().table, aws.dynamodb())


CHANNEL: Channel[Chat] = Telegram()
