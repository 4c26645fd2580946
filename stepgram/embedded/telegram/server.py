"""A stand-in for the Telegram Bot API, for the methods the bot uses, as strict as the real one.

Parameters are validated with aiogram's models of Bot API 10.3; limits and error texts are Telegram's. It also plays the
people: `/<token>/` is a page to chat on, with a random token, and `/<token>/person/...` sends a message as someone.
Updates go to the registered webhook as Telegram sends them: one at a time for each chat, again after 1 s, 2 s, 4 s ...
up to 60 s until the answer is 2xx.

A request of more than 50 MB is answered 413 before it is looked at: "Request Entity Too Large", from the length its
head announces (tdlib/td HttpReader.cpp; https://github.com/tdlib/telegram-bot-api/issues/720). The cloud's limit is the
50 MB of https://core.telegram.org/bots/api#sending-files, and an album is one request, so all of its files count
(https://github.com/tdlib/telegram-bot-api/issues/671, where it is the local server's 4,000 MB). Telegram does not say
what of the form around the files it counts; here all of the body does.

Differences, on purpose: a webhook may be http on loopback, and the page exists.
Sources: https://core.telegram.org/bots/api (methods, limits), https://core.telegram.org/bots/webhooks, and the error
texts of the open-source server (tdlib/telegram-bot-api, tdlib/td MessageEntity.cpp).
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from flask import Blueprint, Flask, Response, request, send_from_directory
from pydantic import ValidationError

from stepgram.embedded.state import StateError
from stepgram.embedded.telegram.bot_api import public
from stepgram.embedded.telegram.checks import BotApiError, image_size
from stepgram.embedded.telegram.people import People
from stepgram.embedded.telegram.updates import method_models
from stepgram.server import NOBODY, only_with_token

FADING = ("Draft", "Action")
"""What the names of methods end with whose effect does not last."""

PLAIN_TEXT = ("text", "caption")
"""Parameters that are never JSON, whatever they begin with."""

REQUEST_LIMIT = 50 * 1024 * 1024
"""Bytes of one request's body."""

PAGE = Path(__file__).parent
BAD_FIELD = (KeyError, ValueError, TypeError, OverflowError, AttributeError)
"""What reading a field raises that is not there, or another thing than it should be."""


class Telegram(People):
    """The stand-in as a web application."""

    def app(self) -> Flask:
        """The WSGI application."""
        app = Flask("telegram", static_folder=None)
        app.add_url_rule("/bot<token>/<method>", view_func=self._bot, methods=["GET", "POST"])
        app.add_url_rule("/file/bot<token>/<path:name>", view_func=self._download)
        app.add_url_rule("/", view_func=lambda: Response(NOBODY, 403))
        page = Blueprint("page", __name__, url_prefix="/<token>")
        only_with_token(page, self.page_token)
        page.add_url_rule("/", "html", lambda: send_from_directory(PAGE, "chat.html"))
        page.add_url_rule("/chat.js", "script", lambda: send_from_directory(PAGE, "chat.js"))
        page.add_url_rule("/person/files", view_func=self._person_send_files, methods=["POST"])
        page.add_url_rule("/person/messages", view_func=self._person_message, methods=["POST"])
        page.add_url_rule("/person/stop", view_func=self._person_stop, methods=["POST"])
        page.add_url_rule("/person/chats/<int(signed=True):chat_id>/signs", view_func=self.signs)
        page.add_url_rule("/person/buttons", view_func=self._person_button, methods=["POST"])
        page.add_url_rule("/person/updates/<int:update_id>", view_func=self._person_update)
        page.add_url_rule("/person/chats", view_func=self._person_chats)
        page.add_url_rule("/person/chats/<chat_id>/messages", view_func=self._person_messages)
        page.add_url_rule("/person/files/<name>", view_func=self._file)
        app.register_blueprint(page)
        return app

    def fail_next(self, *faults: BotApiError) -> None:
        """The next calls that send something that stays are answered with these errors, in order."""
        with self._lock:
            self._faults.extend(faults)

    def fail_none(self) -> None:
        """Every call is answered as it should be again."""
        with self._lock:
            self._faults.clear()

    def block(self, chat_id: int) -> None:
        """The person blocks the bot."""
        with self._moment():
            self.state["blocked"].append(chat_id)
            self._changed("blocked")

    def _bot(self, token: str, method: str) -> Response:
        try:
            if not self._is_mine(token):
                raise BotApiError(401, "Unauthorized")
            _check_length()
            result = self._call(method)
        except StateError as error:
            return Response(json.dumps({"ok": False, "error_code": 500, "description": str(error)}), 500)
        except BotApiError as error:
            body = {"ok": False, "error_code": error.status, "description": str(error)}
            if error.parameters:
                body["parameters"] = error.parameters
            return Response(json.dumps(body), error.status, mimetype="application/json")
        return Response(json.dumps({"ok": True, "result": result}), mimetype="application/json")

    def _call(self, method: str) -> Any:
        model = method_models().get(method.lower())
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
        with self._moment():
            self.calls.append((method, parameters))
            if method.lower().startswith(("send", "edit")) and not method.endswith(FADING) and self._faults:
                raise self._faults.popleft()
            return handler(parameters)

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
        except BAD_FIELD as error:
            return Response(f"bad field: {error!r}", 400)

    def _person_send_files(self) -> Any:
        """Files of a form: one message each, several as one album."""
        form, uploads = request.form, request.files.getlist("file")
        try:
            chat_id, thread_id = int(form["chat_id"]), int(form.get("thread_id") or 0)
        except BAD_FIELD as error:
            return Response(f"bad field: {error!r}", 400)
        album = {"media_group_id": str(time.time_ns())} if len(uploads) > 1 else {}
        caption = {"caption": form["caption"]} if form.get("caption") else {}
        sent: list[dict[str, int]] = []
        for upload in uploads:
            content, mime = upload.read(), upload.mimetype
            kind = "photo" if image_size(content) and mime.startswith("image/") else "document"
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
        except (*BAD_FIELD, StopIteration) as error:
            return Response(f"no such button: {error}", 400)

    def _person_stop(self) -> Any:
        try:
            return {"update_id": self.press_stop(int(request.get_json()["chat_id"]))}
        except BAD_FIELD as error:
            return Response(f"nothing to stop: {error}", 400)

    def _person_update(self, update_id: int) -> Any:
        with self._lock:
            record = self.state["updates"].get(str(update_id))
        if record is None:
            return Response("no such update", 404)
        return {k: record.get(k) for k in ("status", "attempts", "body", "last_status")}

    def _person_chats(self) -> Any:
        with self._lock:
            chats = self.state["chats"].values()
            return [{k: chat[k] for k in ("id", "type", "threads", "is_forum") if k in chat} for chat in chats]

    def _person_messages(self, chat_id: str) -> Any:
        after = request.args.get("after", 0, type=int)
        with self._lock:
            chat = self.state["chats"].get(chat_id)
            messages = [] if chat is None else [m for m in chat["messages"] if m["message_id"] > after]
            return [{**public(m), "page": m.get("_page"), "reactions": m.get("_reactions", [])} for m in messages]


def _check_length() -> None:
    """Refuse a request that is too large, unparsed. Its body is thrown away, or the client would not hear of it."""
    if (request.content_length or 0) > REQUEST_LIMIT:
        while request.stream.read(64 * 1024):
            pass
        raise BotApiError(413, "Request Entity Too Large")


def _snake(method: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", method).lower()


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
