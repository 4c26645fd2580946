"""A stand-in for the Telegram Bot API, for the methods the bot uses, as strict as the real one.

Parameters are validated with aiogram's models of Bot API 10.3; limits and error texts are Telegram's. It also plays the
people: `/person/...` sends a message as someone, and `/` is a page to chat on. Updates go to the registered webhook as
Telegram sends them: one at a time for each chat, again after 1 s, 2 s, 4 s ... up to 60 s until the answer is 2xx.

Differences, on purpose: a webhook may be http on loopback, and `/person` exists.
Sources: https://core.telegram.org/bots/api (methods, limits), https://core.telegram.org/bots/webhooks, and the error
texts of the open-source server (tdlib/telegram-bot-api, tdlib/td MessageEntity.cpp).
"""

from __future__ import annotations

import json
import mimetypes
import re
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import requests
from flask import Flask, Response, request, send_file
from pydantic import ValidationError
from telegramify_markdown import richify, utf16_len

TEXT_LIMIT = 4096
CAPTION_LIMIT = 1024
RICH_LIMIT = 32_768
UPLOAD_LIMIT = 50 * 1024 * 1024
PHOTO_LIMIT = 10 * 1024 * 1024
DOWNLOAD_LIMIT = 20 * 1024 * 1024
GROUP_MESSAGES_A_MINUTE = 20
FIRST_RETRY_SECONDS = 1.0
LAST_RETRY_SECONDS = 60.0
WEBHOOK_TIMEOUT_SECONDS = 60
SECRET_TOKEN = re.compile(r"^[A-Za-z0-9_-]{1,256}$")
COMMAND = re.compile(r"/[a-zA-Z0-9_]{1,32}(@\w+)?")
DRAFT_SECONDS, ACTION_SECONDS = 30, 5
"""How long a draft and a chat action are shown (Bot API, sendMessageDraft, sendChatAction)."""

CHAT_ACTIONS = (
    "typing", "upload_photo", "record_video", "upload_video", "record_voice", "upload_voice", "upload_document",
    "choose_sticker", "find_location", "record_video_note", "upload_video_note",
)  # fmt: skip
FADING = ("Draft", "Action")
"""What the names of methods end with whose effect does not last."""

PLAIN_TEXT = ("text", "caption")
"""Parameters that are never JSON, whatever they begin with."""

PAGE = Path(__file__).parent / "pages" / "chat.html"
BOT = {"id": 7000000001, "is_bot": True, "first_name": "Stepgram", "username": "stepgram_demo_bot"}


class BotApiError(Exception):
    """An answer with `ok: false`."""

    def __init__(self, status: int, description: str, parameters: dict[str, Any] | None = None) -> None:
        super().__init__(description)
        self.status = status
        self.parameters = parameters


class Telegram:
    """The stand-in. `state` is all it knows, as JSON, so that it can be kept between runs."""

    def __init__(self, token: str, files: Path, state: dict[str, Any] | None = None) -> None:
        self.token = token
        self.state: dict[str, Any] = state or {
            "chats": {},
            "updates": {},
            "next_update": 1,
            "blocked": [],
            "webhook": {"url": "", "secret_token": ""},
        }
        self._files = files
        self._lock = threading.RLock()
        self._arrived = threading.Condition(self._lock)
        self._queues: dict[str, deque[int]] = defaultdict(deque)
        self._delivering: set[str] = set()
        self._sent: dict[int, deque[float]] = defaultdict(deque)
        self._faults: deque[BotApiError] = deque()
        self._stopped = threading.Event()
        self.on_change: Callable[[], None] = lambda: None
        self.calls: list[tuple[str, dict[str, Any]]] = []

    # ------------------------------------------------------------------ the Bot API

    def app(self) -> Flask:
        """The WSGI application."""
        app = Flask("telegram")
        app.add_url_rule("/bot<token>/<method>", view_func=self._bot, methods=["GET", "POST"])
        app.add_url_rule("/file/bot<token>/<path:name>", view_func=self._download)
        app.add_url_rule("/person/files", view_func=self._person_send_files, methods=["POST"])
        app.add_url_rule("/", view_func=self._page)
        app.add_url_rule("/person/messages", view_func=self._person_message, methods=["POST"])
        app.add_url_rule("/person/stop", view_func=self._person_stop, methods=["POST"])
        app.add_url_rule("/person/chats/<chat_id>/signs", view_func=lambda chat_id: self.signs(int(chat_id)))
        app.add_url_rule("/person/buttons", view_func=self._person_button, methods=["POST"])
        app.add_url_rule("/person/updates/<int:update_id>", view_func=self._person_update)
        app.add_url_rule("/person/chats", view_func=self._person_chats)
        app.add_url_rule("/person/chats/<chat_id>/messages", view_func=self._person_messages)
        app.add_url_rule("/person/files/<name>", view_func=self._person_file)
        return app

    def fail_next(self, *faults: BotApiError) -> None:
        """The next calls that send something that stays are answered with these errors, in order."""
        with self._lock:
            self._faults.extend(faults)

    def block(self, chat_id: int) -> None:
        """The person blocks the bot."""
        with self._lock:
            self.state["blocked"].append(chat_id)

    def _bot(self, token: str, method: str) -> Response:
        try:
            if token != self.token:
                raise BotApiError(401, "Unauthorized")
            result = self._call(method)
        except BotApiError as error:
            body = {"ok": False, "error_code": error.status, "description": str(error)}
            if error.parameters:
                body["parameters"] = error.parameters
            return Response(json.dumps(body), error.status, mimetype="application/json")
        return Response(json.dumps({"ok": True, "result": result}), mimetype="application/json")

    def _call(self, method: str) -> Any:
        model = _methods().get(method.lower())
        handler = getattr(self, f"_{_snake(method)}", None)
        if model is None or handler is None:
            raise BotApiError(404, "Not Found: method not found")
        parameters = _parameters()
        try:
            model.model_validate(parameters)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise BotApiError(400, f"Bad Request: parameter {where}: {first['msg']}") from error
        with self._lock:
            self.calls.append((method, parameters))
            if method.lower().startswith(("send", "editmessagetext")) and not method.endswith(FADING) and self._faults:
                raise self._faults.popleft()
            return handler(parameters)

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
        return True

    def _delete_webhook(self, parameters: dict[str, Any]) -> Any:
        self.state["webhook"] = {"url": "", "secret_token": ""}
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
        return True

    def _get_my_commands(self, parameters: dict[str, Any]) -> Any:
        key = f"{parameters.get('scope', {}).get('type', 'default')} {parameters.get('language_code') or ''}".strip()
        return self.state.get("commands", {}).get(key, [])

    def _leave_chat(self, parameters: dict[str, Any]) -> Any:
        chat = self._chat(int(parameters["chat_id"]))
        if chat["type"] == "private":
            raise BotApiError(400, "Bad Request: method is available only for supergroups and channels")
        chat["left"] = True
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
            if record["update"]["update_id"] < int(parameters.get("offset") or 0):
                record["status"] = record["status"] or 200
        self._arrived.wait_for(self._pending, int(parameters.get("timeout") or 0))
        return self._pending()[: int(parameters.get("limit") or 100)]

    def _pending(self) -> list[dict[str, Any]]:
        return [record["update"] for record in self.state["updates"].values() if record["status"] is None]

    def _answer_callback_query(self, parameters: dict[str, Any]) -> Any:
        return True

    def _send_message(self, parameters: dict[str, Any]) -> Any:
        return self._sent_message(parameters, _text_content(parameters))

    def _send_rich_message(self, parameters: dict[str, Any]) -> Any:
        return self._sent_message(parameters, _rich_content(parameters["rich_message"]))

    def _edit_message_text(self, parameters: dict[str, Any]) -> Any:
        """Replaces text, form and buttons; a message without `reply_markup` has none afterwards."""
        rich = parameters.get("rich_message")
        return self._edited(parameters, _rich_content(rich) if rich else _text_content(parameters))

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
        new = {**kept, **(old if content is None else content), **({"reply_markup": markup} if markup else {})}
        if new == message:
            raise BotApiError(
                400,
                "Bad Request: message is not modified: specified new message content and reply markup are exactly "
                "the same as a current content and reply markup of the message",
            )
        message.clear()
        message.update(new, edit_date=int(time.time()))
        self.on_change()
        return _public(message)

    def _send_document(self, parameters: dict[str, Any]) -> Any:
        return self._sent_file("document", parameters)

    def _send_photo(self, parameters: dict[str, Any]) -> Any:
        return self._sent_file("photo", parameters)

    def _send_audio(self, parameters: dict[str, Any]) -> Any:
        return self._sent_file("audio", parameters)

    def _send_video(self, parameters: dict[str, Any]) -> Any:
        return self._sent_file("video", parameters)

    def _sent_file(self, kind: str, parameters: dict[str, Any]) -> Any:
        return self._sent_message(parameters, {**self._upload(kind, kind), **_caption(parameters)})

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
            {**self._upload(item["type"], item["media"].removeprefix("attach://")), **_caption(item)} for item in media
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
        if kind == "photo" and _image_size(content) is None:
            raise BotApiError(400, "Bad Request: IMAGE_PROCESS_FAILED")
        return self._stored(kind, upload.filename or "file", content)

    def _stored(self, kind: str, name: str, content: bytes, mime: str | None = None) -> dict[str, Any]:
        """Keep a file; returns the message's field for it."""
        file_id = f"file{len(self.calls)}-{time.time_ns()}{Path(name).suffix[:10]}"
        self._files.mkdir(parents=True, exist_ok=True)
        (self._files / file_id).write_bytes(content)
        file: dict[str, Any] = {"file_id": file_id, "file_unique_id": file_id, "file_size": len(content)}
        if kind == "photo":
            width, height = _image_size(content) or (1, 1)
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
        path = self._files / Path(name).name
        if token != self.token or not path.is_file():
            return Response("Not Found", 404)
        return send_file(path.resolve())

    def _send_chat_action(self, parameters: dict[str, Any]) -> Any:
        """Shown for five seconds, or until the bot sends something."""
        chat = self._chat(int(parameters["chat_id"]))
        if parameters["action"] not in CHAT_ACTIONS:
            raise BotApiError(400, "Bad Request: wrong parameter action in request")
        chat["action"] = {"action": parameters["action"], "until": time.time() + ACTION_SECONDS}
        return True

    def _send_message_draft(self, parameters: dict[str, Any]) -> Any:
        """Empty text shows "Thinking..."; https://core.telegram.org/bots/api#sendmessagedraft"""
        content = _text_content(parameters) if parameters.get("text") else {"text": ""}
        return self._drafted(parameters, content)

    def _send_rich_message_draft(self, parameters: dict[str, Any]) -> Any:
        return self._drafted(parameters, _rich_content(parameters["rich_message"]))

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
        self.on_change()
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
        return _public(self._add(chat, message))

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
        while sent and now - sent[0] > 60:
            sent.popleft()
        if chat_id < 0 and len(sent) >= GROUP_MESSAGES_A_MINUTE:
            seconds = int(60 - (now - sent[0])) + 1
            raise BotApiError(429, f"Too Many Requests: retry after {seconds}", {"retry_after": seconds})
        sent.append(now)

    def _add(self, chat: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
        chat["next_message"] += 1
        complete = {
            "message_id": chat["next_message"],
            "date": int(time.time()),
            "chat": _chat_of(chat),
            **message,
        }
        chat["messages"].append(complete)
        if message["from"]["is_bot"]:
            chat.pop("draft", None)
            chat.pop("action", None)
        self.on_change()
        return complete

    # ------------------------------------------------------------------ the people

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
        with self._lock:
            chat = self.state["chats"].setdefault(str(chat_id), _new_chat(chat_id, name))
            if thread_id and thread_id not in chat["threads"]:
                chat["threads"].append(thread_id)
                chat["is_forum"] = chat_id < 0
            topic = {"message_thread_id": thread_id, "is_topic_message": True} if thread_id else {}
            message = self._add(chat, {"from": user, **topic, **content})
            update_id = self.queue({"message": _public(message)}, chat_id)
        return {"update_id": update_id, "message_id": int(message["message_id"])}

    def press(self, chat_id: int, message_id: int, data: str, language: str = "en", user_id: int | None = None) -> int:
        """A person presses an inline button; returns the update_id."""
        with self._lock:
            chat = self.state["chats"][str(chat_id)]
            message = next(m for m in chat["messages"] if m["message_id"] == message_id)
            user = {"id": user_id or abs(chat_id), "is_bot": False, "first_name": "You", "language_code": language}
            query = {"id": f"query{self.state['next_update']}", "from": user, "chat_instance": str(chat_id)}
            return self.queue({"callback_query": {**query, "data": data, "message": _public(message)}}, chat_id)

    def member(self, chat_id: int, old: str, new: str, user_id: int, forum: bool = False, **rights: bool) -> int:
        """A person adds the bot to a group or changes its rights there; returns the update_id."""
        with self._lock:
            chat = self.state["chats"].setdefault(str(chat_id), _new_chat(chat_id, "Group"))
            chat["is_forum"] = forum
            change = {
                "chat": _chat_of(chat),
                "from": {"id": user_id, "is_bot": False, "first_name": "You", "language_code": "en"},
                "date": int(time.time()),
                "old_chat_member": {"status": old, "user": BOT},
                "new_chat_member": {"status": new, "user": BOT, **rights},
            }
            return self.queue({"my_chat_member": change}, chat_id)

    def press_stop(self, chat_id: int) -> int:
        """A person presses Stop under a draft, which goes; returns the update_id."""
        with self._lock:
            chat = self.state["chats"][str(chat_id)]
            draft = chat.get("draft")
            if draft is None or not draft["can_stop"] or draft["until"] < time.time():
                raise ValueError("there is no draft with a Stop button")
            del chat["draft"]
            topic = {"message_thread_id": draft["thread"]} if draft["thread"] else {}
            stopped = {"chat": _chat_of(chat), "draft_id": draft["draft_id"], **topic}
            return self.queue({"stopped_message_generation": stopped}, chat_id)

    def signs(self, chat_id: int) -> dict[str, Any]:
        """What fades: the draft and the action that a chat shows now."""
        with self._lock:
            chat = self.state["chats"].get(str(chat_id), {})
            shown = {kind: chat.get(kind) for kind in ("draft", "action")}
            return {kind: sign if sign and sign["until"] > time.time() else None for kind, sign in shown.items()}

    def queue(self, update: dict[str, Any], chat_id: int) -> int:
        """Put an update into its chat's delivery queue; returns its update_id."""
        _import_models()
        with self._lock:
            update_id = int(self.state["next_update"])
            self.state["next_update"] = update_id + 1
            self.state["updates"][str(update_id)] = {
                "update": {"update_id": update_id, **update},
                "chat": chat_id,
                "status": None,
                "attempts": 0,
                "body": None,
            }
            self._enqueue(update_id, chat_id)
            self._arrived.notify_all()
        return update_id

    def resume(self) -> None:
        """Deliver what an earlier run left undelivered."""
        with self._lock:
            for update_id, update in self.state["updates"].items():
                if update["status"] is None:
                    self._enqueue(int(update_id), update["chat"])

    def stop(self) -> None:
        """Deliver nothing more."""
        self._stopped.set()

    def _enqueue(self, update_id: int, chat_id: int) -> None:
        key = str(chat_id)
        self._queues[key].append(update_id)
        if key not in self._delivering:
            self._delivering.add(key)
            threading.Thread(target=self._deliver, args=(key,), daemon=True, name=f"deliver-{key}").start()

    def _deliver(self, key: str) -> None:
        """One update of a chat at a time, each until its 2xx."""
        while not self._stopped.is_set():
            with self._lock:
                if not self._queues[key]:
                    self._delivering.discard(key)
                    return
                record = self.state["updates"][str(self._queues[key][0])]
            wait = FIRST_RETRY_SECONDS
            while not self._stopped.is_set() and record["status"] is None and not self._post(record):
                self._stopped.wait(wait)
                wait = min(wait * 2, LAST_RETRY_SECONDS)
            with self._lock:
                self._queues[key].popleft()

    def _post(self, record: dict[str, Any]) -> bool:
        webhook = self.state["webhook"]
        if not webhook["url"]:
            return False
        record["attempts"] += 1
        headers = {"X-Telegram-Bot-Api-Secret-Token": webhook["secret_token"]} if webhook["secret_token"] else {}
        try:
            answer = requests.post(
                webhook["url"], json=record["update"], headers=headers, timeout=WEBHOOK_TIMEOUT_SECONDS
            )
        except requests.RequestException:
            return False
        record["last_status"] = answer.status_code
        if not answer.ok:
            return False
        record["status"], record["body"] = answer.status_code, answer.text
        return True

    def _person_message(self) -> Any:
        body = request.get_json()
        try:
            return self.say(
                int(body["chat_id"]),
                str(body["text"]),
                int(body.get("thread_id") or 0),
                int(body["user_id"]) if body.get("user_id") else None,
                str(body.get("language") or "en"),
                str(body.get("name") or "You"),
            )
        except (KeyError, ValueError) as error:
            return Response(f"bad field: {error}", 400)

    def _person_send_files(self) -> Any:
        """Files of a form: one message each, several as one album."""
        form, uploads = request.form, request.files.getlist("file")
        try:
            chat_id, thread_id = int(form["chat_id"]), int(form.get("thread_id") or 0)
        except (KeyError, ValueError) as error:
            return Response(f"bad field: {error}", 400)
        album = {"media_group_id": str(time.time_ns())} if len(uploads) > 1 else {}
        caption = {"caption": form["caption"]} if form.get("caption") else {}
        sent: list[dict[str, int]] = []
        for upload in uploads:
            content, mime = upload.read(), upload.mimetype
            kind = "photo" if _image_size(content) and mime.startswith("image/") else "document"
            if form.get("kind") == "voice":
                kind = "voice"
            more = {**album, **(caption if not sent else {})}
            how = {"thread_id": thread_id, "language": form.get("language") or "en", "more": more, "mime": mime}
            sent.append(self.send_file(chat_id, kind, upload.filename or "file", content, **how))
        return sent

    def _person_button(self) -> Any:
        body = request.get_json()
        try:
            user = int(body["user_id"]) if body.get("user_id") else None
            language = str(body.get("language") or "en")
            pressed = self.press(int(body["chat_id"]), int(body["message_id"]), str(body["data"]), language, user)
            return {"update_id": pressed}
        except (KeyError, ValueError, StopIteration) as error:
            return Response(f"no such button: {error}", 400)

    def _person_stop(self) -> Any:
        try:
            return {"update_id": self.press_stop(int(request.get_json()["chat_id"]))}
        except (KeyError, ValueError) as error:
            return Response(f"nothing to stop: {error}", 400)

    def _page(self) -> Response:
        return Response(PAGE.read_text(encoding="utf-8"), mimetype="text/html")

    def _person_file(self, name: str) -> Response:
        return send_file((self._files / Path(name).name).resolve())

    def _person_update(self, update_id: int) -> Any:
        record = self.state["updates"].get(str(update_id))
        if record is None:
            return Response("no such update", 404)
        return {k: record.get(k) for k in ("status", "attempts", "body", "last_status")}

    def _person_chats(self) -> Any:
        with self._lock:
            return [{k: chat[k] for k in ("id", "type", "threads")} for chat in self.state["chats"].values()]

    def _person_messages(self, chat_id: str) -> Any:
        after = int(request.args.get("after", 0))
        with self._lock:
            chat = self.state["chats"].get(chat_id)
            messages = [] if chat is None else [m for m in chat["messages"] if m["message_id"] > after]
            return [{**_public(m), "page": m.get("_page")} for m in messages]


@cache
def _import_models() -> None:
    """Begin the import of the models."""
    threading.Thread(target=_methods, daemon=True, name="models").start()


@cache
def _methods() -> dict[str, Any]:
    """aiogram's model of every method, by its name in lower case (the Bot API ignores case).

    The import takes seconds, so it begins in the background when somebody writes, to be done before the answer is.
    """
    import aiogram.methods

    models = vars(aiogram.methods).items()
    return {name.lower(): model for name, model in models if hasattr(model, "__api_method__")}


CONTENT = ("text", "entities", "rich_message", "_page", "document", "photo", "audio", "video", "caption")
"""The fields of a message that an edit replaces."""


def _text_content(parameters: dict[str, Any]) -> dict[str, Any]:
    """The content of a classic message, after Telegram's checks."""
    text = str(parameters["text"])
    entities = parameters.get("entities") or []
    units = utf16_len(text)
    for entity in entities:
        start, end = entity["offset"], entity["offset"] + entity["length"]
        if start < 0 or entity["length"] <= 0 or start > units:
            raise BotApiError(400, f"Bad Request: entity begins after the end of the text at UTF-16 offset {start}")
        if end > units:
            raise BotApiError(
                400,
                f"Bad Request: entity beginning at UTF-16 offset {start} ends after the end of the text at "
                f"UTF-16 offset {end}",
            )
        if not (_is_boundary(text, start) and _is_boundary(text, end)):
            raise BotApiError(400, f"Bad Request: entity beginning at UTF-16 offset {start} splits a symbol")
    if not text.strip():
        raise BotApiError(400, "Bad Request: message text is empty")
    if units > TEXT_LIMIT:
        raise BotApiError(400, "Bad Request: message is too long")
    return {"text": text, "entities": entities}


def _rich_content(rich: dict[str, Any]) -> dict[str, Any]:
    """The content of a rich message, after Telegram's checks."""
    given = [name for name in ("markdown", "html", "blocks") if rich.get(name)]
    if len(given) != 1:
        raise BotApiError(400, "Bad Request: exactly one of the fields html, markdown or blocks must be used")
    if given[0] != "markdown":
        raise BotApiError(400, f"Bad Request: {given[0]} is not supported here")
    markdown = rich["markdown"]
    if not markdown.strip():
        raise BotApiError(400, "Bad Request: message text is empty")
    if len(markdown) > RICH_LIMIT:
        raise BotApiError(400, "Bad Request: rich message is too long")
    blocks = [{"type": "paragraph", "text": markdown}]
    return {"rich_message": {"blocks": blocks}, "_page": {"markdown": markdown, "html": richify(markdown).html}}


def _caption(parameters: dict[str, Any]) -> dict[str, Any]:
    caption = str(parameters.get("caption") or "")
    if utf16_len(caption) > CAPTION_LIMIT:
        raise BotApiError(400, "Bad Request: message caption is too long")
    return {"caption": caption} if caption else {}


def _image_size(content: bytes) -> tuple[int, int] | None:
    """Width and height of a PNG, JPEG, GIF or WebP by its header; None when it is none of these."""
    if content[:8] == b"\x89PNG\r\n\x1a\n":
        return int.from_bytes(content[16:20]), int.from_bytes(content[20:24])
    if content[:3] == b"\xff\xd8\xff" or content[:4] == b"GIF8" or (content[:4], content[8:12]) == (b"RIFF", b"WEBP"):
        return 1, 1
    return None


def _new_chat(chat_id: int, name: str) -> dict[str, Any]:
    kind = {"type": "private", "first_name": name} if chat_id > 0 else {"type": "supergroup", "title": "Group"}
    return {"id": chat_id, **kind, "threads": [], "messages": [], "next_message": 0}


def _chat_of(chat: dict[str, Any]) -> dict[str, Any]:
    """The chat as messages and updates carry it."""
    return {k: chat[k] for k in ("id", "type", "first_name", "title", "is_forum") if k in chat}


def _public(message: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in message.items() if not k.startswith("_")}


def _snake(method: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", method).lower()


def _is_boundary(text: str, offset: int) -> bool:
    units = text.encode("utf-16-le", "surrogatepass")
    unit = units[offset * 2 : offset * 2 + 2]
    return len(unit) < 2 or not 0xDC00 <= int.from_bytes(unit, "little") <= 0xDFFF


def _parameters() -> dict[str, Any]:
    """The call's parameters, from a query string, a form, a multipart body or JSON."""
    if request.is_json:
        body = request.get_json(silent=True)
        if not isinstance(body, dict):
            raise BotApiError(400, "Bad Request: can't parse JSON object")
        return body
    given: dict[str, Any] = {**request.args.to_dict(), **request.form.to_dict()}
    for name, value in given.items():
        if name not in PLAIN_TEXT and value[:1] in ("{", "["):
            try:
                given[name] = json.loads(value)
            except ValueError as error:
                raise BotApiError(400, f"Bad Request: can't parse {name} JSON object") from error
    return {**given, **{name: "attached" for name in request.files}}
