"""The whole Turn on the embedded stack: what a person sees, and what the execution says."""

from __future__ import annotations

import json
import threading
from typing import Any

import requests

from tests.conftest import ORDER, ROOT, Person, until


def test_a_message_is_answered_and_its_execution_reads_from_left_to_right(person: Person, chat: int) -> None:
    found = person.ask(chat, "hello")

    assert found.status == "SUCCEEDED"
    assert [state.name for state in found.states] == ORDER
    assert person.texts(chat) == ["You said: hello\n\nThis is message 1 of this conversation."]
    assert found.output["outcome"] == "DELIVERED"
    assert found.output["version"] == 1
    assert found.output["cost_usd"] > 0
    assert found.output["preview"].startswith("You said: hello")


def test_the_reply_quotes_the_message(person: Person, chat: int) -> None:
    person.ask(chat, "quote me")

    assert person.replies(chat)[0]["reply_to_message"]["text"] == "quote me"


def test_every_state_payload_stays_small(person: Person, chat: int) -> None:
    found = person.ask(chat, "!long 60000")

    assert all(len(json.dumps([state.input, state.output])) < 32_768 for state in found.states)


def test_memory_is_kept_within_a_chat_and_not_shared_between_chats(person: Person, chat: int, group: int) -> None:
    person.ask(chat, "one")
    second = person.ask(chat, "two")
    elsewhere = person.ask(group, "three")

    assert "message 2 of this conversation" in person.texts(chat)[1]
    assert "message 1 of this conversation" in person.texts(group)[0]
    assert second.output["version"] == 2
    assert second.output["session_id"] != elsewhere.output["session_id"]


def test_a_topic_is_a_conversation_of_its_own_and_is_answered_there(person: Person, group: int) -> None:
    person.ask(group, "in the first", thread=11)
    person.ask(group, "in the second", thread=12)

    assert ["message 1 of this" in text for text in person.texts(group)] == [True, True]
    assert [m["message_thread_id"] for m in person.replies(group)] == [11, 12]


def test_a_turn_costs_what_it_added_to_the_session(person: Person, chat: int) -> None:
    first = person.ask(chat, "one").states[3].output["run"]
    second = person.ask(chat, "two").states[3].output["run"]

    assert abs(first["cost_usd"] + second["cost_usd"] - second["session_cost_usd"]) < 1e-5


def test_every_character_reaches_the_model_as_it_was_written(person: Person, chat: int) -> None:
    hard = "\"quoted\" 'single' \\n \n new line 😀👩‍👩‍👧 עברית العربية {% $a %} {{x}} $.b $$.c @/etc/passwd /help "
    text = (hard * 50)[:4095] + "."
    assert len(text) == 4096

    person.ask(chat, text)

    bodies = [request["body"] for request in list(person.stack.bedrock.requests)]
    (body,) = [body for body in bodies if text in _said(body)]
    assert "root:" not in json.dumps(body)


def test_a_long_answer_arrives_complete(person: Person, chat: int) -> None:
    from stepgram.embedded.demo_model import long_text

    person.ask(chat, "!long 60000")

    arrived = "\n".join(person.texts(chat)).split()
    assert len(person.replies(chat)) == 2
    assert arrived == long_text(60_000).split()


def test_an_answer_beyond_messages_goes_along_as_a_document(person: Person, chat: int) -> None:
    from stepgram.embedded.demo_model import long_text

    person.ask(chat, "!long 400000")

    sent = person.replies(chat)
    document = sent[-1]["document"]
    content = (person.stack._home / "files" / document["file_id"]).read_text()
    assert document["file_name"] == "answer.md"
    assert content == long_text(400_000)


def test_a_table_arrives_as_a_table(person: Person, chat: int) -> None:
    found = person.ask(chat, "!markdown")

    message = person.replies(chat)[0]
    assert found.output["form"] == "rich"
    assert "<table>" in message["_page"]["html"]
    assert "<td>Banana</td>" in message["_page"]["html"]


def test_a_file_in_the_outbox_is_sent(person: Person, chat: int) -> None:
    person.ask(chat, "!file notes.txt hello file")

    document = person.replies(chat)[-1]["document"]
    assert document["file_name"] == "notes.txt"
    assert (person.stack._home / "files" / document["file_id"]).read_text() == "hello file"


def test_a_tool_runs_and_its_output_is_reported(person: Person, chat: int) -> None:
    person.ask(chat, "!bash echo $((6 * 7)); pwd")

    assert "42" in person.texts(chat)[0]
    assert "/workspace" in person.texts(chat)[0]


def test_tools_see_no_secret_of_the_machine(person: Person, chat: int) -> None:
    person.ask(chat, "!bash env")

    seen = person.texts(chat)[0]
    assert "CLAUDE_CONFIG_DIR" in seen
    assert "SESSION_BUCKET=\n" in seen
    assert person.stack.telegram.token not in seen


def test_the_same_update_delivered_twice_at_once_is_one_execution_and_one_reply(person: Person, chat: int) -> None:
    name = person.say(chat, "only once")
    update_id = int(name.rsplit("u", 1)[1])
    update = person.stack.telegram.state["updates"][str(update_id)]["update"]
    webhook = person.stack.telegram.state["webhook"]
    headers = {"X-Telegram-Bot-Api-Secret-Token": webhook["secret_token"]}
    answers: list[int] = []

    def post() -> None:
        answers.append(requests.post(webhook["url"], json=update, headers=headers, timeout=30).status_code)

    threads = [threading.Thread(target=post) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    person.wait(name)
    late = requests.post(webhook["url"], json=update, headers=headers, timeout=30)

    assert answers == [200] * 4
    assert late.json()["outcome"] == "duplicate"
    assert len(person.texts(chat)) == 1
    assert [e.name for e in person.stack.step_functions.executions() if e.name == name] == [name]


def test_messages_of_one_chat_are_answered_in_order_one_at_a_time(person: Person, chat: int) -> None:
    names = [person.say(chat, text) for text in ("!slow 1", "second", "third")]
    person.wait_for_state(names[1], "AcquireLock")
    ended = [person.wait(name) for name in names]

    assert [detail.status for detail in ended] == ["SUCCEEDED"] * 3
    assert ["done" in person.texts(chat)[0], *["message" in t for t in person.texts(chat)[1:]]] == [True] * 3
    assert "This is message 3" in person.texts(chat)[2]
    fences = [detail.states[1].output["lock"]["fence"] for detail in ended]
    assert fences == [1, 2, 3]


def test_a_skill_of_the_configuration_can_be_used(person: Person, chat: int) -> None:
    person.ask(chat, '!tool Skill {"skill": "stepgram:hello-world"}')

    assert "Launching skill: stepgram:hello-world" in person.texts(chat)[0]


def test_a_subagent_of_the_configuration_can_be_used(person: Person, chat: int) -> None:
    call = {"subagent_type": "aws-support", "description": "Ask", "prompt": "What does S3 cost?"}
    person.ask(chat, f"!tool Agent {json.dumps(call)}")

    assert "You said: What does S3 cost?" in person.texts(chat)[0]
    roles = [json.dumps(r["body"]["system"]) for r in person.stack.bedrock.requests]
    assert any("AWS support engineer" in system for system in roles)


def test_a_lost_snapshot_starts_a_fresh_session_and_says_so(person: Person, chat: int) -> None:
    from stepgram.embedded.client import client

    first = person.ask(chat, "one")
    s3, bucket = client("s3", person.stack.addresses.aws), person.stack.deployment.outputs["SessionBucket"]
    prefix = f"sessions/{first.output['session_id']}/transcript/"
    for item in s3.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]:
        s3.delete_object(Bucket=bucket, Key=item["Key"])

    second = person.ask(chat, "two")

    assert person.texts(chat)[1].startswith("The memory of our earlier conversation has expired")
    assert "message 1 of this conversation" in person.texts(chat)[2]
    assert second.output["session_id"] != first.output["session_id"]


def test_a_webhook_that_cannot_start_the_intake_is_tried_again_by_telegram(person: Person, chat: int) -> None:
    machine = person.stack.step_functions._backend
    intake = person.stack.deployment.outputs["IntakeArn"]
    found = machine.describe_state_machine(intake)
    machine.state_machines.remove(found)
    try:
        name = person.say(chat, "try again")
        record = person.stack.telegram.state["updates"][name.rsplit("u", 1)[1]]
        until(lambda: record["attempts"] >= 1 and record.get("last_status") == 503)
    finally:
        machine.state_machines.append(found)

    assert person.wait(name).status == "SUCCEEDED"
    assert len(person.texts(chat)) == 1


def test_ten_messages_within_a_second_are_answered_in_order_each_once(person: Person, chat: int) -> None:
    from stepgram.operators.executions import Turns, Wanted, present_state

    names = [person.say(chat, "!slow 3"), *(person.say(chat, f"number {n}") for n in range(2, 11))]
    for name in names[1:]:
        person.wait_for_state(name, "AcquireLock")
    machine = person.stack.deployment.outputs["TurnArn"]
    running = list(Turns(person.step_functions, machine).rows(Wanted("RUNNING", chat), 20))
    states = [present_state(person.step_functions, person.arn(row["name"])) for row in running]

    for name in names:
        assert person.wait(name).status == "SUCCEEDED"

    assert sorted(str(state) for state in states) == ["AcquireLock"] * 9 + ["RunAgent"]
    assert [f"You said: number {n}" in text for n, text in enumerate(person.texts(chat)[1:], 2)] == [True] * 9
    assert ["message " + str(n) in text for n, text in enumerate(person.texts(chat)[1:], 2)] == [True] * 9


def test_a_stopped_execution_is_told_to_the_chat_and_frees_it_at_once(person: Person, chat: int) -> None:
    first = person.say(chat, "!slow 30")
    person.wait_for_state(first, "RunAgent")
    second = person.say(chat, "next")
    person.wait_for_state(second, "AcquireLock")

    person.step_functions.stop_execution(executionArn=person.arn(first), error="Operator", cause="enough")

    assert person.wait(second).status == "SUCCEEDED"
    until(lambda: any("was not answered (Operator)" in text for text in person.texts(chat)))
    assert len(person.texts(chat)) == 2


def _said(body: dict[str, Any]) -> list[str]:
    """What users said in a request to the model."""
    contents = [message["content"] for message in body["messages"] if message["role"] == "user"]
    return [said if isinstance(said, str) else str(said[-1].get("text")) for said in contents]


def test_an_execution_started_by_an_older_version_is_answered(person: Person, chat: int) -> None:
    """Its input names no channel, and its Hydrate is told of no chat: both are Telegram's."""
    person.command(chat, "/whoami")
    given = json.loads((ROOT / "tests" / "unit" / "recorded" / "states.json").read_text())["input"]
    given |= {"turn_id": f"c{chat}-t0-u99999", "session_key": f"{chat}:0", "chat": {**given["chat"], "id": chat}}
    machine = person.stack.deployment.outputs["TurnArn"]
    person.step_functions.start_execution(stateMachineArn=machine, name=given["turn_id"], input=json.dumps(given))

    assert person.wait(given["turn_id"]).output["outcome"] == "DELIVERED"
    assert "You said: hello" in person.texts(chat)[-1]
