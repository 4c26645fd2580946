"""The embedded stack: the same template on one machine, behind an AWS endpoint on loopback.

aws       moto, Lambda, the HTTP API           telegram  the Bot API stand-in and the chat page
bedrock   the demo model                       store     what is kept between runs
"""

from __future__ import annotations

import json
import logging
import os
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from moto.moto_api._internal.models import moto_api_backend

from functions.common.models import known
from functions.common.observability import logger
from functions.telegram.bot_api import BotApi
from stepgram.embedded.aws import AwsEndpoint
from stepgram.embedded.bedrock import Bedrock
from stepgram.embedded.client import ACCOUNT, REGION, Addresses, Ports, client
from stepgram.embedded.containers import Containers
from stepgram.embedded.functions import FunctionHost, InvokeError
from stepgram.embedded.iam import Access
from stepgram.embedded.kept import Items, Objects
from stepgram.embedded.packages import Packages
from stepgram.embedded.polling import Poller
from stepgram.embedded.state import Change, Closed, Store, private
from stepgram.embedded.step_functions import StepFunctions
from stepgram.embedded.tables import lighten
from stepgram.embedded.telegram import Telegram, new_token
from stepgram.embedded.telegram.updates import kept
from stepgram.embedded.template import TEMPLATE, Clients, Deployment, deploy
from stepgram.server import Server

STACK = "stepgram"
SETTINGS = {
    "TELEGRAM_API_URL": "TelegramApiUrl",
    "ALLOWED_USERS": "AllowedUsers",
    "ALLOWED_CHATS": "AllowedChats",
    "RICH_MESSAGES": "RichMessages",
    "MAX_BUDGET_USD": "MaxBudgetUsd",
    "MAX_MODEL_TURNS": "MaxModelTurns",
    "MODEL_ID": "ModelId",
    "MCP_SERVERS": "McpServers",
    "APPROVAL_TOOLS": "ApprovalTools",
    "TRANSCRIPTION": "Transcription",
    "GROUP_MESSAGES": "GroupMessages",
}
"""Environment variables of `.env` that become template parameters here."""

BUDGETS = ("DailyBudgetUsd", "MonthlyBudgetUsd", "ChatDailyBudgetUsd", "ChatMonthlyBudgetUsd")
"""The demo model costs nothing, whatever is reckoned by the prices of a real one."""

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_BEARER_TOKEN_BEDROCK")


class EmbeddedStack:
    """A running stack. One process has one at a time: moto keeps its state per process."""

    def __init__(
        self,
        home: Path,
        ports: Ports = Ports(),  # noqa: B008 - frozen
        parameters: dict[str, str] | None = None,
        environment: dict[str, str] | None = None,
        bot_token: str | None = None,
        packages: Packages | None = None,
        template: Path = TEMPLATE,
    ) -> None:
        """`parameters` are the template's; `environment` is read for `STEPGRAM_MODEL` and the settings of `.env`.

        With `bot_token` the bot is that one, on real Telegram, by long polling; without, the stand-in plays Telegram.
        With `packages` functions run in strict mode: from these, as Lambda would run them.
        """
        self._packages = packages
        self._template = template
        self._home = home
        self._ports = ports
        self._parameters = parameters or {}
        self._environment = environment if environment is not None else dict(os.environ)
        self._bot_token = bot_token
        self._poller: Poller | None = None
        private(home)

    def __enter__(self) -> Self:
        """Start everything and go on with what was running. Raises StateError when what is kept cannot be read."""
        warnings.filterwarnings("ignore", module="moto.*")
        logging.getLogger("moto").setLevel(logging.CRITICAL)
        redirect_logs(self._home / "functions.log")
        lighten()
        self.store = Store(self._home)
        self.step_functions = StepFunctions(ACCOUNT, REGION)
        self.access = Access(self.store)
        self.aws = AwsEndpoint(self.step_functions, self.access, self.store, self._ports.aws)
        endpoint = self.aws.server.url
        self.telegram = Telegram(new_token(), self._home / "files", kept(self.store), self.store.keep)
        self._telegram_server = Server(self.telegram.app(), self._ports.telegram)
        self.bedrock = Bedrock({row.owner: row.value for row in self.store.rows("model")}, self.store.keep)
        self._bedrock_server = Server(self.bedrock.app())
        self.deployment = self._deploy(endpoint)
        base = {
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": endpoint,
        }
        containers = Containers(self._packages, self._home / "functions.log") if self._packages else None
        self.functions = FunctionHost(self.deployment.functions, base, self._home, containers)
        self.functions.warm()
        self.aws.functions = self.functions
        self.aws.routes, self.aws.rules = self.deployment.routes, self.deployment.rules
        self._restore()
        self.step_functions.on_change = self._changed
        self._register_webhook(client("secretsmanager", endpoint))
        self._go_on()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop everything; what still runs goes on when the stack starts again."""
        if self._poller is not None:
            self._poller.stop()
        self.telegram.stop()
        self.store.close()
        self.functions.stop()
        for server in (self._telegram_server, self._bedrock_server, self.aws.server):
            server.stop()
        reset_moto()

    @property
    def addresses(self) -> Addresses:
        """Where the stack is."""
        page = None if self._bot_token else f"{self._telegram_server.url}/{self.telegram.page_token}"
        return Addresses(self.aws.server.url, page, self.deployment.outputs, self.access.operator)

    def _deploy(self, endpoint: str) -> Deployment:
        secrets = client("secretsmanager", endpoint)
        clients = Clients(
            cloudformation=client("cloudformation", endpoint),
            step_functions=client("stepfunctions", endpoint),
            secrets=secrets,
            dynamodb=client("dynamodb", endpoint),
            s3=client("s3", endpoint),
        )
        given = {name: self._environment[key] for key, name in SETTINGS.items() if self._environment.get(key)}
        stand_in = {"TelegramBotToken": self.telegram.token, "TelegramApiUrl": self._telegram_server.url}
        parameters = {
            **({} if self._bot_token else {"AllowedUsers": "*"}),
            "ConsoleUrl": "stepgram show {name}",
            "McpServers": "none",
            **given,
            **({"TelegramBotToken": self._bot_token} if self._bot_token else stand_in),
            **self.model_parameters(secrets),
            **self._parameters,
        }
        return deploy(STACK, parameters, clients, endpoint, self.access, self._template)

    def model_parameters(self, secrets: Any) -> dict[str, str]:
        """The demo model, or the real one with `STEPGRAM_MODEL=bedrock` (or `anthropic`) and credentials."""
        wanted = self._environment.get("STEPGRAM_MODEL", "demo")
        if wanted == "demo":
            return {"ModelBaseUrl": self._bedrock_server.url, **dict.fromkeys(BUDGETS, "0")}
        names = KEYS if wanted == "bedrock" else ("ANTHROPIC_API_KEY",)
        given = {name: self._environment[name] for name in names if self._environment.get(name)}
        if wanted not in ("bedrock", "anthropic") or not given:
            raise ValueError(f"STEPGRAM_MODEL={wanted} needs one of {', '.join(names)}; `demo` needs nothing")
        arn = secrets.create_secret(Name=f"{STACK}-model", SecretString=json.dumps(given))["ARN"]
        region = self._environment.get("AWS_REGION", "")
        provider = {"ModelProvider": wanted, "ModelSecretArn": arn, "BedrockRegion": region}
        if wanted == "bedrock":
            return provider
        own = {f"{name.title()}ModelId": model.anthropic for name, model in known().models.items()}
        return {**provider, **own, "ModelId": self._environment.get("MODEL_ID") or own["SonnetModelId"]}

    def _register_webhook(self, secrets: Any) -> None:
        outputs = self.deployment.outputs
        token = secrets.get_secret_value(SecretId=outputs["WebhookSecretId"])["SecretString"]
        if self._bot_token is None:
            self.telegram.state["webhook"] = {"url": outputs["WebhookUrl"], "secret_token": token}
            return
        bot = BotApi(outputs["TelegramApiUrl"], self._bot_token)
        self._poller = Poller(bot, outputs["WebhookUrl"], token, self.store)

    def _restore(self) -> None:
        """Everything as it was kept; from here on each change is."""
        outputs = self.deployment.outputs
        items = Items(self.store, outputs["SessionTable"])
        objects = Objects(self.store, outputs["SessionBucket"])
        items.load()
        objects.load()
        self.step_functions.restore_all(self.store)
        self.aws.items, self.aws.objects, self.step_functions.keep = items, objects, self.store.keep

    def _go_on(self) -> None:
        endings = {row.owner for row in self.store.rows("ending")}
        invocations = list(self.store.rows("invocation"))
        for execution in self.step_functions.executions():
            if execution.status == "RUNNING":
                self.step_functions.go_on(execution)
            elif execution.exec_arn in endings:
                self._changed(execution)
        for invocation in invocations:
            try:
                self.aws.carry_out(invocation)
            except InvokeError as error:  # an earlier template had the function
                logger.error("an accepted invocation rests", function=invocation.value[0], cause=str(error))
        if self._poller is None:
            self.telegram.resume()
        else:
            self._poller.start()

    def _changed(self, execution: Any) -> None:
        if execution.sm_type != "STANDARD":
            return

        def deliver() -> None:
            with suppress(Closed):
                self.aws.deliver_status(execution)
                self.store.keep(Change("ending", execution.exec_arn, 0, None))

        threading.Thread(target=deliver, daemon=True, name=f"event-{execution.name}").start()


def reset_moto() -> None:
    """Forget what moto holds, so that another stack in this process starts empty."""
    moto_api_backend.reset()


def redirect_logs(path: Path) -> None:
    """Send the functions' log lines into a file: the terminal belongs to the command."""
    path.touch(0o600)
    handler = logging.FileHandler(path)
    handler.setFormatter(logger.registered_formatter)
    logger._logger.handlers[:] = [handler]
