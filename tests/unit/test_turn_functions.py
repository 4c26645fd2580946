"""Each function of the Turn by itself, with its own environment, on moto."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from functions.common.errors import remedy_of
from functions.conversation.files.documents import Manifest, OutboxFile, RunResult, RunSummary, Segment
from functions.conversation.files.snapshots import Snapshots
from functions.conversation.lock import Claim, Lock
from functions.conversation.lock_table import LockTable
from functions.conversation.sessions import Pointer, SessionTable
from functions.conversation.texts import say
from functions.turn.handler import STATUS_CHANGE
from stepgram.embedded.answers import Answer
from stepgram.embedded.client import client
from stepgram.embedded.stack import EmbeddedStack
from stepgram.embedded.telegram import server
from tests.conftest import Person

Call = Callable[[str, dict[str, Any]], Answer]
HELD = {
    "lock": {"fence": 7, "redrive_count": 0},
    "execution": {"Id": "arn", "StartTime": "2026-11-21T10:00:00.000Z"},
}
MEGABYTE = 1024 * 1024
SESSION = "11111111-1111-4111-8111-111111111111"


class Turn:
    """One turn of one chat, step by step."""

    def __init__(self, stack: EmbeddedStack, call: Call, chat: int) -> None:
        outputs = stack.deployment.outputs
        self.chat, self.key, self.id = chat, f"{chat}:0", f"c{chat}-t0-u999999999"
        self.stack, self._call = stack, call
        endpoint = stack.addresses.aws
        self.table = SessionTable(outputs["SessionTable"], client("dynamodb", endpoint))
        self.snapshots = Snapshots(outputs["SessionBucket"], client("s3", endpoint))

    def step(self, state: str, **payload: Any) -> dict[str, Any]:
        answer = self.failing(state, **payload)
        assert "errorType" not in answer, answer
        return answer

    def failing(self, state: str, **payload: Any) -> dict[str, Any]:
        event = {"turn_id": self.id, "session_key": self.key, "state": state, **payload}
        document: dict[str, Any] = json.loads(self._call("TurnFunction", event).payload)
        return document

    def own(self) -> int:
        """Own the lock, as after a hand-over; returns the fence."""
        endpoint = self.stack.addresses.aws
        table = self.stack.deployment.outputs["SessionTable"]
        locks = LockTable(table, client("dynamodb", endpoint), client("stepfunctions", endpoint))
        owner = Claim(turn_id=self.id, order=(1, 1), sequence=(0, "", 0), token="t", execution_arn="arn")
        assert locks._write(self.key, Lock(owner=owner, fence=7), 0)
        return 7

    def run(self, text: str, files: dict[str, bytes] | None = None) -> None:
        """Leave a result as RunAgent does, with files for the chat."""
        kept = []
        for name, content in (files or {}).items():
            kept.append(
                OutboxFile(key=f"sessions/{SESSION}/turns/{self.id}/outbox/{name}", name=name, size=len(content))
            )
            self.snapshots.put(kept[-1].key, content, "application/octet-stream")
        summary = RunSummary(
            status="done", result=f"sessions/{SESSION}/turns/{self.id}/result.json",
            manifest=f"sessions/{SESSION}/manifests/1-r.json", preview=text[:9], characters=len(text), cost_usd=0,
            session_cost_usd=0, input_tokens=0, output_tokens=0, model_turns=1, model="m", seconds=1,
        )  # fmt: skip
        result = RunResult(went_on_from=None, summary=summary, text=text, files=tuple(kept))
        self.snapshots.write(summary.result, result)

    def hydrate(self, *attachments: dict[str, Any]) -> dict[str, Any]:
        """Hydrate's answer, or its error document."""
        where = {"chat": {"id": self.chat, "thread_id": 0, "type": "private"}, "language": "en"}
        where["message"] = {"id": 1, "update_id": 1, "date": 1, "text": "hello", "attachments": attachments}
        return self.failing("Hydrate", **where, execution=HELD["execution"])

    def reply(self, **more: Any) -> dict[str, Any]:
        answer = self.replied(**more)
        assert "errorType" not in answer, answer
        return answer

    def replied(self, **more: Any) -> dict[str, Any]:
        """Reply's answer, or its error document."""
        chat = {"id": self.chat, "thread_id": 0, "type": "private"}
        where = {"chat": chat, "message_id": 1, "language": "en", "session_id": SESSION, "part": 0}
        return self.failing("Reply", **{**where, **HELD, **more})

    def persist(self, fence: int, version: int = 0, run: str = "r") -> dict[str, Any]:
        session_id = self.table.pointer(self.key).session_id  # type: ignore[union-attr]
        manifest = Manifest(session_id=session_id, version=version + 1, turn_id=self.id, cost_usd=0.25)
        key = f"sessions/{session_id}/manifests/1-{run}.json"
        self.snapshots.write(key, manifest)
        return self.failing(
            "Persist",
            execution_arn="arn",
            fence=fence,
            session={"session_id": session_id, "version": version, "manifest": None},
            manifest=key,
        )


@pytest.fixture
def turn(stack: EmbeddedStack, call: Call, chat: int) -> Turn:
    return Turn(stack, call, chat)


def test_hydrate_starts_a_session_where_there_is_none(turn: Turn) -> None:
    found = turn.hydrate()

    assert (found["version"], found["manifest"], found["committed"], found["notice"]) == (0, None, False, None)
    assert turn.table.pointer(turn.key).session_id == found["session_id"]  # type: ignore[union-attr]
    assert turn.hydrate()["session_id"] == found["session_id"]


def test_hydrate_names_the_committed_snapshot(turn: Turn) -> None:
    first = turn.hydrate()
    key = f"sessions/{first['session_id']}/manifests/1-r.json"
    segment = Segment(key=f"sessions/{first['session_id']}/transcript/1-r/main.jsonl", size=2)
    turn.snapshots.put(segment.key, b"{}")
    manifest = Manifest(session_id=first["session_id"], version=1, turn_id=turn.id, segments=(segment,))
    turn.snapshots.write(key, manifest)
    turn.table._update(
        turn.key, "session", "SET #v = :v, manifest = :m", names={"#v": "version"}, values={":v": 1, ":m": key}
    )

    found = turn.hydrate()

    assert (found["version"], found["manifest"], found["segments"]) == (1, key, 1)


def test_a_voice_message_is_transcribed_anew_for_a_session_that_began_meanwhile(turn: Turn) -> None:
    voice = turn.stack.telegram._stored("voice", "voice.ogg", b"water the plants")["voice"]
    attached = {"kind": "voice", "file_id": voice["file_id"], "name": "voice.ogg", "mime": "audio/ogg"}
    assert turn.hydrate(attached)["errorType"] == "TranscriptPending"
    before = turn.table.pointer(turn.key)
    after = Pointer(session_id=SESSION)
    assert turn.table.move(turn.key, "c1-t0-u1", before, after)

    tries = [turn.hydrate(attached) for _ in range(5)]

    assert [document.get("errorType") for document in tries[:2]] == ["TranscriptPending"] * 2
    assert [file["transcript"] for file in tries[-1]["inbox"]] == ["water the plants"]


def test_a_lost_session_is_told_of_however_often_hydrate_is_tried(turn: Turn) -> None:
    """The first try starts a fresh session and waits for a transcript; the next one finds nothing lost any more."""
    gone = "sessions/x/manifests/1-gone.json"
    turn.hydrate()
    turn.table._update(
        turn.key, "session", "SET #v = :v, manifest = :m", names={"#v": "version"}, values={":v": 1, ":m": gone}
    )
    voice = turn.stack.telegram._stored("voice", "voice.ogg", b"water the plants")["voice"]
    attached = {"kind": "voice", "file_id": voice["file_id"], "name": "voice.ogg", "mime": "audio/ogg"}

    tries = [turn.hydrate(attached) for _ in range(5)]

    assert tries[0]["errorType"] == "TranscriptPending"
    assert tries[-1]["notice"] == "session_lost"


def test_persist_commits_once_and_only_under_its_own_fence(turn: Turn) -> None:
    turn.hydrate()
    fence = turn.own()

    stale = turn.persist(fence - 1)
    first = turn.persist(fence)
    again = turn.persist(fence, run="another")

    assert (stale["errorType"], "does not own" in stale["errorMessage"]) == ("LockLost", True)
    assert first == again
    assert (first["status"], first["version"], first["budgets"]) == ("committed", 1, [])
    assert first["links"]["session"] == f"stepgram session show {turn.key}"
    pointer = turn.table.pointer(turn.key)
    assert pointer is not None
    assert (pointer.version, pointer.turns, pointer.cost_usd) == (1, 1, 0.25)
    assert pointer.manifest == f"sessions/{pointer.session_id}/manifests/1-r.json"


def test_persist_of_a_session_that_was_reset_writes_nothing(turn: Turn) -> None:
    turn.hydrate()
    fence = turn.own()
    before = turn.table.pointer(turn.key)
    assert before is not None

    found = turn.persist(fence, version=3)

    assert (found["status"], found["version"], found["budgets"]) == ("superseded", 3, [])
    assert turn.table.pointer(turn.key) == before


def test_reply_twice_is_one_message(turn: Turn, person: Person) -> None:
    turn.stack.telegram.say(turn.chat, "/help")
    turn.run("the answer")

    first, again = turn.reply(), turn.reply()

    assert first == again
    assert person.texts(turn.chat).count("the answer") == 1


def test_reply_goes_on_at_the_first_part_that_is_missing(turn: Turn, person: Person) -> None:
    turn.stack.telegram.say(turn.chat, "/help")
    turn.run("the answer")
    turn.table.delivered(turn.key, turn.id, "notice.0", 77)

    found = turn.reply(notice="session_lost")

    assert found["message_ids"][0] == 77
    assert len(found["message_ids"]) == 2
    assert "expired" not in " ".join(person.texts(turn.chat))


def sent_files(person: Person, turn: Turn, method: str) -> list[str]:
    """The names of the files in the chat, as far as they were sent with `method`."""
    kind = method.removeprefix("send").lower()
    return [message[kind]["file_name"] for message in person.replies(turn.chat) if kind in message]


def test_an_album_larger_than_one_request_is_several(turn: Turn, person: Person) -> None:
    turn.stack.telegram.say(turn.chat, "/help")
    film = bytes(20 * MEGABYTE)

    turn.run("films", {f"{n}.mp4": film for n in range(5)})
    turn.reply()

    films = [message for message in person.replies(turn.chat) if "video" in message]
    assert [film["video"]["file_name"] for film in films] == [f"{n}.mp4" for n in range(5)]
    assert [film.get("media_group_id") is None for film in films] == [False] * 4 + [True]
    assert len({film.get("media_group_id") for film in films}) == 3


def test_an_album_refused_as_too_large_goes_one_by_one(
    turn: Turn, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn.stack.telegram.say(turn.chat, "/help")
    monkeypatch.setattr(server, "REQUEST_LIMIT", 25 * MEGABYTE)

    turn.run("films", {"a.mp4": bytes(20 * MEGABYTE), "b.mp4": bytes(20 * MEGABYTE), "c.txt": b"c"})
    turn.reply()

    assert sent_files(person, turn, "sendDocument") == ["a.mp4", "b.mp4", "c.txt"]


def test_a_file_refused_as_too_large_is_named_and_the_rest_is_sent(
    turn: Turn, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn.stack.telegram.say(turn.chat, "/help")
    monkeypatch.setattr(server, "REQUEST_LIMIT", MEGABYTE)
    large = bytes(2 * MEGABYTE)

    files = {"a.mp4": large, "b.mp4": b"b", "c.bin": large, "d.mp3": large, "e.txt": b"e"}
    turn.run("all of it", files)
    outcome, again = turn.reply()["outcome"], turn.reply()["outcome"]

    assert (outcome, again) == ("DELIVERED", "DELIVERED")
    assert sent_files(person, turn, "sendDocument") == ["b.mp4", "e.txt"]
    named = [say("not_sent_refused", "en", name=name, megabytes="2") for name in ("a.mp4", "c.bin", "d.mp3")]
    assert person.texts(turn.chat)[-3:] == named


def test_an_empty_answer_says_so(turn: Turn, person: Person) -> None:
    turn.stack.telegram.say(turn.chat, "/help")

    turn.run(" \n")
    turn.reply()

    assert "The agent finished without a text." in person.texts(turn.chat)


def test_a_reply_without_its_result_names_the_object(turn: Turn) -> None:
    found = turn.replied(part=3)

    assert found["errorType"] == "SnapshotMissing"
    assert f"sessions/{SESSION}/turns/{turn.id}/result-3.json" in found["errorMessage"]


def test_a_failure_is_reported_once_in_the_users_language(turn: Turn, person: Person) -> None:
    turn.stack.telegram.say(turn.chat, "/help")
    payload = {
        "chat": {"id": turn.chat, "thread_id": 0, "type": "private"},
        "message_id": 1,
        "language": "zh-hans",
        "error": {"Error": "ModelRejected", "Cause": json.dumps({"errorMessage": "no", "errorType": "ModelRejected"})},
        "execution": {"Id": "arn"},
        "turn": {},
    }

    first, again = turn.step("ReportFailure", **payload), turn.step("ReportFailure", **payload)

    assert first == again
    assert (first["error"], first["cause"], first["redrive_count"]) == ("ModelRejected", "no", 0)
    assert len([t for t in person.texts(turn.chat) if "出错了" in t]) == 1


@pytest.mark.parametrize("name", ["ModelRejected", "TelegramRateLimited", "States.Timeout", "KeyError"])
def test_turn_failed_raises_the_original_error(turn: Turn, name: str) -> None:
    state = {"error": {"Error": name, "Cause": "why"}, "failure": {"redrive_count": 0}}

    found = turn.failing("TurnFailed", turn=state, execution={"RedriveCount": 0})

    assert (found["errorType"], found["errorMessage"]) == (name, f"why. Next: {remedy_of(name)}")


@pytest.mark.parametrize(("noted", "now", "passes"), [(0, 1, True), (1, 1, False), (1, 2, True), (None, 1, True)])
def test_turn_failed_passes_once_the_execution_was_redriven(
    turn: Turn, noted: int | None, now: int, passes: bool
) -> None:
    failure = {"failure": {"redrive_count": noted}} if noted is not None else {}
    state = {"error": {"Error": "ModelRejected", "Cause": "why"}, **failure}

    found = turn.failing("TurnFailed", turn=state, execution={"RedriveCount": now})

    assert (found.get("redrive_count") == now) is passes


@pytest.mark.parametrize("state", ["AcquireLock", "Hydrate", "RunAgent", "Persist", "Reply", "ReleaseLock"])
def test_a_malformed_payload_names_the_field(call: Call, state: str) -> None:
    answer = json.loads(call("TurnFunction", {"turn_id": 1, "state": state}).payload)

    assert answer["errorType"] == "BadInput"
    assert "session_key: Field required" in answer["errorMessage"]


def test_the_net_for_ended_turns_refuses_other_executions(call: Call) -> None:
    answer = json.loads(
        call("TurnFunction", {"detail-type": STATUS_CHANGE, "detail": {"name": "something-else"}}).payload
    )

    assert answer["errorType"] == "BadInput"


def test_a_release_by_a_turn_that_owns_nothing_changes_nothing(turn: Turn) -> None:
    fence = turn.own()
    before = turn.table._get(turn.key, "lock")

    found = turn.step("ReleaseLock", turn_id="c1-t0-u999", execution={})

    assert (found["owner"], fence) == (turn.id, fence)
    assert turn.table._get(turn.key, "lock") == before


def test_a_reply_of_an_execution_that_was_redriven_since_sends_nothing(turn: Turn, person: Person) -> None:
    turn.stack.telegram.say(turn.chat, "/help")
    turn.run("no")

    found = turn.replied(execution={"Id": "arn", "RedriveCount": 1})

    assert found["errorType"] == "LockLost"
    assert "no" not in person.texts(turn.chat)
