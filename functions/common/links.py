"""Links for who reads an execution: its trace, its log lines, its session."""

from __future__ import annotations

from urllib.parse import quote

from pydantic import BaseModel, Field

from functions.common.settings import BucketSettings, environment

TRACE = "_X_AMZN_TRACE_ID"
"""Where Lambda puts the trace of an invocation (developer guide, "Using environment variables")."""

DAYS = 30
TWICE_QUOTED = str.maketrans({"~": "$257E", "(": "$2528", ")": "$2529", "'": "$2527"})


class LinkSettings(BucketSettings):
    """Whoever tells an operator where to look."""

    region: str = Field(alias="AWS_REGION", description="AWS region")
    log_group: str = Field(alias="FUNCTION_LOGS", description="The log group of all functions")
    console_url: str = Field(
        "", alias="CONSOLE_URL", description="Where an operator sees an execution: an address with {arn} or {name}"
    )


class Links(BaseModel):
    """Addresses in the AWS console, or commands where there is none."""

    logs: str
    session: str
    trace: str


def links(turn_id: str, session_key: str, session_id: str) -> Links:
    """The links of one turn."""
    settings = LinkSettings.load()
    if settings.console_url:
        return Links(logs=f"stepgram logs {turn_id}", session=f"stepgram session show {session_key}", trace="")
    console = f"https://{settings.region}.console.aws.amazon.com"
    home = f"{console}/cloudwatch/home?region={settings.region}"
    root = dict(part.split("=", 1) for part in environment().get(TRACE, "").split(";") if "=" in part).get("Root", "")
    folder = quote(f"sessions/{session_id}/", safe="")
    return Links(
        logs=f"{home}#logsV2:logs-insights$3FqueryDetail$3D{_insights(settings.log_group, turn_id)}",
        session=f"{console}/s3/buckets/{settings.bucket}?region={settings.region}&prefix={folder}",
        trace=f"{home}#xray:traces/{root}" if root else "",
    )


def _insights(group: str, turn_id: str) -> str:
    """A query of Logs Insights as its page keeps it in an address: `*` and two digits for a character of a text, the
    structure around it quoted twice with `$` for `%`.
    """
    query = f'fields @timestamp, state, message, error, cause | filter turn_id = "{turn_id}" | sort @timestamp'
    return (
        f"~(end~0~start~-{DAYS * 86_400}~timeType~'RELATIVE~unit~'seconds"
        f"~editorString~'{_starred(query)}~source~(~'{_starred(group)}))"
    ).translate(TWICE_QUOTED)


def _starred(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "".join(f"*{byte:02x}" for byte in c.encode()) for c in text)
