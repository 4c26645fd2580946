"""The contract of a Bot API server, as one suite that any server can be put through: a scripted conversation.

The client is aiogram, unmodified. `people` does what a person does in Telegram; against the real server a human would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from aiogram import Bot
from aiogram.exceptions import TelegramBadRequest, TelegramForbiddenError, TelegramRetryAfter
from aiogram.types import (
    BotCommand,
    BufferedInputFile,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    InputMediaPhoto,
    InputRichMessage,
    MessageEntity,
    ReactionTypeEmoji,
    Update,
)

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6364f8cf500f00038601805a34"
    "7d6b0000000049454e44ae426082"
)


class People(Protocol):
    """What people do."""

    def say(self, chat_id: int, text: str) -> Any:
        """Write."""

    def send_file(self, chat_id: int, kind: str, name: str, content: bytes) -> Any:
        """Send a file."""

    def press(self, chat_id: int, message_id: int, data: str) -> Any:
        """Press a button."""

    def press_stop(self, chat_id: int) -> Any:
        """Press Stop under a draft."""

    def block(self, chat_id: int) -> Any:
        """Block the bot."""


class Contract:
    """The steps, in order; each is a coroutine method whose name begins with `step`."""

    def __init__(self, bot: Bot, people: People, chat_id: int, group_id: int) -> None:
        self.bot, self.people, self.chat, self.group = bot, people, chat_id, group_id
        self._offset = 0

    async def run(self) -> list[str]:
        """All steps; returns their names."""
        names = [name for name in vars(type(self)) if name.startswith("step")]
        for name in names:
            await getattr(self, name)()
        return names

    async def update(self) -> Update:
        """The next update, by long polling."""
        (found,) = await self.bot.get_updates(offset=self._offset, limit=1, timeout=5)
        self._offset = found.update_id + 1
        return found

    async def refused(self, call: Awaitable[Any], text: str, kind: type[Exception] = TelegramBadRequest) -> None:
        """The call is refused with Telegram's words."""
        try:
            await call
        except kind as error:
            assert text in str(error), error
            return
        raise AssertionError(f"not refused: {text}")

    async def step_a_message_arrives_and_is_answered(self) -> None:
        """Text, entities, a reply."""
        me = await self.bot.get_me()
        assert me.is_bot
        self.people.say(self.chat, "/start hello")
        message = (await self.update()).message
        assert message is not None and message.text == "/start hello"
        assert message.entities is not None and message.entities[0].type == "bot_command"
        bold = MessageEntity(type="bold", offset=0, length=2)
        sent = await self.bot.send_message(
            self.chat, "Hi there", entities=[bold], reply_to_message_id=None,
            reply_parameters={"message_id": message.message_id},  # type: ignore[arg-type]
        )  # fmt: skip
        assert sent.reply_to_message is not None
        assert sent.reply_to_message.message_id == message.message_id

    async def step_limits_are_telegrams(self) -> None:
        """4,096 UTF-16 units, entities inside the text, chats that exist."""
        await self.bot.send_message(self.chat, "x" * 4096)
        await self.refused(self.bot.send_message(self.chat, "😀" * 2049), "message is too long")
        await self.refused(self.bot.send_message(self.chat, " "), "message text is empty")
        beyond = [MessageEntity(type="bold", offset=9, length=1)]
        await self.refused(self.bot.send_message(self.chat, "ab", entities=beyond), "entity begins after the end")
        await self.refused(self.bot.send_message(123456789, "x"), "chat not found")

    async def step_a_message_is_edited_and_deleted(self) -> None:
        """Once changed it is not changed again; what is gone cannot be edited."""
        sent = await self.bot.send_message(self.chat, "first")
        where = {"chat_id": self.chat, "message_id": sent.message_id}
        await self.bot.edit_message_text("second", **where)
        await self.refused(self.bot.edit_message_text("second", **where), "message is not modified")
        await self.bot.set_message_reaction(self.chat, sent.message_id, [ReactionTypeEmoji(emoji="👍")])
        await self.refused(
            self.bot.set_message_reaction(self.chat, sent.message_id, [ReactionTypeEmoji(emoji="🦕")]),
            "REACTION_INVALID",
        )
        await self.bot.delete_message(self.chat, sent.message_id)
        await self.refused(self.bot.edit_message_text("third", **where), "message to edit not found")
        await self.refused(self.bot.delete_message(self.chat, sent.message_id), "message to delete not found")

    async def step_a_rich_message_and_a_draft(self) -> None:
        """A draft is stopped by the person; the message after it stays."""
        rich = InputRichMessage(markdown="# Title\n\n| a | b |\n| --- | --- |\n| 1 | 2 |")
        await self.bot.send_rich_message_draft(self.chat, 7, rich, can_stop=True)
        self.people.press_stop(self.chat)
        stopped = (await self.update()).stopped_message_generation
        assert stopped is not None
        assert (stopped.chat.id, stopped.draft_id) == (self.chat, 7)
        await self.bot.send_message_draft(self.chat, 8, text="")
        sent = await self.bot.send_rich_message(self.chat, rich)
        assert sent.rich_message is not None
        await self.refused(self.bot.send_message_draft(self.chat, 0, text="x"), "draft identifier must be non-zero")
        self.people.say(self.group, "hello all")
        await self.update()
        await self.refused(self.bot.send_message_draft(self.group, 1, text="x"), "only to private chats")

    async def step_a_button_is_pressed(self) -> None:
        """Its data is at most 64 bytes."""
        keys = InlineKeyboardMarkup(inline_keyboard=[[InlineKeyboardButton(text="Go", callback_data="go:1")]])
        sent = await self.bot.send_message(self.chat, "Press", reply_markup=keys)
        self.people.press(self.chat, sent.message_id, "go:1")
        query = (await self.update()).callback_query
        assert query is not None and query.data == "go:1"
        await self.bot.answer_callback_query(query.id, text="ok")
        await self.bot.edit_message_reply_markup(chat_id=self.chat, message_id=sent.message_id)
        long = InlineKeyboardMarkup(inline_keyboard=[[InlineKeyboardButton(text="x", callback_data="y" * 65)]])
        await self.refused(self.bot.send_message(self.chat, "x", reply_markup=long), "BUTTON_DATA_INVALID")

    async def step_files_go_both_ways(self) -> None:
        """A document in, by getFile; photos, an album and a document out."""
        self.people.send_file(self.chat, "document", "note.txt", b"content")
        message = (await self.update()).message
        assert message is not None and message.document is not None
        file = await self.bot.get_file(message.document.file_id)
        content = await self.bot.download_file(str(file.file_path))
        assert content is not None and content.read() == b"content"
        photo = await self.bot.send_photo(self.chat, BufferedInputFile(PNG, "a.png"), caption="one")
        assert photo.photo is not None and photo.caption == "one"
        album = [InputMediaPhoto(media=BufferedInputFile(PNG, f"{n}.png")) for n in range(2)]
        sent = await self.bot.send_media_group(self.chat, album)  # type: ignore[arg-type]
        assert len({message.media_group_id for message in sent}) == 1
        document = await self.bot.send_document(self.chat, BufferedInputFile(b"x", "x.bin"))
        assert document.document is not None and document.document.file_name == "x.bin"
        await self.refused(self.bot.send_document(self.chat, BufferedInputFile(b"", "e")), "file must be non-empty")
        await self.refused(self.bot.send_photo(self.chat, BufferedInputFile(b"no", "n.png")), "IMAGE_PROCESS_FAILED")
        await self.refused(self.bot.send_media_group(self.chat, album[:1]), "wrong number")  # type: ignore[arg-type]
        await self.refused(self.bot.get_file("nonsense"), "invalid file_id")

    async def step_commands_and_actions(self) -> None:
        """The menu, and "typing"."""
        await self.bot.set_my_commands([BotCommand(command="help", description="What I can do")])
        assert [one.command for one in await self.bot.get_my_commands()] == ["help"]
        bad = [BotCommand(command="No!", description="x")]
        await self.refused(self.bot.set_my_commands(bad), "BOT_COMMAND_INVALID")
        await self.bot.send_chat_action(self.chat, "typing")
        await self.refused(self.bot.send_chat_action(self.chat, "dancing"), "wrong parameter action")

    async def step_a_group_is_paced(self) -> None:
        """20 messages a minute; then 429 with the seconds to wait."""
        sent = [self.bot.send_message(self.group, f"{n}") for n in range(20)]
        await asyncio.gather(*sent)
        try:
            await self.bot.send_message(self.group, "one more")
        except TelegramRetryAfter as error:
            assert 0 < error.retry_after <= 60
        else:
            raise AssertionError("not paced")
        await self.refused(self.bot.create_forum_topic(self.group, "x"), "the chat is not a forum")

    async def step_a_blocked_bot_is_told_so(self) -> None:
        """403, and not before the end."""
        self.people.block(self.chat)
        await self.refused(self.bot.send_message(self.chat, "x"), "bot was blocked", TelegramForbiddenError)


def run(make_bot: Callable[[], Bot], people: People, chat_id: int, group_id: int) -> list[str]:
    """Put a server through the contract; returns the names of the steps. The chats must be fresh."""

    async def go() -> list[str]:
        bot = make_bot()
        try:
            return await Contract(bot, people, chat_id, group_id).run()
        finally:
            await bot.session.close()

    return asyncio.run(go())
