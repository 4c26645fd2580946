"""Is the stack able to answer? Each check says what it found, and what to do when that is not right.

A check that the endpoint at hand cannot answer (an emulator, missing rights for reading) is `unknown`, not a failure.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Literal

import requests
from botocore.exceptions import BotoCoreError, ClientError

from functions.common.envelope import Chat, Message, User
from functions.common.errors import ChannelError
from functions.common.models import known
from functions.conversation.admission import Admission
from functions.telegram.update import KINDS
from functions.telegram.webhook import SECRET_HEADER
from stepgram.operators.model_access import RAISE, SUBSCRIBE, TOKENS_PER_MINUTE, look_up, tokens_per_minute
from stepgram.operators.rerun import redrive, wait_until_ended
from stepgram.operators.stack import Stack
from stepgram.operators.webhook import bot_of, secret_of, webhook_info

Verdict = Literal["ok", "failed", "unknown"]

OUTPUTS = (
    *("TurnArn", "IntakeArn", "WebhookUrl", "SessionTable", "SessionBucket"),
    *("BotTokenSecretId", "WebhookSecretId", "TelegramApiUrl", "FunctionLogs", "AlarmTopicArn"),
)
MODEL_PARAMETERS = ("ModelId", "OpusModelId", "SonnetModelId", "HaikuModelId")

CLOCK_SECONDS = 60
"""AWS refuses signatures that are five minutes off; expiry times are written with this clock."""

CONCURRENCY = 50
"""Lambda executions at once below which a few busy conversations throttle each other (new accounts have 10)."""

PENDING = 100
"""Updates that wait at Telegram from which on the webhook is not keeping up."""

WAIT_SECONDS = 600
NOT_ANSWERED_HERE = ("UnknownOperation", "NotImplemented", "InternalFailure", "501", "404", "InternalError")


@dataclass(frozen=True)
class Check:
    """What one check found; `remedy` says what to do when it is not `ok`."""

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""


class Doctor:
    """The checks of one stack."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def checks(self) -> Iterator[Check]:
        """All checks, one after the other."""
        for name, look, remedy in self.looks():
            yield self.look(name, look, remedy)

    def looks(self) -> list[tuple[str, Callable[[], Check], str]]:
        """Each check's name, the look it takes, and what to do when nothing better is known."""
        return [
            ("credentials", self._credentials, "Run `aws configure` or `aws sso login`."),
            ("outputs", self._outputs, "Deploy this version of the template: `make update`."),
            ("state machines", self._machines, "Deploy again; nobody but CloudFormation should delete them."),
            ("definitions", self._definitions, "Mend the definition at the place named, then deploy: `make update`."),
            ("table", self._table, "Deploy again; without its TTL, conversations never expire."),
            ("bucket", self._bucket, "Deploy again; without its lifecycle, objects never expire."),
            ("bot token", self._bot, "Deploy with the token @BotFather gives: parameter TelegramBotToken."),
            ("webhook registration", self._webhook, f"Run `stepgram webhook set{self._named}`."),
            ("webhook secret", self._secret, f"Run `stepgram webhook set{self._named}`, then look again."),
            ("who may write", self._access, f"`stepgram access add user ID{self._named}`, or parameter AllowedUsers."),
            ("models", self._models, SUBSCRIBE),
            ("model quotas", self._model_quotas, RAISE),
            ("quotas", self._quotas, "Ask for more in the Service Quotas console: AWS Lambda, Concurrent executions."),
            ("alarms", self._alarms, "Deploy with AlarmEmail, or subscribe to the stack's AlarmTopic."),
            ("clock", self._clock, "Set this machine's clock by NTP."),
        ]  # fmt: skip

    @property
    def _named(self) -> str:
        return "" if self._stack.is_local else f" --stack {self._stack.name}"

    def look(self, name: str, look: Callable[[], Check], remedy: str) -> Check:
        """Take one look; what AWS or Telegram refuses is told as the check's finding."""
        try:
            found = look()
        except ClientError as error:
            code, said = str(error.response["Error"]["Code"]), str(error.response["Error"].get("Message", error))
            if code in NOT_ANSWERED_HERE:
                return Check(name, "unknown", f"the endpoint does not answer {error.operation_name}")
            found = Check(name, "unknown" if "AccessDenied" in code else "failed", f"{error.operation_name}: {said}")
        except (BotoCoreError, ChannelError, requests.RequestException, KeyError) as error:
            found = Check(name, "failed", f"{type(error).__name__}: {error}")
        return Check(name, found.verdict, found.found, "" if found.verdict == "ok" else found.remedy or remedy)

    def _credentials(self) -> Check:
        identity = self._stack.client("sts").get_caller_identity()
        return _verdict(True, f"{identity['Arn']} in account {identity['Account']}")

    def _outputs(self) -> Check:
        missing = [name for name in OUTPUTS if name not in self._stack.outputs]
        return _verdict(not missing, f"missing: {', '.join(missing)}" if missing else f"all {len(OUTPUTS)} are there")

    def _machines(self) -> Check:
        step_functions = self._stack.client("stepfunctions")
        kinds = {
            step_functions.describe_state_machine(stateMachineArn=self._stack.outputs[name])["type"]
            for name in ("TurnArn", "IntakeArn")
        }
        return _verdict(kinds == {"STANDARD", "EXPRESS"}, f"types {', '.join(sorted(kinds))}")

    def _definitions(self) -> Check:
        """Step Functions' own check of what is deployed, which finds more than a schema does."""
        step_functions, wrong = self._stack.client("stepfunctions"), []
        for name in ("TurnArn", "IntakeArn"):
            machine = step_functions.describe_state_machine(stateMachineArn=self._stack.outputs[name])
            answer = step_functions.validate_state_machine_definition(
                definition=machine["definition"], type=machine["type"], severity="ERROR"
            )
            wrong += [f"{machine['name']} {d.get('location', '')}: {d['message']}" for d in answer["diagnostics"]]
        return _verdict(not wrong, "; ".join(wrong) or "Step Functions finds no error in them")

    def _table(self) -> Check:
        dynamodb, name = self._stack.client("dynamodb"), self._stack.outputs["SessionTable"]
        status = dynamodb.describe_table(TableName=name)["Table"]["TableStatus"]
        ttl = dynamodb.describe_time_to_live(TableName=name)["TimeToLiveDescription"]["TimeToLiveStatus"]
        return _verdict(status == "ACTIVE" and ttl == "ENABLED", f"{name} is {status}, its TTL {ttl}")

    def _bucket(self) -> Check:
        s3, name = self._stack.client("s3"), self._stack.outputs["SessionBucket"]
        rules = s3.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]
        days = [rule["Expiration"]["Days"] for rule in rules if rule.get("Expiration", {}).get("Days")]
        return _verdict(bool(days), f"{name} removes sessions after {min(days, default=0)} days")

    def _bot(self) -> Check:
        me = bot_of(self._stack).call("getMe", {})
        return _verdict(bool(me["is_bot"]), f"@{me['username']}")

    def _webhook(self) -> Check:
        info, wanted = webhook_info(self._stack), self._stack.outputs["WebhookUrl"]
        missing = sorted(set(KINDS) - set(info.get("allowed_updates") or KINDS))
        if info.get("url") != wanted:
            return _verdict(False, f"Telegram delivers to {info.get('url') or 'nobody'}, not to {wanted}")
        if missing:
            return _verdict(False, f"Telegram leaves out {', '.join(missing)}")
        waiting, last = info.get("pending_update_count", 0), info.get("last_error_message")
        recent = time.time() - info.get("last_error_date", 0) < 3600
        if waiting >= PENDING or (last and recent):
            return Check("", "failed", f"{waiting} updates wait; the last error: {last}", "Read the webhook's log.")
        return _verdict(True, f"{wanted}, {waiting} updates wait")

    def _secret(self) -> Check:
        """The webhook refuses a call without its secret, and takes one with it."""
        url, body = self._stack.outputs["WebhookUrl"], {"update_id": 0}
        without = requests.post(url, json=body, timeout=30).status_code
        header = {SECRET_HEADER: secret_of(self._stack, "WebhookSecretId")}
        given = requests.post(url, json=body, headers=header, timeout=30).status_code
        return _verdict((without, given) == (401, 200), f"without the secret {without}, with it {given}")

    def _access(self) -> Check:
        named = [self._parameters.get(name, "") for name in ("AllowedUsers", "AllowedChats")]
        guests = Admission(self._stack.outputs["SessionTable"], self._stack.client("dynamodb")).guests()
        return _verdict(
            any(named) or bool(guests), f"{' '.join(filter(None, named)) or 'nobody'}, {len(guests)} by code"
        )

    @property
    def _pinned(self) -> list[str]:
        """The ids of the models that this stack pins, each once."""
        return list(dict.fromkeys(self._parameters[name] for name in MODEL_PARAMETERS if self._parameters.get(name)))

    @property
    def _elsewhere(self) -> Check | None:
        """What to say when the models are not those of the stack's own account on Bedrock; None when they are."""
        models, given = ", ".join(self._pinned), self._parameters
        if given.get("ModelBaseUrl"):
            return _verdict(True, f"{models} behind {given['ModelBaseUrl']}")
        if given.get("ModelProvider", "bedrock") != "bedrock" or given.get("ModelSecretArn"):
            return Check("", "unknown", f"{models}, with credentials of its own", "`stepgram ask` will tell.")
        return None

    def _models(self) -> Check:
        if self._elsewhere is not None:
            return self._elsewhere
        bedrock = self._stack.client("bedrock", self._parameters.get("BedrockRegion", ""))
        found = [look_up(bedrock, model) for model in self._pinned]
        wrong = [one for one in found if one.remedy]
        remedies = " ".join(dict.fromkeys(one.remedy for one in wrong))
        text = "; ".join(f"{one.model}: {one.state}" for one in wrong or found)
        return Check("", "failed" if wrong else "ok", text, remedies)

    def _model_quotas(self) -> Check:
        if self._elsewhere is not None:
            return self._elsewhere
        client = self._stack.client("service-quotas", self._parameters.get("BedrockRegion", ""))
        pages = client.get_paginator("list_service_quotas").paginate(ServiceCode="bedrock")
        quotas = [quota for page in pages for quota in page["Quotas"]]
        found: dict[str, float | None] = {}
        for model in self._pinned:
            named = known().named(model)
            limit = tokens_per_minute(quotas, named.name, model.startswith("global.")) if named else None
            found[named.name if named else model] = limit
        text = ", ".join(f"{n} {'not named' if v is None else format(v, ',.0f')}" for n, v in found.items())
        if all(limit is None for limit in found.values()):
            return Check("", "unknown", "Service Quotas names none of the models", "Look at Bedrock's console.")
        enough = all(limit is None or limit >= TOKENS_PER_MINUTE for limit in found.values())
        return _verdict(enough, f"tokens per minute: {text}")

    def _quotas(self) -> Check:
        limit = self._stack.client("lambda").get_account_settings()["AccountLimit"]["ConcurrentExecutions"]
        return _verdict(limit >= CONCURRENCY, f"{limit} Lambda executions at once")

    def _alarms(self) -> Check:
        if self._stack.is_local:
            return _verdict(True, "none on this machine: the console page shows failures")
        topic = self._stack.outputs["AlarmTopicArn"]
        found = self._stack.client("sns").list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
        return _verdict(bool(found), f"{len(found)} subscribers")

    def _clock(self) -> Check:
        answer = self._stack.client("sts").get_caller_identity()
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        if date is None:
            return Check("", "unknown", "the endpoint does not tell the time")
        off = abs((datetime.now(UTC) - parsedate_to_datetime(date).astimezone(UTC)).total_seconds())
        return _verdict(off < CLOCK_SECONDS, f"{off:.0f} s off")

    @cached_property
    def _parameters(self) -> dict[str, str]:
        found = self._stack.client("cloudformation").describe_stacks(StackName=self._stack.name)["Stacks"][0]
        return {one["ParameterKey"]: one.get("ParameterValue", "") for one in found.get("Parameters", [])}


def _verdict(is_right: bool, found: str) -> Check:
    return Check("", "ok" if is_right else "failed", found)


def redrive_check(stack: Stack, chat: int) -> Check:
    """Fail a turn on purpose, redrive it, and see that it goes on and answers in this private chat.

    Its first state is refused by DynamoDB (a `ttl` that is no number), so the turn takes the route of failures.
    """
    step_functions, now = stack.client("stepfunctions"), int(time.time())
    name = f"c{chat}-t0-u0-r{now}"
    text = "Say in one sentence that the redrive check has passed."
    document = {
        "turn_id": name,
        "session_key": f"{chat}:0",
        "route": "message",
        "ttl": "refused on purpose: stepgram doctor --redrive-check",
        "chat": Chat(id=chat, type="private").model_dump(),
        "user": User(id=chat, name="operator").model_dump(),
        "message": Message(id=1, update_id=0, date=now, text=text).model_dump(mode="json", exclude_none=True),
    }
    arn = step_functions.start_execution(
        stateMachineArn=stack.outputs["TurnArn"], name=name, input=json.dumps(document)
    )["executionArn"]
    look = f"Look at it: `stepgram show {name}`."
    if wait_until_ended(stack, arn, WAIT_SECONDS).status != "FAILED":
        return Check("redrive", "failed", f"{name} did not fail", look)
    found = wait_until_ended(stack, redrive(stack, name), WAIT_SECONDS)
    way = [state.name for state in found.attempts[-1]]
    passed = found.status == "SUCCEEDED" and len(found.attempts) == 2
    text = f"{name} {found.status} by {' '.join(way)}"
    return Check("redrive", "ok" if passed else "failed", text, "" if passed else look)
