"""The session store keeps the Agent SDK's contract, and what it stages is what it loads."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from claude_agent_sdk.testing import run_session_store_conformance
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from functions.agent.store import SnapshotStore
from functions.common.errors import SnapshotMissing
from functions.common.snapshots import Manifest, Snapshots
from tests.conftest import Bucket

SESSION = "11111111-1111-4111-8111-111111111111"
KEY = {"project_key": "p", "session_id": SESSION}


@pytest.fixture
def snapshots(bucket: Bucket) -> Snapshots:
    return Snapshots(bucket.name, bucket.s3)


def appended(store: SnapshotStore, key: dict[str, str], *entries: dict[str, Any]) -> None:
    asyncio.run(store.append(key, list(entries)))


def test_the_sdks_conformance_suite_passes(snapshots: Snapshots) -> None:
    missing = frozenset({"list_sessions", "list_session_summaries", "delete"})

    asyncio.run(run_session_store_conformance(lambda: SnapshotStore(snapshots, "sess"), skip_optional=missing))  # type: ignore[arg-type,return-value]


def test_a_staged_turn_is_loaded_by_the_next_one_with_its_subagents(snapshots: Snapshots) -> None:
    first = SnapshotStore(snapshots, SESSION)
    appended(first, KEY, {"uuid": "1", "n": 1}, {"uuid": "2", "text": 'lone surrogate \ud800, "quotes"\n'})
    appended(first, {**KEY, "subpath": "subagents/agent-x"}, {"uuid": "3"})
    key = first.stage("turn-1", "run", None, 0.5)

    base = snapshots.check(key)
    second = SnapshotStore(snapshots, SESSION, base)
    appended(second, KEY, {"uuid": "4"})
    last = snapshots.check(second.stage("turn-2", "run", key, 0.75))

    assert (base.version, last.version, last.parent, last.cost_usd) == (1, 2, key, 0.75)
    assert asyncio.run(SnapshotStore(snapshots, SESSION, last).load(KEY)) == [
        {"uuid": "1", "n": 1},
        {"uuid": "2", "text": 'lone surrogate \ud800, "quotes"\n'},
        {"uuid": "4"},
    ]
    assert asyncio.run(second.list_subkeys(KEY)) == ["subagents/agent-x"]


def test_an_entry_appended_again_is_kept_once_also_across_turns(snapshots: Snapshots) -> None:
    first = SnapshotStore(snapshots, SESSION)
    appended(first, KEY, {"uuid": "1"}, {"uuid": "1"})
    base = snapshots.read(first.stage("turn-1", "run", None, 0), Manifest)
    second = SnapshotStore(snapshots, SESSION, base)
    asyncio.run(second.load(KEY))

    appended(second, KEY, {"uuid": "1"}, {"uuid": "2"})

    assert asyncio.run(second.load(KEY)) == [{"uuid": "1"}, {"uuid": "2"}]


def test_a_manifest_that_names_a_lost_object_is_found(bucket: Bucket, snapshots: Snapshots) -> None:
    store = SnapshotStore(snapshots, SESSION)
    appended(store, KEY, {"uuid": "1"})
    key = store.stage("turn-1", "run", None, 0)
    lost = snapshots.read(key, Manifest).segments[0].key

    bucket.s3.delete_object(Bucket=bucket.name, Key=lost)

    with pytest.raises(SnapshotMissing, match=lost):
        snapshots.check(key)
    with pytest.raises(SnapshotMissing, match="nothing"):
        snapshots.get("nothing")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=st.lists(st.lists(st.text(max_size=20), max_size=4), min_size=1, max_size=5))
def test_any_split_of_a_conversation_into_turns_loads_as_one(snapshots: Snapshots, turns: list[list[str]]) -> None:
    key, base = None, None
    number = 0
    for texts in turns:
        store = SnapshotStore(snapshots, SESSION, base)
        for text in texts:
            number += 1
            appended(store, KEY, {"uuid": str(number), "text": text})
        key = store.stage("turn", f"run{number}", key, 0)
        base = snapshots.check(key)

    loaded = asyncio.run(SnapshotStore(snapshots, SESSION, base).load(KEY)) or []
    assert [entry["text"] for entry in loaded] == [text for texts in turns for text in texts]
