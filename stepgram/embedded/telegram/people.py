"""What people do: write, send files, press buttons and Stop, add the bot to groups."""

from __future__ import annotations

import re
import time
from typing import Any

from stepgram.embedded.telegram.bot_api import BOT, BotMethods, chat_of, public

COMMAND = re.compile(r"/[a-zA-Z0-9_]{1,32}(@\w+)?")


class People(BotMethods):
    """The people of all chats."""

    def say(
        self,
        chat_id: int,
        text: str,
        thread_id: int = 0,
        user_id: int | None = None,
        language: str = "en",
        name: str = "You",
        more: dict[str, Any] | None = None,
    ) -> dict[str, int]:
        """A person writes a message; returns its `update_id` and `message_id`. It goes to the webhook by itself.

        `more` are further fields of the message, such as `reply_to_message`.
        """
        command = COMMAND.match(text)
        entity = {"type": "bot_command", "offset": 0, "length": command.end()} if command else None
        content: dict[str, Any] = {"text": text, **({"entities": [entity]} if entity else {}), **(more or {})}
        return self.post(chat_id, content, thread_id, user_id, language, name)

    def send_file(self, chat_id: int, kind: str, name: str, content: bytes, **how: Any) -> dict[str, int]:
        """A person sends a file as `kind`; `how` is post's, with `more` for caption and media_group_id."""
        more = how.pop("more", {})
        return self.post(chat_id, {**self._stored(kind, name, content, how.pop("mime", None)), **more}, **how)

    def post(
        self,
        chat_id: int,
        content: dict[str, Any],
        thread_id: int = 0,
        user_id: int | None = None,
        language: str = "en",
        name: str = "You",
    ) -> dict[str, int]:
        """A person sends a message with any content; returns its `update_id` and `message_id`."""
        user = {
            "id": user_id or abs(chat_id),
            "is_bot": False,
            "first_name": name,
            "language_code": language,
        }
        with self._moment():
            chat = self.state["chats"].setdefault(str(chat_id), _new_chat(chat_id, name))
            if thread_id and thread_id not in chat["threads"]:
                chat["threads"].append(thread_id)
                chat["is_forum"] = chat_id < 0
            topic = {"message_thread_id": thread_id, "is_topic_message": True} if thread_id else {}
            message = self._add(chat, {"from": user, **topic, **content})
            update_id = self._queue({"message": public(message)}, chat_id)
        return {"update_id": update_id, "message_id": int(message["message_id"])}

    def press(self, chat_id: int, message_id: int, data: str, language: str = "en", user_id: int | None = None) -> int:
        """A person presses an inline button; returns the update_id."""
        with self._moment():
            chat = self.state["chats"][str(chat_id)]
            message = next(m for m in chat["messages"] if m["message_id"] == message_id)
            user = {"id": user_id or abs(chat_id), "is_bot": False, "first_name": "You", "language_code": language}
            query = {"id": f"query{self.state['next_update']}", "from": user, "chat_instance": str(chat_id)}
            return self._queue({"callback_query": {**query, "data": data, "message": public(message)}}, chat_id)

    def member(self, chat_id: int, old: str, new: str, user_id: int, forum: bool = False, **rights: bool) -> int:
        """A person adds the bot to a group or changes its rights there; returns the update_id."""
        with self._moment():
            chat = self.state["chats"].setdefault(str(chat_id), _new_chat(chat_id, "Group"))
            chat["is_forum"] = forum
            self._changed_chat(chat)
            change = {
                "chat": chat_of(chat),
                "from": {"id": user_id, "is_bot": False, "first_name": "You", "language_code": "en"},
                "date": int(time.time()),
                "old_chat_member": {"status": old, "user": BOT},
                "new_chat_member": {"status": new, "user": BOT, **rights},
            }
            return self._queue({"my_chat_member": change}, chat_id)

    def press_stop(self, chat_id: int) -> int:
        """A person presses Stop under a draft, which goes; returns the update_id."""
        with self._moment():
            chat = self.state["chats"][str(chat_id)]
            draft = chat.get("draft")
            if draft is None or not draft["can_stop"] or draft["until"] < time.time():
                raise ValueError("there is no draft with a Stop button")
            del chat["draft"]
            topic = {"message_thread_id": draft["thread"]} if draft["thread"] else {}
            stopped = {"chat": chat_of(chat), "draft_id": draft["draft_id"], **topic}
            return self._queue({"stopped_message_generation": stopped}, chat_id)

    def signs(self, chat_id: int) -> dict[str, Any]:
        """What fades: the draft and the action that a chat shows now."""
        with self._lock:
            chat = self.state["chats"].get(str(chat_id), {})
            shown = {kind: chat.get(kind) for kind in ("draft", "action")}
            return {kind: sign if sign and sign["until"] > time.time() else None for kind, sign in shown.items()}


def _new_chat(chat_id: int, name: str) -> dict[str, Any]:
    kind = {"type": "private", "first_name": name} if chat_id > 0 else {"type": "supergroup", "title": "Group"}
    return {"id": chat_id, **kind, "threads": [], "messages": [], "next_message": 0}
