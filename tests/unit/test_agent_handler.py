"""One run in its container, around the conversation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from functions.agent import handler
from functions.conversation.progress import Heard


@pytest.mark.parametrize("gone", [True, False], ids=["another run took its place", "it is wanted"])
def test_a_run_that_is_given_up_while_its_work_is_kept_writes_no_result(
    monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    """The result's key is one for all runs of a part: the other run's answer would be replaced."""
    written: list[str] = []
    result = SimpleNamespace(summary=SimpleNamespace(result="result.json"))
    request: Any = SimpleNamespace(
        access="", turn_id="t", run=1, session=SimpleNamespace(session_id="s", part=0, manifest=None, going_on=None)
    )

    def staged(*given: Any) -> Any:
        if gone:
            given[-1].gone.set()
        return result

    snapshots = SimpleNamespace(write=lambda key, _: written.append(key))
    monkeypatch.setattr(handler, "unseal", lambda *_: None)
    monkeypatch.setattr(handler.aws, "s3", lambda _: None)
    monkeypatch.setattr(handler, "Snapshots", lambda *_: snapshots)
    monkeypatch.setattr(handler, "Spending", lambda *_: SimpleNamespace(keep=lambda: None))
    monkeypatch.setattr(handler, "_open", lambda *_: SimpleNamespace(stop=lambda: None))
    monkeypatch.setattr(handler, "_run", staged)
    monkeypatch.setattr(handler, "_close", lambda _: None)
    monkeypatch.setattr(handler, "_keep_or_close", lambda *_: None)
    handed_in: list[Any] = []
    callback: Any = SimpleNamespace(done=handed_in.append)
    settings: Any = SimpleNamespace(bucket="b", model="m")

    if gone:
        with pytest.raises(handler.Gone):
            handler.run_once(request, settings, callback, Heard(), 60)
    else:
        handler.run_once(request, settings, callback, Heard(), 60)

    assert written == ([] if gone else ["result.json"])
    assert handed_in == ([] if gone else [result.summary])
