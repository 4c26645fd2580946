"""An agent that lies: whatever it leaves in its session's folder, each reader names an error or starts afresh.

The lies are made of the documents of a real turn. Nobody reads another session because of them, what is shared is as it
was, and the person hears of it.
"""

from __future__ import annotations

import gzip
import itertools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from functions.common.beliefs import DOCUMENT_BYTES
from functions.common.errors import ResultRefused, SnapshotMissing
from functions.conversation.budget import ALL, periods, sums
from functions.conversation.files.documents import Expected, Manifest, RunCost, RunSummary, result_key, session_prefix
from functions.conversation.files.snapshots import Snapshots
from functions.conversation.files.trees import ENTRIES, ITEMS, TREE_BYTES, read_tree
from functions.conversation.ledger import Ledger
from functions.conversation.lock import Claim, Lock
from functions.conversation.lock_table import LockTable
from functions.conversation.sessions import Pointer, SessionTable
from functions.conversation.texts import say
from stepgram.embedded.aws import AwsEndpoint
from stepgram.embedded.client import client
from stepgram.embedded.functions import Answer, Invoker
from stepgram.embedded.stack import EmbeddedStack
from stepgram.embedded.telegram.people import _new_chat
from stepgram.embedded.template import FunctionSpec
from stepgram.operators.sessions import Sessions
from stepgram.operators.stack import Stack
from tests.conftest import Faults, Person, until
from tests.workflow.fast_agent import ASKS, answer_to, fast_agent

STOPPED_BY = (
    "Each reader believes documents within bounds: keys under the session's own prefix, versions that go on from "
    "what was given, sizes and depth bounded before anything is parsed."
)

SECRET = "what-another-chat-said"
REFUSED = ("ResultRefused", "SnapshotMissing")
BOMB = gzip.compress(bytes(TREE_BYTES + 1))

_numbers = itertools.count(1)

lies = settings(
    max_examples=10,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # a lie needs no shrinking, which takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Watch:
    """Hears every request to S3."""

    def __init__(self) -> None:
        self.requests: list[str] = []

    def of(self, session_id: str) -> list[str]:
        """The requests that touch a session, since it was last looked."""
        seen, self.requests = self.requests, []
        return [request for request in seen if session_id in request]


@pytest.fixture(scope="module")
def watch(stack: EmbeddedStack) -> Iterator[Watch]:
    heard, real = Watch(), AwsEndpoint.__call__

    def listening(self: AwsEndpoint, environ: dict[str, Any], start_response: Any) -> Any:
        if "HTTP_X_AMZ_TARGET" not in environ:
            source = environ.get("HTTP_X_AMZ_COPY_SOURCE", "")
            heard.requests.append(
                f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} {environ['QUERY_STRING']} {source}"
            )
        return real(self, environ, start_response)

    AwsEndpoint.__call__ = listening  # type: ignore[method-assign]
    yield heard
    AwsEndpoint.__call__ = real  # type: ignore[method-assign]


@dataclass
class Kept:
    """A session of two real turns: its objects by key, its pointer, and the name of its last turn."""

    objects: dict[str, bytes]
    pointer: Pointer
    turn: str

    def moved(self, session_id: str, turn: str) -> Kept:
        """The same as another session of another turn."""

        def move(text: str) -> str:
            return text.replace(self.pointer.session_id, session_id).replace(self.turn, turn)

        objects = {
            move(key): body if "/blobs/" in key or "/trees/" in key else move(body.decode()).encode()
            for key, body in self.objects.items()
            if "/costs/" not in key  # they are counted
        }
        manifest = move(str(self.pointer.manifest))
        pointer = self.pointer.model_copy(update={"session_id": session_id, "manifest": manifest})
        return Kept(objects, pointer, turn)

    def key(self, which: str) -> str:
        """The key of a document: the newest manifest, its parent, its list of files or the turn's result."""
        manifest = json.loads(self.objects[str(self.pointer.manifest)])
        return {
            "manifest": str(self.pointer.manifest),
            "parent": manifest["parent"],
            "tree": manifest["tree"]["key"],
            "result": result_key(self.pointer.session_id, self.turn, 0),
        }[which]

    def document(self, which: str) -> Any:
        body = self.objects[self.key(which)]
        return json.loads(gzip.decompress(body) if which == "tree" else body)

    def lie(self, which: str, body: bytes) -> None:
        self.objects[self.key(which)] = body

    def say(self, which: str, document: Any) -> None:
        body = json.dumps(document).encode()
        self.lie(which, gzip.compress(body) if which == "tree" else body)


class World:
    """The stack, two real sessions, and what their readers do with lies."""

    def __init__(self, stack: EmbeddedStack, watch: Watch) -> None:
        self.stack, self.watch, self.person = stack, watch, Person(stack)
        outputs, endpoint = stack.deployment.outputs, stack.addresses.aws
        self.s3, self.name = client("s3", endpoint), outputs["SessionTable"]
        self.snapshots = Snapshots(outputs["SessionBucket"], self.s3)
        self.dynamodb = client("dynamodb", endpoint)
        self.table = SessionTable(self.name, self.dynamodb)
        self.locks = LockTable(self.name, self.dynamodb, client("stepfunctions", endpoint))
        self.sessions = Sessions(Stack(outputs, endpoint))
        self.truth = self._real("one")
        self.other = self._real(SECRET)
        self.other_id = self.other.pointer.session_id

    def _real(self, words: str) -> Kept:
        chat = 860_000 + next(_numbers)
        self.person.ask(chat, f"!file report.txt {words}")
        turn = self.person.ask(chat, f"!file second.txt {words}").name
        pointer = self.table.pointer(f"{chat}:0")
        assert pointer is not None
        found = self.s3.list_objects_v2(Bucket=self.snapshots.bucket, Prefix=session_prefix(pointer.session_id))
        keys = [item["Key"] for item in found["Contents"]]
        costs = sum(self.snapshots.read(key, RunCost).cost_usd for key in keys if "/costs/" in key)
        day = (f"{chat}:0", periods(datetime.now(UTC))["day"])
        until(lambda: sums(self.name, self.dynamodb, [day])[day] == pytest.approx(costs, abs=1e-5))
        return Kept({key: self.snapshots.get(key) for key in keys}, pointer, turn)

    def liar(self) -> Liar:
        return Liar(self)

    def shared(self) -> float:
        """The sum over all conversations, which lies must leave alone."""
        key = (ALL, periods(datetime.now(UTC))["day"])
        return sums(self.name, self.dynamodb, [key])[key]


class Liar:
    """A chat whose session is a copy of the true one, for lies to be put into."""

    def __init__(self, world: World) -> None:
        number = next(_numbers)
        self.world, self.chat = world, 870_000 + number
        self.key = f"{self.chat}:0"
        self.kept = world.truth.moved(f"00000000-0000-4000-8000-{number:012d}", f"c{self.chat}-t0-u1")
        world.stack.telegram.state["chats"][str(self.chat)] = _new_chat(self.chat, "You")

    def tell(self) -> None:
        """Put everything into the bucket, and the conversation at it; from now on requests count."""
        for key, body in self.kept.objects.items():
            self.world.snapshots.put(key, body)
        assert self.world.table.move(self.key, "setup", None, self.kept.pointer)
        self.before = self.world.shared()
        self.world.watch.of("")

    def invoke(self, logical_id: str, state: str, **event: Any) -> dict[str, Any]:
        where = {"turn_id": self.kept.turn, "session_key": self.key, "state": state}
        body = json.dumps({**where, **event}).encode()
        answer: dict[str, Any] = json.loads(self.world.stack.functions.invoke(f"stepgram-{logical_id}", body).payload)
        return answer

    def step(self, state: str, **event: Any) -> dict[str, Any]:
        execution = {"Id": "arn", "StartTime": "2026-11-21T10:00:00.000Z"}
        chat = {"id": self.chat, "thread_id": 0, "type": "private"}
        given = {"chat": chat, "message_id": 1, "language": "en", "execution": execution}
        lock = {"fence": 7, "redrive_count": 0}
        return self.invoke("TurnFunction", state, **{**given, "lock": lock, **event})

    def command(self, name: str) -> dict[str, Any]:
        message = {"id": 1, "update_id": 1, "date": 1, "text": f"/{name}"}
        envelope = {
            "turn_id": self.kept.turn, "session_key": self.key, "route": "command",
            "chat": {"id": self.chat, "type": "private"}, "user": {"id": 1, "name": "Ann"},
            "message": message, "command": {"name": name},
        }  # fmt: skip
        return self.invoke("IntakeFunction", "RunCommand", envelope=envelope)

    def own(self) -> None:
        """Own the lock, as a turn that works does."""
        owner = Claim(turn_id=self.kept.turn, order=(1, 1), sequence=(0, "", 0), token="t", execution_arn="arn")
        assert self.world.locks._write(self.key, Lock(owner=owner, fence=7), 0)

    @property
    def pointer(self) -> Pointer:
        found = self.world.table.pointer(self.key)
        assert found is not None
        return found

    def texts(self) -> str:
        """All that the chat was told, documents' names included."""
        return json.dumps(self.world.person.replies(self.chat))

    def checked(self) -> None:
        """Nobody looked at another session, or let it be seen; what is shared is as it was."""
        assert self.world.watch.of(self.world.other_id) == []
        assert SECRET not in self.texts()
        assert self.world.shared() == self.before


@pytest.fixture(scope="module")
def world(stack: EmbeddedStack, watch: Watch) -> World:
    return World(stack, watch)


# ---------------------------------------------------------------------- lies


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a document something can be made up: every value, at every depth."""
    if path:
        yield path
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document if isinstance(document, list) else ())
    )
    for name, value in inner:
        yield from places(value, (*path, name))


def with_value(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(document))
    at = copy
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = value
    return copy


def deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


@st.composite
def lie(draw: st.DrawFn, world: World, kinds: tuple[str, ...]) -> Callable[[Liar], None]:
    """Something false in one of these documents; it is put into a liar's copy of them."""
    which = draw(st.sampled_from(kinds))
    truth = world.truth.document(which)
    body = world.truth.objects[world.truth.key(which)]
    other = world.other
    if draw(st.integers(0, 3)) == 0:
        raw = draw(st.sampled_from([
            b"", b"\xff\xfe\x00", b"[" * 100_000, b'{"version":' + b"[" * 100_000, body[: len(body) // 2],
            body + b"\x00", b" " * (DOCUMENT_BYTES + 1), BOMB, gzip.compress(b"[" * 100_000), b"null", b"[]",
            other.objects[other.key(which)],
        ]))  # fmt: skip
        return lambda liar: liar.kept.lie(which, raw)
    path = draw(st.sampled_from(list(places(truth))))
    value = draw(st.sampled_from([
        None, True, -1, 0, 1, 10**9, 10**30, math.inf, math.nan, 0.5, "", "x" * 100_000, "../../x", "/etc/passwd",
        "a\x00b", "a\nb\u202e", "\ud800", {}, [], deep(150), deep(400), {"session_id": "x"}, ".", "a" * 64,
        *(other.key(kind) for kind in ("manifest", "tree", "result")), session_prefix(world.other_id),
        world.other_id, [other.key("tree")] * 3, "sessions/<own>/../" + world.other_id,
    ]))  # fmt: skip

    def put(liar: Liar) -> None:
        given = value.replace("<own>", liar.kept.pointer.session_id) if isinstance(value, str) else value
        liar.kept.say(which, with_value(liar.kept.document(which), path, given))

    return put


@pytest.fixture
def told(world: World) -> Callable[..., Liar]:
    """A liar who told what hypothesis made up."""

    def told(data: st.DataObject, *kinds: str) -> Liar:
        liar = world.liar()
        data.draw(lie(world, kinds))(liar)
        liar.tell()
        return liar

    return told


# ---------------------------------------------------------------------- each reader


@lies
@given(data=st.data())
def test_persist_makes_nothing_visible_that_cannot_be(told: Callable[..., Liar], data: st.DataObject) -> None:
    liar = told(data, "manifest")

    base, found = persisted(liar)

    if "errorType" in found:
        assert found["errorType"] in REFUSED, found
        assert liar.pointer.manifest == base.manifest
    else:
        sound(liar, liar.world.snapshots.manifest(str(liar.pointer.manifest)))
        assert 0 <= liar.pointer.cost_usd <= 1_000_000
    liar.checked()


def persisted(liar: Liar) -> tuple[Pointer, dict[str, Any]]:
    """What Persist says of the liar's newest version, and the version before, where the conversation is."""
    truth = liar.world.truth.moved(liar.kept.pointer.session_id, liar.kept.turn)
    base = Pointer(session_id=truth.pointer.session_id, version=1, manifest=truth.key("parent"), turns=1)
    assert liar.world.table.move(liar.key, "back", liar.pointer, base)
    liar.own()
    session = {"session_id": base.session_id, "version": 1, "manifest": base.manifest}
    manifest = liar.kept.pointer.manifest
    return base, liar.step("Persist", execution_arn="arn", fence=7, session=session, manifest=manifest)


@pytest.mark.parametrize(
    ("name", "value"),
    [("version", 1), ("version", 3), ("parent", None), ("parent", "sessions/<own>/manifests/1-r.json"),
     ("turn_id", "c1-t0-u9"), (None, None)],
)  # fmt: skip
def test_persist_takes_only_what_goes_on_from_the_version_it_was_given(world: World, name: str, value: Any) -> None:
    liar = world.liar()
    told = value.replace("<own>", liar.kept.pointer.session_id) if isinstance(value, str) else value
    liar.kept.say("manifest", {**liar.kept.document("manifest"), **({name: told} if name else {})})
    liar.tell()

    base, found = persisted(liar)

    assert (found.get("errorType"), found.get("status")) == (("ResultRefused", None) if name else (None, "committed"))
    assert f"{name} " in found.get("errorMessage", "None ")
    assert liar.pointer.manifest == (base.manifest if name else liar.kept.pointer.manifest)
    liar.checked()


def sound(liar: Liar, manifest: Manifest) -> None:
    own = session_prefix(liar.kept.pointer.session_id)
    assert all(key.startswith(own) and ".." not in key for key in manifest.objects)
    assert (manifest.session_id, manifest.version) == (liar.kept.pointer.session_id, liar.kept.pointer.version)


@lies
@given(data=st.data())
def test_reply_sends_nothing_that_is_not_the_turns(told: Callable[..., Liar], data: st.DataObject) -> None:
    liar = told(data, "result")

    found = liar.step("Reply", session_id=liar.kept.pointer.session_id, part=0)

    assert found.get("errorType", "ResultRefused") in REFUSED, found
    assert "errorType" in found or liar.texts() != "[]"
    liar.checked()


@lies
@given(data=st.data())
def test_ask_approval_asks_of_nothing_that_cannot_be(told: Callable[..., Liar], data: st.DataObject) -> None:
    liar = told(data, "result")
    user = {"id": 1, "name": "Ann", "language": "en"}

    found = liar.step("AskApproval", session_id=liar.kept.pointer.session_id, part=0, token="t", user=user)

    assert found["errorType"] in REFUSED, "nothing waits in the true result"
    liar.checked()


@lies
@given(data=st.data())
def test_hydrate_goes_on_from_what_can_be_or_starts_afresh(told: Callable[..., Liar], data: st.DataObject) -> None:
    liar = told(data, "manifest", "tree")

    found = liar.step("Hydrate", message={"id": 1, "update_id": 1, "date": 1, "text": "hello"})

    assert "errorType" not in found, found
    if found["notice"] == "session_lost":
        assert found["session_id"] != liar.kept.pointer.session_id
        assert (found["manifest"], found["segments"], found["files"]) == (None, 0, 0)
    else:
        manifest = liar.world.snapshots.check(found["manifest"])
        sound(liar, manifest)
        read_tree(liar.world.snapshots, manifest.tree)
    liar.checked()


@pytest.mark.parametrize("command", ["status", "debug", "fork", "undo"])
@lies
@given(data=st.data())
def test_a_command_says_something_and_touches_no_other(
    told: Callable[..., Liar], command: str, data: st.DataObject
) -> None:
    liar = told(data, "manifest", "parent", "tree")

    found = liar.command(command)

    assert "errorType" not in found, found
    assert liar.texts() != "[]"
    if liar.pointer.manifest not in (liar.kept.pointer.manifest, None):
        liar.world.snapshots.check(str(liar.pointer.manifest))
    liar.checked()


@lies
@given(data=st.data())
def test_an_operator_gets_what_is_there_or_a_named_error(
    told: Callable[..., Liar], tmp_path: Path, data: st.DataObject
) -> None:
    liar = told(data, "manifest", "parent", "tree")
    folder = tmp_path / str(liar.chat) / "out"

    versions = liar.world.sessions.show(liar.key)["versions"]
    try:
        written = liar.world.sessions.export(liar.key, None, folder)
        liar.world.sessions.fork(liar.key, None, f"{liar.chat}:7")
    except SnapshotMissing:
        written = []

    assert [row["version"] for row in versions] in ([2, 1], [2], [])
    assert all(path.resolve().is_relative_to(folder.resolve()) for path in written)
    assert all(child == folder for child in folder.parent.iterdir()) if folder.exists() else True
    liar.checked()


# ---------------------------------------------------------------------- keys of another session


FOLLOWED = [("manifest", ("segments", 0, "key")), ("manifest", ("tree", "key")), ("manifest", ("tree", "objects", 0))]


def test_no_key_of_another_session_is_followed_by_anyone(world: World, tmp_path: Path) -> None:
    kinds = {("segments", 0, "key"): "transcript/", ("tree", "key"): "trees/", ("tree", "objects", 0): "blobs/"}
    for which, path in [*FOLLOWED, ("manifest", ("parent",))]:
        liar = world.liar()
        wanted = kinds.get(path, "manifests/")
        theirs = next(key for key in world.other.objects if f"/{wanted}" in key)
        liar.kept.say(which, with_value(liar.kept.document(which), path, theirs))
        liar.tell()

        assert liar.command("debug") == {"outcome": "command debug", "envelope": None}
        assert say("lost", "en") in liar.texts()
        with pytest.raises(SnapshotMissing):
            world.sessions.export(liar.key, None, tmp_path)
        liar.checked()


def test_files_of_another_session_or_turn_are_not_sent(world: World) -> None:
    for key in (world.other.key("result"), "sessions/<own>/debug.txt", "sessions/<own>/turns/c1-t0-u9/outbox/0"):
        liar = world.liar()
        document = liar.kept.document("result")
        lying = key.replace("<own>", liar.kept.pointer.session_id)
        liar.kept.say("result", with_value(document, ("files", 0, "key"), lying))
        liar.tell()

        found = liar.step("Reply", session_id=liar.kept.pointer.session_id, part=0)

        assert found["errorType"] == "ResultRefused"
        assert "files" in found["errorMessage"]
        liar.checked()


def test_a_file_that_is_not_as_large_as_told_is_named_and_the_answer_is_sent(world: World) -> None:
    liar = world.liar()
    document = liar.kept.document("result")
    liar.kept.say("result", with_value(document, ("files", 0, "size"), document["files"][0]["size"] + 1))
    liar.tell()

    found = liar.step("Reply", session_id=liar.kept.pointer.session_id, part=0)

    assert found["outcome"] == "DELIVERED"
    assert say("not_sent_refused", "en", name="second.txt", megabytes="0") in liar.world.person.texts(liar.chat)
    liar.checked()


def test_a_name_is_a_name_and_what_turns_a_text_round_is_gone(world: World) -> None:
    liar = world.liar()
    document = liar.kept.document("result")
    liar.kept.say("result", with_value(document, ("files", 0, "name"), "../..\\\u202egpj.exe\n"))
    liar.tell()

    liar.step("Reply", session_id=liar.kept.pointer.session_id, part=0)

    sent = [message["document"]["file_name"] for message in world.person.replies(liar.chat) if "document" in message]
    assert sent == [".._..__gpj.exe_"]


# ---------------------------------------------------------------------- chains and bombs


@pytest.mark.parametrize("parent", ["itself", "a cycle", "a version that is not one less"])
def test_a_chain_of_versions_that_does_not_descend_ends(world: World, parent: str) -> None:
    liar = world.liar()
    newest, before = liar.kept.document("manifest"), liar.kept.document("parent")
    if parent == "itself":
        liar.kept.say("manifest", {**newest, "parent": liar.kept.key("manifest")})
    elif parent == "a cycle":
        liar.kept.say("parent", {**before, "parent": liar.kept.key("manifest")})
    else:
        liar.kept.say("parent", {**before, "version": 2})
    liar.tell()

    versions = [row["version"] for row in world.sessions.show(liar.key)["versions"]]
    liar.command("undo")

    assert versions == ([2, 1] if parent == "a cycle" else [2])
    assert liar.pointer.version == (1 if parent == "a cycle" else 2)
    liar.checked()


def test_a_link_in_a_list_of_files_leads_nowhere_else(world: World) -> None:
    for lying in (
        {"path": "out", "kind": "link", "target": "../../etc"},
        {"path": "out", "kind": "link", "target": "/etc/passwd"},
        {"path": "nowhere/x", "kind": "folder"},
        {"path": "zz", "sha256": "0" * 64, "object": 99, "size": 1},
    ):
        liar = world.liar()
        tree = liar.kept.document("tree")
        entries = sorted([*tree["entries"], lying], key=lambda entry: entry["path"])
        liar.kept.say("tree", {**tree, "entries": entries})
        manifest = liar.kept.document("manifest")
        more = {"files": 1, "bytes": 1} if "size" in lying else {"files": 0, "bytes": 0}
        told = {name: manifest["tree"][name] + extra for name, extra in more.items()}
        liar.kept.say("manifest", {**manifest, "tree": {**manifest["tree"], **told}})
        liar.tell()

        with pytest.raises(ResultRefused, match=r"leads out|in no folder|its object"):
            read_tree(world.snapshots, world.snapshots.manifest(liar.kept.key("manifest")).tree)
        assert liar.step("Hydrate", message={"id": 1, "update_id": 1, "date": 1, "text": "hi"})["notice"] is not None


def folders(tree: dict[str, Any]) -> dict[str, Any]:
    """More folders than a list of files may have; the parser would need a gigabyte for them."""
    return {**tree, "entries": [{"path": f"{number:07}", "kind": "folder"} for number in range(ENTRIES + 1)]}


def numbers(tree: dict[str, Any]) -> dict[str, Any]:
    """A list that is none, of more values than a list of files may have."""
    return {**tree, "entries": [0] * (ITEMS + 2)}


def unused(tree: dict[str, Any]) -> dict[str, Any]:
    """An object as large as S3 takes, in which no file lies."""
    return {**tree, "objects": [*tree["objects"], {"name": "0" * 64, "size": 5 * 10**9}]}


@pytest.mark.parametrize(
    ("lie", "why"), [(folders, "lists more"), (numbers, "lists more"), (unused, "that no file lies in")]
)
def test_a_list_of_files_that_would_fill_the_memory_is_not_read(
    world: World, lie: Callable[[dict[str, Any]], dict[str, Any]], why: str
) -> None:
    liar = world.liar()
    liar.kept.say("tree", lie(liar.kept.document("tree")))
    manifest = liar.kept.document("manifest")
    if lie is unused:
        blobs = f"{liar.kept.key('tree').rpartition('/')[0].rpartition('/')[0]}/blobs/"
        objects = [*manifest["tree"]["objects"], f"{blobs}{'0' * 64}"]
        liar.kept.say("manifest", {**manifest, "tree": {**manifest["tree"], "objects": objects}})
    liar.tell()

    with pytest.raises(ResultRefused, match=why):
        read_tree(world.snapshots, world.snapshots.manifest(liar.kept.key("manifest")).tree)
    assert liar.step("Hydrate", message={"id": 1, "update_id": 1, "date": 1, "text": "hi"})["notice"] is not None


def test_an_object_is_what_its_length_says_however_it_calls_itself_encoded(world: World) -> None:
    key = f"sessions/{world.truth.pointer.session_id}/bomb"
    world.s3.put_object(Bucket=world.snapshots.bucket, Key=key, Body=BOMB, ContentEncoding="gzip")

    assert world.snapshots.get(key, len(BOMB)) == BOMB
    with pytest.raises(ResultRefused, match=f"more than {len(BOMB) - 1:,}"):
        world.snapshots.get(key, len(BOMB) - 1)


# ---------------------------------------------------------------------- the run's summary


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_summary_is_that_of_the_run_or_refused(world: World, data: st.DataObject) -> None:
    truth = world.truth.document("result")["summary"]
    pointer = world.truth.pointer
    expected = Expected(
        session_id=pointer.session_id, turn_id=world.truth.turn, part=0, version=1, budget_usd=5,
        models=frozenset({truth["model"]}),
    )  # fmt: skip
    assert RunSummary.model_validate(truth).checked(expected) == RunSummary.model_validate(truth)
    name = data.draw(st.sampled_from(sorted(truth)))
    value = data.draw(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["approval", "continue"])
        | st.sampled_from([world.other.key("result"), world.other.key("manifest"), "x" * 5000, 10**400, deep(300)])
    )  # fmt: skip

    try:
        found = RunSummary.model_validate({**truth, name: value}).checked(expected)
    except (ValueError, ResultRefused):
        return

    assert found.result == truth["result"]
    assert found.manifest.startswith(f"{session_prefix(pointer.session_id)}manifests/2-")
    assert (found.part, found.model) == (0, truth["model"])
    assert 0 <= found.cost_usd <= 5 + 25
    assert all(math.isfinite(getattr(found, name)) for name in ("cost_usd", "session_cost_usd", "seconds"))
    assert len(found.model_dump_json()) < 10_000


LYING = {
    "result": ["sessions/x/turns/c1-t0-u1/result.json", "sessions/<own>/turns/c1-t0-u1/result-1.json"],
    "manifest": ["sessions/x/manifests/2-r.json", "sessions/<own>/manifests/3-r.json", "sessions/<own>/turns/2-r.json"],
    "part": [1],
    "cost_usd": [-0.01, 30.01, math.nan, math.inf],
    "session_cost_usd": [-1, 10**7, math.nan],
    "model": ["another", "a b", ""],
    "preview": ["x" * 201],
    "seconds": [math.inf],
    "input_tokens": [-1, 10**9 + 1],
    "model_turns": [-1],
    "status": ["approval", "continue", "failed"],
    "waiting": ["Bash"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in LYING.items() for value in values])
def test_each_lie_of_a_summary_is_refused(name: str, value: Any) -> None:
    own = "00000000-0000-4000-8000-000000000001"
    truth = {
        "status": "done", "result": f"sessions/{own}/turns/c1-t0-u1/result.json",
        "manifest": f"sessions/{own}/manifests/2-r.json", "preview": "x", "characters": 1, "cost_usd": 5.5,
        "session_cost_usd": 9, "input_tokens": 1, "output_tokens": 1, "model_turns": 1, "model": "m", "seconds": 1,
        "stopped": value == "continue",
    }  # fmt: skip
    run = {"session_id": own, "turn_id": "c1-t0-u1", "part": 0, "version": 1, "budget_usd": 5, "models": {"m"}}
    expected = Expected.model_validate(run)
    told = value.replace("<own>", own) if isinstance(value, str) else value
    RunSummary.model_validate(truth).checked(expected)

    with pytest.raises((ValidationError, ResultRefused), match=name):
        RunSummary.model_validate({**truth, name: told}).checked(expected)


# ---------------------------------------------------------------------- in the workflow


class Tampered:
    """Puts something false into the bucket when a run hands in what it made, once."""

    def __init__(self, faults: Faults, stack: EmbeddedStack, put: Callable[[dict[str, Any]], None]) -> None:
        self._real, self._put = faults.around, put
        self.left = 1
        stack.functions.around = self.around

    def around(self, spec: FunctionSpec, event: dict[str, Any], run: Invoker) -> Answer:
        if event.get("what") == "end" and event.get("summary") and self.left:
            self.left -= 1
            self._put(event["summary"])
        return self._real(spec, event, run)


@pytest.fixture
def quick(stack: EmbeddedStack) -> Iterator[None]:
    with fast_agent(stack):
        yield


@pytest.mark.parametrize("lying", ["manifest", "result"])
@pytest.mark.usefixtures("quick")
def test_a_turn_whose_result_is_a_lie_ends_with_its_notice_and_a_rerun_answers(
    world: World, stack: EmbeddedStack, faults: Faults, chat: int, lying: str
) -> None:
    person = world.person
    person.ask(chat, "first")
    before = world.table.pointer(f"{chat}:0")
    theirs = world.other.objects[world.other.key(lying)]
    Tampered(faults, stack, lambda run: world.snapshots.put(run[lying], theirs))

    failed = person.ask(chat, "second")
    after = world.table.pointer(f"{chat}:0")

    assert (failed.status, failed.error) == ("FAILED", "ResultRefused")
    assert person.texts(chat)[-1] == say("failed", "en", error="ResultRefused", turn=failed.name)
    assert SECRET not in " ".join(person.texts(chat))
    assert after is not None and before is not None
    assert after.version - before.version == (0 if lying == "manifest" else 1)
    if lying == "manifest":
        assert after.manifest == before.manifest
    assert person.redrive(failed.name).status == "SUCCEEDED"
    assert person.texts(chat)[-1] == answer_to("second")


@pytest.mark.usefixtures("quick")
def test_a_call_that_waits_in_a_lie_is_not_asked_about(
    world: World, stack: EmbeddedStack, faults: Faults, chat: int
) -> None:
    theirs = world.other.objects[world.other.key("result")]
    Tampered(faults, stack, lambda run: world.snapshots.put(run["result"], theirs))

    failed = world.person.ask(chat, ASKS)

    assert failed.error == "ResultRefused"
    assert world.person.texts(chat)[-1] == say("failed", "en", error="ResultRefused", turn=failed.name)


@pytest.mark.usefixtures("quick")
def test_a_version_that_became_a_lie_is_lost_and_the_next_message_is_answered(world: World, chat: int) -> None:
    person = world.person
    person.ask(chat, "first")
    pointer = world.table.pointer(f"{chat}:0")
    assert pointer is not None and pointer.manifest is not None
    world.snapshots.put(pointer.manifest, b"[" * 100_000)

    person.ask(chat, "second")

    assert person.texts(chat)[-2:] == [say("session_lost", "en"), answer_to("second")]
    fresh = world.table.pointer(f"{chat}:0")
    assert fresh is not None and fresh.session_id != pointer.session_id


@pytest.mark.usefixtures("quick")
def test_records_of_costs_that_are_none_count_nothing(world: World, chat: int) -> None:
    person = world.person
    turn = person.ask(chat, "first").name
    pointer = world.table.pointer(f"{chat}:0")
    assert pointer is not None
    folder = f"{session_prefix(pointer.session_id)}turns/{turn}/costs/"
    key = (f"{chat}:0", periods(datetime.now(UTC))["day"])
    until(lambda: sums(world.name, world.dynamodb, [key])[key] > 0)
    before = sums(world.name, world.dynamodb, [key])[key]
    told = {"run": "0" * 12, "model": "m", "cost_usd": 1.0}
    for number, lying in enumerate([
        {**told, "cost_usd": -5}, {**told, "cost_usd": math.nan}, {**told, "cost_usd": math.inf},
        {**told, "cost_usd": 1e9}, {**told, "run": "x# = :y"}, {**told, "model": "a b\n"}, [], deep(500),
    ]):  # fmt: skip
        world.snapshots.put(f"{folder}{number:012x}.json", json.dumps(lying).encode())
    world.snapshots.put(f"{folder}big.json", b" " * (DOCUMENT_BYTES + 1))

    Ledger(world.name, world.dynamodb, world.snapshots).settle(f"{chat}:0", turn)

    assert sums(world.name, world.dynamodb, [key])[key] == before
