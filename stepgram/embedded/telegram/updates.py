"""What the stand-in knows, and how updates reach the webhook: one at a time for each chat, until the answer is 2xx."""

from __future__ import annotations

import secrets
import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import requests

from stepgram.embedded.state import Change, Keep, StateError, Store, nothing_is_kept
from stepgram.embedded.telegram.checks import BotApiError

FIRST_RETRY_SECONDS = 1.0
LAST_RETRY_SECONDS = 60.0
WEBHOOK_TIMEOUT_SECONDS = 60


FADING_SIGNS = ("draft", "action")
"""What of a chat is not kept: it fades by itself."""


def kept(store: Store) -> dict[str, Any]:
    """What an earlier run knew, as the stand-in's `state`."""
    chats = {row.owner: {**row.value, "messages": []} for row in store.rows("chat")}
    for row in store.rows("message"):
        chats[row.owner]["messages"].append(row.value)
    updates = {str(row.number): row.value for row in store.rows("update")}
    return {"chats": chats, "updates": updates, **{row.owner: row.value for row in store.rows("telegram")}}


class Updates:
    """Chats and updates. `state` is all there is to know, as JSON; `keep` is told what changed, before it is seen."""

    def __init__(
        self, token: str, files: Path, state: dict[str, Any] | None = None, keep: Keep = nothing_is_kept
    ) -> None:
        self.token = token
        self.page_token = secrets.token_urlsafe(16)
        """In the chat page's address."""
        self.state: dict[str, Any] = {
            "chats": {},
            "updates": {},
            "next_update": 1,
            "blocked": [],
            "webhook": {"url": "", "secret_token": ""},
            **(state or {}),
        }
        self._keep = keep
        self._changes: list[Change] = []
        self._files = files
        self._lock = threading.RLock()
        self._arrived = threading.Condition(self._lock)
        self._queues: dict[str, deque[int]] = defaultdict(deque)
        self._delivering: set[str] = set()
        self._sent: dict[int, deque[float]] = defaultdict(deque)
        self._faults: deque[BotApiError] = deque()
        self._stopped = threading.Event()
        self.calls: list[tuple[str, dict[str, Any]]] = []

    @contextmanager
    def _moment(self) -> Iterator[None]:
        """Hold the lock; what changed meanwhile is kept as one, before anybody else sees it. Not to be nested."""
        with self._lock:
            try:
                yield
            finally:
                changes, self._changes = self._changes, []
                if changes:
                    self._keep(*changes)

    def _changed_chat(self, chat: dict[str, Any], message: dict[str, Any] | None = None) -> None:
        """Note a chat, and a message of it, to be kept as they are now."""
        owner = str(chat["id"])
        head = {name: value for name, value in chat.items() if name not in ("messages", *FADING_SIGNS)}
        self._changes.append(Change("chat", owner, 0, head))
        if message is not None:
            self._changes.append(Change("message", owner, message["message_id"], {**message}))

    def _changed_update(self, record: dict[str, Any]) -> None:
        """Note an update to be kept as it is now."""
        self._changes.append(Change("update", "", record["update"]["update_id"], {**record}))

    def _changed(self, name: str) -> None:
        """Note any other field of the state to be kept as it is now."""
        self._changes.append(Change("telegram", name, 0, self.state[name]))

    def queue(self, update: dict[str, Any], chat_id: int) -> int:
        """Put an update into its chat's delivery queue; returns its update_id."""
        with self._moment():
            return self._queue(update, chat_id)

    def _queue(self, update: dict[str, Any], chat_id: int) -> int:
        import_models()
        update_id = int(self.state["next_update"])
        self.state["next_update"] = update_id + 1
        record = {
            "update": {"update_id": update_id, **update},
            "chat": chat_id,
            "status": None,
            "attempts": 0,
            "body": None,
        }
        self.state["updates"][str(update_id)] = record
        self._changed("next_update")
        self._changed_update(record)
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
        try:
            with self._moment():
                record["last_status"] = answer.status_code
                if answer.ok:
                    record["status"], record["body"] = answer.status_code, answer.text
                self._changed_update(record)
        except StateError:
            return False
        return answer.ok


@cache
def import_models() -> None:
    """Begin the import of the models."""
    threading.Thread(target=method_models, daemon=True, name="models").start()


@cache
def method_models() -> dict[str, Any]:
    """aiogram's model of every method, by its name in lower case (the Bot API ignores case).

    The import takes seconds, so it begins in the background when somebody writes, to be done before the answer is.
    """
    import aiogram.methods

    models = vars(aiogram.methods).items()
    return {name.lower(): model for name, model in models if hasattr(model, "__api_method__")}
