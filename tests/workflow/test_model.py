"""A model that is busy, breaks off or comes to a limit, with the real CLI: what it costs the turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from functions.conversation.texts import say
from stepgram.embedded.stack import EmbeddedStack
from stepgram.operators.executions import ExecutionDetail
from tests.conftest import Person

AGENT, TURN = "stepgram-AgentFunction", "stepgram-TurnFunction"
BUSY = say("model_busy", "en")


@pytest.fixture
def agent(stack: EmbeddedStack) -> Iterator[Callable[..., None]]:
    """Gives the agent's function, and the one that starts it, other variables, or it another timeout, for one test."""
    specs, original = stack.functions.specs, dict(stack.functions.specs)

    def change(timeout: int | None = None, **values: str) -> None:
        for name in (AGENT, TURN):
            specs[name] = replace(original[name], environment={**original[name].environment, **values})
        specs[AGENT] = replace(specs[AGENT], timeout=timeout or original[AGENT].timeout)

    yield change
    specs.update(original)


def drafts(stack: EmbeddedStack, chat: int) -> list[str]:
    """The texts a private chat saw while the turn was at work."""
    shown = [p for m, p in stack.telegram.calls if p.get("chat_id") == chat and m.endswith("MessageDraft")]
    return [p["rich_message"]["markdown"] if "rich_message" in p else p["text"] for p in shown]


def runs_of_the_agent(found: ExecutionDetail) -> int:
    """How often the workflow ran it, all in all."""
    return sum(state.tries for state in found.states if state.name == "RunAgent")


@pytest.mark.parametrize(
    "trouble",
    [
        "!error 429 2",
        "!error 503 2",
        "!error 529 2",
        "!break 2",
        "!break 1 1",
        "!break 1 1 throttlingException",
        "!break 1 0 throttlingException",
    ],
)
def test_trouble_after_a_tool_ran_is_mended_inside_the_run(
    person: Person, chat: int, tmp_path: Path, trouble: str
) -> None:
    log = tmp_path / "log"

    found = person.ask(chat, f"!bash echo once | tee -a {log}\n{trouble}")

    assert found.status == "SUCCEEDED"
    assert runs_of_the_agent(found) == 1
    assert log.read_text() == "once\n"
    assert person.texts(chat)[0].startswith("The tool answered:\n\nonce")


@pytest.mark.parametrize("broken", ["!break 1 0", "!break 1 1", "!break 1 2", "!break 1 1 modelStreamErrorException"])
def test_a_tool_call_whose_stream_breaks_runs_once(person: Person, chat: int, tmp_path: Path, broken: str) -> None:
    """Broken in the text before the call, in the call, and behind it."""
    log = tmp_path / "log"

    found = person.ask(chat, f"{broken}\n!bash echo once | tee -a {log}")

    assert runs_of_the_agent(found) == 1
    assert log.read_text() == "once\n"
    assert person.texts(chat) == ["The tool answered:\n\nonce"]


def test_the_chat_sees_that_the_model_is_busy_and_that_it_answers_again(
    stack: EmbeddedStack, person: Person, chat: int
) -> None:
    found = person.ask(chat, "!error 529 3\n!slow 3")

    shown = drafts(stack, chat)
    assert runs_of_the_agent(found) == 1
    assert BUSY in shown
    assert BUSY not in shown[-1]
    assert person.texts(chat)[0].endswith("word40 and done.")


def test_an_answer_that_broke_off_after_a_block_is_whole(stack: EmbeddedStack, person: Person, chat: int) -> None:
    """How many of the blocks the CLI has read when the connection breaks is up to it: so is where a paragraph ends."""
    found = person.ask(chat, "!break 1 2")

    parts = [f"Part {number} of what is said before the connection breaks." for number in (1, 2)]
    whole = "".join([*parts, "The endpoint failed 1 times first, then it answered."])
    assert [text.replace("\n\n", "") for text in person.texts(chat)] == [whole]
    assert runs_of_the_agent(found) == 1
    assert person.ask(chat, "and now").output["version"] == 2
    assert "message 2 of this conversation" in person.texts(chat)[1]


@pytest.mark.parametrize("trouble", ["!error 429 1 600", "!error 503 1 90"])
def test_an_endpoint_that_asks_for_too_much_time_ends_the_run_and_the_workflow_tries_again(
    person: Person, chat: int, trouble: str
) -> None:
    found = person.ask(chat, trouble)

    assert found.status == "SUCCEEDED"
    assert runs_of_the_agent(found) == 2
    assert sum(state.seconds for state in found.states) < 30
    assert person.texts(chat) == ["The endpoint failed 1 times first, then it answered."]


def test_a_model_busy_for_longer_than_its_bound_ends_the_run(
    person: Person, chat: int, agent: Callable[..., None]
) -> None:
    agent(MODEL_BUSY_SECONDS="1")

    found = person.ask(chat, "!error 429 3")

    assert found.status == "SUCCEEDED"
    assert runs_of_the_agent(found) == 2, "a pause of half a second was waited, one of a whole was not"


def test_denied_access_ends_the_turn_at_once_in_the_endpoints_words(person: Person, chat: int) -> None:
    found = person.ask(chat, "!error 403 1")

    assert found.error == "ModelAccessDenied"
    assert "AccessDeniedException asked for by the demo model" in str(found.cause)
    assert runs_of_the_agent(found) == 1


@pytest.mark.parametrize(
    ("limit", "ended", "language"),
    [({"MAX_MODEL_TURNS": "1"}, "max_turns", "en"), ({"MAX_BUDGET_USD": "0.01"}, "budget", "zh")],
)
def test_a_run_that_comes_to_a_limit_delivers_what_was_said_and_is_remembered(
    person: Person, chat: int, agent: Callable[..., None], limit: dict[str, str], ended: str, language: str
) -> None:
    agent(**limit)
    found = person.ask(chat, "!bash echo hi > kept", language=language)
    agent()
    after = person.ask(chat, "!bash cat kept")

    assert (found.status, found.output["outcome"], found.output["ended"]) == ("SUCCEEDED", "DELIVERED", ended)
    assert person.texts(chat)[0] == f"Running it.\n\n{say(f'ended_{ended}', language)}"
    assert (after.output["version"], after.output["ended"]) == (2, None)


def test_a_limit_in_the_second_part_of_a_turn_delivers_what_the_first_said_too(
    person: Person, chat: int, agent: Callable[..., None]
) -> None:
    one_request = float(person.ask(chat, "hello").output["cost_usd"])
    agent(timeout=14, MAX_BUDGET_USD=str(1.5 * one_request))

    found = person.ask(chat, "!bash sleep 60")

    said = ["Running it.", "I was interrupted and went on: !bash sleep 60", say("ended_budget", "en")]
    assert [state.name for state in found.states].count("RunAgent") == 2
    assert found.output["ended"] == "budget"
    assert person.texts(chat)[1:] == ["\n\n".join(said)]
