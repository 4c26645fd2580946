"""Tells the chat what the agent is doing while it does it, and hears whether somebody pressed Stop.

Two threads: one shows what is new, at the pace the chat allows, one asks every second whether to stop, and says now and
then that the run lives, so that a slow Telegram cannot keep a Stop from being heard. Neither can fail a turn.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any, Protocol, Self

from functions.agent.callback import Callback
from functions.conversation.progress import SHOWN_CHARACTERS, Heard, Tool

LISTEN_SECONDS, BEAT_SECONDS = 1.0, 15.0
FADE_SECONDS = 4.0
"""What shows that the bot works fades: "typing" after 5 seconds, a draft after 30."""

JOIN_SECONDS = 3.0

BRIEF = {"Bash": "description", "Agent": "description", "Skill": "skill", "WebFetch": "url", "Grep": "pattern"}
DETAIL = {"Bash": "command", "Agent": "prompt"}
PATHS = ("file_path", "pattern", "path")
TOLD = 500
"""Characters of a tool call that are told; the chat shows fewer."""


class Watch(Protocol):
    """Who follows what the agent says and does in a run."""

    def said(self, text: str) -> None:
        """The answer so far."""

    def uses(self, name: str, arguments: dict[str, Any]) -> None:
        """A tool is called."""

    def busy(self, is_busy: bool) -> None:
        """The model is busy or away and its request is repeated, or it answers again."""


class Silent:
    """Nobody watches the run."""

    def said(self, text: str) -> None:
        """Not shown."""

    def uses(self, name: str, arguments: dict[str, Any]) -> None:
        """Not shown."""

    def busy(self, is_busy: bool) -> None:
        """Not shown."""


class Reporter:
    """One run's words to the callback, from `with` to its end; it shows only between `shows` and its end.

    `stop` is called, from a thread, when somebody wants to stop, or when the run is `gone`: given up for another one.
    """

    def __init__(self, callback: Callback, stop: Callable[[], None]) -> None:
        self._callback = callback
        self._time = 0
        self._stop = stop
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._done = threading.Event()
        self._text = ""
        self._tool: Tool | None = None
        self._busy = False
        self.stopped, self.gone = threading.Event(), threading.Event()
        self._is_made = threading.Event()
        self._listener = self._thread(self._listen)

    def __enter__(self) -> Self:
        """Say from now on that the run lives."""
        self._listener.start()
        return self

    def __exit__(self, *error: object) -> None:
        """No call begins from now on."""
        self._done.set()
        self._listener.join(JOIN_SECONDS)

    def made(self) -> None:
        """The run has all it was for: nobody stops it any more, least of all a call that finds it handed in."""
        self._is_made.set()

    @contextmanager
    def shows(self) -> Iterator[None]:
        """Show what the agent does, at once and at the chat's pace."""
        over = threading.Event()
        shower = self._thread(partial(self._show, over))
        shower.start()
        try:
            yield
        finally:
            over.set()
            self._news.set()
            shower.join(JOIN_SECONDS)

    def said(self, text: str) -> None:
        """The answer so far."""
        with self._lock:
            self._text, self._tool = text[-SHOWN_CHARACTERS:], None
        self._news.set()

    def uses(self, name: str, arguments: dict[str, Any]) -> None:
        """A tool is called."""
        with self._lock:
            self._tool = tool(name, arguments)
        self._news.set()

    def busy(self, is_busy: bool) -> None:
        """The model is busy or away and its request is repeated, or it answers again."""
        with self._lock:
            if self._busy == is_busy:
                return
            self._busy = is_busy
        self._news.set()

    @staticmethod
    def _thread(work: Callable[[], None]) -> threading.Thread:
        return threading.Thread(target=copy_context().run, args=(work,), daemon=True)

    def _show(self, over: threading.Event) -> None:
        changed = True
        while not over.is_set():
            with self._lock:
                self._time = max(self._time + 1, time.time_ns() // 1_000_000)
                what = (self._time, not changed, self._text, self._tool, self._busy)
            pause = self.hears(self._callback.show(*what)).pause
            over.wait(pause)
            changed = self._news.wait(max(0.0, FADE_SECONDS - pause))
            self._news.clear()

    def _listen(self) -> None:
        beat = time.monotonic()
        while not self._done.wait(LISTEN_SECONDS):
            beats = time.monotonic() - beat >= BEAT_SECONDS
            if beats:
                beat = time.monotonic()
            if beats or not self.stopped.is_set():
                self.hears(self._callback.listen(beats))

    def hears(self, heard: Heard) -> Heard:
        """The callback said this: stop when it asks for that. From any thread."""
        if self._is_made.is_set():
            return heard
        if heard.gone:
            self.gone.set()
        if (heard.stop or heard.gone) and not self.stopped.is_set():
            self.stopped.set()
            self._stop()
        return heard


def tool(name: str, arguments: dict[str, Any]) -> Tool:
    """What is shown of a tool call."""
    brief = str(arguments.get(BRIEF.get(name, ""), "")) or next(
        (str(arguments[p]) for p in PATHS if p in arguments), ""
    )
    detail = str(arguments.get(DETAIL.get(name, ""), "")) or brief
    brief = brief.rpartition("/")[2] if name in ("Read", "Write", "Edit") else brief
    return Tool(name=name[:TOLD], brief=brief[:TOLD], detail=detail[:TOLD])
