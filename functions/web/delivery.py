"""What one turn says in a conversation of the web: an event for each part, with its entry in the turn's ledger."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from functions.channel import Asking, SentFile
from functions.common.observability import StepRequest
from functions.conversation.approvals import BUTTONS
from functions.conversation.files.snapshots import Snapshots
from functions.conversation.sessions import COMPLETE, NOTICE, QUESTION, answer_messages
from functions.web.events import Answered, Asked, Complete, Event, EventTable, Failed, FileSent, Said

SENT_BYTES = 100 * 1024 * 1024
"""Bytes of a file that goes to a person; it stays in S3 until they fetch it."""


EVENT_BYTES = 50_000
"""Bytes of a text in an event, which is one item (DynamoDB: 400 KB) that is read with others (1 MB a page)."""


class WebDelivery:
    """Says the parts of one turn (`functions.channel.Delivery`)."""

    def __init__(self, events: EventTable, snapshots: Snapshots, turn: StepRequest, said: dict[str, int]) -> None:
        """`said`: the numbers of the events of what the turn said already, by part."""
        self._events = events
        self._snapshots = snapshots
        self._turn = turn
        self._said = dict(said)

    @property
    def message_ids(self) -> list[int]:
        """The events of the answer."""
        return answer_messages(self._said)

    def text(self, part: str, text: str) -> None:
        """An event with it."""
        self._once(part, lambda: Said(text=text))

    def answer(self, markdown: str, caption: str) -> str:
        """One event with all of it."""
        self._once("answer0", lambda: Answered.model_validate(self._long("answer0", "markdown", markdown)))
        return "markdown"

    def document(self, part: str, name: str, content: bytes, caption: str | None = None) -> bool:
        """Kept in S3; the event says where."""
        if len(content) > SENT_BYTES:
            return False
        if part not in self._said:
            key = self._put(f"{part}-{name}", content)
            self._once(part, lambda: FileSent(name=name, size=len(content), key=key, caption=caption or ""))
        return True

    def files(self, part: str, files: Sequence[SentFile]) -> list[SentFile]:
        """What is in S3 already stays where it is."""
        refused: list[SentFile] = []
        for number, file in enumerate(files):
            if file.size > SENT_BYTES:
                refused.append(file)
            elif file.key:
                sent = FileSent(name=file.name, size=file.size, key=file.key)
                self._once(f"{part}{number}", lambda sent=sent: sent)  # type: ignore[misc]
            elif f"{part}{number}" not in self._said:
                self.document(f"{part}{number}", file.name, file.content())
        return refused

    def question(self, asking: Asking) -> None:
        """The question, with all of its call."""
        part, shown = f"{QUESTION}{asking.number}", asking.__dict__ | {"choices": BUTTONS}
        self._once(part, lambda: Asked.model_validate(shown | self._long(part, "call", asking.call)))

    def notice(self, number: int, text: str, again: str) -> int:
        """Whoever shows the events shows the newest notice of a turn, until there is an answer."""
        part = f"{NOTICE}{number}"
        self._once(part, lambda: Failed(number=number, text=text, again=again))
        return self._said[part]

    def topic(self, part: str, name: str) -> int:
        """There are none (`WebChat.forum`)."""
        raise NotImplementedError("a conversation of the web has no topics")

    def complete(self) -> None:
        """The end of the turn's events."""
        self._once(COMPLETE, Complete)

    def _once(self, part: str, event: Callable[[], Event]) -> None:
        if part not in self._said:
            turn = self._turn
            self._said[part] = self._events.append(turn.session_key, turn.turn_id, event(), part)

    def _long(self, part: str, name: str, text: str) -> dict[str, str]:
        """A text, or, when an event cannot hold it, its beginning and where all of it is."""
        whole = text.encode("utf-8", "replace")  # no JSON in UTF-8 holds halves of characters
        if len(whole) <= EVENT_BYTES:
            return {name: whole.decode()}
        return {name: whole[:EVENT_BYTES].decode("utf-8", "ignore"), "key": self._put(f"{part}.txt", whole)}

    def _put(self, name: str, content: bytes) -> str:
        key = f"sessions/web/{self._turn.session_key}/{self._turn.turn_id}/{name}"
        self._snapshots.put(key, content, "application/octet-stream")
        return key
