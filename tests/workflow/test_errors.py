"""Every error of the table in `functions/common/errors.py`, on the real definition."""

from __future__ import annotations

import pytest

from functions.common.errors import remedy_of
from stepgram.embedded.telegram import BotApiError, bot_api
from tests.conftest import Faults, Person

PLATFORM = "Lambda.TooManyRequestsException"
STEPS = [
    "AcquireLock",
    "Hydrate",
    "RunAgent",
    "Persist",
    "Reply",
    "ReleaseLock",
]


@pytest.mark.parametrize("error", ["ModelThrottled", "ModelUnavailable", "AgentCrashed", "AgentTimedOut"])
def test_an_error_that_may_heal_is_retried(person: Person, chat: int, faults: Faults, error: str) -> None:
    faults.fail("RunAgent", chat, error)

    found = person.ask(chat, "hello")

    assert found.status == "SUCCEEDED"
    assert next(s for s in found.states if s.name == "RunAgent").tries == 2
    assert len(person.texts(chat)) == 1


@pytest.mark.parametrize(
    ("error", "times"), [("ModelAccessDenied", 1), ("ModelRejected", 1), ("AgentCrashed", 2), ("AgentTimedOut", 2)]
)
def test_an_error_that_does_not_heal_ends_the_turn_under_its_own_name(
    person: Person, chat: int, faults: Faults, error: str, times: int
) -> None:
    faults.fail("RunAgent", chat, error, times)

    found = person.ask(chat, "hello")

    assert (found.status, found.error) == ("FAILED", error)
    assert found.cause == f"injected by a test. Next: {remedy_of(error)}"
    assert found.failed_state is not None and found.failed_state.name == "RunAgent"
    assert [s.name for s in found.states[-3:]] == ["ReportFailure", "ReleaseFailedLock", "TurnFailed"]
    assert len(person.texts(chat)) == 1
    assert error in person.texts(chat)[0]


@pytest.mark.parametrize("error", ["Lambda.Unknown", "Runtime.ExitError", "Sandbox.Timedout"])
def test_a_platform_error_that_ends_a_turn_is_raised_once_under_its_own_name(
    person: Person, chat: int, faults: Faults, error: str
) -> None:
    faults.fail("RunAgent", chat, error, times=9)

    found = person.ask(chat, "hello")

    assert (found.status, found.error) == ("FAILED", error)
    assert (found.states[-1].name, found.states[-1].tries) == ("TurnFailed", 1)


def test_a_failed_turn_leaves_the_lock_free(person: Person, chat: int, faults: Faults) -> None:
    faults.fail("RunAgent", chat, "ModelRejected")
    person.ask(chat, "fails")

    found = person.ask(chat, "runs")

    assert found.status == "SUCCEEDED"
    assert "message 1 of this conversation" in person.texts(chat)[-1]


def test_a_lost_lock_writes_nothing_and_queues_again(person: Person, chat: int, faults: Faults) -> None:
    person.ask(chat, "one")
    faults.fail("Persist", chat, "LockLost")

    found = person.ask(chat, "two")

    asked = [r for r in person.stack.bedrock.requests if r["session"] == found.output["session_id"]]
    assert [s.name for s in found.states].count("AcquireLock") == 2
    assert found.output["version"] == 2
    assert len(asked) == 2, "the stored result is used"
    assert len(person.texts(chat)) == 2


@pytest.mark.parametrize("state", STEPS)
@pytest.mark.parametrize("after", [False, True], ids=["before its work", "after its work"])
def test_a_platform_error_is_retried_on_every_step(
    person: Person, chat: int, faults: Faults, state: str, after: bool
) -> None:
    faults.fail(state, chat, PLATFORM, after=after)

    found = person.ask(chat, "hello")

    assert found.status == "SUCCEEDED"
    assert len(person.texts(chat)) == 1
    assert found.output["version"] == 1
    if state != "AcquireLock" or not after:
        assert next(s for s in found.states if s.name == state).tries == 2


def test_telegram_unavailable_is_retried(person: Person, chat: int) -> None:
    person.stack.telegram.fail_next(BotApiError(502, "Bad Gateway"))

    found = person.ask(chat, "hello")

    assert found.status == "SUCCEEDED"
    assert len(person.texts(chat)) == 1


def test_a_rate_limit_is_waited_for_exactly_and_the_reply_goes_on(person: Person, chat: int) -> None:
    person.stack.telegram.fail_next(BotApiError(429, "Too Many Requests: retry after 1", {"retry_after": 1}))

    found = person.ask(chat, "hello")

    names = [s.name for s in found.states]
    waited = next(s for s in found.states if s.name == "WaitForTelegram")
    assert names[6:10] == ["Reply", "ReadRetryAfter", "WaitForTelegram", "Reply"]
    assert waited.input["rate_limit"] == {"retry_after": 1}
    assert waited.seconds >= 1.0
    assert len(person.texts(chat)) == 1


def test_a_rate_limit_in_the_middle_of_a_long_answer_doubles_nothing(person: Person, chat: int) -> None:
    from stepgram.embedded.demo_model import long_text

    person.say(chat, "!long 60000")
    person.stack.telegram.fail_next(BotApiError(429, "Too Many Requests: retry after 1", {"retry_after": 1}))
    person.ask(chat, "after")

    arrived = "\n".join(person.texts(chat)[:-1]).split()
    assert arrived == long_text(60_000).split()


def test_a_failure_notice_is_waited_for_however_often_telegram_asks(person: Person, chat: int, faults: Faults) -> None:
    faults.fail("RunAgent", chat, "ModelRejected")
    person.stack.telegram.fail_next(*[BotApiError(429, "Too Many Requests: retry after 1", {"retry_after": 1})] * 8)

    found = person.ask(chat, "hello")

    names = [state.name for state in found.states]
    assert names[4:7] == ["ReportFailure", "ReadNoticeDelay", "WaitToReport"]
    assert names.count("WaitToReport") == 8
    assert (found.error, len(person.texts(chat))) == ("ModelRejected", 1)


def test_in_a_flooded_group_every_refused_message_has_its_notice_in_the_end(
    person: Person, group: int, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bot_api, "GROUP_MESSAGES_A_MINUTE", 2)
    monkeypatch.setattr(bot_api, "MINUTE", 2)
    faults.fail("RunAgent", group, "ModelRejected", times=11)

    names = [person.say(group, "hello", thread) for thread in range(1, 12)]
    turns = [person.wait(name) for name in names]

    assert {turn.error for turn in turns} == {"ModelRejected"}
    notices = [message["reply_to_message"]["message_id"] for message in person.replies(group)]
    assert sorted(notices) == sorted(turn.input["message"]["id"] for turn in turns)
    assert any("WaitToReport" in [state.name for state in turn.states] for turn in turns)


def test_a_chat_that_refuses_ends_the_turn_quietly(person: Person, chat: int) -> None:
    person.ask(chat, "one")
    person.stack.telegram.block(chat)

    found = person.ask(chat, "two")

    assert found.status == "SUCCEEDED"
    assert found.output["outcome"] == "UNDELIVERABLE"
    assert [s.name for s in found.states][-4:] == ["Reply", "Undeliverable", "ReleaseLock", "TurnDone"]


def test_what_telegram_refuses_as_rich_goes_as_classic_messages(person: Person, chat: int) -> None:
    person.stack.telegram.fail_next(BotApiError(400, "Bad Request: can't parse rich message"))

    person.ask(chat, "!markdown")

    message = person.replies(chat)[0]
    assert "_page" not in message
    assert "Banana" in message["text"]
    assert {"bold", "code", "text_link", "pre"} <= {e["type"] for e in message["entities"]}


def test_what_telegram_refuses_with_entities_goes_as_plain_text(person: Person, chat: int) -> None:
    refused = BotApiError(400, "Bad Request: can't parse entities")
    person.stack.telegram.fail_next(refused, refused)

    person.ask(chat, "!markdown")

    assert "Banana" in person.replies(chat)[0]["text"]
    assert person.replies(chat)[0]["entities"] == []


def test_a_crashed_agent_ends_the_turn_as_a_crash_and_the_next_one_runs(person: Person, chat: int) -> None:
    found = person.ask(chat, "!crash")

    assert found.error == "AgentCrashed"
    assert person.ask(chat, "hello").status == "SUCCEEDED"


@pytest.mark.parametrize(
    ("status", "times", "ends"),
    [(429, 1, "SUCCEEDED"), (529, 1, "SUCCEEDED"), (500, 1, "SUCCEEDED"), (400, 1, "FAILED"), (401, 1, "FAILED")],
)
def test_the_model_endpoints_status_decides(person: Person, chat: int, status: int, times: int, ends: str) -> None:
    found = person.ask(chat, f"!error {status} {times}")

    assert found.status == ends
    assert len(person.texts(chat)) == 1


def test_a_redriven_turn_runs_again_under_its_own_name(person: Person, chat: int) -> None:
    failed = person.ask(chat, "!error 403 1")
    assert failed.error == "ModelAccessDenied"

    found = person.redrive(failed.name)

    assert found.status == "SUCCEEDED"
    assert len(found.attempts) == 2
    assert [s.name for s in found.attempts[0]][-1] == "TurnFailed"
    assert [s.name for s in found.attempts[1]][:2] == ["TurnFailed", "AcquireLock"]
    assert len(person.texts(chat)) == 1, "the answer takes the notice's place"
    assert "then it answered" in person.texts(chat)[0]
    assert "reply_markup" not in person.replies(chat)[0]


def test_a_turn_that_fails_again_after_a_redrive_ends_again(person: Person, chat: int) -> None:
    failed = person.ask(chat, "!error 403 2")

    again = person.redrive(failed.name)
    notices = person.texts(chat)
    done = person.redrive(failed.name)

    assert (again.status, again.error) == ("FAILED", "ModelAccessDenied")
    assert (done.status, len(done.attempts)) == ("SUCCEEDED", 3)
    assert ["went wrong" in text for text in notices] == [True]
    assert len(person.texts(chat)) == 1


def test_a_notice_that_cannot_be_sent_does_not_keep_the_lock(person: Person, chat: int, faults: Faults) -> None:
    faults.fail("RunAgent", chat, "ModelRejected")
    faults.fail("ReportFailure", chat, "ConfigurationError")

    failed = person.ask(chat, "hello")
    found = person.redrive(failed.name)

    assert failed.error == "ModelRejected"
    assert found.status == "SUCCEEDED"


def test_a_redrive_after_the_commit_answers_without_asking_the_model_again(
    person: Person, chat: int, faults: Faults
) -> None:
    faults.fail("Reply", chat, "ConfigurationError")
    failed = person.ask(chat, "hello")
    asked = len(person.stack.bedrock.requests)

    found = person.redrive(failed.name)

    assert found.output["version"] == 1
    assert len(person.stack.bedrock.requests) == asked
    assert "You said: hello" in person.texts(chat)[-1]


def test_an_execution_that_succeeded_cannot_be_redriven(person: Person, chat: int) -> None:
    found = person.ask(chat, "hello")

    with pytest.raises(person.step_functions.exceptions.ExecutionNotRedrivable):
        person.redrive(found.name)


def test_a_turn_stopped_in_the_middle_queues_for_the_lock_when_it_is_redriven(person: Person, chat: int) -> None:
    """It is restarted in RunAgent, where it was stopped, without the lock it had."""
    name = person.say(chat, "!slow 1")
    person.wait_for_state(name, "RunAgent")
    person.step_functions.stop_execution(executionArn=person.arn(name))
    assert person.wait(name).status == "ABORTED"

    found = person.redrive(name)

    assert found.status == "SUCCEEDED"
    assert [s.name for s in found.states][:3] == ["RunAgent", "AcquireLock", "Hydrate"]
    assert found.output["version"] == 1
    assert len([t for t in person.texts(chat) if "and done." in t]) == 1
