"""The container a conversation works in: its folders are fresh, and nothing is left of them when it is closed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from functions.agent.options import Folders
from functions.agent.processes import OWN_TMP, RUNTIME, forget_shared
from functions.agent.settings import AgentSettings
from functions.common.folders import NotCleaned, clear, remove
from functions.conversation.files.workspace import Limits

TMP = Path(tempfile.gettempdir()).resolve()
ROOT = TMP / "stepgram"

SOCKET = "/tmp/cc-socks-{user}/{process}.sock"
"""Where the CLI would hear other CLIs of the machine (it refuses, `options.py`); one that is killed leaves it."""

ROOM = 32 * 1024 * 1024
"""Bytes that must be free on the disk, or the conversation is not kept open."""


def limits(settings: AgentSettings) -> Limits:
    """What a workspace may hold."""
    megabyte = 1024 * 1024
    return Limits(
        files=settings.workspace_files,
        file_bytes=settings.workspace_file_mb * megabyte,
        total_bytes=settings.workspace_mb * megabyte,
    )


def fresh_folders(root: Path) -> Folders:
    """Empty folders, and nothing beside them: what another conversation left is removed. Raises NotCleaned.

    The workspace's path is the same in every container, since the CLI's transcript key comes from it.
    """
    clean()
    folders = Folders(
        home=root / "home", config=root / "config", workspace=root / "workspace", scratch=root / "scratch"
    )
    for folder in (folders.home, folders.config, folders.workspace, folders.scratch):
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise NotCleaned(f"{folder}: {error.strerror}") from error
    return folders


def clean() -> None:
    """Remove all that is in the container's `/tmp`, and shared memory; where others may have theirs in it, our folder.

    Raises NotCleaned. On a developer's machine `/tmp` is not ours; that it is, Lambda's runtime client or the embedded
    stack tells.
    """
    tempfile.tempdir = str(TMP)
    if RUNTIME in os.environ or os.environ.get(OWN_TMP) == str(TMP):
        clear(TMP)
        forget_shared()
    else:
        remove(ROOT)
