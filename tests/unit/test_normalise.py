"""From an update to an envelope."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from functions.common.envelope import NAME_LIMIT, Envelope, conversation_of
from functions.telegram.normalise import Rules, normalise
from functions.telegram.update import MAX_ID, Update

USER = {"id": 5, "is_bot": False, "first_name": "Ada", "language_code": "zh-hans"}
ALL = ("*",)


def message(text: str | None = "hello", **more: Any) -> dict[str, Any]:
    chat = {"id": 5, "type": "private"}
    command = re.match(r"/\w+(@\w+)?", text or "")
    entities = [{"type": "bot_command", "offset": 0, "length": command.end()}] if command else []
    content = {"text": text, "entities": entities} if text is not None else {}
    return {"message_id": 7, "date": 100, "chat": chat, "from": {**USER}, **content, **more}


def envelope(update: dict[str, Any], users: tuple[str, ...] = ALL, chats: tuple[str, ...] = ()) -> Envelope:
    rules = Rules(users, chats, all_of_groups=True)
    return normalise(Update.model_validate_json(json.dumps({"update_id": 9, **update})), rules)


def test_a_message_becomes_an_envelope() -> None:
    found = envelope({"message": message()})

    assert (found.turn_id, found.session_key, found.route) == ("c5-t0-u9", "5:0", "message")
    assert found.message is not None and found.user is not None
    assert (found.message.id, found.message.update_id, found.message.text) == (7, 9, "hello")
    assert (found.user.id, found.user.name, found.user.language) == (5, "Ada", "zh-hans")
    assert found.ttl == 100 + 25 * 86_400


def test_a_topic_has_a_session_of_its_own_and_a_reply_chain_has_not() -> None:
    topic = message(message_thread_id=44, is_topic_message=True, chat={"id": -100, "type": "supergroup"})
    chain = message(message_thread_id=44, chat={"id": -100, "type": "supergroup"})

    assert envelope({"message": topic}).session_key == "-100:44"
    assert envelope({"message": topic}).turn_id == "c-100-t44-u9"
    assert envelope({"message": chain}).session_key == "-100:0"


@pytest.mark.parametrize(
    ("text", "route", "name", "argument"),
    [
        ("/help", "command", "help", ""),
        ("/New@stepgram_bot", "command", "new", ""),
        ("/newchat with a title", "command", "newchat", "with a title"),
        ("/stop", "stop", "stop", ""),
    ],
)
def test_commands(text: str, route: str, name: str, argument: str) -> None:
    found = envelope({"message": message(text)})

    assert found.command is not None
    assert (found.route, found.command.name, found.command.argument) == (route, name, argument)


def test_a_slash_that_telegram_does_not_mark_is_text() -> None:
    assert envelope({"message": message("/", entities=[])}).route == "message"


@pytest.mark.parametrize(
    ("users", "chats", "route"),
    [
        ((), (), "refused"),
        (("6",), (), "refused"),
        (("5",), (), "message"),
        ((), ("5",), "message"),
        (("*",), (), "message"),
    ],
)
def test_the_allowlist_is_closed_by_default(users: tuple[str, ...], chats: tuple[str, ...], route: str) -> None:
    found = envelope({"message": message()}, users, chats)

    assert found.route == route
    assert found.reason == ("not_allowed" if route == "refused" else None)


def test_strangers_cannot_run_commands_press_buttons_or_send_files() -> None:
    button = {"id": "q", "from": USER, "data": "x", "message": message()}

    assert envelope({"message": message("/new")}, ()).route == "refused"
    assert envelope({"callback_query": button}, ()).route == "ignored"
    assert envelope({"message": message(None, document={"file_id": "x"})}, ()).reason == "not_allowed"


def test_what_nobody_can_read_is_refused_and_a_service_message_is_ignored() -> None:
    assert envelope({"message": message(None, story={"id": 1})}).reason == "unsupported"
    large = {"file_id": "x", "file_size": 20 * 1024 * 1024 + 1}
    assert envelope({"message": message(None, document=large)}).reason == "file_too_large"
    assert envelope({"message": message(None, new_chat_title="x")}).route == "ignored"
    assert envelope({"message": {k: v for k, v in message().items() if k != "from"}}).route == "ignored"


def test_other_bots_are_ignored() -> None:
    assert envelope({"message": message(**{"from": {**USER, "is_bot": True}})}).route == "ignored"


def test_buttons_and_the_stop_button() -> None:
    button = envelope({"callback_query": {"id": "q", "from": USER, "data": "retry", "message": message()}})
    stop = envelope({"stopped_message_generation": {"chat": {"id": 5, "type": "private"}, "draft_id": 1}})

    assert (button.route, button.button.data if button.button else "") == ("button", "retry")
    assert (stop.route, stop.session_key) == ("stop", "5:0")


@given(
    chat=st.integers(-MAX_ID + 1, MAX_ID - 1),
    thread=st.integers(1, 2**31 - 1),
    update=st.integers(0, MAX_ID - 1),
)
def test_every_turns_name_is_legal_unique_and_tells_its_conversation(chat: int, thread: int, update: int) -> None:
    given = message(chat={"id": chat, "type": "supergroup"}, message_thread_id=thread, is_topic_message=True)
    found = normalise(
        Update.model_validate_json(json.dumps({"update_id": update, "message": given})), Rules(ALL, all_of_groups=True)
    )

    assert re.fullmatch(r"[A-Za-z0-9_-]{1,80}", found.turn_id)
    assert len(found.turn_id) <= NAME_LIMIT
    assert found.turn_id == f"c{chat}-t{thread}-u{update}"
    assert conversation_of(found.turn_id) == found.session_key == f"{chat}:{thread}"


@given(text=st.text(min_size=1, max_size=200))
def test_any_text_passes_unchanged(text: str) -> None:
    found = envelope({"message": message(text, entities=[])})

    assert found.message is not None
    assert found.message.text == text
    assert Envelope.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize("field", ["update_id", "message.chat.id", "message.from.id", "message.message_id"])
def test_a_bad_field_is_named(field: str) -> None:
    update: dict[str, Any] = {"update_id": 9, "message": message()}
    *path, last = field.split(".")
    place = update
    for name in path:
        place = place[name]
    place[last] = "not a number"

    with pytest.raises(ValidationError) as error:
        Update.model_validate_json(json.dumps(update))
    assert ".".join(map(str, error.value.errors()[0]["loc"])) == field


def attached(**content: Any) -> tuple[str, str, str]:
    """Kind, name and type of a message's file."""
    found = envelope({"message": message(None, **content)})
    assert found.message is not None
    (file,) = found.message.attachments
    return file.kind, file.name, file.mime


def test_files_get_a_kind_a_harmless_name_and_a_type() -> None:
    sizes = [{"file_id": "small", "file_size": 1}, {"file_id": "large", "file_size": 9}]

    assert attached(photo=sizes) == ("photo", "photo-7.jpg", "image/jpeg")
    assert attached(voice={"file_id": "v"}) == ("voice", "voice-7.ogg", "audio/ogg")
    document = {"file_id": "d", "file_name": "../../etc/pass\x00wd.txt", "mime_type": "text/plain"}
    assert attached(document=document) == ("document", "_.._etc_pass_wd.txt", "text/plain")
    long = {"file_id": "d", "file_name": "x" * 200 + ".pdf", "mime_type": "application/pdf"}
    assert attached(document=long)[1] == "x" * 68 + ".pdf"
    animation = {"file_id": "a", "file_name": "a.mp4", "mime_type": "video/mp4"}
    assert attached(animation=animation, document=animation)[0] == "animation"


def text_of(**content: Any) -> str:
    found = envelope({"message": message(**content)})
    assert found.message is not None
    return found.message.text


def test_what_a_message_refers_to_is_read_with_it() -> None:
    original = {"message_id": 3, "from": {**USER, "first_name": "Bo"}, "text": "first\nsecond"}

    assert text_of(text="why?", reply_to_message=original) == "[In reply to Bo:]\n> first\n> second\n\nwhy?"
    assert text_of(text="why?", reply_to_message=original, quote={"text": "sec"}).startswith(
        "[In reply to Bo:]\n> sec\n"
    )
    topic_title = {"message_id": 3, "from": USER, "forum_topic_created": {"name": "x"}}
    assert text_of(text="hello", reply_to_message=topic_title) == "hello"
    forwarded = {"type": "hidden_user", "sender_user_name": "Cy", "date": 1}
    assert text_of(text="look", forward_origin=forwarded) == "[Forwarded, first written by Cy:]\n\nlook"
    channel = {"type": "channel", "chat": {"id": -1, "type": "channel", "title": "News"}, "date": 1, "message_id": 1}
    assert text_of(text="look", forward_origin=channel).startswith("[Forwarded, first written by News:]")


def test_places_contacts_polls_and_dice_are_text() -> None:
    place = {"latitude": 52.5, "longitude": 13}

    assert text_of(text=None, location=place) == "[Location: 52.5, 13.0]"
    venue = {"location": place, "title": "Cafe", "address": "Main St"}
    assert text_of(text=None, location=place, venue=venue) == "[Venue: Cafe, Main St (52.5, 13.0)]"
    assert text_of(text=None, contact={"phone_number": "+1", "first_name": "Di"}) == "[Contact: Di, +1]"
    poll = {"id": "1", "question": "Tea?", "options": [{"text": "yes"}, {"text": "no"}]}
    assert text_of(text=None, poll=poll) == "[Poll: Tea? - yes; no]"
    assert text_of(text=None, dice={"emoji": "🎲", "value": 6}) == "[🎲 6]"


def test_messages_of_an_album_take_a_way_of_their_own() -> None:
    found = envelope({"message": message(None, photo=[{"file_id": "p"}], caption="look", media_group_id="77")})

    assert (found.route, found.message.album if found.message else "") == ("album", "77")
    assert found.message is not None
    assert found.message.text == "look"


GROUP = {"id": -100, "type": "supergroup"}


def in_group(text: str, rules: Rules | None = None, **more: Any) -> Envelope:
    entities = [
        {"type": "mention", "offset": len(text[: found.start()].encode("utf-16-le")) // 2, "length": len(found[0])}
        for found in re.finditer(r"@\w+", text)
    ]
    given = {**message(text), **({"entities": entities} if entities else {}), "chat": GROUP, **more}
    update = Update.model_validate_json(json.dumps({"update_id": 9, "message": given}))
    return normalise(update, rules or Rules(ALL))


def test_in_a_group_only_what_is_meant_for_the_bot_is_read() -> None:
    mine = {
        "message_id": 1,
        "from": {"id": 7, "is_bot": True, "first_name": "B", "username": "My_Bot"},
        "text": "before",
    }
    other = {
        "message_id": 1,
        "from": {"id": 8, "is_bot": True, "first_name": "O", "username": "x_bot"},
        "text": "before",
    }
    named = Rules(ALL, bot_username="my_bot")

    assert in_group("hello").reason == "not_for_us"
    assert in_group("😀 hello @StepgramBot, please").route == "message"
    assert in_group("hello @ada").route == "ignored"
    assert in_group("yes", reply_to_message=other).route == "message"
    assert in_group("yes", named, reply_to_message=mine).route == "message"
    assert in_group("yes", named, reply_to_message=other).route == "ignored"
    assert in_group("/help").route == "command"
    assert in_group("hello", message_thread_id=4, is_topic_message=True).route == "message"
    assert in_group("hello @otherbot", named).route == "ignored"
    assert in_group("hello @My_Bot", named).route == "message"
    assert in_group("hello", Rules(ALL, all_of_groups=True)).route == "message"


def test_the_bots_name_is_taken_off_the_message() -> None:
    found = in_group("@stepgram_bot: what now?").message
    assert found is not None
    assert found.text == "what now?"


def test_a_stranger_is_refused_alone_and_ignored_in_groups() -> None:
    assert envelope({"message": message()}, users=()).reason == "not_allowed"
    assert envelope({"message": message()}, users=()).route == "refused"
    assert in_group("hello @abot", Rules()).route == "ignored"


def test_the_general_topic_of_a_forum_sends_people_to_topics() -> None:
    forum = {**GROUP, "is_forum": True}

    assert in_group("hello @abot", chat=forum).reason == "general_topic"
    assert in_group("/newchat hi", chat=forum).route == "command"
    assert in_group("hello", chat=forum, message_thread_id=4, is_topic_message=True).route == "message"


def test_an_agent_command_is_a_prompt() -> None:
    found = envelope({"message": message("/hello in French")})

    assert found.route == "message"
    assert found.message is not None
    assert found.message.text == "Use the skill hello-world. in French"


def membership(old: str, new: str, users: tuple[str, ...] = ALL, **more: Any) -> Envelope:
    change = {
        "chat": {**GROUP, **more}, "from": USER, "date": 1, "old_chat_member": {"status": old},
        "new_chat_member": {"status": new, "can_manage_topics": new == "administrator"},
    }  # fmt: skip
    return envelope({"my_chat_member": change}, users)


def test_the_bots_place_in_a_group() -> None:
    joined, admin = membership("left", "member"), membership("member", "administrator")

    assert joined.route == "membership"
    assert joined.membership is not None and joined.membership.joined
    assert admin.membership is not None and admin.membership.topics and not admin.membership.joined
    assert membership("member", "left").route == "ignored"
    assert membership("left", "member", ()).reason == "not_allowed"
    assert membership("left", "member", type="private", id=5).route == "ignored"
