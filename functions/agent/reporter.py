"""Tells the chat what the agent is doing while it does it, and hears whether somebody pressed Stop.

Two threads: one shows what is new, at the pace the chat allows, one asks every second whether to stop, so that a slow
Telegram cannot keep a Stop from being heard. Neither can fail a turn.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, Protocol

from functions.common.progress import SHOWN_CHARACTERS, Heard, Report, Tool

LISTEN_SECONDS = 1.0
FADE_SECONDS = 4.0
"""What shows that the bot works fades: "typing" after 5 seconds, a draft after 30."""

JOIN_SECONDS = 3.0

BRIEF = {"Bash": "description", "Agent": "description", "Skill": "skill", "WebFetch": "url", "Grep": "pattern"}
DETAIL = {"Bash": "command", "Agent": "prompt"}
PATHS = ("file_path", "pattern", "path")


class Watch(Protocol):
    """Who follows what the agent says and does in a run."""

    def said(self, text: str) -> None:
        """The answer so far."""

    def uses(self, name: str, arguments: dict[str, Any]) -> None:
        """A tool is called."""

    def busy(self, is_busy: bool) -> None:
        """The model is busy or away and its request is repeated, or it answers again."""


class Reporter:
    """One run's reports, from `with` to its end. `stop` is called, from a thread, when somebody wants to stop."""

    def __init__(self, report: Callable[[Report], Heard], first: Report, stop: Callable[[], None]) -> None:
        """`first` is what all reports have in common."""
        self._report = report
        self._base = first
        self._time = 0
        self._stop = stop
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._done = threading.Event()
        self._text = ""
        self._tool: Tool | None = None
        self._busy = False
        self.stopped = threading.Event()
        self._threads = [
            threading.Thread(target=copy_context().run, args=(work,), daemon=True)
            for work in (self._show, self._listen)
        ]

    def __enter__(self) -> Reporter:
        """Show at once that the message is being worked on."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """No report begins from now on."""
        self._done.set()
        self._news.set()
        for thread in self._threads:
            thread.join(JOIN_SECONDS)

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

    def _show(self) -> None:
        changed = True
        while not self._done.is_set():
            pause = self._send("news" if changed else "alive").pause
            self._done.wait(pause)
            changed = self._news.wait(max(0.0, FADE_SECONDS - pause))
            self._news.clear()

    def _listen(self) -> None:
        while not self._done.wait(LISTEN_SECONDS) and not self.stopped.is_set():
            self._send("listen")

    def _send(self, show: Any) -> Heard:
        with self._lock:
            self._time = max(self._time + 1, time.time_ns() // 1_000_000)
            what = {"time": self._time, "show": show, "text": self._text, "tool": self._tool, "busy": self._busy}
        heard = self._report(self._base.model_copy(update=what))
        if heard.stop and not self.stopped.is_set():
            self.stopped.set()
            self._stop()
        return heard


def tool(name: str, arguments: dict[str, Any]) -> Tool:
    """What is shown of a tool call."""
    brief = str(arguments.get(BRIEF.get(name, ""), "")) or next(
        (str(arguments[p]) for p in PATHS if p in arguments), ""
    )
    return Tool(
        name=name,
        brief=brief.rpartition("/")[2] if name in ("Read", "Write", "Edit") else brief,
        detail=str(arguments.get(DETAIL.get(name, ""), "")) or brief,
    )
