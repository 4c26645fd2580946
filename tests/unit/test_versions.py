"""Time travel: versions, forks and exports of a session made by hand, read with the SDK's own reader."""

from __future__ import annotations

import io
import json
import uuid
import zipfile
from pathlib import Path
from typing import Any

import pytest
from claude_agent_sdk import get_session_messages

from functions.common.errors import SnapshotMissing
from functions.conversation.files.documents import Manifest, Segment
from functions.conversation.files.snapshots import Snapshots
from functions.conversation.files.versions import at_version, before_last_turn, debug_key, export, fork, history, todos
from functions.conversation.files.workspace import Workspace
from functions.conversation.sessions import Pointer
from tests.conftest import Bucket

SESSION, COPY = str(uuid.UUID(int=3, version=4)), str(uuid.UUID(int=4, version=4))


@pytest.fixture
def snapshots(bucket: Bucket) -> Snapshots:
    return Snapshots(bucket.name, bucket.s3)


def message(number: int, content: Any, kind: str = "user") -> dict[str, Any]:
    """A transcript entry as the CLI writes it."""
    return {
        "type": kind,
        "uuid": str(uuid.UUID(int=number)),
        "parentUuid": str(uuid.UUID(int=number - 1)) if number > 1 else None,
        "sessionId": SESSION,
        "timestamp": "2026-11-21T00:00:00.000Z",
        "cwd": f"/tmp/stepgram/{SESSION}/workspace",
        "message": {"role": kind, "content": content},
    }


@pytest.fixture
def pointer(snapshots: Snapshots, tmp_path: Path) -> Pointer:
    """A session of three versions; each adds a message and a file."""
    todo = {"type": "tool_use", "id": "t", "name": "TodoWrite", "input": {"todos": [{"content": "buy milk"}]}}
    entries = [message(1, "first"), message(2, [todo], "assistant"), message(3, "third")]
    workspace = Workspace(tmp_path, snapshots, SESSION)
    segments: tuple[Segment, ...] = ()
    parent = None
    for version, entry in enumerate(entries, 1):
        (tmp_path / f"{version}.txt").write_text(f"file {version}")
        body = json.dumps(entry).encode() + b"\n"
        segment = Segment(key=f"sessions/{SESSION}/transcript/{version}-r/main.jsonl", size=len(body))
        snapshots.put(segment.key, body)
        segments = (*segments, segment)
        key = f"sessions/{SESSION}/manifests/{version}-r.json"
        manifest = Manifest(
            session_id=SESSION,
            version=version,
            turn_id=f"turn-{version}",
            parent=parent,
            cost_usd=version / 10,
            segments=segments,
            tree=workspace.capture().tree,
        )
        snapshots.write(key, manifest)
        parent = key
    snapshots.put(debug_key(SESSION, "turn-3"), b"debug log")
    return Pointer(session_id=SESSION, version=3, manifest=parent, cost_usd=0.3, turns=3)


def test_history_goes_back_as_far_as_it_is_kept(bucket: Bucket, snapshots: Snapshots, pointer: Pointer) -> None:
    assert [manifest.version for _, manifest in history(snapshots, pointer)] == [3, 2, 1]
    assert at_version(snapshots, pointer, 2)[1].turn_id == "turn-2"
    assert at_version(snapshots, pointer, None)[1].turn_id == "turn-3"

    bucket.s3.delete_object(Bucket=bucket.name, Key=f"sessions/{SESSION}/manifests/1-r.json")

    assert [manifest.version for _, manifest in history(snapshots, pointer)] == [3, 2]
    with pytest.raises(SnapshotMissing, match="no version 1"):
        at_version(snapshots, pointer, 1)


def test_before_the_last_turn_is_the_parent_and_before_the_first_is_nothing(
    snapshots: Snapshots, pointer: Pointer
) -> None:
    seen = []
    at: Pointer | None = pointer
    while at is not None:
        seen.append((at.version, at.turns, at.cost_usd, at.manifest is None))
        at = before_last_turn(snapshots, at)

    assert seen == [(3, 3, 0.3, False), (2, 2, 0.2, False), (1, 1, 0.1, False), (0, 0, 0.0, True)]


def test_an_earlier_version_that_is_not_whole_is_not_gone_back_to(
    bucket: Bucket, snapshots: Snapshots, pointer: Pointer
) -> None:
    bucket.s3.delete_object(Bucket=bucket.name, Key=f"sessions/{SESSION}/transcript/2-r/main.jsonl")

    with pytest.raises(SnapshotMissing, match="transcript/2-r"):
        before_last_turn(snapshots, pointer)


def files_of(snapshots: Snapshots, manifest: Manifest) -> dict[str, bytes]:
    found = dict(export(snapshots, manifest))
    with zipfile.ZipFile(io.BytesIO(found.pop("workspace.zip"))) as archive:
        return {**found, **{name: archive.read(name) for name in archive.namelist()}}


def test_an_export_opens_with_the_sdks_own_reader(
    snapshots: Snapshots, pointer: Pointer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = files_of(snapshots, at_version(snapshots, pointer, None)[1])
    project = tmp_path / "config" / "projects" / "any"
    project.mkdir(parents=True)
    (project / f"{SESSION}.jsonl").write_bytes(found["conversation.jsonl"])
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path / "config"))

    messages = get_session_messages(SESSION)

    assert [m.type for m in messages] == ["user", "assistant", "user"]
    assert found["debug.txt"] == b"debug log"
    assert json.loads(found["todos.json"]) == [{"content": "buy milk"}]
    assert [found[f"{n}.txt"] for n in (1, 2, 3)] == [b"file 1", b"file 2", b"file 3"]


def test_a_fork_is_a_session_of_its_own(bucket: Bucket, snapshots: Snapshots, pointer: Pointer) -> None:
    manifest = at_version(snapshots, pointer, 2)[1]
    copy = fork(snapshots, manifest, COPY)
    again = fork(snapshots, manifest, COPY)
    bucket_keys = bucket.s3.list_objects_v2(Bucket=bucket.name)["Contents"]
    for item in bucket_keys:
        if item["Key"].startswith(f"sessions/{SESSION}/"):
            bucket.s3.delete_object(Bucket=bucket.name, Key=item["Key"])

    assert copy == again
    assert (copy.session_id, copy.version, copy.cost_usd) == (COPY, 2, 0.2)
    found = files_of(snapshots, snapshots.check(str(copy.manifest)))
    assert SESSION.encode() not in found["conversation.jsonl"]
    assert f"/tmp/stepgram/{COPY}/workspace".encode() in found["conversation.jsonl"]
    assert sorted(name for name in found if name.endswith(".txt")) == ["1.txt", "2.txt", "debug.txt"]
    assert before_last_turn(snapshots, copy) == copy.model_copy(
        update={"version": 0, "manifest": None, "cost_usd": 0.0, "turns": 1}
    )


def test_todos_are_what_the_tools_left() -> None:
    calls = [
        ("TaskCreate", {"subject": "one"}),
        ("TaskCreate", {"subject": "two"}),
        ("TaskCreate", {"subject": "three"}),
        ("TaskUpdate", {"taskId": "1", "status": "completed"}),
        ("TaskUpdate", {"taskId": "2", "status": "deleted"}),
        ("TaskUpdate", {"taskId": "9", "status": "completed"}),
    ]
    lines = [
        json.dumps(message(n, [{"type": "tool_use", "name": name, "input": given}], "assistant"))
        for n, (name, given) in enumerate(calls, 1)
    ]

    assert todos("\n".join(lines).encode()) == [
        {"id": "1", "content": "one", "status": "completed"},
        {"id": "3", "content": "three", "status": "pending"},
    ]
    assert todos(b"") == []
