"""`stepgram ask`: one message through the whole stack, as a person would send it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import requests
from botocore.exceptions import ClientError

from functions.common.envelope import turn_id
from functions.conversation.files.documents import RunResult
from functions.conversation.sessions import QUESTION
from functions.telegram.buttons import DONE, answer_data
from functions.turn.ask_approval import readable
from stepgram.operators.executions import State, detail, follow
from stepgram.operators.stack import Stack, StackError

POLL_SECONDS = 0.1
ACCEPTED_WITHIN_SECONDS = 30.0

Progress = Callable[[State], None]
Decide = Callable[[str], str]
"""Asked whether a tool call may run, with the question's text; answers `allow`, `always` or `deny`."""


@dataclass(frozen=True)
class Person:
    """Who asks: chat and topic, the user, and how to decide on tool calls."""

    chat: int
    thread: int
    user: int | None
    decide: Decide


@dataclass
class Answer:
    """What became of the message; the object `ask --json` prints."""

    execution: str | None
    status: str
    error: str | None = None
    states: list[dict[str, Any]] = field(default_factory=list)
    replies: list[str] = field(default_factory=list)
    session_id: str | None = None
    version: int | None = None
    cost_usd: float | None = None
    failed_state: str | None = None
    cause: str | None = None

    def document(self) -> dict[str, Any]:
        """The JSON object."""
        shown = asdict(self)
        del shown["failed_state"], shown["cause"]
        return shown


def ask(stack: Stack, text: str, person: Person, progress: Progress) -> Answer:
    """Send `text` and wait until its turn has ended; `progress` hears of every state that is left."""
    if stack.telegram is None:
        return _ask_deployed(stack, text, person, progress)
    chat, thread = person.chat, person.thread
    who = {"chat_id": chat, "thread_id": thread, "user_id": person.user}
    sent = requests.post(f"{stack.telegram}/person/messages", json={**who, "text": text}, timeout=10)
    if not sent.ok:
        raise StackError(f"the message was not sent: {sent.text}")
    update_id, message_id = sent.json()["update_id"], sent.json()["message_id"]
    outcome = _accepted(stack.telegram, update_id)
    if outcome.get("outcome") not in ("started", "duplicate"):
        return Answer(None, "SUCCEEDED", replies=_replies(stack.telegram, chat, message_id))
    telegram = stack.telegram

    def press(question: str, number: int, choice: str) -> None:
        """Press the button of the question, as the person."""
        data = answer_data(choice, question, number)
        shown = next(m for m in _messages(telegram, chat, message_id) if data in json.dumps(m.get("reply_markup", {})))
        body = {**who, "message_id": shown["message_id"], "data": data}
        requests.post(f"{telegram}/person/buttons", json=body, timeout=10).raise_for_status()

    answer = _follow(stack, turn_id(chat, thread, update_id), progress, person.decide, press)
    answer.replies = _replies(stack.telegram, chat, message_id)
    return answer


def _accepted(telegram: str, update_id: int) -> dict[str, Any]:
    """Wait until the webhook answered 2xx. Raises StackError when it does not."""
    end = time.monotonic() + ACCEPTED_WITHIN_SECONDS
    while time.monotonic() < end:
        record = requests.get(f"{telegram}/person/updates/{update_id}", timeout=10).json()
        if record["status"] is not None:
            outcome: dict[str, Any] = json.loads(record["body"])
            return outcome
        time.sleep(POLL_SECONDS / 5)
    raise StackError(f"the webhook does not accept update {update_id} (last answer {record.get('last_status')})")


def _follow(
    stack: Stack, name: str, progress: Progress, decide: Decide, press: Callable[[str, int, str], None]
) -> Answer:
    step_functions, arn = stack.client("stepfunctions"), stack.execution_arn(name)
    decided = -1
    for left, states in follow(step_functions, arn, POLL_SECONDS):
        for state in left:
            progress(state)
        part = states[-1].input["run"]["part"] if states and _asks(stack, name, states[-1]) else -1
        if part > decided:
            decided = part
            press(name, part, decide(_question(stack, states[-1].input["run"]["result"])))
    found = detail(step_functions, arn)
    output = found.output if isinstance(found.output, dict) else {}
    session = (found.states[-1].output or found.states[-1].input or {}).get("session", {}) if found.states else {}
    failed = found.failed_state
    return Answer(
        execution=found.name,
        status=found.status,
        error=found.error,
        states=[{"name": s.name, "status": s.status, "seconds": s.seconds} for s in states],
        session_id=output.get("session_id") or session.get("session_id"),
        version=output.get("version") if output else session.get("version"),
        cost_usd=output.get("cost_usd"),
        failed_state=failed.name if failed else None,
        cause=found.cause,
    )


def _asks(stack: Stack, name: str, state: State) -> bool:
    """Whether the turn waits for a person's decision: the question is open, and so on its way into the chat."""
    if state.name != "AskApproval" or state.status != "running":
        return False
    key = {"pk": {"S": state.input["session_key"]}, "sk": {"S": f"turn#{name}"}}
    item = stack.client("dynamodb").get_item(TableName=stack.outputs["SessionTable"], Key=key).get("Item", {})
    return f"{QUESTION}{state.input['run']['part']}" in item.get("delivered", {}).get("M", {})


def _question(stack: Stack, result: str) -> str:
    """The tool call that waits, as a person reads it."""
    body = stack.client("s3").get_object(Bucket=stack.outputs["SessionBucket"], Key=result)["Body"].read()
    call = RunResult.model_validate_json(body).waiting
    return f"{call.name}: {readable(call)}" if call else ""


def _messages(telegram: str, chat: int, after: int) -> list[dict[str, Any]]:
    url = f"{telegram}/person/chats/{chat}/messages"
    messages: list[dict[str, Any]] = requests.get(url, params={"after": after}, timeout=10).json()
    return messages


def _replies(telegram: str, chat: int, message_id: int) -> list[str]:
    """What the bot wrote in answer to a message, as text; what it asked is not part of it."""
    mine = [
        m for m in _messages(telegram, chat, message_id)
        if m.get("reply_to_message", {}).get("message_id") == message_id and not _is_question(m)
    ]  # fmt: skip
    return [message_text(message) for message in mine]


def _is_question(message: dict[str, Any]) -> bool:
    """A question that was answered has one button left, which does nothing."""
    return DONE in [
        key["callback_data"] for row in message.get("reply_markup", {}).get("inline_keyboard", []) for key in row
    ]


def message_text(message: dict[str, Any]) -> str:
    """A message of the stand-in as text: its text, its rich Markdown, or the name of its file."""
    if message.get("page"):
        return str(message["page"]["markdown"])
    if "document" in message:
        return f"[{message['document']['file_name']}, {message['document']['file_size']} bytes]"
    return str(message.get("text", ""))


def _ask_deployed(stack: Stack, text: str, person: Person, progress: Progress) -> Answer:
    """Post an update to the deployed webhook; the answer goes to the real chat and is read from its result."""
    outputs, now = stack.outputs, time.time()
    secrets = stack.client("secretsmanager")
    secret = secrets.get_secret_value(SecretId=outputs["WebhookSecretId"])["SecretString"]
    update_id = int(now * 1000)
    chat, thread, user = person.chat, person.thread, person.user
    kind = "private" if chat > 0 else "supergroup"
    topic = {"message_thread_id": thread, "is_topic_message": True} if thread else {}
    message = {
        "message_id": update_id % 2**31,
        "date": int(now),
        "chat": {"id": chat, "type": kind},
        "from": {"id": user or abs(chat), "is_bot": False, "first_name": "stepgram ask"},
        "text": text,
        **topic,
    }

    def post(update: dict[str, Any]) -> requests.Response:
        headers = {"X-Telegram-Bot-Api-Secret-Token": secret}
        return requests.post(outputs["WebhookUrl"], json=update, headers=headers, timeout=30)

    def press(question: str, number: int, choice: str) -> None:
        query = {"id": f"ask{update_id}", "from": message["from"], "chat_instance": "ask", "message": message}
        data = answer_data(choice, question, number)
        post({"update_id": update_id + 1 + number, "callback_query": {**query, "data": data}}).raise_for_status()

    posted = post({"update_id": update_id, "message": message})
    if not posted.ok:
        raise StackError(f"the webhook answered {posted.status_code}: {posted.text}")
    if posted.json().get("outcome") != "started":
        return Answer(None, "SUCCEEDED")
    answer = _follow(stack, turn_id(chat, thread, update_id), progress, person.decide, press)
    key = (detail(stack.client("stepfunctions"), stack.execution_arn(str(answer.execution))).output or {}).get("result")
    if key:
        try:
            body = stack.client("s3").get_object(Bucket=outputs["SessionBucket"], Key=key)["Body"].read()
        except ClientError as error:
            raise StackError(f"the answer cannot be read: {error}") from error
        answer.replies = [RunResult.model_validate_json(body).text]
    return answer
