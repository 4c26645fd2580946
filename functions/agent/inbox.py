"""What people attached, as the agent gets it: files in its workspace, and images and PDFs before its eyes.

Sources: image and document blocks of the Messages API (https://docs.claude.com/en/api/messages), and Bedrock's limits
for them (3.75 MB an image, 4.5 MB a document).
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from functions.conversation.files.documents import InboxFile
from functions.conversation.files.snapshots import Snapshots

FOLDER = "inbox"
IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
IMAGE_BYTES, PDF_BYTES = 3_750_000, 4_500_000
SHOWN = 20
"""Images and documents one request may carry."""

Prompt = str | list[dict[str, Any]]


def take_in(files: tuple[InboxFile, ...], snapshots: Snapshots, workspace: Path) -> list[tuple[InboxFile, Path]]:
    """Write the files into the workspace, beside those of earlier messages; returns where each one is."""
    taken = []
    for file in files:
        if file.missing is None:
            path = _free(workspace / FOLDER, file.name)
            path.parent.mkdir(exist_ok=True)
            snapshots.download(file.key, path)
            taken.append((file, path))
    return taken


def _free(folder: Path, name: str) -> Path:
    path, number = folder / name, 1
    while path.exists() or path.is_symlink():
        number += 1
        path = folder / f"{Path(name).stem}-{number}{Path(name).suffix}"
    return path


def prompt(
    text: str, captions: tuple[str, ...], files: tuple[InboxFile, ...], taken: list[tuple[InboxFile, Path]]
) -> Prompt:
    """The message as the model gets it: the text, what came with it, and what it can look at."""
    notes = [_note(file, None) for file in files if file.missing is not None]
    notes += [_note(file, path) for file, path in taken]
    whole = "\n\n".join(part for part in (*notes, *captions, text) if part)
    blocks = [block for file, path in taken if (block := _block(file, path)) is not None][:SHOWN]
    return [*blocks, {"type": "text", "text": whole}] if blocks else whole


def _note(file: InboxFile, path: Path | None) -> str:
    if path is None:
        return f"[Attached: {file.name} ({file.mime}), but Telegram did not give it: {file.missing}]"
    if file.transcript:
        return f"[Spoken, transcribed from {FOLDER}/{path.name}:]\n{file.transcript}"
    return f"[Attached: {FOLDER}/{path.name} ({file.mime}, {file.size:,} bytes)]"


def _block(file: InboxFile, path: Path) -> dict[str, Any] | None:
    """An image or a PDF the model can look at; None for what it can only open as a file."""
    if file.mime in IMAGES and file.size <= IMAGE_BYTES:
        kind = "image"
    elif file.mime == "application/pdf" and file.size <= PDF_BYTES:
        kind = "document"
    else:
        return None
    data = base64.b64encode(path.read_bytes()).decode()
    return {"type": kind, "source": {"type": "base64", "media_type": file.mime, "data": data}}
