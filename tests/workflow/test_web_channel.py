"""The web keeps the contract of a channel: nothing twice, also when a step dies, since an event and its entry in the
ledger are one transaction."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.model import OperationModel

from functions.common import aws
from functions.common.envelope import Attachment, Button, WebChat
from functions.common.settings import use_environment
from functions.conversation.files.snapshots import Snapshots
from functions.web.channel import received_key
from functions.web.events import (
    Answered,
    Asked,
    Decided,
    EventTable,
    Failed,
    FileSent,
    Numbered,
    Said,
    Withdrawn,
    Working,
)
from stepgram.embedded.client import client
from stepgram.embedded.stack import EmbeddedStack
from tests.channel_contract import ChannelContract, Killed, World

WRITES = ("PutItem", "UpdateItem", "TransactWriteItems", "PutObject")


class WebWorld(World):
    """A conversation of its own, looked at by its events as any reader does."""

    once = True
    errors = frozenset({"unavailable", "refused"})

    def __init__(self, stack: EmbeddedStack) -> None:
        self._stack, outputs, endpoint = stack, stack.deployment.outputs, stack.addresses.aws
        self._chat = WebChat(channel="web", id=uuid.uuid4().hex)
        super().__init__(self._chat)
        self._table, self._owner = outputs["SessionTable"], client("dynamodb", endpoint)
        self._owner.put_item(TableName=self._table, Item=aws.item_key(self._chat.session_key, "conversation"))
        self._snapshots = Snapshots(outputs["SessionBucket"], client("s3", endpoint))

    def elsewhere(self) -> WebWorld:
        return WebWorld(self._stack)

    def events(self) -> list[Numbered]:
        """All of them, numbered without a gap."""
        found = EventTable(self._table, self._owner).after(self._chat.session_key, 0, limit=1000)
        assert [event.number for event in found] == list(range(1, len(found) + 1))
        return found

    def seen(self) -> list[str]:
        events = self.events()
        answered = {one.turn_id for one in events if isinstance(one.event, Answered)}
        last = {one.turn_id: one.number for one in events if isinstance(one.event, Failed)}
        shown = []
        for one in events:
            if isinstance(one.event, Said):
                shown.append(one.event.text)
            elif isinstance(one.event, Answered | Asked):
                shown.append(self._whole(one.event))
            elif isinstance(one.event, Failed) and last[one.turn_id] == one.number and one.turn_id not in answered:
                shown.append(one.event.text)
        return shown

    def _whole(self, event: Answered | Asked) -> str:
        said = event.markdown if isinstance(event, Answered) else event.call
        return self._snapshots.get(event.key).decode() if event.key else said

    def files(self) -> dict[str, bytes]:
        sent = [one.event for one in self.events() if isinstance(one.event, FileSent)]
        return {file.name: self._snapshots.get(file.key) for file in sent}

    def buttons(self, message_id: int) -> list[Button]:
        events = self.events()
        offered = next(one for one in events if one.number == message_id)
        mine = [one.event for one in events if one.turn_id == offered.turn_id]
        if any(isinstance(event, Withdrawn) and event.event == message_id for event in mine):
            return []
        turn = f'"turn_id": "{offered.turn_id}"'
        if isinstance(offered.event, Failed):
            newest = [event.number for event in mine if isinstance(event, Failed)][-1]
            data = [f"{{{turn}}}"] if offered.event.number == newest else []
        else:
            assert isinstance(offered.event, Asked)
            number = offered.event.number
            is_open = not any(isinstance(event, Decided) and event.number == number for event in mine)
            choices = offered.event.choices if is_open else ()
            data = [f'{{{turn}, "choice": "{choice}", "number": {number}}}' for choice in choices]
        return [Button(id="press", data=one, message_id=message_id) for one in data]

    def labels(self, message_id: int) -> list[str]:
        asked = next(one for one in self.events() if one.number == message_id)
        assert isinstance(asked.event, Asked)
        mine = [one.event for one in self.events() if one.turn_id == asked.turn_id]
        return [e.text for e in mine if isinstance(e, Decided) and e.number == asked.event.number]

    def passing(self) -> str | None:
        working = [one.event for one in self.events() if isinstance(one.event, Working)]
        return working[-1].model_dump_json() if working else None

    def stored(self, content: bytes) -> str:
        key = f"sessions/{uuid.uuid4()}/turns/t/outbox/report.pdf"
        self._snapshots.put(key, content)
        return key

    @contextmanager
    def fetching_fails(self) -> Iterator[None]:
        def fails(**_: Any) -> None:
            raise ClientError({"Error": {"Code": "SlowDown", "Message": "slow down"}}, "GetObject")

        events = aws.s3().meta.events
        events.register("before-call.s3.GetObject", fails)
        yield
        events.unregister("before-call.s3.GetObject", fails)

    def attached(self, content: bytes) -> Attachment:
        self._snapshots.put(received_key(self._chat.session_key, "1"), content)
        return self._attachment("1")

    def no_attachment(self) -> Attachment:
        return self._attachment("../../sessions/none")

    def failing(self, error: str) -> None:
        if error == "refused":
            self._owner.delete_item(TableName=self._table, Key=aws.item_key(self._chat.session_key, "conversation"))
            return
        events = aws.dynamodb().meta.events

        def fail(**_: Any) -> None:
            events.unregister("before-call.dynamodb.TransactWriteItems", fail)
            raise ClientError({"Error": {"Code": "ThrottlingException", "Message": "slow down"}}, "TransactWriteItems")

        events.register("before-call.dynamodb.TransactWriteItems", fail)

    @contextmanager
    def killed_after(self, writes: int) -> Iterator[None]:
        left = [writes]

        def after_call(model: OperationModel, **_: Any) -> None:
            left[0] -= model.name in WRITES
            if left[0] == 0:
                raise Killed

        clients = (aws.dynamodb(), aws.s3())
        for one in clients:
            one.meta.events.register("after-call.*.*", after_call)
        try:
            yield
        finally:
            for one in clients:
                one.meta.events.unregister("after-call.*.*", after_call)

    @staticmethod
    def _attachment(key: str) -> Attachment:
        return Attachment(kind="document", file_id=key, name="picture.bin", mime="application/octet-stream")


@pytest.fixture
def world(stack: EmbeddedStack) -> Iterator[WebWorld]:
    turn = next(spec for spec in stack.functions.specs.values() if spec.logical_id == "TurnFunction")
    use_environment(stack.functions.environment(turn))
    yield WebWorld(stack)
    use_environment(None)


class TestWeb(ChannelContract):
    """The contract, in conversations of the web."""
