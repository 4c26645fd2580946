"""The session store keeps the Agent SDK's contract, and what it stages is what it loads."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from claude_agent_sdk.testing import run_session_store_conformance
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from functions.agent.store import MAX_SEGMENTS, SMALL_BYTES, RestoredStore, SnapshotStore
from functions.common.errors import SnapshotMissing
from functions.conversation.files.documents import Manifest
from functions.conversation.files.snapshots import Snapshots
from tests.conftest import Bucket

SESSION = "11111111-1111-4111-8111-111111111111"
_runs = itertools.count()
KEY = {"project_key": "p", "session_id": SESSION}


@pytest.fixture
def snapshots(bucket: Bucket) -> Snapshots:
    return Snapshots(bucket.name, bucket.s3)


def staged(store: SnapshotStore, snapshots: Snapshots, base: Manifest | None = None) -> Manifest:
    """A turn's end, as the conversation stages it; the manifest as the next turn reads it."""
    version = (base.version if base else 0) + 1
    parent = f"sessions/{SESSION}/manifests/{base.version}.json" if base else None
    segments = store.stage(f"{version}-{next(_runs)}")
    manifest = Manifest(session_id=SESSION, version=version, turn_id="turn", parent=parent, segments=segments)
    key = f"sessions/{SESSION}/manifests/{version}.json"
    snapshots.write(key, manifest)
    return snapshots.check(key)


def appended(store: SnapshotStore, key: dict[str, str], *entries: dict[str, Any]) -> None:
    asyncio.run(store.append(key, list(entries)))


def test_the_sdks_conformance_suite_passes(snapshots: Snapshots) -> None:
    asyncio.run(run_session_store_conformance(lambda: SnapshotStore(snapshots, "sess")))  # type: ignore[arg-type,return-value]


def test_a_staged_turn_is_loaded_by_the_next_one_with_its_subagents(snapshots: Snapshots) -> None:
    first = SnapshotStore(snapshots, SESSION)
    appended(first, KEY, {"uuid": "1", "n": 1}, {"uuid": "2", "text": 'lone surrogate \ud800, "quotes"\n'})
    appended(first, {**KEY, "subpath": "subagents/agent-x"}, {"uuid": "3"})

    base = staged(first, snapshots)
    second = SnapshotStore(snapshots, SESSION, base)
    appended(second, KEY, {"uuid": "4"})
    last = staged(second, snapshots, base)

    assert [segment.subpath for segment in last.segments] == ["", "", "subagents/agent-x"]
    assert last.segments[0] in base.segments
    assert asyncio.run(SnapshotStore(snapshots, SESSION, last).load(KEY)) == [
        {"uuid": "1", "n": 1},
        {"uuid": "2", "text": 'lone surrogate \ud800, "quotes"\n'},
        {"uuid": "4"},
    ]
    assert asyncio.run(second.list_subkeys(KEY)) == ["subagents/agent-x"]


def test_an_entry_appended_again_is_kept_once_also_across_turns(snapshots: Snapshots) -> None:
    first = SnapshotStore(snapshots, SESSION)
    appended(first, KEY, {"uuid": "1"}, {"uuid": "1"})
    base = staged(first, snapshots)
    second = SnapshotStore(snapshots, SESSION, base)
    asyncio.run(second.load(KEY))

    appended(second, KEY, {"uuid": "1"}, {"uuid": "2"})

    assert asyncio.run(second.load(KEY)) == [{"uuid": "1"}, {"uuid": "2"}]


def test_a_manifest_that_names_a_lost_object_is_found(bucket: Bucket, snapshots: Snapshots) -> None:
    store = SnapshotStore(snapshots, SESSION)
    appended(store, KEY, {"uuid": "1"})
    manifest = staged(store, snapshots)
    key, lost = f"sessions/{SESSION}/manifests/1.json", manifest.segments[0].key

    bucket.s3.delete_object(Bucket=bucket.name, Key=lost)

    with pytest.raises(SnapshotMissing, match=lost):
        snapshots.check(key)
    with pytest.raises(SnapshotMissing, match="nothing"):
        snapshots.get("nothing")


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=st.lists(st.lists(st.text(max_size=20), max_size=4), min_size=1, max_size=40))
def test_any_split_of_a_conversation_into_turns_loads_as_one(snapshots: Snapshots, turns: list[list[str]]) -> None:
    base: Manifest | None = None
    number = 0
    for texts in turns:
        store = SnapshotStore(snapshots, SESSION, base)
        for text in texts:
            number += 1
            appended(store, KEY, {"uuid": str(number), "text": text})
        base = staged(store, snapshots, base)

    assert base is not None
    assert len(base.segments) <= MAX_SEGMENTS
    loaded = asyncio.run(SnapshotStore(snapshots, SESSION, base).load(KEY)) or []
    assert [entry["text"] for entry in loaded] == [text for texts in turns for text in texts]


def test_large_segments_are_not_written_again(snapshots: Snapshots) -> None:
    base: Manifest | None = None
    for number in range(MAX_SEGMENTS + 2):
        store = SnapshotStore(snapshots, SESSION, base)
        appended(store, KEY, {"uuid": str(number), "text": "x" * (SMALL_BYTES if number == 0 else 10)})
        base = staged(store, snapshots, base)

    assert base is not None
    assert [segment.size > SMALL_BYTES for segment in base.segments] == [True, False, False]
    loaded = asyncio.run(SnapshotStore(snapshots, SESSION, base).load(KEY)) or []
    assert [entry["uuid"] for entry in loaded] == [str(number) for number in range(MAX_SEGMENTS + 2)]


def test_a_store_kept_open_stages_each_turn_alone(snapshots: Snapshots) -> None:
    store = SnapshotStore(snapshots, SESSION)
    appended(store, KEY, {"uuid": "1"}, {"type": "cost-state", "totalCostUSD": 0.5})
    first = staged(store, snapshots)
    appended(store, KEY, {"uuid": "2"})
    second = staged(store, snapshots, first)

    assert [len(m.segments) for m in (first, second)] == [1, 2]
    assert second.segments[1].size < 20
    again = SnapshotStore(snapshots, SESSION, second)
    assert len(asyncio.run(again.load(KEY)) or []) == 3


def test_a_restored_store_writes_the_files_the_sdk_would_have_written(snapshots: Snapshots, tmp_path: Path) -> None:
    first = SnapshotStore(snapshots, SESSION)
    subagent = {**KEY, "subpath": "subagents/agent-x"}
    appended(first, KEY, {"uuid": "1", "text": "half a pair \ud800, 你好"}, {"type": "cost-state", "totalCostUSD": 0.5})
    appended(first, subagent, {"type": "agent_metadata", "agentType": "old"}, {"uuid": "2"})
    base = staged(first, snapshots)
    second = SnapshotStore(snapshots, SESSION, base)
    appended(second, KEY, {"type": "cost-state", "totalCostUSD": 0.75}, {"uuid": "3", "text": '"cost-state"'})
    appended(second, subagent, {"type": "agent_metadata", "agentType": "new"}, {"uuid": "4"})
    base = staged(second, snapshots, base)

    store = RestoredStore(snapshots, SESSION, base)
    store.restore(tmp_path, "project")

    folder = tmp_path / "projects" / "project"
    loaded = asyncio.run(SnapshotStore(snapshots, SESSION, base).load(KEY))
    lines = (folder / f"{SESSION}.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == loaded
    assert (folder / SESSION / "subagents/agent-x.jsonl").read_text() == '{"uuid":"2"}\n{"uuid":"4"}\n'
    assert json.loads((folder / SESSION / "subagents/agent-x.meta.json").read_text()) == {"agentType": "new"}
    assert asyncio.run(store.load(KEY)) is None


def test_a_segment_cut_short_or_named_outside_its_session_is_not_restored(
    bucket: Bucket, snapshots: Snapshots, tmp_path: Path
) -> None:
    store = SnapshotStore(snapshots, SESSION)
    appended(store, KEY, {"uuid": "1"})
    base = staged(store, snapshots)
    outside = base.model_copy(update={"segments": (base.segments[0].model_copy(update={"subpath": "../../x"}),)})
    with pytest.raises(SnapshotMissing, match=r"\.\./x"):
        RestoredStore(snapshots, SESSION, outside).restore(tmp_path, "project")

    bucket.s3.put_object(Bucket=bucket.name, Key=base.segments[0].key, Body=b"{")
    with pytest.raises(SnapshotMissing, match="has 1 bytes, its manifest says 13"):
        RestoredStore(snapshots, SESSION, base).restore(tmp_path, "project")
