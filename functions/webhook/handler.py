"""The HTTP entry. It waits for nothing and keeps nothing: check, normalise, start the Intake, answer.

Telegram delivers an update again until it gets a 2xx, so its redelivery is the queue in front of us:

    200  the message is durable (the Turn exists), or it needs nothing more
    401  the secret is wrong or missing
    400  the body is not an Update
    5xx  anything else; Telegram comes again
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from pydantic import ValidationError

from functions.common import aws
from functions.common.errors import BadInput, ConfigurationError
from functions.common.observability import logger
from functions.common.secrets import secret
from functions.common.settings import WebhookSettings
from functions.webhook.normalise import normalise
from functions.webhook.update import Update

SECRET_HEADER = "x-telegram-bot-api-secret-token"
"""Telegram sends the secret given to setWebhook in this header (Bot API, setWebhook)."""


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one HTTP API event (payload format 2.0)."""
    try:
        settings = WebhookSettings.load()
        expected = secret(settings.secret_id)
    except ConfigurationError as error:
        logger.error("the webhook is not configured", error=type(error).__name__, cause=str(error))
        return _answer(500, error="the webhook is not configured")
    given = event.get("headers", {}).get(SECRET_HEADER, "")
    if not hmac.compare_digest(given.encode(), expected.encode()):
        logger.warning("wrong or missing webhook secret")
        return _answer(401, error=f"{SECRET_HEADER} is wrong or missing")
    try:
        update = read_update(event)
    except BadInput as error:
        logger.warning("not an Update", cause=str(error))
        return _answer(400, error=str(error))

    envelope = normalise(update, settings.allowed_users, settings.allowed_chats, settings.session_ttl_days)
    if envelope.route == "ignored":
        return _answer(200, outcome="ignored")
    try:
        execution = aws.step_functions().start_sync_execution(
            stateMachineArn=settings.intake_arn,
            input=envelope.model_dump_json(exclude_none=True),
        )
    except (ClientError, BotoCoreError) as error:
        logger.error("the Intake did not start", turn_id=envelope.turn_id, cause=str(error))
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
    logger.info("accepted", turn_id=envelope.turn_id, session_key=envelope.session_key, outcome=outcome)
    return _answer(200, outcome=outcome, turn_id=envelope.turn_id)


def read_update(event: dict[str, Any]) -> Update:
    """The Update in the event's body. Raises BadInput that names the field."""
    body = event.get("body") or ""
    try:
        raw = base64.b64decode(body, validate=True) if event.get("isBase64Encoded") else body.encode()
        return Update.model_validate_json(raw)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}" for item in error.errors())
        raise BadInput(f"not an Update: {problems}") from error
    except binascii.Error as error:
        raise BadInput(f"body: {error}") from error


def _answer(status: int, **body: str | None) -> dict[str, Any]:
    return {
        "statusCode": status,
        "headers": {"content-type": "application/json"},
        "body": json.dumps(body),
    }
