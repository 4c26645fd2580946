"""Whole turns on an AWS that nobody here wrote: the built packages, AWS's runtime client, the roles' own rights."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from functions.conversation.texts import say
from tests.conftest import until
from tests.deploy.conftest import TURN_SECONDS, Deployed

pytestmark = pytest.mark.timeout(600)


def test_an_update_posted_to_the_webhook_is_answered_and_remembered(deployed: Deployed, chat: int) -> None:
    first = deployed.turn(deployed.say(chat, "Good morning"))
    second = deployed.turn(deployed.say(chat, "Still there?"))

    assert [turn.status for turn in (first, second)] == ["SUCCEEDED", "SUCCEEDED"], (first.cause, second.cause)
    assert deployed.texts(chat) == [
        "You said: Good morning\n\nThis is message 1 of this conversation.",
        "You said: Still there?\n\nThis is message 2 of this conversation.",
    ]


def test_the_chat_sees_what_the_agent_says_while_it_works(deployed: Deployed, chat: int) -> None:
    """Which the agent's function asks the callback for, by its own role."""
    name = deployed.say(chat, "!slow 3")
    until(lambda: any("word1" in draft for draft in deployed.drafts(chat)), TURN_SECONDS)

    assert deployed.turn(name).status == "SUCCEEDED"


def test_the_same_update_again_is_one_execution_and_one_answer(deployed: Deployed, chat: int) -> None:
    name = deployed.say(chat, "Only once")
    until(lambda: deployed.update(name)["status"] is not None, TURN_SECONDS)
    with ThreadPoolExecutor() as pool:
        while_it_runs = list(pool.map(deployed.again, [name, name]))
    turn = deployed.turn(name)
    after_it_ended = deployed.again(name)

    answers = [answer.json()["outcome"] for answer in (*while_it_runs, after_it_ended)]
    assert answers == ["duplicate", "duplicate", "duplicate"]
    assert turn.status == "SUCCEEDED"
    assert deployed.executions(chat) == [name]
    assert deployed.texts(chat) == ["You said: Only once\n\nThis is message 1 of this conversation."]


def test_an_update_without_the_deployed_secret_is_refused(deployed: Deployed, chat: int) -> None:
    name = deployed.say(chat, "Hello")
    deployed.turn(name)

    assert deployed.again(name, secret="another").status_code == 401


def test_two_messages_at_once_are_answered_in_order_each_once(deployed: Deployed, chat: int) -> None:
    names = [deployed.say(chat, text) for text in ("One", "Two")]
    turns = [deployed.turn(name) for name in names]

    assert [turn.status for turn in turns] == ["SUCCEEDED", "SUCCEEDED"]
    assert deployed.texts(chat) == [
        "You said: One\n\nThis is message 1 of this conversation.",
        "You said: Two\n\nThis is message 2 of this conversation.",
    ]


def test_an_approval_waits_and_a_press_lets_the_command_run(deployed: Deployed, chat: int) -> None:
    name = deployed.say(chat, "!bash echo made > file.txt && cat file.txt")
    question = deployed.question(chat)
    waiting = deployed.now(name)

    deployed.press(chat, question, 0)
    turn = deployed.turn(name)

    assert (waiting.status, waiting.states[-1].name) == ("RUNNING", "AskApproval")
    assert question["text"].startswith(say("approval_ask", "en", tool="Bash"))
    assert turn.status == "SUCCEEDED"
    assert deployed.texts(chat)[-1] == "The tool answered:\n\nmade"


def test_a_failure_has_its_name_and_its_notice(deployed: Deployed, chat: int) -> None:
    name = deployed.say(chat, "!error 403 1")
    turn = deployed.turn(name)

    assert (turn.status, turn.error) == ("FAILED", "ModelAccessDenied")
    assert [("ModelAccessDenied" in text, name in text) for text in deployed.texts(chat)] == [(True, True)]


def test_a_busy_model_costs_time_and_not_the_answer(deployed: Deployed, chat: int) -> None:
    turn = deployed.turn(deployed.say(chat, "!error 429 2"))

    assert turn.status == "SUCCEEDED", (turn.error, turn.cause)
    assert deployed.texts(chat)[-1] == "The endpoint failed 2 times first, then it answered."


def test_a_permission_that_the_template_does_not_give_is_denied_by_name(deployed: Deployed, chat: int) -> None:
    with deployed.without("s3:GetObject"):
        refused = deployed.turn(deployed.say(chat, "May you?"))
    allowed = deployed.turn(deployed.say(chat, "And now?"))

    assert (refused.status, refused.error) == ("FAILED", "ConfigurationError")
    assert "s3:GetObject on " in str(refused.cause)
    assert allowed.status == "SUCCEEDED"


def test_a_changed_parameter_reaches_the_functions_at_the_next_deploy(deployed: Deployed, chat: int) -> None:
    new = chat
    refused = deployed.outcome(deployed.say(chat, "Let me in", user=new))
    deployed.deploy(AllowedUsers=f"{deployed.parameters['AllowedUsers']},{new}")
    turn = deployed.turn(deployed.say(chat, "And now?", user=new))

    assert refused == "refused not_allowed"
    assert turn.status == "SUCCEEDED"
    assert deployed.texts(chat)[-1] == "You said: And now?\n\nThis is message 1 of this conversation."
