"""What the agent's reporter does with what it hears."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from functions.agent import reporter
from functions.agent.reporter import Reporter
from functions.conversation.progress import Heard


class Listened:
    """A callback whose answer to `listen` comes when it is let go."""

    def __init__(self, heard: Heard) -> None:
        self.asked, self.answers = threading.Event(), threading.Event()
        self._heard = heard

    def listen(self, beat: bool) -> Heard:
        self.asked.set()
        assert self.answers.wait(10)
        return self._heard


@pytest.mark.parametrize("heard", [Heard(gone=True), Heard(stop=True)], ids=["gone", "stop"])
@pytest.mark.parametrize("made", [True, False], ids=["its result is made", "it runs"])
def test_a_run_whose_result_is_made_is_not_stopped_any_more(
    monkeypatch: pytest.MonkeyPatch, heard: Heard, made: bool
) -> None:
    """An answer that is on its way while the end is handed in says "gone": the conversation is kept all the same."""
    monkeypatch.setattr(reporter, "LISTEN_SECONDS", 0.01)
    callback: Any = Listened(heard)
    stops: list[None] = []

    with Reporter(callback, lambda: stops.append(None)) as one:
        assert callback.asked.wait(10)
        if made:
            one.made()
        callback.answers.set()
        one._done.set()
        one._listener.join()

    assert len(stops) == (0 if made else 1)
    assert one.gone.is_set() == (heard.gone and not made)
