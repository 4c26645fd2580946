"""Signs of life of a turn, as Telegram shows them.

In private chats the answer streams as a draft with a Stop button, which the final message ends. In groups it is
"typing" first and then one message, edited at Telegram's pace, whose place the answer takes. A turn that is run again
in a private chat shows "typing" alone: its answer takes the failure notice's place, and an edit ends no draft.
Sources: sendRichMessageDraft, sendMessageDraft, sendChatAction, editMessageText in https://core.telegram.org/bots/api
(10.3); a group takes 20 messages a minute (https://core.telegram.org/bots/faq).
"""

from __future__ import annotations

from functions.common.envelope import Chat
from functions.common.errors import TelegramRefused
from functions.conversation.progress import SHOWN_CHARACTERS, ProgressTable, Report, Shown, Ticket, draft_id
from functions.conversation.texts import say
from functions.telegram.bot_api import BotApi
from functions.telegram.delivery import FORMAT_REFUSED, NOT_EDITABLE, NOT_MODIFIED, delete_message
from functions.telegram.rendering import Classic, classic_parts

PRIVATE_PAUSE, GROUP_PAUSE = 1.0, 4.0
"""Seconds between two things shown."""

DETAIL_CHARACTERS = 160


def pause_in(chat: Chat) -> float:
    """Seconds between two things shown in a chat."""
    return PRIVATE_PAUSE if chat.type == "private" else GROUP_PAUSE


class TelegramSign:
    """One sign of life of a turn."""

    def __init__(self, bot: BotApi, chat: Chat, ticket: Ticket, report: Report, table: ProgressTable) -> None:
        self._bot = bot
        self._chat = chat
        self._ticket = ticket
        self._report = report
        self._table = table
        self._where = {"chat_id": chat.id, "message_thread_id": chat.thread_id or None}

    def show(self, shown: Shown) -> int | None:
        """Show it; returns the message that shows it, when it is one. Raises ChannelError."""
        message_id = shown.message_id
        if self._report.waiting:
            return self._put(message_id, Classic(self._say("waiting", count=self._report.waiting), ()))
        content = "\n\n".join(part for part in (self._report.text[-SHOWN_CHARACTERS:], self._line()) if part)
        if message_id is not None and shown.waiting:
            self.delete(message_id)
            self._table.gone(self._report.session_key, self._report.turn_id)
            message_id = None
        is_private, is_rerun = self._chat.type == "private", self._ticket.attempt > 0
        if is_private and not is_rerun:
            self._draft(content)
            return None
        if not content or is_private or self._report.alive:
            self._bot.call("sendChatAction", {**self._where, "action": "typing"})
            return None
        return self._put(message_id, classic_parts(content)[-1])

    def delete(self, message_id: int) -> None:
        """Take a message away again; one that is gone is fine."""
        delete_message(self._bot, self._chat.id, message_id)

    def _say(self, text: str, **values: object) -> str:
        return say(text, self._ticket.language, **values)

    def _line(self) -> str:
        """That the model is busy, or the tool that runs, as one line of Markdown."""
        if self._report.busy:
            return self._say("model_busy")
        tool = self._report.tool
        if tool is None or self._ticket.verbose == 0:
            return ""
        what = tool.detail if self._ticket.verbose > 1 and tool.detail else tool.brief
        shown = " ".join(what.replace("`", "'").split())[:DETAIL_CHARACTERS]
        return self._say("tool_runs", tool=tool.name, what=f" `{shown}`" if shown else "")

    def _draft(self, content: str) -> None:
        draft = {**self._where, "draft_id": draft_id(self._report.turn_id), "can_stop": True, "keep_on_stop": True}
        if not content:
            self._bot.call("sendMessageDraft", {**draft, "text": ""})
            return
        try:
            self._bot.call("sendRichMessageDraft", {**draft, "rich_message": {"markdown": content}})
        except TelegramRefused as error:
            if error.status != FORMAT_REFUSED:
                raise
            self._bot.call("sendMessageDraft", {**draft, "text": content})

    def _put(self, message_id: int | None, piece: Classic) -> int:
        body = {"text": piece.text, "entities": list(piece.entities) or None}
        if message_id is not None:
            try:
                self._bot.call("editMessageText", {"chat_id": self._chat.id, "message_id": message_id, **body})
                return message_id
            except TelegramRefused as error:
                if NOT_MODIFIED in error.description:
                    return message_id
                if not any(description in error.description for description in NOT_EDITABLE):
                    raise
        chat = self._chat
        return self._bot.send("sendMessage", chat.id, chat.thread_id, body, self._ticket.message_id)
