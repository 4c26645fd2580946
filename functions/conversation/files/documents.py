"""What a session's folder holds, as trusted code believes it: manifests, results, records of cost, and their keys.

    sessions/<session_id>/manifests/<version>-<run>.json
    sessions/<session_id>/transcript/<version>-<run>/<subpath>.jsonl    only what this turn appended
    sessions/<session_id>/trees/, blobs/                                the workspace (`workspace.py`)
    sessions/<session_id>/turns/<turn_id>/result.json                   the answer, kept under the turn's name
    sessions/<session_id>/turns/<turn_id>/costs/<run>.json              what one run of the agent cost, however it ended
    sessions/<session_id>/turns/<turn_id>/inbox/<n>-<name>              what people attached
    sessions/<session_id>/turns/<turn_id>/outbox/<name>                 files for the chat

The run is in the names because an earlier run of the same turn may still be alive: two runs never write the same key.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import to_json

from functions.common.beliefs import (
    Count,
    Dollars,
    Key,
    Name,
    Seconds,
    SessionId,
    Shown,
    Subpath,
    Tokens,
    TurnId,
    Word,
    below,
)
from functions.common.errors import ResultRefused

OBJECTS = 20_000
"""Objects a version may consist of."""

ANSWER_CHARACTERS, PREVIEW_CHARACTERS = 1_000_000, 200
"""What an answer may have, and what the state shows of it."""

OUTBOX_FILES, LEFT_OUT = 1000, 1000
"""Files a turn may send, and paths that were not kept and are noted by name."""

CALL_BYTES, CALL_LEVELS = 1024 * 1024, 32
"""What a tool call may have that a person is asked about: bytes of JSON, and levels."""

MOST_USD = 10_000.0
"""What one run may say that it has cost."""

ONE_REQUEST_USD = 25.0
"""What one request to a model costs at the very most: a budget is found to be spent after the request that spent it."""


class Frozen(BaseModel):
    """An immutable document in the bucket."""

    model_config = ConfigDict(frozen=True)


class Segment(Frozen):
    """Transcript entries one turn appended to one file; `subpath` is empty for the main transcript."""

    key: Key
    subpath: Subpath = ""
    size: Count


class TreeReference(Frozen):
    """The workspace of one version: the key of its list of files, and all objects they need. `bytes` of all files."""

    key: Key
    files: Count
    bytes: Count
    objects: Annotated[tuple[Key, ...], Field(max_length=OBJECTS)]


class Manifest(Frozen):
    """One version of a session: everything needed to go on from it. `parent` is the manifest before it.

    `cost_usd` is what the whole session has cost so far.
    """

    session_id: SessionId
    version: Annotated[Count, Field(ge=1)]
    turn_id: TurnId
    parent: Key | None = None
    cost_usd: Dollars = 0.0
    segments: Annotated[tuple[Segment, ...], Field(max_length=OBJECTS)] = ()
    tree: TreeReference | None = None

    @property
    def objects(self) -> tuple[str, ...]:
        """The keys of everything this version needs besides itself."""
        tree = (self.tree.key, *self.tree.objects) if self.tree else ()
        return (*(segment.key for segment in self.segments), *tree)

    @model_validator(mode="after")
    def _is_of_one_session(self) -> Self:
        own = session_prefix(self.session_id)
        places = [(f"{own}transcript/", segment.key) for segment in self.segments]
        if self.tree is not None:
            places += [(f"{own}trees/", self.tree.key), *((f"{own}blobs/", key) for key in self.tree.objects)]
        if self.parent is not None:
            places.append((manifests_prefix(self.session_id), self.parent))
        for folder, key in places:
            if not below(folder, key):
                raise ValueError(f"{key!r} is not below {folder}")
        if len(set(self.objects)) != len(self.objects):
            raise ValueError("an object is named twice")
        return self

    def follows(self, session_id: str, version: int, parent: str | None, turn_id: str) -> Self:
        """Itself, when this turn made it of that version of the session, as Hydrate gave it. Raises ResultRefused."""
        given = (self.session_id, self.version - 1, self.parent, self.turn_id)
        for name, is_, must in zip(
            ("session_id", "version", "parent", "turn_id"), given, (session_id, version, parent, turn_id), strict=True
        ):
            if is_ != must:
                raise ResultRefused(f"the manifest of version {self.version} does not go on from there: {name} {is_}")
        return self


class OutboxFile(Frozen):
    """A file the agent made for the chat; `size` in bytes."""

    key: Key
    name: Name
    size: Count


class InboxFile(Frozen):
    """A file a person attached, in the turn's inbox; `missing` is why Telegram did not give it."""

    key: str
    name: Name
    kind: str
    mime: str
    size: Count
    transcript: str | None = None
    missing: str | None = None


Reason = Literal["too_large", "too_many", "no_room", "outside", "not_a_file", "bad_name", "too_deep", "unreadable"]


class LeftOut(Frozen):
    """A path of the workspace that is not kept, and why; the user is told. `size` in bytes."""

    path: Shown
    reason: Reason
    size: Count = 0


class ToolCall(Frozen):
    """A tool call that waits for a person."""

    id: Word
    name: Word
    input: dict[str, Any]

    @model_validator(mode="after")
    def _can_be_shown(self) -> Self:
        if _levels(self.input) > CALL_LEVELS or len(to_json(self.input, serialize_unknown=True)) > CALL_BYTES:
            raise ValueError(f"a call has at most {CALL_LEVELS} levels and {CALL_BYTES:,} bytes")
        return self


def _levels(value: Any) -> int:
    """How deep lists and objects lie in each other; the parser has bounded it already."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_levels, inner), default=0) if isinstance(value, dict | list) else 0


class RunSummary(Frozen):
    """What RunAgent puts into the state: short enough to read at a glance. Costs in US dollars.

    `continue` means that Lambda's time was up, `approval` that a call of the tool `waiting` needs a person: part `part`
    of the turn is staged, and the next one goes on from it.
    Costs, tokens, model turns and seconds are of all parts so far. `stopped`: somebody pressed Stop. `ended` is the
    limit the last part came to: of model calls, or of money.
    """

    status: Literal["done", "continue", "approval"]
    result: Key
    manifest: Key
    preview: Annotated[str, Field(max_length=PREVIEW_CHARACTERS)]
    characters: Count
    cost_usd: Dollars
    session_cost_usd: Dollars
    input_tokens: Tokens
    output_tokens: Tokens
    model_turns: Count
    model: Word
    seconds: Seconds
    part: Annotated[Count, Field(le=10_000)] = 0
    stopped: bool = False
    waiting: Word | None = None
    ended: Literal["max_turns", "budget"] | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if (self.waiting is not None) is not (self.status == "approval"):
            raise ValueError("status: only with `approval` a call waits, and with it always")
        if self.status == "continue" and (self.stopped or self.ended is not None):
            raise ValueError("status: what was stopped or came to a limit does not go on")
        return self

    def checked(self, expected: Expected) -> Self:
        """Itself, when it can be the end of that run. Raises ResultRefused that names what cannot be."""
        wrong = {
            "result": self.result != expected.result,
            "manifest": not below(manifests_prefix(expected.session_id), self.manifest)
            or not self.manifest.rpartition("/")[2].startswith(f"{expected.version + 1}-"),
            "part": self.part != expected.part,
            "cost_usd": self.cost_usd > expected.budget_usd + ONE_REQUEST_USD,
            "model": self.model not in expected.models,
        }
        for name in (name for name, is_wrong in wrong.items() if is_wrong):
            raise ResultRefused(f"the run's summary is not of this run: {name} {getattr(self, name)}")
        return self


class Expected(Frozen):
    """What is known of a run without it: `version` is the session's before the turn, `budget_usd` was left of budgets
    for the whole turn, `models` are the ids of those that may have answered.
    """

    session_id: str
    turn_id: str
    part: int
    version: int
    budget_usd: float
    models: frozenset[str]

    @property
    def result(self) -> str:
        """The key of its result."""
        return result_key(self.session_id, self.turn_id, self.part)


class RunResult(Frozen):
    """The stored outcome of a run: `text` is its answer, or all that was said in the turn when there is none yet.

    `went_on_from` is the manifest it went on from; a call is `waiting` for a person. Of paths that were `left_out` only
    some are named, and `left_out_more` counted. `attempt` is the execution's redrive count when it ran.
    """

    went_on_from: Key | None
    attempt: Count = 0
    summary: RunSummary
    text: Annotated[str, Field(max_length=ANSWER_CHARACTERS)]
    files: Annotated[tuple[OutboxFile, ...], Field(max_length=OUTBOX_FILES)] = ()
    left_out: Annotated[tuple[LeftOut, ...], Field(max_length=LEFT_OUT)] = ()
    left_out_more: Count = 0
    waiting: ToolCall | None = None

    @model_validator(mode="after")
    def _is_of_one_turn(self) -> Self:
        outbox = f"{self.summary.result.rpartition('/')[0]}/outbox/"
        for file in self.files:
            if not below(outbox, file.key):
                raise ValueError(f"files: {file.key!r} is not below {outbox}")
        if (self.waiting and self.waiting.name) != self.summary.waiting:
            raise ValueError("waiting: the summary says something else")
        return self

    def answers(self, going_on: str | None, attempt: int) -> bool:
        """Whether it is the result of a run from there; what was stopped is run anew by a later attempt."""
        return self.went_on_from == going_on and (not self.summary.stopped or self.attempt == attempt)


class RunCost(Frozen):
    """What one run of the agent has cost, or may cost by what it has begun, in US dollars."""

    model: Word
    cost_usd: float = Field(ge=0, le=MOST_USD, allow_inf_nan=False)


def session_prefix(session_id: str) -> str:
    """The folder of one session; the agent is given this and nothing else."""
    return f"sessions/{session_id}/"


def manifests_prefix(session_id: str) -> str:
    """The folder of a session's versions."""
    return f"{session_prefix(session_id)}manifests/"


def turn_prefix(session_id: str, turn_id: str) -> str:
    """The folder of what one turn produced."""
    return f"{session_prefix(session_id)}turns/{turn_id}/"


def result_key(session_id: str, turn_id: str, part: int) -> str:
    """Where the result of one part of a turn is kept."""
    return f"{turn_prefix(session_id, turn_id)}{'result' if part == 0 else f'result-{part}'}.json"


def cost_key(session_id: str, turn_id: str, run: int) -> str:
    """Where it is kept what one run of a turn has cost; trusted code numbers the runs, and reads no other record."""
    return f"{turn_prefix(session_id, turn_id)}costs/{run}.json"
