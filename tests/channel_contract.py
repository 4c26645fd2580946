"""What every channel must do, as tests: a channel's own test module inherits `ChannelContract` and brings a `World`.

A step that speaks may die between any two writes, run twice, meet a limit, or be refused. Whatever happened, people see
every part of an answer in the end, in its order, and none of it twice, except what was on its way when a step died
(`World.once` says whether the channel can even rule that out).
"""

from __future__ import annotations

import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from functions.channel import Answer, Asking, Channel, Delivery, Rerun, SentFile, channel, closing
from functions.common import aws
from functions.common.envelope import Attachment, Button, Place
from functions.common.errors import AwsUnavailable, ChannelError, ChannelLimited, ChannelRefused
from functions.common.observability import StepRequest
from functions.common.settings import TableSettings
from functions.conversation.approvals import BUTTONS, Question
from functions.conversation.progress import ProgressTable, Report, Ticket, Tool
from functions.conversation.sessions import QUESTION, SessionTable
from tests.conftest import ROOT

BEGINNING = "Here is what I found"
TABLE = "| a | b |\n| - | - |\n| 1 | 2 |"
SECRET_PART = "rm -rf / #\u202e"
_updates = itertools.count(1)


class Killed(BaseException):
    """The process is gone: nothing runs after it, no `except`."""


class World(ABC):
    """One place of the channel, with somebody who looks at it."""

    once = False
    """Whether not even what was on its way when a step died is shown twice."""

    errors = frozenset({"limited", "unavailable", "refused", "format"})
    """What the place may answer to a write: one of another kind cannot come there."""

    def __init__(self, place: Place) -> None:
        """`place` is new; the environment is that of a function that speaks."""
        self.place = place
        self.channel: Channel[Place] = channel(place)
        table = TableSettings.load().table
        self.sessions = SessionTable(table, aws.dynamodb())
        self.progress = ProgressTable(table, aws.dynamodb(), self.sessions.expiry())

    @abstractmethod
    def elsewhere(self) -> World:
        """Another place of the same kind, where nobody spoke yet."""

    @abstractmethod
    def seen(self) -> list[str]:
        """The texts that stand there now, oldest first; of what does not stay (a draft), nothing."""

    @abstractmethod
    def files(self) -> dict[str, bytes]:
        """The files that were sent there, by name."""

    @abstractmethod
    def buttons(self, message_id: int) -> list[Button]:
        """What can be pressed below a message."""

    @abstractmethod
    def labels(self, message_id: int) -> list[str]:
        """What stands below a message: on what can be pressed, or of what was decided."""

    @abstractmethod
    def passing(self) -> str | None:
        """What is seen of a sign of life, and does not stay."""

    @abstractmethod
    def stored(self, content: bytes) -> str:
        """A file of the agent's; its key in S3."""

    @abstractmethod
    def fetching_fails(self) -> AbstractContextManager[None]:
        """Inside, files that people sent cannot be had, for now."""

    @abstractmethod
    def attached(self, content: bytes) -> Attachment:
        """Somebody sends a file."""

    @abstractmethod
    def no_attachment(self) -> Attachment:
        """A file that is not there."""

    @abstractmethod
    def failing(self, error: str) -> None:
        """The next write into the place is answered by this one of `errors`."""

    def fails(self, error: str) -> None:
        """The same; a test of an error that cannot come there ends here."""
        if error not in self.errors:
            pytest.skip(f"nothing there is ever {error}")
        self.failing(error)

    @abstractmethod
    def killed_after(self, writes: int) -> AbstractContextManager[None]:
        """Inside, the process dies (`Killed`) right after that many writes, into the place or into the table."""


def another(world: World) -> StepRequest:
    """A turn of the place that nobody else uses."""
    place = world.place
    return StepRequest(turn_id=place.turn_id(next(_updates)), session_key=place.session_key, state="Contract")


def say_notice(delivery: Delivery) -> None:
    """That a turn failed."""
    delivery.notice(0, "It failed.", "Run again")


def say_question(delivery: Delivery) -> None:
    """A question whose call is long."""
    delivery.question(asking(f"echo {'x' * 60_000}; It failed."))


def asking(call: str) -> Asking:
    """A question of the third part of a turn."""
    return Asking(number=3, tool="Bash", call=call, who="Ada", hours=72, language="en")


def named_errors() -> set[str]:
    """The errors of saying something that the definition knows."""
    reply = json.loads((ROOT / "statemachine" / "turn.asl.json").read_text())["States"]["Reply"]
    return {name for rule in (*reply["Retry"], *reply["Catch"]) for name in rule["ErrorEquals"]}


SPEAKING: dict[str, Callable[[Delivery], object]] = {
    "text": lambda delivery: delivery.text("notice", "x"),
    "answer": lambda delivery: delivery.answer(BEGINNING, "the whole answer"),
    "document": lambda delivery: delivery.document("d", "d.txt", b"d"),
    "files": lambda delivery: delivery.files("file", [SentFile("d.txt", 1, lambda: b"d")]),
    "notice": say_notice,
    "question": lambda delivery: delivery.question(asking("ls")),
}
"""Each way to say something."""


def say_all(delivery: Delivery) -> None:
    """What a turn with everything has to say."""
    delivery.text("notice", "The conversation was lost.")
    delivery.answer(f"{BEGINNING}\n\n{TABLE}", "the whole answer")
    delivery.files("file", [SentFile("notes.txt", 5, lambda: b"notes"), SentFile("more.csv", 4, lambda: b"more")])
    delivery.document("whole", "answer.md", b"whole", "the whole answer")
    delivery.text("budget", "Four fifths of the budget are spent.")
    delivery.complete()


class ChannelContract:
    """Inherit it, and let the fixture `world` give a World whose place is new."""

    @pytest.fixture
    def turn(self, world: World) -> StepRequest:
        """A turn nobody else uses."""
        return another(world)

    @staticmethod
    def last_words(world: World, turn: StepRequest, attempt: int = 0) -> Delivery:
        """How the turn says its last words, in a step of its own."""
        return closing(turn, world.place, 0, attempt)

    # ------------------------------------------------------------ each part once

    def test_a_step_that_runs_twice_says_nothing_twice(self, world: World, turn: StepRequest) -> None:
        say_all(self.last_words(world, turn))
        seen, files = world.seen(), world.files()

        say_all(self.last_words(world, turn))

        assert (world.seen(), world.files()) == (seen, files)
        assert files == {"notes.txt": b"notes", "more.csv": b"more", "answer.md": b"whole"}
        order = ["conversation was lost", BEGINNING, "budget"]
        found = [next(n for n, text in enumerate(seen) if part in text) for part in order]
        assert found == sorted(found)

    @pytest.mark.parametrize(
        ("say", "parts", "least"),
        [
            (say_all, ("conversation was lost", BEGINNING, "budget"), 6),
            (say_notice, ("It failed.",), 2),
            (say_question, ("echo",), 2),
        ],
    )
    def test_a_step_killed_after_any_write_says_everything_in_the_end(
        self, world: World, say: Callable[[Delivery], None], parts: tuple[str, ...], least: int
    ) -> None:
        doubled = []
        for writes in itertools.count(1):
            here = world.elsewhere()
            mine, before = another(here), len(here.seen())
            try:
                with here.killed_after(writes):
                    say(self.last_words(here, mine))
                break  # it had fewer writes than that
            except Killed:
                say(self.last_words(here, mine))
            seen = here.seen()[before:]
            for part in parts:
                assert any(part in text for text in seen), (writes, part)
            doubled.append(len(seen) - len(set(seen)))
        assert writes > least
        assert max(doubled) <= (0 if world.once else 1)

    def test_the_answer_is_noted_when_nothing_of_it_is_missing(self, world: World, turn: StepRequest) -> None:
        delivery = self.last_words(world, turn)
        delivery.answer(BEGINNING, "the whole answer")
        assert not world.sessions.turn(turn.session_key, turn.turn_id).answered
        delivery.complete()

        assert world.sessions.turn(turn.session_key, turn.turn_id).answered
        assert len(delivery.message_ids) == 1

    # ------------------------------------------------------------ what the place answers

    def test_what_a_place_cannot_show_is_said_in_a_plainer_form(self, world: World, turn: StepRequest) -> None:
        world.fails("format")
        form = self.last_words(world, turn).answer(
            f"{BEGINNING}\n\n| a | b |\n| - | - |\n| 1 | 2 |", "the whole answer"
        )

        assert form
        assert sum(BEGINNING in text for text in world.seen()) == 1

    @pytest.mark.parametrize("error", ["limited", "unavailable"])
    def test_after_what_passes_the_next_try_goes_on_where_this_one_stopped(
        self, world: World, turn: StepRequest, error: str
    ) -> None:
        self.last_words(world, turn).text("notice", "The conversation was lost.")
        world.fails(error)
        with pytest.raises((ChannelError, AwsUnavailable)) as raised:
            say_all(self.last_words(world, turn))
        assert not isinstance(raised.value, ChannelRefused)
        assert type(raised.value).__name__ in named_errors()
        if error == "limited":
            assert isinstance(raised.value, ChannelLimited)
            assert f"#{raised.value.retry_after}#" in str(raised.value)

        say_all(self.last_words(world, turn))

        assert sum("conversation was lost" in text for text in world.seen()) == 1
        assert sum(BEGINNING in text for text in world.seen()) == 1

    @pytest.mark.parametrize("way", SPEAKING)
    def test_a_place_that_takes_nothing_says_so_by_name(self, world: World, turn: StepRequest, way: str) -> None:
        delivery = self.last_words(world, turn)
        world.fails("refused")
        with pytest.raises(ChannelRefused) as raised:
            SPEAKING[way](delivery)
        assert raised.value.description
        assert type(raised.value).__name__ in named_errors()

    # ------------------------------------------------------------ answers and files

    @pytest.mark.parametrize("paragraphs", [300, 4_000, 27_000])
    def test_a_long_answer_is_there_whole(self, world: World, turn: StepRequest, paragraphs: int) -> None:
        answer = "\n\n".join(f"Paragraph {number} of a long answer 漢字." for number in range(paragraphs))
        self.last_words(world, turn).answer(answer, "the whole answer")

        shown = "\n\n".join(world.seen())
        whole = [content.decode() for content in world.files().values()]
        assert answer in whole or " ".join(answer.split()) in " ".join(shown.split())

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(text=st.text(st.characters(codec=None), min_size=1, max_size=300))
    def test_any_answer_is_taken(self, world: World, text: str) -> None:
        here = world.elsewhere()
        before = len(here.seen())
        delivery = self.last_words(here, another(here))
        delivery.answer(f"x{text}", "the whole answer")
        delivery.complete()

        assert any(said.startswith("x") for said in here.seen()[before:])

    def test_a_file_that_is_too_large_is_told_and_the_others_are_sent(self, world: World, turn: StepRequest) -> None:
        large = SentFile("large.bin", world.channel.sent_bytes + 1, lambda: bytes(world.channel.sent_bytes + 1))
        refused = self.last_words(world, turn).files("file", [large, SentFile("notes.txt", 5, lambda: b"notes")])

        assert [file.name for file in refused] == ["large.bin"]
        assert world.files() == {"notes.txt": b"notes"}

    def test_a_file_of_the_agents_comes_as_it_is(self, world: World, turn: StepRequest) -> None:
        kept = SentFile("report.pdf", 6, lambda: b"report", world.stored(b"report"))

        assert self.last_words(world, turn).files("file", [kept]) == []
        assert world.files() == {"report.pdf": b"report"}

    def test_an_attachment_is_fetched_and_one_that_is_gone_is_refused(self, world: World) -> None:
        key, found = world.place.session_key, world.attached(b"\x00a picture")
        assert world.channel.fetch(key, found) == b"\x00a picture"
        with pytest.raises(ChannelRefused) as raised:
            world.channel.fetch(key, world.no_attachment())
        assert raised.value.description
        with world.fetching_fails(), pytest.raises((ChannelError, AwsUnavailable, ClientError)) as passing:
            world.channel.fetch(key, found)
        assert not isinstance(passing.value, ChannelRefused)

    # ------------------------------------------------------------ failure notices

    def test_a_notice_takes_the_place_of_the_one_before_and_the_answer_takes_its(
        self, world: World, turn: StepRequest
    ) -> None:
        first = self.last_words(world, turn).notice(0, "It failed.", "Run again")
        again = self.last_words(world, turn, 1).notice(1, "It failed again.", "Run again")
        (button,) = world.buttons(again)
        assert world.channel.press(button, world.place) == Rerun(turn.turn_id)
        assert first == again or world.buttons(first) == []
        assert [text for text in world.seen() if "failed" in text] == ["It failed again."]

        self.last_words(world, turn, 2).answer(BEGINNING, "the whole answer")

        assert [text for text in world.seen() if "failed" in text] == []
        assert any(BEGINNING in text for text in world.seen())

    def test_a_button_that_served_is_taken_away_and_once_more_is_no_failure(
        self, world: World, turn: StepRequest
    ) -> None:
        message = self.last_words(world, turn).notice(0, "It failed.", "Run again")
        (button,) = world.buttons(message)
        for _ in range(2):
            world.channel.withdraw(button, world.place)
            world.channel.acknowledge(button, "It runs.", alert=False)
        assert world.buttons(message) == []

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.text(max_size=64))
    def test_no_made_up_button_is_anything_else_than_nothing(self, world: World, data: str) -> None:
        pressed = world.channel.press(Button(id="1", data=data, message_id=1), world.place)

        assert pressed is None or pressed.turn_id.startswith(world.place.turn_id(""))

    def test_a_button_of_another_place_is_none_here(self, world: World, turn: StepRequest) -> None:
        there = world.elsewhere()
        message = self.last_words(there, another(there)).notice(0, "It failed.", "Run again")
        asked = self.ask(there, another(there))

        for button in (*there.buttons(message), *there.buttons(asked)):
            pressed = world.channel.press(button, world.place)
            assert pressed is None or pressed.turn_id.startswith(world.place.turn_id(""))

    # ------------------------------------------------------------ questions

    @staticmethod
    def ask(world: World, turn: StepRequest, call: str = "ls") -> int:
        """Ask whether a call may run; returns the message."""
        world.channel.delivery(turn, world.place, 0).question(asking(call))
        return world.sessions.turn(turn.session_key, turn.turn_id).delivered[f"{QUESTION}3"]

    def test_a_question_shows_its_call_and_each_choice_says_what_it_is(self, world: World, turn: StepRequest) -> None:
        message = self.ask(world, turn, "echo shown")

        assert "echo shown" in world.seen()[-1]
        pressed = [world.channel.press(button, world.place) for button in world.buttons(message)]
        assert pressed == [Answer(choice, turn.turn_id, 3) for choice in BUTTONS]
        assert self.ask(world, turn, "echo shown") == message
        assert sum("echo shown" in text for text in world.seen()) == 1

    @pytest.mark.parametrize("size", [10, 3_100, 20_000, 900_000])
    def test_all_of_a_call_can_be_read_however_long_it_is(self, world: World, turn: StepRequest, size: int) -> None:
        call = f"echo {'x' * size}; {SECRET_PART}"
        self.ask(world, turn, call)

        shown = [*world.seen(), *(content.decode() for content in world.files().values())]
        assert any(call in text for text in shown)

    def test_a_verdict_takes_the_place_of_the_choices(self, world: World, turn: StepRequest) -> None:
        message = self.ask(world, turn)
        question = Question(turn.session_key, turn.turn_id, 3, world.place)
        for _ in range(2):
            world.channel.verdict(question, message, "Allowed by Ada")

        assert all(world.channel.press(button, world.place) is None for button in world.buttons(message))
        assert world.labels(message) == ["Allowed by Ada"]
        world.channel.verdict(question, 2**31 - 1, "a message that is gone is no failure")

    @pytest.mark.parametrize("error", ["limited", "unavailable", "refused"])
    def test_a_verdict_that_cannot_be_shown_fails_nothing(self, world: World, turn: StepRequest, error: str) -> None:
        message = self.ask(world, turn)
        world.fails(error)
        world.channel.verdict(Question(turn.session_key, turn.turn_id, 3, world.place), message, "Allowed by Ada")

    # ------------------------------------------------------------ signs of life

    def report(self, world: World, turn: StepRequest, **more: Any) -> int | None:
        """Show one report, as the callback does; returns the message that shows it."""
        ticket = Ticket(chat=world.place, message_id=0, language="en", until=2**31, verbose=2)
        time = next(_updates)
        keys = {"turn_id": turn.turn_id, "session_key": turn.session_key, "state": "RunAgent"}
        report = Report(**keys, ticket="sealed", time=time, **more)
        shown = world.progress.begin(turn.session_key, turn.turn_id, time)
        message = world.channel.sign(ticket, report, world.progress).show(shown)
        assert world.progress.end(turn.session_key, turn.turn_id, time, message, bool(report.waiting))
        return message

    def test_signs_of_life_leave_nothing_beside_the_answer(self, world: World, turn: StepRequest) -> None:
        assert world.channel.pause(world.place) > 0
        self.report(world, turn, waiting=2)
        self.report(world, turn)
        self.report(world, turn, text="I look at it", tool=Tool(name="Bash", brief="list", detail="ls"))
        shown = world.passing() or world.seen()[-1]
        assert "I look at it" in shown
        assert "Bash" in shown
        self.report(world, turn, alive=True)
        self.report(world, turn, busy=True)

        delivery = self.last_words(world, turn)
        delivery.answer(BEGINNING, "the whole answer")
        delivery.complete()

        assert world.seen()[-1:] == [BEGINNING]
        assert not any("I look at it" in text or "before" in text for text in world.seen())

    def test_a_sign_that_is_taken_away_twice_is_no_failure(self, world: World, turn: StepRequest) -> None:
        ticket = Ticket(chat=world.place, message_id=0, language="en", until=2**31)
        keys = {"turn_id": turn.turn_id, "session_key": turn.session_key, "state": "RunAgent"}
        sign = world.channel.sign(ticket, Report(**keys, ticket="sealed", time=1), world.progress)
        message = self.report(world, turn, waiting=1) or 2**31 - 1
        for _ in range(2):
            sign.delete(message)

    @pytest.mark.parametrize("error", ["limited", "unavailable", "refused"])
    def test_a_sign_that_is_not_taken_says_so_by_name(self, world: World, turn: StepRequest, error: str) -> None:
        world.fails(error)
        with pytest.raises(ChannelError) as raised:
            self.report(world, turn, waiting=2)
        assert isinstance(raised.value, ChannelLimited) == (error == "limited")

    def test_leaving_twice_is_no_failure(self, world: World) -> None:
        for _ in range(2):
            world.channel.leave(world.place)
