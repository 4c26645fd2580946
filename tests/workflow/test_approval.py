"""Human approval on the whole stack, with the real CLI: asked, decided, forgotten, typed over, stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from functions.conversation.texts import say
from stepgram.embedded.telegram import BotApiError
from tests.conftest import Faults, Person, until

GLOB = '!tool Glob {"pattern": "*"}'


def question(person: Person, chat: int, number: int = 0) -> dict[str, Any]:
    """The question in the chat, once it is there with its buttons."""

    def asked() -> list[dict[str, Any]]:
        return [m for m in person.replies(chat) if len(m.get("reply_markup", {}).get("inline_keyboard", [])) == 3]

    until(lambda: len(asked()) > number)
    return asked()[number]


def press(person: Person, chat: int, message: dict[str, Any], number: int, user: int | None = None) -> str:
    """Press a button of a question: 0 allow, 1 always, 2 deny; returns the webhook's outcome."""
    data = message["reply_markup"]["inline_keyboard"][number][0]["callback_data"]
    return pressed(person, chat, message["message_id"], data, user)


def pressed(person: Person, chat: int, message_id: int, data: str, user: int | None = None) -> str:
    update = person.stack.telegram.press(chat, message_id, data, user_id=user)
    record = person.stack.telegram.state["updates"][str(update)]
    until(lambda: record["status"] is not None)
    return str(json.loads(record["body"])["outcome"])


def verdict(person: Person, chat: int) -> str:
    """What stands on the only button that is left."""
    return next(
        str(m["reply_markup"]["inline_keyboard"][0][0]["text"]) for m in person.replies(chat) if "reply_markup" in m
    )


def test_a_call_that_asks_runs_when_it_is_allowed_and_not_before(person: Person, chat: int, tmp_path: Path) -> None:
    path = tmp_path / "made"
    name = person.say(chat, f'!tool Write {{"file_path": "{path}", "content": "hello"}}')
    asked = question(person, chat)
    person.wait_for_state(name, "AskApproval")
    assert not path.exists()
    assert asked["text"].startswith(say("approval_ask", "en", tool="Write"))
    assert str(path) in asked["text"]
    assert "hello" in asked["text"]

    assert press(person, chat, asked, 0) == "button approved_allow"
    turn = person.wait(name)

    assert turn.output["outcome"] == "DELIVERED"
    assert path.read_text() == "hello"
    assert verdict(person, chat) == say("approved_allow", "en", by="You")
    assert [s.name for s in turn.states].count("RunAgent") == 2
    assert turn.output["version"] == 1
    assert len(turn.output["message_ids"]) == 1


def test_a_denied_call_does_not_run_and_the_agent_is_told(person: Person, chat: int, tmp_path: Path) -> None:
    path = tmp_path / "made"
    name = person.say(chat, f'!tool Write {{"file_path": "{path}", "content": "x"}}', language="zh")
    assert press(person, chat, question(person, chat), 2) == "button approved_deny"

    assert person.wait(name).output["outcome"] == "DELIVERED"
    assert not path.exists()
    assert "The user said no." in person.texts(chat)[-1]
    assert verdict(person, chat) == say("approved_deny", "en", by="You")


def test_a_write_inside_the_workspace_asks_nobody(person: Person, chat: int) -> None:
    turn = person.ask(chat, "!file note.txt hello")

    assert [s.name for s in turn.states].count("RunAgent") == 1
    assert turn.output["outcome"] == "DELIVERED"


def test_always_holds_in_this_conversation_until_a_new_one(person: Person, chat: int) -> None:
    name = person.say(chat, GLOB)
    press(person, chat, question(person, chat), 1)
    assert person.wait(name).output["outcome"] == "DELIVERED"

    assert "AskApproval" not in [s.name for s in person.ask(chat, GLOB).states]
    person.command(chat, "/new")
    again = person.say(chat, GLOB)
    press(person, chat, question(person, chat), 2)
    assert "AskApproval" in [s.name for s in person.wait(again).states]


def test_a_message_typed_instead_is_a_no_with_its_text_as_the_reason(person: Person, chat: int) -> None:
    name = person.say(chat, GLOB)
    question(person, chat)
    typed = person.command(chat, "rather list nothing")

    assert typed["outcome"] == f"answered {name}"
    assert person.wait(name).output["outcome"] == "DELIVERED"
    assert "rather list nothing" in person.texts(chat)[-1]
    assert person.status(typed["turn_id"]) == "NONE"
    assert verdict(person, chat) == say("approved_deny", "en", by="You")


def test_somebody_else_may_not_decide_and_his_message_queues(person: Person, group: int) -> None:
    name = person.say(group, GLOB)
    asked = question(person, group)

    assert press(person, group, asked, 0, user=77) == "button not_yours"
    other = person.stack.telegram.say(group, "me too", user_id=77)
    record = person.stack.telegram.state["updates"][str(other["update_id"])]
    until(lambda: record["status"] is not None)
    waiting = json.loads(record["body"])
    assert waiting["outcome"] == "started"
    assert press(person, group, asked, 0) == "button approved_allow"

    assert person.wait(name).output["outcome"] == "DELIVERED"
    assert person.wait(waiting["turn_id"]).output["outcome"] == "DELIVERED"
    assert "You said: me too" in person.texts(group)[-1]


def test_stop_ends_a_turn_that_waits_for_an_answer(person: Person, chat: int) -> None:
    name = person.say(chat, GLOB)
    question(person, chat)
    person.command(chat, "/stop")
    turn = person.wait(name)

    assert turn.output["outcome"] == "STOPPED"
    assert verdict(person, chat) == say("approved_stop", "en", by="You")
    assert person.texts(chat)[-1].endswith(say("stopped", "en"))
    after = person.ask(chat, "hello again")
    assert "AskApproval" not in [s.name for s in after.states]
    assert person.texts(chat)[-1].startswith("You said: hello again")


def test_a_question_nobody_answers_counts_as_no(person: Person, chat: int, faults: Faults) -> None:
    """Hydrate gives the hours; here they are one second."""

    def hurried(spec: Any, event: dict[str, Any], run: Any) -> Any:
        answer = run(spec, event)
        if (
            event.get("state") != "Hydrate"
            or spec.logical_id != "TurnFunction"
            or not event["session_key"].startswith(f"{chat}:")
        ):
            return answer
        document = {**json.loads(answer.payload), "approval_seconds": 1}
        return type(answer)(json.dumps(document).encode())

    person.stack.functions.around = hurried
    name = person.say(chat, GLOB)
    turn = person.wait(name)

    assert turn.output["outcome"] == "DELIVERED"
    assert "ApprovalTimedOut" in [s.name for s in turn.states]
    assert "Nobody answered within 72 hours" in person.texts(chat)[-1]
    assert verdict(person, chat) == say("approved_timeout", "en")


def test_a_press_twice_or_after_the_end_changes_nothing(person: Person, chat: int) -> None:
    name = person.say(chat, GLOB)
    asked = question(person, chat)
    allow = asked["reply_markup"]["inline_keyboard"][0][0]["callback_data"]
    press(person, chat, asked, 2)
    person.wait(name)

    assert pressed(person, chat, asked["message_id"], allow) == "button approved_deny"
    assert pressed(person, chat, asked["message_id"], "done") == "button button_gone"
    assert verdict(person, chat) == say("approved_deny", "en", by="You")
    assert pressed(person, chat, asked["message_id"], "allow:1:0") == "button button_gone"


@pytest.mark.parametrize("after", [False, True])
def test_a_decision_survives_failures_on_its_way(person: Person, chat: int, faults: Faults, after: bool) -> None:
    """The Intake's function fails before or after the press is carried out: tried again, then somebody is told."""
    name = person.say(chat, GLOB)
    asked = question(person, chat)
    faults.fail("AnswerButton", chat, "Lambda.ServiceException", times=3, after=after)
    press(person, chat, asked, 0)
    until(lambda: after or say("not_carried_out", "en", error="Lambda.ServiceException") in person.texts(chat))
    press(person, chat, asked, 0)

    assert person.wait(name).output["outcome"] == "DELIVERED"
    assert verdict(person, chat) == say("approved_allow", "en", by="You")


def test_a_turn_rerun_after_its_question_does_not_ask_again(person: Person, chat: int, faults: Faults) -> None:
    faults.fail("Persist", chat, "Broken", times=1)
    name = person.say(chat, GLOB)
    press(person, chat, question(person, chat), 0)
    assert person.wait(name).status == "FAILED"

    turn = person.redrive(name)

    assert turn.output["outcome"] == "DELIVERED"
    assert len([m for m in person.replies(chat) if m.get("text", "").startswith("🔐")]) == 1


def test_a_question_is_waited_for_however_often_telegram_asks(person: Person, chat: int) -> None:
    person.stack.telegram.fail_next(*[BotApiError(429, "Too Many Requests: retry after 1", {"retry_after": 1})] * 8)
    name = person.say(chat, GLOB)
    press(person, chat, question(person, chat), 0)
    turn = person.wait(name)

    assert turn.output["outcome"] == "DELIVERED"
    assert [state.name for state in turn.states].count("WaitToAsk") == 8


def test_a_question_that_cannot_show_what_was_decided_costs_no_turn(
    person: Person, chat: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(parameters: dict[str, Any]) -> Any:
        raise BotApiError(429, "Too Many Requests: retry after 1", {"retry_after": 1})

    name = person.say(chat, GLOB)
    asked = question(person, chat)
    monkeypatch.setattr(person.stack.telegram, "_edit_message_reply_markup", busy)
    assert press(person, chat, asked, 0) == "button approved_allow"

    assert person.wait(name).output["outcome"] == "DELIVERED"


def test_a_long_call_goes_along_as_a_document(person: Person, chat: int, tmp_path: Path) -> None:
    content = "line\\n" * 2000
    name = person.say(chat, f'!tool Write {{"file_path": "{tmp_path}/x", "content": "{content}"}}')
    asked = question(person, chat)
    assert len(asked["text"]) < 4096
    document = next(m["document"] for m in person.replies(chat) if "document" in m)
    assert document["file_name"] == "Write.txt"
    press(person, chat, asked, 2)
    assert person.wait(name).status == "SUCCEEDED"
