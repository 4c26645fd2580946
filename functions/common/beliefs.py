"""Nothing is believed because the agent said so: the bounds of what it writes, for who reads it.

The agent writes into its session's folder and hands in how its run ended. A prompt can make it run anything, so every
document, key, name and number from there may be made up. Models take these types for their fields, and `parsed` reads a
document: its length is bounded before it is parsed, its depth by pydantic's parser, which gives up after some 200
levels (https://docs.rs/jiter, `recursion limit exceeded`).
"""

from __future__ import annotations

import re
import zlib
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from functions.common.errors import ResultRefused

DOCUMENT_BYTES = 8 * 1024 * 1024
"""Bytes a document may have, a list of files apart."""

KEY_CHARACTERS = 1024
"""What a key may have in S3 (Amazon S3 user guide, Naming objects)."""

PATH_CHARACTERS, NAME_CHARACTERS, SHOWN_CHARACTERS = 4096, 255, 500
"""What a path and a file's name may have on Linux, and what is shown of a text that only names something."""

PROBLEMS = 3
"""Problems of one document that its error names."""

UNSEEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\u2800\u3164"
    r"\ufeff\uffa0\U000e0000-\U000e0fff]"
)
"""Control characters, and those that turn the direction of a text or are not seen in it. (Joiners stay: names in some
scripts need them, and emoji.)"""

DocumentT = TypeVar("DocumentT", bound=BaseModel)


def inside(path: str) -> str:
    """The path, when it leads nowhere but into its folder. Raises ValueError."""
    if "\0" in path or not {"", ".", ".."}.isdisjoint(path.split("/")):
        raise ValueError(f"{path!r} is not a path inside the workspace")
    return path


def below(folder: str, key: str) -> bool:
    """Whether an object's key is one in this folder (which ends with a slash), as we write keys."""
    try:
        inside(key.removeprefix(folder))
    except ValueError:
        return False
    return key.startswith(folder) and len(key) <= KEY_CHARACTERS and not UNSEEN.search(key)


def shown(text: str) -> str:
    """What is shown of a text that names something: no character plays tricks, and it is not too long."""
    return UNSEEN.sub("_", text)[:SHOWN_CHARACTERS]


def as_name(text: str) -> str:
    """A file's name: no path, no control characters, not too long."""
    name = UNSEEN.sub("_", text).replace("/", "_").replace("\\", "_")[:NAME_CHARACTERS]
    return name if name.strip(". ") else "_"


Count = Annotated[int, Field(ge=0, le=10**13)]
"""Of bytes, characters, versions."""

Tokens = Annotated[int, Field(ge=0, le=10**9)]
"""Of one turn: they are summed in metrics that all conversations share."""

Dollars = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=10**8, allow_inf_nan=False)]
Key = Annotated[str, Field(max_length=KEY_CHARACTERS)]
RelativePath = Annotated[str, Field(max_length=PATH_CHARACTERS), AfterValidator(inside)]
Name = Annotated[str, AfterValidator(as_name)]
Shown = Annotated[str, AfterValidator(shown)]
Word = Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,256}$")]
"""The name of a model or a tool."""

SessionId = Annotated[str, Field(pattern=r"^[0-9A-Za-z-]{1,64}$")]
TurnId = Annotated[str, Field(pattern=r"^[0-9A-Za-z-]{1,80}$")]
Subpath = Annotated[str, Field(max_length=256, pattern=r"^([0-9A-Za-z_-]+(/[0-9A-Za-z_-]+)*)?$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def parsed(body: bytes | str, model: type[DocumentT], what: str, at_most: int = DOCUMENT_BYTES) -> DocumentT:
    """A JSON document of at most so many bytes. Raises ResultRefused that names `what` and the first bad fields."""
    if len(body) > at_most:
        raise ResultRefused(f"{what} has {len(body):,} bytes, more than {at_most:,}")
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)[:PROBLEMS]
        problems = "; ".join(f"{'.'.join(map(str, item['loc'])) or model.__name__}: {item['msg']}" for item in found)
        raise ResultRefused(f"{what} is no {model.__name__}: {shown(problems)}") from error


def decompressed(body: bytes, what: str, at_most: int) -> bytes:
    """What a gzip file holds, if that is at most so many bytes. Raises ResultRefused."""
    unpack = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        found = unpack.decompress(body, at_most + 1)
    except zlib.error as error:
        raise ResultRefused(f"{what} is no gzip file: {error}") from error
    if len(found) > at_most:
        raise ResultRefused(f"{what} holds more than {at_most:,} bytes")
    if not unpack.eof or unpack.unused_data:
        raise ResultRefused(f"{what} is no gzip file: it is cut short or goes on after its end")
    return found
