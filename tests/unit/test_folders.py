"""A folder is emptied whatever is in it, and nothing outside it is touched."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from functions.common import folders
from functions.common.folders import NotCleaned, clear, remove
from tests.conftest import ROOT

DEEP = 3_000
"""Levels: more than a path, or Python's recursion, can have."""

AS_ROOT = pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can mount")
NOBODY = 65_534


@pytest.fixture
def precious(tmp_path: Path) -> Iterator[Path]:
    """A folder outside what is cleared; whole at the end."""
    folder = tmp_path / "precious"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "file").write_text("kept")
    folder.chmod(0o500)
    before = folder.stat()
    yield folder
    assert (folder / "inner" / "file").read_text() == "kept"
    assert (folder.stat().st_mode, folder.stat().st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    folder.chmod(0o700)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """What is to be cleared; gone in the end, since pytest's own way is a recursion."""
    (tmp_path / "container").mkdir()
    yield tmp_path / "container"
    remove(tmp_path / "container")


def dig(folder: Path, levels: int) -> None:
    """Folders one in another, each with a file; their path is longer than any call would take."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.close(os.open("file", os.O_CREAT, dir_fd=here))
        os.mkdir("d" * 50, dir_fd=here)
        inner = os.open("d" * 50, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)


def as_nobody(script: str, folder: Path) -> None:
    """Run a script as a user whom rights hold off, in whose hands the folder is; it is run as we are where we may not
    change that."""
    given = "import os, sys; folder = sys.argv[1]\n"
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
        given += f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
    imports = "from pathlib import Path\nfrom functions.common.folders import NotCleaned, clear\n"
    command = [sys.executable, "-c", imports + given + textwrap.dedent(script), str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def nobodys() -> Iterator[Path]:
    """A folder in a place that every user reaches, which pytest's own is not."""
    folder = Path(tempfile.mkdtemp(prefix="stepgram-test-"))
    yield folder
    remove(folder)


def test_whatever_a_folder_holds_it_is_empty_afterwards(folder: Path, precious: Path) -> None:
    (folder / ".hidden").touch()
    (folder / os.fsdecode(b"\xff\n\x01 -rf *")).mkdir()
    (folder / ("n" * 255)).touch()
    (folder / "to-file").symlink_to(precious / "inner" / "file")
    (folder / "to-folder").symlink_to(precious)
    (folder / "nowhere").symlink_to("nowhere")
    os.link(precious / "inner" / "file", folder / "hard")
    os.mkfifo(folder / "pipe")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(os.path.relpath(folder / "socket"))
    (folder / "read-only").mkdir()
    (folder / "read-only" / "file").touch(0o400)
    (folder / "read-only").chmod(0o500)

    clear(folder)

    listening.close()
    assert os.listdir(folder) == []


def test_any_depth_takes_a_handful_of_descriptors_and_no_recursion(folder: Path) -> None:
    dig(folder, DEEP)
    script = """
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (10, 10))
        sys.setrecursionlimit(200)
        clear(Path(folder))
    """
    start = (
        "import os, sys; from pathlib import Path; from functions.common.folders import clear; folder = sys.argv[1]\n"
    )
    command = [sys.executable, "-c", start + textwrap.dedent(script), str(folder)]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert os.listdir(folder) == []


def test_folders_without_rights_are_removed_by_their_owner(nobodys: Path) -> None:
    as_nobody(
        """
        os.makedirs(folder + "/a/b/c")
        for name in ("a/b/c/file", "a/file"):
            open(folder + "/" + name, "w").close()
        for rights, name in ((0o000, "a/b/c"), (0o400, "a/b"), (0o100, "a"), (0o000, "")):
            os.chmod(folder + "/" + name, rights)
        clear(Path(folder))
        assert os.listdir(folder) == []
        """,
        nobodys,
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user")
def test_what_belongs_to_somebody_else_is_told_and_the_rest_is_gone(nobodys: Path) -> None:
    (nobodys / "roots").mkdir(0o755)
    (nobodys / "roots" / "file").touch()

    as_nobody(
        """
        os.makedirs(folder + "/a/b")
        try:
            clear(Path(folder))
            raise SystemExit("it was not told")
        except NotCleaned as error:
            assert "file: Permission denied, roots: Directory not empty" in str(error), error
        assert os.listdir(folder) == ["roots"]
        """,
        nobodys,
    )


@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "folder", "nothing"])
def test_what_was_put_in_a_folders_place_is_removed(folder: Path, precious: Path, kind: str) -> None:
    place = folder / "place"
    if kind == "file":
        place.touch()
    elif kind == "folder":
        dig(folder, 3)
        place.mkdir()
    elif kind != "nothing":
        place.symlink_to(precious if kind == "link" else "nowhere")

    remove(place)

    assert not os.path.lexists(place)


@pytest.mark.parametrize("kind", ["file", "link", "nothing"])
def test_what_is_no_folder_is_not_cleared(folder: Path, precious: Path, kind: str) -> None:
    place = folder / "place"
    if kind == "file":
        place.write_text("kept")
    elif kind == "link":
        place.symlink_to(precious)

    with pytest.raises(NotCleaned, match=str(place)):
        clear(place)

    assert os.path.lexists(place) == (kind != "nothing")


@AS_ROOT
def test_what_is_mounted_inside_is_told_and_not_entered(folder: Path, precious: Path) -> None:
    (folder / "a" / "mounted").mkdir(parents=True)
    (folder / "a" / "file").touch()
    subprocess.run(["mount", "--bind", precious, folder / "a" / "mounted"], check=True)
    try:
        with pytest.raises(NotCleaned, match="mounted: something is mounted there"):
            clear(folder)
    finally:
        subprocess.run(["umount", folder / "a" / "mounted"], check=True)

    assert not (folder / "a" / "file").exists()


@AS_ROOT
def test_a_full_disk_is_emptied(folder: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=200", "tmpfs", folder], check=True)
    try:
        dig(folder, 50)
        with pytest.raises(OSError, match="No space left"), (folder / "large").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        with pytest.raises(OSError, match="No space left"):
            for number in range(200):
                (folder / f"{number}").mkdir()

        clear(folder)

        assert os.listdir(folder) == []
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_folder_that_is_moved_away_meanwhile_is_told_and_not_followed(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "b").mkdir(parents=True)
    inside = folders._remove_files
    seen = []

    def moved(here: int, stays: list[str]) -> list[str]:
        seen.append(here)
        if len(seen) == 3:
            (folder / "a" / "b").rename(elsewhere / "moved")
        return inside(here, stays)

    monkeypatch.setattr(folders, "_remove_files", moved)
    with pytest.raises(NotCleaned, match="b: it was moved meanwhile"):
        clear(folder)

    assert sorted(os.listdir(elsewhere)) == ["b", "moved"]


def test_a_folder_swapped_for_a_link_is_not_entered(
    folder: Path, precious: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "a").mkdir()
    inside = folders._remove_files

    def swapped(here: int, stays: list[str]) -> list[str]:
        found = inside(here, stays)
        if found:
            (folder / "a").rmdir()
            (folder / "a").symlink_to(precious)
        return found

    monkeypatch.setattr(folders, "_remove_files", swapped)
    with pytest.raises(NotCleaned, match="a: it is something else"):
        clear(folder)


NAMES = st.binary(min_size=1, max_size=8).filter(lambda name: not set(name) & {0, 47} and name not in (b".", b".."))
KINDS = st.sampled_from(["file", "folder", "link", "fifo"])
NODES = st.lists(st.tuples(st.lists(NAMES, min_size=1, max_size=6), KINDS, st.integers(0, 0o777)), max_size=12)


def make(path: bytes, kind: str, target: Path) -> bool:
    """Make one node and the folders above it; whether rights can be taken from it. No link is gone through."""
    if os.path.lexists(path) or os.path.realpath(path) != os.path.abspath(path):
        return False
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        return False
    if kind == "link":
        os.symlink(target, path)
    elif kind == "folder":
        os.mkdir(path)
    else:
        os.mknod(path, stat.S_IFREG if kind == "file" else stat.S_IFIFO)
    return kind != "link"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(nodes=NODES)
def test_any_tree_is_removed(folder: Path, precious: Path, nodes: list[tuple[list[bytes], str, int]]) -> None:
    folder.mkdir(exist_ok=True)
    made = []
    for names, kind, mode in nodes:
        path = b"/".join([os.fsencode(folder), *names])
        if make(path, kind, precious):
            made.append((path, mode))
    for path, mode in reversed(made):
        os.chmod(path, mode)

    remove(folder)

    assert not folder.exists()


@pytest.mark.parametrize("opener", [folders.open_folder, folders.open_file])
@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_what_is_something_else_is_neither_opened_nor_given_rights(
    folder: Path, precious: Path, opener: Callable[[str, int], int], kind: str
) -> None:
    if kind == "link":
        (folder / "place").symlink_to(precious if opener == folders.open_folder else precious / "inner" / "file")
    else:
        os.mkfifo(folder / "place", 0)
    here = os.open(folder, os.O_RDONLY)

    with pytest.raises(OSError, match="it is something else"):
        opener("place", here)

    os.close(here)
    assert stat.S_IMODE(precious.stat().st_mode) == 0o500
    assert stat.S_IMODE((folder / "place").lstat().st_mode) == (0o777 if kind == "link" else 0)
