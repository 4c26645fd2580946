"""The methods of the Bot API that the bot uses."""

from __future__ import annotations

import hmac
import mimetypes
import re
import secrets
import time
import uuid
from pathlib import Path
from typing import Any

from flask import Response, request, send_file

from stepgram.embedded.state import Change, private
from stepgram.embedded.telegram.checks import (
    DOWNLOAD_LIMIT,
    PHOTO_LIMIT,
    UPLOAD_LIMIT,
    BotApiError,
    caption_of,
    image_size,
    image_type,
    rich_content,
    text_content,
)
from stepgram.embedded.telegram.updates import Updates

GROUP_MESSAGES_A_MINUTE, MINUTE = 20, 60
SECRET_TOKEN = re.compile(r"^[A-Za-z0-9_-]{1,256}$")
DRAFT_SECONDS, ACTION_SECONDS = 30, 5
"""How long a draft and a chat action are shown (Bot API, sendMessageDraft, sendChatAction)."""

CHAT_ACTIONS = (
    "typing", "upload_photo", "record_video", "upload_video", "record_voice", "upload_voice", "upload_document",
    "choose_sticker", "find_location", "record_video_note", "upload_video_note",
)  # fmt: skip
ATTACH = "attach://"
"""How a parameter names the part of the request that is its file (Bot API, Sending files)."""

REACTIONS = ("👍", "👎", "❤", "🔥", "🎉", "🤔", "👀", "🙏", "👌", "💯", "⚡", "🏆", "😁", "😢", "🤝", "✍")
"""Some of the emoji a bot may react with (Bot API, ReactionTypeEmoji)."""

BOT = {"id": 7000000001, "is_bot": True, "first_name": "Stepgram", "username": "stepgram_demo_bot"}

CONTENT = ("text", "entities", "rich_message", "_page", "document", "photo", "audio", "video", "caption")
"""The fields of a message that an edit replaces."""


class BotMethods(Updates):
    """Each `_method_name` answers the Bot API's `methodName`, given its validated parameters."""

    def _get_me(self, parameters: dict[str, Any]) -> Any:
        return {**BOT, "can_join_groups": True, "can_read_all_group_messages": False, "supports_inline_queries": False}

    def _set_webhook(self, parameters: dict[str, Any]) -> Any:
        secret = parameters.get("secret_token", "")
        if secret and not SECRET_TOKEN.match(secret):
            raise BotApiError(400, "Bad Request: secret token contains illegal characters")
        self.state["webhook"] = {
            "url": parameters["url"],
            "secret_token": secret,
            "allowed_updates": parameters.get("allowed_updates", []),
        }
        self._changed("webhook")
        return True

    def _delete_webhook(self, parameters: dict[str, Any]) -> Any:
        self.state["webhook"] = {"url": "", "secret_token": ""}
        self._changed("webhook")
        return True

    def _set_my_commands(self, parameters: dict[str, Any]) -> Any:
        """https://core.telegram.org/bots/api#setmycommands; at most 100, of 1-32 characters, described in 1-256."""
        commands = parameters["commands"]
        if len(commands) > 100:
            raise BotApiError(400, "Bad Request: BOT_COMMANDS_TOO_MUCH")
        for command in commands:
            if not re.fullmatch(r"[a-z0-9_]{1,32}", command["command"]):
                raise BotApiError(400, "Bad Request: BOT_COMMAND_INVALID")
            if not 1 <= len(command["description"]) <= 256:
                raise BotApiError(400, "Bad Request: BOT_COMMAND_DESCRIPTION_INVALID")
        key = f"{parameters.get('scope', {}).get('type', 'default')} {parameters.get('language_code') or ''}".strip()
        self.state.setdefault("commands", {})[key] = commands
        self._changed("commands")
        return True

    def _get_my_commands(self, parameters: dict[str, Any]) -> Any:
        key = f"{parameters.get('scope', {}).get('type', 'default')} {parameters.get('language_code') or ''}".strip()
        return self.state.get("commands", {}).get(key, [])

    def _leave_chat(self, parameters: dict[str, Any]) -> Any:
        chat = self._chat(int(parameters["chat_id"]))
        if chat["type"] == "private":
            raise BotApiError(400, "Bad Request: method is available only for supergroups and channels")
        chat["left"] = True
        self._changed_chat(chat)
        return True

    def _get_webhook_info(self, parameters: dict[str, Any]) -> Any:
        url = self.state["webhook"]["url"]
        return {"url": url, "has_custom_certificate": False, "pending_update_count": len(self._pending())}

    def _get_updates(self, parameters: dict[str, Any]) -> Any:
        """Confirms all updates before `offset`; an empty answer comes after `timeout` seconds."""
        if self.state["webhook"]["url"]:
            raise BotApiError(
                409,
                "Conflict: can't use getUpdates method while webhook is active; "
                "use deleteWebhook to delete the webhook first",
            )
        for record in self.state["updates"].values():
            if record["update"]["update_id"] < int(parameters.get("offset") or 0) and record["status"] is None:
                record["status"] = 200
                self._changed_update(record)
        self._arrived.wait_for(self._pending, int(parameters.get("timeout") or 0))
        return self._pending()[: int(parameters.get("limit") or 100)]

    def _pending(self) -> list[dict[str, Any]]:
        return [record["update"] for record in self.state["updates"].values() if record["status"] is None]

    def _answer_callback_query(self, parameters: dict[str, Any]) -> Any:
        return True

    def _send_message(self, parameters: dict[str, Any]) -> Any:
        return self._sent_message(parameters, text_content(parameters))

    def _send_rich_message(self, parameters: dict[str, Any]) -> Any:
        return self._sent_message(parameters, rich_content(parameters["rich_message"]))

    def _edit_message_text(self, parameters: dict[str, Any]) -> Any:
        """Replaces text, form and buttons; a message without `reply_markup` has none afterwards."""
        rich = parameters.get("rich_message")
        return self._edited(parameters, rich_content(rich) if rich else text_content(parameters))

    def _edit_message_reply_markup(self, parameters: dict[str, Any]) -> Any:
        return self._edited(parameters, None)

    def _edited(self, parameters: dict[str, Any], content: dict[str, Any] | None) -> Any:
        chat = self._chat(int(parameters["chat_id"]))
        wanted = int(parameters["message_id"])
        message = next((m for m in chat["messages"] if m["message_id"] == wanted), None)
        if message is None:
            raise BotApiError(400, "Bad Request: message to edit not found")
        if not message["from"]["is_bot"]:
            raise BotApiError(400, "Bad Request: message can't be edited")
        kept = {k: v for k, v in message.items() if k not in (*CONTENT, "reply_markup")}
        old = {k: message[k] for k in CONTENT if k in message}
        markup = parameters.get("reply_markup")
        if markup:
            _check_buttons(markup)
        new = {**kept, **(old if content is None else content), **({"reply_markup": markup} if markup else {})}
        if new == message:
            raise BotApiError(
                400,
                "Bad Request: message is not modified: specified new message content and reply markup are exactly "
                "the same as a current content and reply markup of the message",
            )
        message.clear()
        message.update(new, edit_date=int(time.time()))
        self._changed_chat(chat, message)
        return public(message)

    def _send_document(self, parameters: dict[str, Any]) -> Any:
        return self._sent_file("document", parameters)

    def _send_photo(self, parameters: dict[str, Any]) -> Any:
        return self._sent_file("photo", parameters)

    def _send_audio(self, parameters: dict[str, Any]) -> Any:
        return self._sent_file("audio", parameters)

    def _send_video(self, parameters: dict[str, Any]) -> Any:
        return self._sent_file("video", parameters)

    def _sent_file(self, kind: str, parameters: dict[str, Any]) -> Any:
        given = str(parameters[kind])
        field = given.removeprefix(ATTACH) if given.startswith(ATTACH) else kind
        return self._sent_message(parameters, {**self._upload(kind, field), **caption_of(parameters)})

    def _send_media_group(self, parameters: dict[str, Any]) -> Any:
        """2 to 10 photos and videos, or documents, or audios; https://core.telegram.org/bots/api#sendmediagroup"""
        media = parameters["media"]
        if not 2 <= len(media) <= 10:
            raise BotApiError(400, "Bad Request: wrong number of media in the album")
        kinds = {"visual" if item["type"] in ("photo", "video") else item["type"] for item in media}
        if len(kinds) > 1:
            raise BotApiError(400, "Bad Request: can't mix these media types in one album")
        group = str(time.time_ns())
        contents = [
            {**self._upload(item["type"], item["media"].removeprefix(ATTACH)), **caption_of(item)} for item in media
        ]
        return [self._sent_message(parameters, {**content, "media_group_id": group}) for content in contents]

    def _upload(self, kind: str, field: str) -> dict[str, Any]:
        """The message's content for a file of the request, after Telegram's checks."""
        upload = request.files.get(field)
        if upload is None:
            raise BotApiError(400, f"Bad Request: there is no {kind} in the request")
        content = upload.read()
        if not content:
            raise BotApiError(400, "Bad Request: file must be non-empty")
        if len(content) > (PHOTO_LIMIT if kind == "photo" else UPLOAD_LIMIT):
            raise BotApiError(413, "Request Entity Too Large")
        if kind == "photo" and image_size(content) is None:
            raise BotApiError(400, "Bad Request: IMAGE_PROCESS_FAILED")
        return self._stored(kind, upload.filename or "file", content)

    def _stored(self, kind: str, name: str, content: bytes, mime: str | None = None) -> dict[str, Any]:
        """Keep a file; returns the message's field for it."""
        file_id = f"file{uuid.uuid4().hex}{Path(name).suffix[:10]}"
        private(self._files)
        (self._files / file_id).touch(0o600)
        (self._files / file_id).write_bytes(content)
        file: dict[str, Any] = {"file_id": file_id, "file_unique_id": file_id, "file_size": len(content)}
        if kind == "photo":
            width, height = image_size(content) or (1, 1)
            return {"photo": [{**file, "width": width, "height": height}]}
        file["mime_type"] = mime or mimetypes.guess_type(name)[0] or "application/octet-stream"
        if kind != "voice":
            file["file_name"] = name
        if kind in ("voice", "audio", "video"):
            file["duration"] = 1
        if kind == "video":
            file |= {"width": 1, "height": 1}
        return {kind: file}

    def _get_file(self, parameters: dict[str, Any]) -> Any:
        """https://core.telegram.org/bots/api#getfile"""
        path = self._files / Path(str(parameters["file_id"])).name
        if not path.is_file():
            raise BotApiError(400, "Bad Request: invalid file_id")
        size = path.stat().st_size
        if size > DOWNLOAD_LIMIT:
            raise BotApiError(400, "Bad Request: file is too big")
        return {"file_id": path.name, "file_unique_id": path.name, "file_size": size, "file_path": f"files/{path.name}"}

    def _download(self, token: str, name: str) -> Response:
        if not self._is_mine(token):
            return Response("Not Found", 404)
        return self._file(name)

    def _is_mine(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self.token.encode())

    def _file(self, name: str) -> Response:
        """A file that somebody sent: to be saved, or an image to be shown, and never a page that runs here."""
        path = self._files / Path(name).name
        if not path.is_file():
            return Response("Not Found", 404)
        with path.open("rb") as file:
            kind = image_type(file.read(16))
        response = send_file(path.resolve(), mimetype=kind or "application/octet-stream")
        response.headers["Content-Disposition"] = "inline" if kind else "attachment"
        response.headers["Content-Security-Policy"] = "sandbox; default-src 'none'"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    def _send_chat_action(self, parameters: dict[str, Any]) -> Any:
        """Shown for five seconds, or until the bot sends something."""
        chat = self._chat(int(parameters["chat_id"]))
        if parameters["action"] not in CHAT_ACTIONS:
            raise BotApiError(400, "Bad Request: wrong parameter action in request")
        chat["action"] = {"action": parameters["action"], "until": time.time() + ACTION_SECONDS}
        return True

    def _send_message_draft(self, parameters: dict[str, Any]) -> Any:
        """Empty text shows "Thinking..."; https://core.telegram.org/bots/api#sendmessagedraft"""
        content = text_content(parameters) if parameters.get("text") else {"text": ""}
        return self._drafted(parameters, content)

    def _send_rich_message_draft(self, parameters: dict[str, Any]) -> Any:
        return self._drafted(parameters, rich_content(parameters["rich_message"]))

    def _drafted(self, parameters: dict[str, Any], content: dict[str, Any]) -> Any:
        chat = self._chat(int(parameters["chat_id"]))
        if chat["type"] != "private":
            raise BotApiError(400, "Bad Request: drafts can be sent only to private chats")
        if int(parameters["draft_id"]) == 0:
            raise BotApiError(400, "Bad Request: draft identifier must be non-zero")
        thread = int(parameters.get("message_thread_id") or 0)
        if thread and thread not in chat["threads"]:
            raise BotApiError(400, "Bad Request: message thread not found")
        chat["draft"] = {
            "draft_id": int(parameters["draft_id"]),
            "thread": thread,
            "can_stop": bool(parameters.get("can_stop")),
            "until": time.time() + DRAFT_SECONDS,
            **content,
        }
        return True

    def _delete_message(self, parameters: dict[str, Any]) -> Any:
        chat, wanted = self._chat(int(parameters["chat_id"])), int(parameters["message_id"])
        message = next((m for m in chat["messages"] if m["message_id"] == wanted), None)
        if message is None:
            raise BotApiError(400, "Bad Request: message to delete not found")
        if not message["from"]["is_bot"] and chat["type"] != "private":
            raise BotApiError(400, "Bad Request: message can't be deleted")
        chat["messages"].remove(message)
        self._changes.append(Change("message", str(chat["id"]), wanted, None))
        return True

    def _set_message_reaction(self, parameters: dict[str, Any]) -> Any:
        """A bot puts one reaction at most on a message; https://core.telegram.org/bots/api#setmessagereaction"""
        chat, wanted = self._chat(int(parameters["chat_id"])), int(parameters["message_id"])
        message = next((m for m in chat["messages"] if m["message_id"] == wanted), None)
        if message is None:
            raise BotApiError(400, "Bad Request: message to react not found")
        emoji = [reaction["emoji"] for reaction in parameters.get("reaction") or []]
        if len(emoji) > 1 or not set(emoji) <= set(REACTIONS):
            raise BotApiError(400, "Bad Request: REACTION_INVALID")
        message["_reactions"] = emoji
        self._changed_chat(chat, message)
        return True

    def _create_forum_topic(self, parameters: dict[str, Any]) -> Any:
        """https://core.telegram.org/bots/api#createforumtopic; the topic's id is that of the message that opens it."""
        chat = self._chat(int(parameters["chat_id"]))
        name = str(parameters["name"])
        if not chat.get("is_forum"):
            raise BotApiError(400, "Bad Request: the chat is not a forum")
        if chat.get("no_topics"):
            raise BotApiError(400, "Bad Request: not enough rights to create a topic")
        if not 1 <= len(name) <= 128:
            raise BotApiError(400, "Bad Request: invalid topic name specified")
        topic = {"name": name, "icon_color": 0x6FB9F0}
        opened = self._add(chat, {"from": BOT, "forum_topic_created": topic, "is_topic_message": True})
        opened["message_thread_id"] = opened["message_id"]
        chat["threads"].append(opened["message_id"])
        self._changed_chat(chat, opened)
        return {"message_thread_id": opened["message_id"], **topic}

    def _sent_message(self, parameters: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
        chat_id = int(parameters["chat_id"])
        chat = self._chat(chat_id)
        self._flood(chat_id)
        thread = parameters.get("message_thread_id")
        if thread is not None and int(thread) not in chat["threads"]:
            raise BotApiError(400, "Bad Request: message thread not found")
        message: dict[str, Any] = {"from": BOT, **content}
        if parameters.get("reply_markup"):
            _check_buttons(parameters["reply_markup"])
            message["reply_markup"] = parameters["reply_markup"]
        if thread is not None:
            message |= {"message_thread_id": int(thread), "is_topic_message": True}
        reply = parameters.get("reply_parameters")
        if reply is not None:
            quoted = next((m for m in chat["messages"] if m["message_id"] == int(reply["message_id"])), None)
            if quoted is None and not reply.get("allow_sending_without_reply"):
                raise BotApiError(400, "Bad Request: message to be replied not found")
            if quoted is not None:
                message["reply_to_message"] = {
                    k: quoted[k] for k in ("message_id", "date", "chat", "text") if k in quoted
                }
        return public(self._add(chat, message))

    def _chat(self, chat_id: int) -> dict[str, Any]:
        chat: dict[str, Any] | None = self.state["chats"].get(str(chat_id))
        if chat is None:
            raise BotApiError(400, "Bad Request: chat not found")
        if chat.get("left"):
            raise BotApiError(403, "Forbidden: bot is not a member of the supergroup chat")
        if chat_id in self.state["blocked"]:
            raise BotApiError(403, "Forbidden: bot was blocked by the user")
        return chat

    def _flood(self, chat_id: int) -> None:
        """A group takes 20 messages a minute (https://core.telegram.org/bots/faq, limits)."""
        now, sent = time.monotonic(), self._sent[chat_id]
        while sent and now - sent[0] > MINUTE:
            sent.popleft()
        if chat_id < 0 and len(sent) >= GROUP_MESSAGES_A_MINUTE:
            seconds = int(MINUTE - (now - sent[0])) + 1
            raise BotApiError(429, f"Too Many Requests: retry after {seconds}", {"retry_after": seconds})
        sent.append(now)

    def _add(self, chat: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
        chat["next_message"] += 1
        complete = {
            "message_id": chat["next_message"],
            "date": int(time.time()),
            "chat": chat_of(chat),
            **message,
        }
        chat["messages"].append(complete)
        if message["from"]["is_bot"]:
            chat.pop("draft", None)
            chat.pop("action", None)
        self._changed_chat(chat, complete)
        return complete


def new_token() -> str:
    """A token for the stand-in's bot, in the form of Telegram's."""
    return f"{BOT['id']}:{secrets.token_urlsafe(26)}"


def _check_buttons(markup: dict[str, Any]) -> None:
    """A button's data has 1 to 64 bytes (Bot API, InlineKeyboardButton)."""
    for key in (key for row in markup.get("inline_keyboard", []) for key in row):
        if not 1 <= len(str(key.get("callback_data", "x")).encode()) <= 64:
            raise BotApiError(400, "Bad Request: BUTTON_DATA_INVALID")


def chat_of(chat: dict[str, Any]) -> dict[str, Any]:
    """The chat as messages and updates carry it."""
    return {k: chat[k] for k in ("id", "type", "first_name", "title", "is_forum") if k in chat}


def public(message: dict[str, Any]) -> dict[str, Any]:
    """The message without what only the stand-in knows of it."""
    return {k: v for k, v in message.items() if not k.startswith("_")}
