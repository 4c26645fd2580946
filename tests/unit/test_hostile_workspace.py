"""A workspace that a hostile agent made: what cannot be kept is named, nothing outside is read, and nobody waits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from functions.common.folders import remove
from functions.conversation.files.snapshots import Snapshots
from functions.conversation.files.workspace import LEVELS, PATH_BYTES, SEEN, Captured, Limits, Workspace, read_tree
from tests.conftest import Bucket
from tests.unit.test_folders import dig

SESSION = "33333333-3333-4333-8333-333333333333"


@pytest.fixture
def snapshots(bucket: Bucket) -> Snapshots:
    return Snapshots(bucket.name, bucket.s3)


@pytest.fixture
def workspace(tmp_path: Path, snapshots: Snapshots) -> Workspace:
    (tmp_path / "workspace").mkdir()
    return Workspace(tmp_path / "workspace", snapshots, SESSION, Limits(files=20))


def left_out(captured: Captured) -> set[tuple[str, str]]:
    return {(one.path, one.reason) for one in captured.left_out}


def kept(workspace: Workspace, captured: Captured) -> list[str]:
    return [entry.path for entry in read_tree(workspace._snapshots, captured.tree).entries]


def test_what_lies_too_deep_is_named_once_and_the_rest_is_kept(workspace: Workspace) -> None:
    workspace._limits = Limits()
    here = os.open(workspace.folder, os.O_RDONLY)
    for _ in range(2000):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    (workspace.folder / "file").touch()

    captured = workspace.capture()

    deepest = "/".join("d" * (LEVELS + 1))
    assert left_out(captured) == {(deepest, "too_deep")}
    assert kept(workspace, captured) == ["/".join("d" * n) for n in range(1, LEVELS + 1)] + ["file"]
    remove(workspace.folder)


def test_what_has_too_long_a_path_is_named_once(workspace: Workspace) -> None:
    dig(workspace.folder, 100)
    workspace._limits = Limits()

    captured = workspace.capture()

    ((path, reason),) = left_out(captured)
    assert reason == "too_deep"
    assert path == ("d" * 50 + "/") * 9 + "d" * 41, "what is told of it is its beginning"
    assert max(len(one.encode()) for one in kept(workspace, captured)) <= PATH_BYTES
    remove(workspace.folder)


def test_folders_and_links_are_as_many_as_files_may_be(workspace: Workspace) -> None:
    for number in range(30):
        (workspace.folder / f"{number:02}").mkdir()

    captured = workspace.capture()

    assert kept(workspace, captured) == [f"{number:02}" for number in range(20)]
    assert left_out(captured) == {(f"{number}", "too_many") for number in range(20, 30)}


def test_no_more_is_looked_at_than_a_multiple_of_what_may_be_kept(workspace: Workspace) -> None:
    (workspace.folder / "a").touch()
    (workspace.folder / "b").mkdir()
    for number in range(30 * SEEN):
        os.mkfifo(workspace.folder / "b" / f"{number:03}")
    (workspace.folder / "c").mkdir()
    (workspace.folder / "c" / "file").touch()

    captured = workspace.capture()

    assert kept(workspace, captured) == ["a", "b", "c"]
    assert len(captured.left_out) <= 20 * SEEN + 2
    assert ("c/", "too_many") in left_out(captured)


def test_a_chain_of_links_is_not_followed_to_its_end(workspace: Workspace) -> None:
    workspace._limits = Limits()
    for number in range(2000):
        (workspace.folder / f"{number}").symlink_to(f"{number + 1}")
    (workspace.folder / "loop").symlink_to("loop")

    captured = workspace.capture()

    assert {("0", "not_a_file"), ("loop", "not_a_file")} <= left_out(captured)
    assert "1999" in kept(workspace, captured)


@pytest.mark.parametrize("place", ["workspace", "above"])
@pytest.mark.parametrize("what", ["nothing", "file", "link"])
def test_a_workspace_that_is_gone_is_empty_and_told(
    tmp_path: Path, snapshots: Snapshots, place: str, what: str
) -> None:
    folder = tmp_path / "above" / "workspace"
    folder.mkdir(parents=True)
    secret = tmp_path / "secret"
    (secret / "workspace").mkdir(parents=True)
    (secret / "workspace" / "key").write_text("secret")
    workspace = Workspace(folder, snapshots, SESSION)
    swapped = folder if place == "workspace" else folder.parent
    remove(swapped)
    if what == "file":
        swapped.touch()
    elif what == "link":
        swapped.symlink_to(secret / "workspace" if place == "workspace" else secret)

    captured = workspace.capture()

    assert (captured.tree, left_out(captured)) == (None, {(".", "unreadable")})


def test_a_folder_swapped_for_a_link_while_it_is_read_gives_nothing_away(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("secret")
    (workspace.folder / "a").mkdir()
    (workspace.folder / "a" / "key").write_text("mine")
    read = workspace._hash

    def swapped(path: str, here: int, status: os.stat_result) -> str:
        (workspace.folder / "a").rename(workspace.folder / "was")
        (workspace.folder / "a").symlink_to(tmp_path / "secret")
        return read(path, here, status)

    monkeypatch.setattr(workspace, "_hash", swapped)

    with pytest.raises(OSError, match="it is something else"):
        workspace.capture()


def test_a_file_swapped_for_a_pipe_is_left_out_and_not_waited_for(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace.folder / "a").touch()
    read = workspace._hash

    def swapped(path: str, here: int, status: os.stat_result) -> str:
        (workspace.folder / "a").unlink()
        os.mkfifo(workspace.folder / "a")
        return read(path, here, status)

    monkeypatch.setattr(workspace, "_hash", swapped)

    assert left_out(workspace.capture()) == {("a", "unreadable")}


NAMES = st.binary(min_size=1, max_size=6).filter(lambda name: not set(name) & {0, 47} and name not in (b".", b".."))
TARGETS = st.sampled_from([".", "..", "../..", "/etc", "a", "a/..", "nowhere", "x" * 300])
NODES = st.lists(
    st.tuples(st.lists(NAMES, min_size=1, max_size=4), st.sampled_from(["file", "folder", "link", "fifo"]), TARGETS),
    max_size=10,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(nodes=NODES)
def test_any_workspace_is_captured_and_comes_back(
    tmp_path: Path, snapshots: Snapshots, nodes: list[tuple[list[bytes], str, str]]
) -> None:
    folder = tmp_path / "workspace"
    remove(folder)
    folder.mkdir()
    workspace = Workspace(folder, snapshots, SESSION, Limits(files=5))
    for names, kind, target in nodes:
        path = b"/".join([os.fsencode(folder), *names])
        try:
            if os.path.realpath(os.path.dirname(path)) == os.path.dirname(path):
                os.makedirs(os.path.dirname(path), exist_ok=True)
            if kind == "link":
                os.symlink(target, path)
            elif kind == "folder":
                os.mkdir(path)
            else:
                os.mknod(path, 0o010644 if kind == "fifo" else 0o100644)
        except OSError:
            continue

    captured = workspace.capture()

    remove(folder)
    folder.mkdir()
    again = Workspace(folder, snapshots, SESSION, Limits(files=5))
    again.restore(captured.tree)
    assert again.capture().tree == captured.tree
