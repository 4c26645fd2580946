"""`stepgram ask`: one message through the whole stack, as a person would send it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import requests
from botocore.exceptions import ClientError

from functions.common.envelope import turn_id
from functions.common.snapshots import RunResult
from stepgram.executions import State, attempts_of, detail, history
from stepgram.stack import Stack, StackError

POLL_SECONDS = 0.1
ACCEPTED_WITHIN_SECONDS = 30.0

Progress = Callable[[State], None]


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


def ask(stack: Stack, text: str, chat: int, thread: int, user: int | None, progress: Progress) -> Answer:
    """Send `text` and wait until its turn has ended; `progress` hears of every state that is left."""
    if stack.telegram is None:
        return _ask_deployed(stack, text, chat, thread, user, progress)
    sent = requests.post(
        f"{stack.telegram}/person/messages",
        json={"chat_id": chat, "thread_id": thread, "user_id": user, "text": text},
        timeout=10,
    )
    if not sent.ok:
        raise StackError(f"the message was not sent: {sent.text}")
    update_id, message_id = sent.json()["update_id"], sent.json()["message_id"]
    outcome = _accepted(stack.telegram, update_id)
    if outcome.get("outcome") not in ("started", "duplicate"):
        return Answer(None, "SUCCEEDED", replies=_replies(stack.telegram, chat, message_id))
    answer = _follow(stack, turn_id(chat, thread, update_id), progress)
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


def _follow(stack: Stack, name: str, progress: Progress) -> Answer:
    step_functions, arn = stack.client("stepfunctions"), stack.execution_arn(name)
    shown = 0
    while True:
        status = step_functions.describe_execution(executionArn=arn)["status"]
        states = [s for attempt in attempts_of(history(step_functions, arn), datetime.now(UTC)) for s in attempt]
        done = [s for s in states if s.status != "running"]
        for state in done[shown:]:
            progress(state)
        shown = max(shown, len(done))
        if status != "RUNNING":
            break
        time.sleep(POLL_SECONDS)
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


def _replies(telegram: str, chat: int, message_id: int) -> list[str]:
    """What the bot wrote in answer to a message, as text."""
    url = f"{telegram}/person/chats/{chat}/messages"
    messages = requests.get(url, params={"after": message_id}, timeout=10).json()
    mine = [m for m in messages if m.get("reply_to_message", {}).get("message_id") == message_id]
    return [message_text(message) for message in mine]


def message_text(message: dict[str, Any]) -> str:
    """A message of the stand-in as text: its text, its rich Markdown, or the name of its file."""
    if message.get("page"):
        return str(message["page"]["markdown"])
    if "document" in message:
        return f"[{message['document']['file_name']}, {message['document']['file_size']} bytes]"
    return str(message.get("text", ""))


def _ask_deployed(stack: Stack, text: str, chat: int, thread: int, user: int | None, progress: Progress) -> Answer:
    """Post an update to the deployed webhook; the answer goes to the real chat and is read from its result."""
    outputs, now = stack.outputs, time.time()
    secrets = stack.client("secretsmanager")
    secret = secrets.get_secret_value(SecretId=outputs["WebhookSecretId"])["SecretString"]
    update_id = int(now * 1000)
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
    posted = requests.post(
        outputs["WebhookUrl"],
        json={"update_id": update_id, "message": message},
        headers={"X-Telegram-Bot-Api-Secret-Token": secret},
        timeout=30,
    )
    if not posted.ok:
        raise StackError(f"the webhook answered {posted.status_code}: {posted.text}")
    if posted.json().get("outcome") != "started":
        return Answer(None, "SUCCEEDED")
    answer = _follow(stack, turn_id(chat, thread, update_id), progress)
    key = (detail(stack.client("stepfunctions"), stack.execution_arn(str(answer.execution))).output or {}).get("result")
    if key:
        try:
            body = stack.client("s3").get_object(Bucket=outputs["SessionBucket"], Key=key)["Body"].read()
        except ClientError as error:
            raise StackError(f"the answer cannot be read: {error}") from error
        answer.replies = [RunResult.model_validate_json(body).text]
    return answer
