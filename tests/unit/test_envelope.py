"""What an older version put into executions is understood: they run on, or are rerun, with the present functions.

`recorded/` holds what the version before places named their channel (025cb94) gave its states.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from functions.channel import channel
from functions.common.envelope import Chat, Envelope, WebChat, conversation_of
from functions.common.errors import BadInput
from functions.intake.request import Request
from functions.turn import (
    acquire_lock,
    ask_approval,
    continue_agent,
    hydrate,
    persist,
    release_lock,
    reply,
    run_agent,
)
from tests.conftest import ROOT

RECORDED = ROOT / "tests" / "unit" / "recorded"
ENVELOPES: dict[str, Any] = json.loads((RECORDED / "envelopes.json").read_text())
STATES: dict[str, Any] = json.loads((RECORDED / "states.json").read_text())
TURN = {
    "AcquireLock": acquire_lock.Request,
    "Hydrate": hydrate.Request,
    "RunAgent": run_agent.Request,
    "AskApproval": ask_approval.Request,
    "ContinueAgent": continue_agent.Request,
    "Persist": persist.Request,
    "Reply": reply.Request,
    "ReleaseLock": release_lock.Request,
}
INTAKE = {"AnswerButton", "RunCommand"}


@pytest.mark.parametrize("name", ENVELOPES)
def test_an_envelope_of_before_is_telegrams(name: str) -> None:
    found = Envelope.model_validate(ENVELOPES[name])

    assert found.chat is not None
    assert found.chat.channel == "telegram"
    assert found.chat.session_key == found.session_key
    assert json.loads(found.model_dump_json(exclude_none=True, exclude={"chat": {"channel"}})) == ENVELOPES[name]


def test_an_envelope_of_now_names_its_channel() -> None:
    chat = Chat(id=5, type="private")

    assert json.loads(chat.model_dump_json())["channel"] == "telegram"
    assert channel(chat) is channel(None)


def test_every_recorded_state_is_tried() -> None:
    assert STATES.keys() == TURN.keys() | INTAKE | {"input"}
    assert "channel" not in json.dumps(STATES)


@pytest.mark.parametrize("state", TURN)
def test_a_state_of_before_is_understood(state: str) -> None:
    found = TURN[state].model_validate(STATES[state])

    assert channel(getattr(found, "chat", None)) is channel(None)


@pytest.mark.parametrize("state", sorted(INTAKE))
def test_a_state_of_the_intake_of_before_is_understood(state: str) -> None:
    found = Request.model_validate(STATES[state]).envelope

    assert found.chat is not None
    assert channel(found.chat) is channel(None)


@pytest.mark.parametrize(
    ("turn", "key"),
    [
        ("c5-t0-u9", "5:0"),
        ("c-5-t7-u9-r2", "-5:7"),
        (f"w{'a' * 32}-m1", f"w{'a' * 32}"),
        (f"w{'a' * 32}-mAb9-r1", f"w{'a' * 32}"),
    ],
)
def test_a_turns_name_tells_its_conversation(turn: str, key: str) -> None:
    assert conversation_of(turn) == key


@pytest.mark.parametrize("name", ["", "c5-t0-u9x", f"w{'a' * 32}-m1:x/../y", f"w{'a' * 31}-m1", "c5-t0-u9\n", "x"])
def test_another_name_is_no_turns(name: str) -> None:
    with pytest.raises(BadInput):
        conversation_of(name)


def test_a_conversation_of_the_web_is_a_place() -> None:
    place = WebChat(channel="web", id="a" * 32)
    given = ENVELOPES["message"] | {
        "chat": place.model_dump(),
        "session_key": place.session_key,
        "turn_id": place.turn_id("1"),
    }

    assert Envelope.model_validate(given).chat == place
