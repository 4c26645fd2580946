"""The stack a command works on: a deployed one by its outputs, or the local one.

The local stack belongs to one process at a time. Where `stepgram local` runs, the others go through it; else a command
starts the stack for itself, and a second one waits for it.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from functions.common.folders import NotCleaned
from stepgram.embedded.client import Addresses, Ports, client, trust
from stepgram.embedded.state import forget, private, read_json, write_json

if TYPE_CHECKING:
    from stepgram.embedded.stack import EmbeddedStack


class StackError(Exception):
    """The stack cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Stack:
    """One stack: its CloudFormation outputs, and where AWS and (locally) the chats are."""

    outputs: dict[str, str]
    endpoint: str | None = None
    telegram: str | None = None
    name: str = "stepgram"
    _clients: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def is_local(self) -> bool:
        """Whether it is the stack of this machine."""
        return self.endpoint is not None

    def client(self, service: str, region: str = "") -> Any:
        """A boto3 client for this stack, made once: the console page asks for some at every look.

        `region` is another one than the stack's, where what is asked about is elsewhere.
        """
        key = f"{service} {region}"
        if key not in self._clients:
            own = boto3.session.Session(region_name=region or None)
            made = own.client(service) if self.endpoint is None else client(service, self.endpoint)  # type: ignore[call-overload]
            self._clients[key] = made
        return self._clients[key]

    def execution_arn(self, name: str) -> str:
        """The ARN of a turn by its name; an ARN stays as it is."""
        if name.startswith("arn:"):
            return name
        return f"{self.outputs['TurnArn'].replace(':stateMachine:', ':execution:')}:{name}"


def home() -> Path:
    """Where the local stack keeps its state: `.stepgram` in this folder, or `STEPGRAM_HOME`."""
    return Path(os.environ.get("STEPGRAM_HOME", ".stepgram")).resolve()


def deployed(name: str) -> Stack:
    """A deployed stack, by the operator's own credentials. Raises StackError."""
    try:
        found = boto3.session.Session().client("cloudformation").describe_stacks(StackName=name)["Stacks"][0]
    except (ClientError, BotoCoreError) as error:
        raise StackError(f"stack {name!r} cannot be read: {error}") from error
    outputs = {o["OutputKey"]: o["OutputValue"] for o in found.get("Outputs", [])}
    if "TurnArn" not in outputs:
        raise StackError(f"stack {name!r} has no output TurnArn: it is not a Stepgram stack")
    return Stack(outputs, name=name)


def running() -> Stack | None:
    """The stack of a `stepgram local` that runs, if one does."""
    document = read_json(home() / "stack.json")
    if document is None:
        return None
    addresses = Addresses(**document)
    trust(addresses.aws, addresses.operator)
    stack = Stack(addresses.outputs, addresses.aws, addresses.telegram)
    try:
        stack.client("stepfunctions").describe_state_machine(stateMachineArn=stack.outputs["TurnArn"])
    except (ClientError, BotoCoreError):
        return None
    return stack


def _embedded(ports: Ports, bot_token: str | None = None) -> EmbeddedStack:
    """The embedded stack; imported only by the command that starts it, since moto takes seconds to import."""
    from stepgram.embedded.stack import EmbeddedStack

    # One that was killed left it. Nobody else may find the stack before all is as it was kept.
    (home() / "stack.json").unlink(missing_ok=True)
    return EmbeddedStack(home(), ports, bot_token=bot_token)


@contextmanager
def open_stack(name: str | None, fresh: bool = False) -> Iterator[Stack]:
    """The stack to work on: `name` deployed, else the local one. `fresh` forgets what is kept first."""
    if name is not None:
        yield deployed(name)
        return
    with _lock() as acquired:
        if not acquired:
            stack = running()
            if stack is None:
                raise StackError(f"{home()} is in use, but no stack answers; try again")
            if fresh:
                raise StackError("--fresh cannot forget what `stepgram local` uses; stop it first")
            yield stack
            return
        if fresh:
            try:
                forget(home())
            except NotCleaned as error:
                raise StackError(f"--fresh cannot remove what is kept: {error}") from error
        with _embedded(Ports()) as embedded:
            addresses = embedded.addresses
            yield Stack(addresses.outputs, addresses.aws, addresses.telegram)


@contextmanager
def serve(ports: Ports, bot_token: str | None = None) -> Iterator[Stack]:
    """The local stack for other commands too, until the block ends; with `bot_token`, on real Telegram."""
    with _lock(wait=False) as acquired:
        if not acquired:
            raise StackError(f"{home()} is in use by another `stepgram` process")
        with _embedded(ports, bot_token) as embedded:
            addresses = embedded.addresses
            write_json(home() / "stack.json", asdict(addresses))
            try:
                yield Stack(addresses.outputs, addresses.aws, addresses.telegram)
            finally:
                (home() / "stack.json").unlink(missing_ok=True)


@contextmanager
def _lock(wait: bool = True) -> Iterator[bool]:
    """Hold the folder. Yields False when `stepgram local` holds it; waits for any other command."""
    try:
        private(home())
        (home() / "lock").touch(0o600)
    except OSError as error:
        raise StackError(f"STEPGRAM_HOME: {home()} cannot be kept from others: {error.strerror}") from error
    with open(home() / "lock", "a+") as file:
        if _try(file):
            yield True
            return
        if not wait or running() is not None:
            yield False
            return
        print("waiting for another stepgram command to end ...", file=sys.stderr)  # noqa: T201
        fcntl.flock(file, fcntl.LOCK_EX)
        yield True


def _try(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def dotenv(path: Path = Path(".env")) -> None:
    """Put the lines `NAME=value` of a file into the environment, where a name is not set yet."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        name, separator, value = line.strip().partition("=")
        if separator and not name.startswith("#"):
            os.environ.setdefault(name.strip(), value.strip().strip("\"'"))
