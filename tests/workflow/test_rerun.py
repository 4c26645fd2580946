"""Running a failed turn again: the button under its notice, `stepgram rerun`, and what cannot be run again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import requests

from functions.conversation.texts import CATALOGUE
from stepgram.operators.executions import detail
from stepgram.operators.rerun import RerunError, redrive, rerun_all, rerun_from_start, wait_until_ended
from stepgram.operators.stack import Stack
from tests.conftest import Faults, Person, until


def press(person: Person, chat: int, message: dict[str, Any], language: str = "en") -> dict[str, Any]:
    """Press the message's button; returns what the bot answered to it."""
    data = message["reply_markup"]["inline_keyboard"][0][0]["callback_data"]
    update_id = person.stack.telegram.press(chat, message["message_id"], data, language)
    record = person.stack.telegram.state["updates"][str(update_id)]
    until(lambda: record["status"] is not None)
    query = record["update"]["callback_query"]["id"]
    calls = [
        p for m, p in person.stack.telegram.calls if m == "answerCallbackQuery" and p["callback_query_id"] == query
    ]
    return calls[-1]


def stack_of(person: Person) -> Stack:
    addresses = person.stack.addresses
    return Stack(addresses.outputs, addresses.aws, addresses.telegram)


def test_the_button_runs_the_turn_again_and_its_answer_takes_the_notices_place(person: Person, chat: int) -> None:
    failed = person.ask(chat, "!error 403 1")
    notice = dict(person.replies(chat)[0])

    told = press(person, chat, notice, "zh")

    found = person.wait(failed.name)
    assert told["text"] == CATALOGUE["running_again"]["zh"]
    assert (found.status, len(found.attempts)) == ("SUCCEEDED", 2)
    assert [m["message_id"] for m in person.replies(chat)] == [notice["message_id"]]
    assert "then it answered" in person.texts(chat)[0]
    assert "reply_markup" not in person.replies(chat)[0]


def test_a_second_press_says_that_it_is_running(person: Person, chat: int) -> None:
    name = person.say(chat, "!slow 2")
    person.wait_for_state(name, "RunAgent")
    person.step_functions.stop_execution(executionArn=person.arn(name))
    data = f"rerun:{name.split('-u')[1]}"
    message = {"message_id": 1, "reply_markup": {"inline_keyboard": [[{"callback_data": data}]]}}

    first = press(person, chat, message)
    second = press(person, chat, message)
    person.wait(name)
    third = press(person, chat, message)

    assert first["text"] == CATALOGUE["running_again"]["en"]
    assert second["text"] == CATALOGUE["already_running"]["en"]
    assert third["text"] == CATALOGUE["already_answered"]["en"]
    assert len(person.texts(chat)) == 1


def test_a_press_delivered_twice_redrives_once(person: Person, chat: int) -> None:
    failed = person.ask(chat, "!error 403 9")
    press(person, chat, dict(person.replies(chat)[0]))
    assert person.wait(failed.name).status == "FAILED"
    updates = person.stack.telegram.state["updates"].values()
    pressed = next(r["update"] for r in updates if "callback_query" in r["update"] and r["chat"] == chat)
    webhook = person.stack.telegram.state["webhook"]
    headers = {"X-Telegram-Bot-Api-Secret-Token": webhook["secret_token"]}

    again = requests.post(webhook["url"], json=pressed, headers=headers, timeout=30)

    assert again.json()["outcome"] == "button running_again"
    assert len(detail(person.step_functions, person.arn(failed.name)).attempts) == 2


def test_a_button_without_its_execution_says_that_it_is_too_old(person: Person, chat: int) -> None:
    person.command(chat, "/help")
    message = {"message_id": 2, "reply_markup": {"inline_keyboard": [[{"callback_data": "rerun:99999999"}]]}}

    told = press(person, chat, message)

    assert (told["text"], told["show_alert"]) == (CATALOGUE["too_old"]["en"], True)


def test_a_button_reaches_only_turns_of_its_own_chat(person: Person, chat: int, group: int) -> None:
    failed = person.ask(chat, "!error 403 1")
    person.command(group, "/help")
    data = person.replies(chat)[0]["reply_markup"]["inline_keyboard"][0][0]["callback_data"]
    message = {"message_id": 2, "reply_markup": {"inline_keyboard": [[{"callback_data": data}]]}}

    told = press(person, group, message)

    assert told["text"] == CATALOGUE["too_old"]["en"]
    assert person.status(failed.name) == "FAILED"


def test_an_execution_too_old_to_redrive_offers_a_new_one(person: Person, chat: int, faults: Faults) -> None:
    faults.fail("RunAgent", chat, "ModelRejected")
    failed = person.ask(chat, "hello")
    execution = person.stack.step_functions._execution(person.arn(failed.name))
    execution.stop_date -= timedelta(days=15)
    stack = stack_of(person)

    with pytest.raises(RerunError, match="--from-start"):
        redrive(stack, failed.name)
    found = wait_until_ended(stack, rerun_from_start(stack, failed.name))

    assert found.status == "SUCCEEDED"
    assert found.name.startswith(f"{failed.name}-r")
    assert found.input["rerun_of"] == failed.name
    assert "You said: hello" in person.texts(chat)[-1]


def test_all_that_failed_is_run_again_in_message_order_per_chat(person: Person, chat: int, faults: Faults) -> None:
    other = chat + 1_000_000
    faults.fail("RunAgent", chat, "ModelRejected", times=2)
    faults.fail("RunAgent", other, "ModelRejected")
    names = [person.ask(chat, "one").name, person.ask(chat, "two").name]
    third = person.ask(other, "three").name
    told: list[str] = []

    ended = rerun_all(
        stack_of(person), [names[1], third, names[0]], lambda found, done, of: told.append(f"{done}/{of}")
    )

    assert [e.status for e in ended] == ["SUCCEEDED"] * 3
    assert sorted(told) == ["1/3", "2/3", "3/3"]
    assert ["message 1" in t for t in person.texts(chat)] == [True, False]
    assert "message 2" in person.texts(chat)[1]


def test_a_queue_that_is_full_tells_the_user_and_keeps_the_message(person: Person, chat: int, faults: Faults) -> None:
    faults.fail("AcquireLock", chat, "TooManyWaiting")

    found = person.ask(chat, "hello")
    notice = dict(person.replies(chat)[0])
    press(person, chat, notice)

    assert found.error == "TooManyWaiting"
    assert notice["text"].startswith("Too many messages are waiting")
    assert person.wait(found.name).status == "SUCCEEDED"
    assert "You said: hello" in person.texts(chat)[0]
