"""The workspace's snapshots: what is kept is what was there, and only what is new is uploaded."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from functions.common.errors import SnapshotMissing
from functions.conversation.files.documents import LeftOut, TreeReference
from functions.conversation.files.snapshots import Snapshots
from functions.conversation.files.trees import PACKED_BELOW, Entry, read_tree
from functions.conversation.files.workspace import MAX_PACKS, Limits, Workspace
from tests.conftest import Bucket

SESSION = "22222222-2222-4222-8222-222222222222"


class Counted(Snapshots):
    """Remembers what was uploaded and downloaded."""

    puts: list[str]
    gets: list[str]

    def put(self, key: str, *arguments: Any) -> None:
        self.puts.append(key.removeprefix(f"sessions/{SESSION}/"))
        super().put(key, *arguments)

    def get(self, key: str, at_most: int | None = None) -> bytes:
        self.gets.append(key)
        return super().get(key, at_most)


@pytest.fixture
def snapshots(bucket: Bucket) -> Counted:
    found = Counted(bucket.name, bucket.s3)
    found.puts, found.gets = [], []
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


def opened(folder: Path, snapshots: Snapshots, reference: TreeReference | None = None, **limits: int) -> Workspace:
    """A container's fresh folder, with a version's files."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    workspace = Workspace(folder, snapshots, SESSION, Limits(**limits))
    workspace.restore(reference)
    return workspace


def picture(folder: Path) -> dict[str, Any]:
    """All there is in a folder: contents, modes, links."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        mode = path.lstat().st_mode & 0o777
        found[name] = os.readlink(path) if path.is_symlink() else (mode, path.read_bytes() if path.is_file() else None)
    return found


def test_files_modes_links_and_empty_folders_come_back(folder: Path, snapshots: Counted) -> None:
    workspace = opened(folder, snapshots)
    (folder / "src" / "empty").mkdir(parents=True)
    (folder / "src" / "run.sh").write_text("#!/bin/sh\n")
    (folder / "src" / "run.sh").chmod(0o755)
    (folder / "secret").write_bytes(b"\x00" * (PACKED_BELOW + 1))
    (folder / "secret").chmod(0o400)
    (folder / "nothing").touch()
    (folder / "link").symlink_to("src/run.sh")
    (folder / "absolute").symlink_to(folder / "src")
    (folder / "ünï ☃").write_text("name")
    (folder / "src").chmod(0o750)
    before = picture(folder) | {"absolute": "src"}

    captured = workspace.capture()
    opened(folder, snapshots, captured.tree)

    assert captured.left_out == ()
    assert picture(folder) == before


def test_only_what_changed_is_uploaded_and_a_deletion_is_one(folder: Path, snapshots: Counted) -> None:
    workspace = opened(folder, snapshots)
    for number in range(50):
        (folder / f"{number}.txt").write_text(f"file {number}")
    (folder / "large").write_bytes(b"large" * PACKED_BELOW)
    first = workspace.capture()
    assert len(snapshots.puts) == 3, "one pack, one large file, the list"

    later = opened(folder, snapshots, first.tree)
    snapshots.puts.clear()
    again = later.capture()
    assert (snapshots.puts, again.tree, again.changed) == ([], first.tree, frozenset())

    (folder / "1.txt").write_text("changed")
    (folder / "2.txt").rename(folder / "renamed.txt")
    shutil.copy(folder / "large", folder / "copy")
    (folder / "3.txt").unlink()
    last = later.capture()

    assert len(snapshots.puts) == 2, "a pack with one file, and the list"
    assert last.changed == {"1.txt", "renamed.txt", "copy"}
    opened(folder, snapshots, last.tree)
    assert not (folder / "3.txt").exists()
    assert (folder / "1.txt").read_text() == "changed"
    opened(folder, snapshots, first.tree)
    assert (folder / "3.txt").read_text() == "file 3", "the earlier version is whole"


def test_a_file_changed_with_its_times_put_back_is_seen(folder: Path, snapshots: Counted) -> None:
    workspace = opened(folder, snapshots)
    (folder / "a").write_text("one")
    workspace.capture()
    times = (folder / "a").stat()
    (folder / "a").write_text("two")
    os.utime(folder / "a", ns=(times.st_atime_ns, times.st_mtime_ns))

    captured = workspace.capture()

    assert captured.changed == {"a"}


def test_what_is_not_a_file_of_the_workspace_is_refused_by_name(folder: Path, snapshots: Counted) -> None:
    workspace = opened(folder, snapshots)
    (folder / "passwd").symlink_to("/etc/passwd")
    (folder / "up").symlink_to("../elsewhere")
    (folder / "here").symlink_to(".")
    (folder / "through").symlink_to("here/../../elsewhere")
    os.mkfifo(folder / "pipe")
    (folder / os.fsdecode(b"bad\xff")).touch()

    captured = workspace.capture()

    assert {(one.path, one.reason) for one in captured.left_out} == {
        ("passwd", "outside"),
        ("up", "outside"),
        ("through", "outside"),
        ("pipe", "not_a_file"),
        ("'bad\\udcff'", "bad_name"),
    }
    assert [entry.path for entry in read_tree(snapshots, captured.tree).entries] == ["here"]


@pytest.mark.parametrize(
    ("limits", "left_out"),
    [
        ({"file_bytes": 4}, [LeftOut(path="b", reason="too_large", size=5)]),
        ({"files": 2}, [LeftOut(path="c", reason="too_many", size=1)]),
        ({"total_bytes": 7}, [LeftOut(path="c", reason="no_room", size=1)]),
    ],
)
def test_a_limit_names_the_file(
    folder: Path, snapshots: Counted, limits: dict[str, int], left_out: list[LeftOut]
) -> None:
    workspace = opened(folder, snapshots, **limits)
    for name, size in (("a", 2), ("b", 5), ("c", 1)):
        (folder / name).write_bytes(b"x" * size)

    assert list(workspace.capture().left_out) == left_out


def test_caches_and_what_the_user_ignores_are_not_kept_git_is(folder: Path, snapshots: Counted) -> None:
    workspace = opened(folder, snapshots)
    for path in (".git/objects/ab/cd", "pkg/__pycache__/a.pyc", ".cache/x", "build/out.o", "kept.py"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path)
    (folder / ".stepgramignore").write_text("build/\n")

    tree = read_tree(snapshots, workspace.capture().tree)

    files = [entry.path for entry in tree.entries if entry.kind == "file"]
    assert files == [".git/objects/ab/cd", ".stepgramignore", "kept.py"]


def test_many_small_changes_stay_few_objects(folder: Path, snapshots: Counted) -> None:
    workspace = opened(folder, snapshots)
    captured = workspace.capture()
    for number in range(3 * MAX_PACKS):
        (folder / f"{number}").write_text(f"{number}")
        captured = workspace.capture()
        assert captured.tree is not None
        assert len(captured.tree.objects) <= MAX_PACKS + 1
    snapshots.gets.clear()

    opened(folder, snapshots, captured.tree)

    assert len(picture(folder)) == 3 * MAX_PACKS
    assert len(snapshots.gets) <= MAX_PACKS + 2


def test_a_pack_that_is_mostly_waste_is_written_again(folder: Path, snapshots: Counted) -> None:
    workspace = opened(folder, snapshots)
    for number in range(10):
        (folder / f"{number}").write_bytes(os.urandom(1000))
    first = workspace.capture()
    for number in range(1, 10):
        (folder / f"{number}").unlink()

    last = workspace.capture()

    assert first.tree is not None
    assert last.tree is not None
    assert last.tree.objects != first.tree.objects
    assert sum(stored.size for stored in read_tree(snapshots, last.tree).objects) == 1000


def test_a_lost_object_is_named(bucket: Bucket, folder: Path, snapshots: Counted) -> None:
    workspace = opened(folder, snapshots)
    (folder / "a").write_text("one")
    tree = workspace.capture().tree
    assert tree is not None
    bucket.s3.delete_object(Bucket=bucket.name, Key=tree.objects[0])

    with pytest.raises(SnapshotMissing, match=tree.objects[0]):
        opened(folder, snapshots, tree)


@pytest.mark.parametrize("path", ["../evil", "/etc/passwd", "a/../../b", "", "a//b", "./a", "a\0b"])
def test_a_list_of_files_cannot_point_outside(path: str) -> None:
    with pytest.raises(ValidationError, match="inside the workspace"):
        Entry(path=path)


NAMES = st.sampled_from(["a", "b", "c/d", "c/e", "f/g/h"])
STEPS = st.lists(st.dictionaries(NAMES, st.none() | st.binary(max_size=40), max_size=5), min_size=1, max_size=5)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, kept_open=st.booleans())
def test_any_history_of_changes_comes_back_version_by_version(
    folder: Path, snapshots: Counted, steps: list[dict[str, bytes | None]], kept_open: bool
) -> None:
    versions = []
    workspace = opened(folder, snapshots)
    reference = None
    for step in steps:
        if not kept_open:
            workspace = opened(folder, snapshots, reference)
        for name, content in step.items():
            path = folder / name
            if content is None:
                path.unlink(missing_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        reference = workspace.capture().tree
        versions.append((reference, picture(folder)))

    for reference, before in versions:
        opened(folder, snapshots, reference)
        assert picture(folder) == before
