"""The HTTP entry. It waits for nothing and keeps nothing: check, normalise, start the Intake, answer.

Telegram delivers an update again until it gets a 2xx, so its redelivery is the queue in front of us:

    200  the message is durable (the Turn exists), or it needs nothing more; also what is not an Update, since Telegram
         would deliver it again for a day and it would not be one then either: it is logged and counted
    401  the secret is wrong or missing
    5xx  anything else; Telegram comes again
"""

from __future__ import annotations

import base64
import hmac
import json
import re
from typing import Any

from botocore.exceptions import ClientError
from pydantic import ValidationError

from functions.common import aws
from functions.common.envelope import Chat, Envelope
from functions.common.errors import AwsUnavailable, BadInput, ConfigurationError, StepgramError
from functions.common.observability import logger, measure
from functions.common.secrets import secret
from functions.conversation.admission import Admission
from functions.telegram.normalise import Rules, normalise
from functions.telegram.settings import WebhookSettings
from functions.telegram.update import Update

COUNTED = ("message", "album", "command", "background")
"""Routes that count against what a user may send in a minute; a button or a stop always goes through."""

INPUT_BYTES = 200 * 1024
"""Bytes an envelope may have: the state of an execution holds 256 KiB (Step Functions quotas), and more comes to it."""

PROBLEMS = 3
"""Of what is wrong with an update, so many are told."""

ESCAPES = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.", re.S
)
"""JSON's escapes one after another; the group is half of a character, which is none: a lone surrogate."""

NOT_CARRIED_OUT = "failed"
"""The Intake's outcome when what was asked for failed and the chat was told."""

SECRET_HEADER = "x-telegram-bot-api-secret-token"
"""Telegram sends the secret given to setWebhook in this header (Bot API, setWebhook)."""


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one HTTP API event (payload format 2.0)."""
    try:
        settings = WebhookSettings.load()
        expected = secret(settings.secret_id)
    except (ConfigurationError, AwsUnavailable) as error:
        logger.error("the webhook is not configured", error=type(error).__name__, cause=str(error))
        return _answer(500, error="the webhook is not configured")
    given = str((event.get("headers") or {}).get(SECRET_HEADER, ""))
    if not hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode()):
        logger.warning("wrong or missing webhook secret")
        return _answer(401, error=f"{SECRET_HEADER} is wrong or missing")
    try:
        update = read_update(event)
    except BadInput as error:
        return _not_understood(str(error))

    try:
        with aws.translated():
            envelope = admitted(update, settings)
            if envelope.route == "ignored":
                return _answer(200, outcome="ignored")
            document = envelope.model_dump_json(exclude_none=True)
            if len(document.encode()) > INPUT_BYTES:
                return _not_understood(f"{len(document.encode())} bytes are more than a turn takes")
            execution = aws.whole_intake().start_sync_execution(stateMachineArn=settings.intake_arn, input=document)
    except (StepgramError, ClientError) as error:
        name = type(error).__name__
        logger.error("the Intake did not start", update_id=update.update_id, error=name, cause=str(error))
        return _answer(503, error="the Intake did not start")
    if execution["status"] != "SUCCEEDED":
        logger.error(
            "the Intake failed",
            turn_id=envelope.turn_id,
            error=execution.get("error"),
            cause=execution.get("cause"),
        )
        return _answer(502, error="the Intake failed")
    outcome = json.loads(execution["output"]).get("outcome")
    if outcome == NOT_CARRIED_OUT:
        logger.error("not carried out", turn_id=envelope.turn_id, session_key=envelope.session_key)
        measure(NotCarriedOut=1)
    else:
        logger.info("accepted", turn_id=envelope.turn_id, session_key=envelope.session_key, outcome=outcome)
    return _answer(200, outcome=outcome, turn_id=envelope.turn_id)


def _not_understood(why: str) -> dict[str, Any]:
    logger.error("not an Update", cause=why)
    measure(UpdatesNotUnderstood=1)
    return _answer(200, outcome="not understood", error=why)


def admitted(update: Update, settings: WebhookSettings) -> Envelope:
    """The update's envelope, after looking whether its sender was allowed since, and writes too fast."""
    admission = Admission(settings.table, aws.dynamodb())
    rules = Rules.of(settings)
    envelope = normalise(update, rules)
    if envelope.reason == "not_allowed" and isinstance(envelope.chat, Chat):
        user = envelope.user.id if envelope.user else envelope.chat.id
        if admission.allowed("user", user) or admission.allowed("chat", envelope.chat.id):
            envelope = normalise(update, rules.allowing(user))
    counts = settings.messages_per_minute and envelope.user is not None
    if not counts or envelope.user is None or envelope.route not in COUNTED:
        return envelope
    excess = admission.count(envelope.user.id, update.update_id) - settings.messages_per_minute
    if excess <= 0:
        return envelope
    return envelope.model_copy(update={"route": "refused" if excess == 1 else "ignored", "reason": "too_fast"})


def read_update(event: dict[str, Any]) -> Update:
    """The Update in the event's body. Raises BadInput that names the field."""
    body = event.get("body") or ""
    try:
        raw = base64.b64decode(body, validate=True) if event.get("isBase64Encoded") else body.encode("utf-8", "replace")
    except ValueError as error:
        raise BadInput(f"body: {error}") from error
    try:
        return Update.model_validate_json(_whole_characters(raw))
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)[:PROBLEMS]
        problems = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}" for item in found)
        raise BadInput(f"not an Update: {problems}") from error


def _whole_characters(raw: bytes) -> str:
    """JSON as text that every later step can encode: what is no character becomes U+FFFD, and the rest is kept."""
    return ESCAPES.sub(lambda found: "\\ufffd" if found[1] else found[0], raw.decode("utf-8", "replace"))


def _answer(status: int, **body: str | None) -> dict[str, Any]:
    return {
        "statusCode": status,
        "headers": {"content-type": "application/json"},
        "body": json.dumps(body),
    }
