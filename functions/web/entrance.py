"""How a message, a press or a stop of the web goes in: an envelope, and the Intake, run once and at once."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

from pydantic import Field

from functions.common import aws
from functions.common.envelope import Button, Command, Envelope, Message, User, WebChat
from functions.common.errors import AwsUnavailable, BadInput
from functions.common.settings import SessionSettings
from functions.web.channel import Press
from functions.web.sign_in import Person

INPUT_BYTES = 200 * 1024
"""Bytes an envelope may have: the state of an execution holds 256 KiB (Step Functions quotas), and more comes to it."""

DAY_SECONDS = 86_400


class EntranceSettings(SessionSettings):
    """Where messages go."""

    intake_arn: str = Field(alias="INTAKE_ARN", description="ARN of the Intake state machine")
    messages_per_minute: int = Field(
        20, alias="MESSAGES_PER_MINUTE", ge=0, description="Messages one user may send in a minute; 0: any number"
    )


class Entrance:
    """Where one person's words in one conversation go in."""

    def __init__(self, settings: EntranceSettings, person: Person, place: WebChat) -> None:
        self._settings = settings
        self._person = person
        self._place = place

    def message(self, client_id: str, text: str) -> tuple[str, str]:
        """A message; `client_id` is the client's own name for it, so that one that is sent twice is one turn.

        Returns the turn and what became of the message.
        """
        return self._enter(client_id, "message", message=_message(text))

    def command(self, name: str) -> str:
        """One of the bot's commands; what it has to say is an event. Returns what became of it."""
        given = {"command": Command(name=name), "message": _message(f"/{name}")}
        return self._enter(uuid.uuid4().hex, "command", **given)[1]

    def press(self, press: Press, message_id: int) -> str:
        """A decision on a tool call, or a turn to run again; returns what became of it."""
        button = Button(id=uuid.uuid4().hex, data=press.model_dump_json(exclude_none=True), message_id=message_id)
        return self._enter(uuid.uuid4().hex, "button", button=button)[1]

    def stop(self) -> str:
        """Ask the turn at work to stop; returns what became of it."""
        return self._enter(uuid.uuid4().hex, "stop")[1]

    def _enter(self, name: str, route: Any, **more: Any) -> tuple[str, str]:
        """Raises BadInput when it is too much, AwsUnavailable when it is not safe: the client sends it again."""
        person = self._person
        envelope = Envelope(
            turn_id=self._place.turn_id(name),
            session_key=self._place.session_key,
            route=route,
            chat=self._place,
            user=User(id=person.id, name=person.name, language=person.language),
            ttl=int(time.time()) + self._settings.session_ttl_days * DAY_SECONDS,
            **more,
        )
        document = envelope.model_dump_json(exclude_none=True)
        if len(document.encode()) > INPUT_BYTES:
            raise BadInput(f"text: {len(document.encode()):,} bytes are more than a turn takes")
        with aws.translated():
            ran = aws.whole_intake().start_sync_execution(stateMachineArn=self._settings.intake_arn, input=document)
        if ran["status"] != "SUCCEEDED":
            raise AwsUnavailable(f"the Intake failed: {ran.get('error')}: {ran.get('cause')}")
        return envelope.turn_id, str(json.loads(ran["output"]).get("outcome"))


def _message(text: str) -> Message:
    """A message that comes now: its time is its place in the queue."""
    now = time.time_ns() // 1000
    return Message(id=now, update_id=now, date=now // 1_000_000, text=text)
