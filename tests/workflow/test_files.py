"""Files both ways on the whole stack: what people attach, and what the agent leaves in its outbox."""

from __future__ import annotations

import base64
import json
from typing import Any

from functions.common.envelope import Message, turn_id
from functions.conversation.texts import say
from functions.telegram.albums import AlbumTable
from stepgram.embedded.client import client
from stepgram.embedded.stack import EmbeddedStack
from stepgram.embedded.telegram import BotApiError
from tests.conftest import Faults, Person, until

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PNG_BASE64 = base64.b64encode(PNG).decode()


def send(person: Person, chat: int, kind: str, name: str, content: bytes, **how: Any) -> str:
    """Send a file; returns the name its turn has."""
    sent = person.stack.telegram.send_file(chat, kind, name, content, **how)
    return turn_id(chat, 0, sent["update_id"])


def outcome(person: Person, name: str) -> str:
    """What the webhook said of a message."""
    record = person.stack.telegram.state["updates"][name.rpartition("u")[2]]
    until(lambda: record["status"] is not None)
    return str(json.loads(record["body"])["outcome"])


def test_a_photo_reaches_the_model_as_an_image_and_the_workspace_as_a_file(person: Person, chat: int) -> None:
    name = send(person, chat, "photo", "x.png", PNG, more={"caption": "what is this?"})
    turn = person.wait(name)

    assert f"I see: image/png ({len(PNG)} bytes)." in person.texts(chat)[0]
    assert "what is this?" in person.texts(chat)[0]
    photo = next(iter(m for m in person.stack.telegram.state["chats"][str(chat)]["messages"] if "photo" in m))
    file = f"photo-{photo['message_id']}.jpg"
    assert f"[Attached: inbox/{file} (image/jpeg, {len(PNG)} bytes)]" in person.texts(chat)[0]
    assert [entry["name"] for entry in turn.states[2].output["session"]["inbox"]] == [file]
    person.ask(chat, f"!bash wc -c < inbox/{file}")
    assert str(len(PNG)) in person.texts(chat)[1]


def test_a_pdf_is_a_document_to_the_model_and_other_files_are_files(person: Person, chat: int) -> None:
    name = send(person, chat, "document", "paper.pdf", b"%PDF-1.4 tiny")
    person.wait(name)
    assert "I see: application/pdf (13 bytes)." in person.texts(chat)[0]

    other = send(person, chat, "document", "data.bin", b"\x00\x01", more={"caption": "look"})
    person.wait(other)
    assert "I see" not in person.texts(chat)[1]
    assert "[Attached: inbox/data.bin (application/octet-stream, 2 bytes)]\n\nlook" in person.texts(chat)[1]


def test_two_files_of_one_name_are_both_kept(person: Person, chat: int) -> None:
    for content in (b"one", b"two"):
        person.wait(send(person, chat, "document", "same.txt", content))
    person.ask(chat, "!bash cat inbox/same.txt inbox/same-2.txt")

    assert "onetwo" in person.texts(chat)[-1]


def test_an_album_is_one_turn_with_all_its_files(person: Person, chat: int) -> None:
    album = {"media_group_id": "album1"}
    first = send(person, chat, "photo", "a.png", PNG, more={**album, "caption": "compare these"})
    others = [send(person, chat, "photo", f"{n}.png", PNG, more=album) for n in range(2)]
    turn = person.wait(first)

    assert [outcome(person, name) for name in others] == ["joined", "joined"]
    assert all(person.status(name) == "NONE" for name in others)
    assert len(person.replies(chat)) == 1
    assert person.texts(chat)[0].count("I see: image/png") == 3
    assert "compare these" in person.texts(chat)[0]
    assert len(turn.states[2].output["session"]["inbox"]) == 3


def test_a_part_that_comes_after_its_album_was_closed_is_a_turn_of_its_own(person: Person, chat: int) -> None:
    album = {"media_group_id": "album2"}
    person.wait(send(person, chat, "photo", "a.png", PNG, more={**album, "caption": "early"}))
    late = send(person, chat, "photo", "b.png", PNG, more={**album, "caption": "late"})

    assert outcome(person, late) == "started"
    assert person.wait(late).output["outcome"] == "DELIVERED"
    assert "late" in person.texts(chat)[-1]


def test_joining_twice_adds_once(stack: EmbeddedStack, chat: int) -> None:
    albums = AlbumTable(stack.deployment.outputs["SessionTable"], client("dynamodb", stack.addresses.aws))
    parts = [Message(id=n, update_id=n, date=1, text=f"{n}", album="a") for n in (2, 1)]
    joined = [albums.join(f"{chat}:0", f"t{part.id}", part) for part in (*parts, *parts)]
    open_album = albums.read(f"{chat}:0", "a")
    assert open_album is not None
    closed = albums.close(f"{chat}:0", parts[0])

    assert joined == [True, False, True, False]
    assert not open_album.quiet
    assert closed is not None
    assert [part.text for part in closed.parts] == ["1", "2"]
    assert albums.join(f"{chat}:0", "t1", parts[1]) is False
    assert albums.join(f"{chat}:0", "t3", Message(id=3, update_id=3, date=1, text="3", album="a")) is True


def test_voice_is_transcribed_and_what_cannot_be_comes_as_a_file(person: Person, chat: int) -> None:
    turn = person.wait(send(person, chat, "voice", "voice.ogg", b"please water the plants", mime="audio/ogg"))
    assert "[Spoken, transcribed from inbox/voice-" in person.texts(chat)[0]
    assert "please water the plants" in person.texts(chat)[0]
    assert turn.states[2].tries > 1

    person.wait(send(person, chat, "voice", "voice.ogg", b"\xff\xfe\x00", mime="audio/ogg"))
    assert "[Attached: inbox/voice-" in person.texts(chat)[1]


def test_a_file_telegram_no_longer_has_is_said_to_the_agent(person: Person, chat: int) -> None:
    document = {"document": {"file_id": "gone", "file_unique_id": "gone", "file_name": "gone.txt", "file_size": 3}}
    sent = person.stack.telegram.post(chat, {**document, "caption": "read it"})
    person.wait(turn_id(chat, 0, sent["update_id"]))

    assert "gone.txt (application/octet-stream), but Telegram did not give it: Bad Request" in person.texts(chat)[0]


def test_a_file_that_is_too_large_gets_a_clear_answer(person: Person, chat: int) -> None:
    large = {"document": {"file_id": "x", "file_unique_id": "x", "file_name": "x", "file_size": 21 * 1024 * 1024}}
    person.stack.telegram.post(chat, large, language="zh")
    until(lambda: person.texts(chat) == [say("file_too_large", "zh")])


def test_hydrate_that_failed_half_way_fetches_only_what_is_missing(person: Person, chat: int, faults: Faults) -> None:
    faults.fail("Hydrate", chat, "Lambda.ServiceException", after=True)
    before = len([m for m, _ in person.stack.telegram.calls if m == "getFile"])
    turn = person.wait(send(person, chat, "document", "a.txt", b"abc"))

    assert turn.output["outcome"] == "DELIVERED"
    assert len([m for m, _ in person.stack.telegram.calls if m == "getFile"]) == before + 1


def outbox(*names: str) -> str:
    """A command that makes a PNG under each of these names in the outbox."""
    made = "; ".join(f"echo {PNG_BASE64} | base64 -d > outbox/{name}" for name in names)
    return f"!bash mkdir -p outbox; {made}"


def kinds(person: Person, chat: int) -> list[str]:
    return [k for m in person.replies(chat) for k in ("photo", "video", "audio", "document") if k in m]


def test_one_picture_is_a_photo_and_several_are_an_album(person: Person, chat: int) -> None:
    person.ask(chat, outbox("one.png"))
    assert kinds(person, chat) == ["photo"]

    turn = person.ask(chat, outbox("two.png", "three.jpg", "notes.txt", "tune.mp3"))
    assert kinds(person, chat)[1:] == ["photo", "photo", "document", "audio"]
    groups = {m.get("media_group_id") for m in person.replies(chat) if "photo" in m}
    assert len(groups) == 2
    assert turn.output["outcome"] == "DELIVERED"
    names = [m["document"]["file_name"] for m in person.replies(chat) if "document" in m]
    assert names == ["notes.txt"]


def test_a_picture_telegram_cannot_process_goes_as_a_document(person: Person, chat: int) -> None:
    person.ask(chat, "!bash mkdir -p outbox; echo no picture > outbox/broken.png")
    assert kinds(person, chat) == ["document"]

    person.ask(chat, "!bash echo no > outbox/b1.png; echo no > outbox/b2.png")
    assert kinds(person, chat) == ["document"] * 3


def test_an_album_interrupted_by_a_rate_limit_comes_once(person: Person, chat: int) -> None:
    name = person.say(chat, outbox("a.png", "b.png"))
    until(lambda: person.status(name) != "NONE")
    person.stack.telegram.fail_next(BotApiError(429, "Too Many Requests: retry after 1", {"retry_after": 1}))
    person.wait(name)

    assert kinds(person, chat) == ["photo", "photo"]
