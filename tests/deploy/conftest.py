"""One emulator and one deployed stack for all tests of this folder; every test talks in chats of its own.

Telegram and the model are the stand-ins of the embedded stack, here in the test's process, on loopback.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests

from functions.common.envelope import turn_id
from stepgram.embedded.bedrock import Bedrock
from stepgram.embedded.telegram import Telegram
from stepgram.embedded.telegram.updates import method_models
from stepgram.operators.executions import ExecutionDetail, detail
from stepgram.server import Server
from tests.conftest import ROOT, until
from tests.deploy import derived
from tests.deploy.tools import PYTHON_VERSION, python_of, runtime, sam, this_platform

STACK = "stepgram"
OWNER = 1
START_SECONDS = 120.0
TURN_SECONDS = 150.0
_chats = itertools.count(910_001)
PRUNED = shutil.ignore_patterns("__pycache__")
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
"""The emulator's root user."""


@dataclass(frozen=True)
class Emulator:
    """MiniStack: its address, its process, and the folder whose commands its functions find."""

    url: str
    process: subprocess.Popen[bytes]
    commands: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a command needs to work on it as its root user."""
        return {**KEYS, "AWS_ENDPOINT_URL": self.url}

    def client(self, service: str) -> Any:
        """A client of the root user."""
        session = boto3.session.Session("test", "test", region_name="us-east-1")
        return session.client(service, endpoint_url=self.url)  # type: ignore[call-overload]


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """MiniStack on a free loopback port, with its IAM on and nothing of this process's environment.

    Its functions see its environment besides their own (Lambda's has nothing more than theirs), so it is small.
    """
    python = python_of("constraints-ministack.txt", "ministack[full]")
    folder = tmp_path_factory.mktemp("ministack")
    commands, log, scratch = folder / "commands", folder / "log", folder / "tmp"
    commands.mkdir()
    scratch.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    environment = {
        "PATH": f"{commands}:{os.defpath}",
        "HOME": str(folder),
        "TMPDIR": str(scratch),
        "LANG": "C.UTF-8",
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "AWS_ENDPOINT_URL": url,
        "AUTH": "true",  # every request's signature and the caller's policies are checked
        "IOT_MTLS_ENABLED": "0",  # or port 8883 is opened on all interfaces
        "SFTP_ENABLED": "0",
        "SFN_WAIT_SCALE": "0.2",  # of the seconds between retries
    }
    with log.open("w") as output:
        process = subprocess.Popen(
            [python, "-m", "ministack"], env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        _wait(f"{url}/_ministack/health", process, log)
        yield Emulator(url, process, commands)
    finally:
        process.terminate()
        process.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # a function that it did not end


def tree(root: int) -> list[int]:
    """A process and everything below it (Linux)."""
    children: dict[int, list[int]] = defaultdict(list)
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            children[int(status.read_text().rpartition(")")[2].split()[1])].append(int(status.parent.name))
    found = [root]
    for one in found:
        found += children[one]
    return found


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        try:
            requests.get(url, timeout=2).raise_for_status()
        except requests.RequestException:
            time.sleep(0.2)
        else:
            return


@pytest.fixture(scope="session")
def built(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the derived template, built for this machine, each package with its runtime."""
    folder = tmp_path_factory.mktemp("app")
    for name in ("functions", "statemachine"):
        shutil.copytree(ROOT / name, folder / name, ignore=PRUNED)
    shutil.copy(ROOT / "samconfig.toml", folder)
    derived.derive(ROOT, folder, emulator.url)
    with ThreadPoolExecutor() as pool:
        python = pool.submit(runtime, tmp_path_factory.mktemp("runtime") / "python")
        sam(folder, "build", LAMBDA_PLATFORM=this_platform(), LAMBDA_PYTHON=PYTHON_VERSION)
        for package in (folder / ".aws-sam" / "build").glob("*/"):
            derived.bootstrap(package, python.result())
            derived.command_line_is_on_path(package, emulator.commands)
    return folder


@dataclass(frozen=True)
class Deployed:
    """The deployed stack, and the people who talk to it."""

    emulator: Emulator
    folder: Path
    telegram: Telegram
    bedrock: Bedrock
    parameters: dict[str, str]

    def deploy(self, **changed: str) -> None:
        """`sam deploy` with these parameters besides the fixture's."""
        given = [f"{name}={value}" for name, value in {**self.parameters, **changed}.items()]
        sam(
            self.folder,
            *("deploy", "--no-confirm-changeset", "--no-progressbar", "--parameter-overrides", *given),
            **self.emulator.environment,
        )

    @property
    def outputs(self) -> dict[str, str]:
        """The stack's outputs."""
        stacks = self.emulator.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"]
        return {output["OutputKey"]: output["OutputValue"] for output in stacks[0]["Outputs"]}

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `stepgram` as an operator of this stack does."""
        return subprocess.run(
            [sys.executable, "-m", "stepgram.cli", *arguments, "--stack", STACK],
            cwd=ROOT,
            env={**os.environ, **self.emulator.environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def read(self, *arguments: str) -> Any:
        """What a command of `stepgram` prints with --json."""
        done = self.command(*arguments, "--json")
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    @contextmanager
    def without(self, action: str) -> Iterator[None]:
        """What a template deploys in which no function may do `action`; afterwards they may again."""
        iam = self.emulator.client("iam")
        taken: list[dict[str, Any]] = []
        for role in self.function_roles():
            for name in iam.list_role_policies(RoleName=role)["PolicyNames"]:
                whole = iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
                left = [one for one in whole["Statement"] if action not in derived.actions_of(one)]
                if left == whole["Statement"]:
                    continue
                taken.append({"RoleName": role, "PolicyName": name, "PolicyDocument": json.dumps(whole)})
                if left:
                    iam.put_role_policy(**{**taken[-1], "PolicyDocument": json.dumps({**whole, "Statement": left})})
                else:
                    iam.delete_role_policy(RoleName=role, PolicyName=name)
        assert taken, f"no function may do {action}"
        try:
            yield
        finally:
            for policy in taken:
                iam.put_role_policy(**policy)

    def function_roles(self) -> list[str]:
        """The names of the functions' roles."""
        resources = self.emulator.client("cloudformation").describe_stack_resources(StackName=STACK)
        functions = self.emulator.client("lambda")
        return [
            functions.get_function_configuration(FunctionName=one["PhysicalResourceId"])["Role"].rpartition("/")[2]
            for one in resources["StackResources"]
            if one["ResourceType"] == "AWS::Lambda::Function"
        ]

    def say(self, chat: int, text: str, user: int = OWNER) -> str:
        """Somebody writes; returns the name the turn has."""
        return turn_id(chat, 0, self.telegram.say(chat, text, user_id=user)["update_id"])

    def press(self, chat: int, message: dict[str, Any], row: int) -> None:
        """The owner presses a button of a message."""
        data = message["reply_markup"]["inline_keyboard"][row][0]["callback_data"]
        self.telegram.press(chat, message["message_id"], data, user_id=OWNER)

    def again(self, name: str, secret: str | None = None) -> requests.Response:
        """Telegram delivers the update of a turn once more; or somebody does, with another secret."""
        webhook, update = self.telegram.state["webhook"], self.update(name)["update"]
        headers = {"X-Telegram-Bot-Api-Secret-Token": secret or webhook["secret_token"]}
        return requests.post(webhook["url"], json=update, headers=headers, timeout=60)

    def update(self, name: str) -> dict[str, Any]:
        """What Telegram knows of the update of a turn."""
        record: dict[str, Any] = self.telegram.state["updates"][name.rpartition("-u")[2]]
        return record

    def outcome(self, name: str) -> str:
        """What the webhook answered to an update, once it did."""
        until(lambda: self.update(name)["status"] is not None, TURN_SECONDS)
        return str(json.loads(self.update(name)["body"]).get("outcome"))

    def turn(self, name: str) -> ExecutionDetail:
        """The turn, once it ended."""
        assert self.outcome(name) == "started"
        step_functions, arn = self.emulator.client("stepfunctions"), self.arn(name)
        until(lambda: step_functions.describe_execution(executionArn=arn)["status"] != "RUNNING", TURN_SECONDS)
        return self.now(name)

    def now(self, name: str) -> ExecutionDetail:
        """The turn as it is now."""
        return detail(self.emulator.client("stepfunctions"), self.arn(name))

    def arn(self, name: str) -> str:
        """The address of a turn."""
        return f"{self.outputs['TurnArn'].replace(':stateMachine:', ':execution:')}:{name}"

    def executions(self, chat: int) -> list[str]:
        """The names of all turns of a chat."""
        pages = self.emulator.client("stepfunctions").get_paginator("list_executions")
        found = pages.paginate(stateMachineArn=self.outputs["TurnArn"])
        names = [str(one["name"]) for page in found for one in page["executions"]]
        return [name for name in names if name.startswith(f"c{chat}-")]

    def messages(self, chat: int) -> list[dict[str, Any]]:
        """What the bot wrote into a chat, in order."""
        found = self.telegram.state["chats"].get(str(chat), {"messages": []})
        return [message for message in found["messages"] if message["from"]["is_bot"]]

    def texts(self, chat: int) -> list[str]:
        """The bot's messages as text."""
        return [message.get("text", "") for message in self.messages(chat)]

    def drafts(self, chat: int) -> list[str]:
        """What a chat was shown for a moment."""
        shown = [given for method, given in list(self.telegram.calls) if method.endswith("Draft")]
        return [str(given) for given in shown if int(given["chat_id"]) == chat]

    def errors(self) -> str:
        """The newest lines of the functions' logs that tell of an error."""
        logs = self.emulator.client("logs")
        pages = logs.get_paginator("filter_log_events").paginate(logGroupName=self.outputs["FunctionLogs"])
        lines = [event["message"] for page in pages for event in page["events"]]
        return "\n".join([line for line in lines if "ERROR" in line][-20:])

    def question(self, chat: int) -> dict[str, Any]:
        """The message that asks in a chat, once it is there."""

        def asked() -> list[dict[str, Any]]:
            return [m for m in self.messages(chat) if len(m.get("reply_markup", {}).get("inline_keyboard", [])) == 3]

        until(lambda: bool(asked()), TURN_SECONDS)
        return asked()[0]


@pytest.fixture(scope="session")
def deployed(emulator: Emulator, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """The stack, deployed by SAM's own command."""
    method_models()
    token = "7000000001:deployed-token"
    telegram, bedrock = Telegram(token, tmp_path_factory.mktemp("telegram")), Bedrock()
    telegram_server, bedrock_server = Server(telegram.app()), Server(bedrock.app())
    parameters = {
        "TelegramBotToken": token,
        "TelegramApiUrl": telegram_server.url,
        "ModelBaseUrl": bedrock_server.url,
        "AllowedUsers": str(OWNER),
        "MessagesPerMinute": "0",
        "McpServers": "none",
        "AlarmEmail": "a@example.com",
    }
    stack = Deployed(emulator, built, telegram, bedrock, parameters)
    try:
        stack.deploy()
        registered = stack.command("webhook", "set")
        assert registered.returncode == 0, registered.stderr
        yield stack
    finally:
        telegram.stop()
        telegram_server.stop()
        bedrock_server.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that failed shows what the functions logged."""
    report = yield
    stack = getattr(item, "funcargs", {}).get("deployed")
    if report.failed and isinstance(stack, Deployed):
        report.sections.append(("Errors of the functions", stack.errors()))
    return report


@pytest.fixture
def chat() -> int:
    """A private chat nobody else uses."""
    return next(_chats)
