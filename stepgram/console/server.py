"""The console page: the turns of a stack, one turn as a graph of its definition, and what can be done about it.

It answers on loopback only, and only under an address that holds a random token: another program or page that reaches
the port can neither read nor do anything. The page asks nobody but this server (see `stepgram/server.py`).

    GET  /<token>/api/turns           a page of rows, filtered
    GET  /<token>/api/turns/<name>    one turn: states by attempt, definition, explanation
    GET  /<token>/api/turns/<name>/events
    GET  /<token>/api/conversations/<key>
    POST /<token>/api/turns/<name>/rerun | rerun-from-start | stop
"""

from __future__ import annotations

import secrets
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from flask import Flask, Response, abort, request, send_from_directory

from functions.common.errors import SnapshotMissing
from stepgram.operators.executions import Turns, Wanted, detail, history
from stepgram.operators.explain import explain
from stepgram.operators.rerun import RerunError, redrive, rerun_from_start, stop
from stepgram.operators.sessions import Sessions
from stepgram.operators.stack import Stack, StackError
from stepgram.server import NOBODY, Server, only_with_token

PAGE = Path(__file__).parent / "page"
ROWS = 100
"""Rows the page asks for at a time."""


def serve(stack: Stack, port: int = 0) -> tuple[Server, str]:
    """The page of a stack on a loopback port; returns its server and its address. Raises PortBusy."""
    token = secrets.token_urlsafe(16)
    server = Server(app(stack, token), port)
    return server, f"{server.url}/{token}/"


def app(stack: Stack, token: str) -> Flask:
    """The WSGI application for one stack."""
    application = Flask("console", static_folder=None)
    application.json.sort_keys = False  # type: ignore[attr-defined]
    step_functions = stack.client("stepfunctions")
    turns = Turns(step_functions, stack.outputs["TurnArn"])
    definitions: dict[str, str] = {}  # Step Functions gives one a second; a page that looks again asks for none

    only_with_token(application, token)

    @application.errorhandler(SnapshotMissing)
    @application.errorhandler(RerunError)
    @application.errorhandler(StackError)
    @application.errorhandler(ValueError)
    def refused(error: Exception) -> tuple[dict[str, str], int]:
        return {"error": str(error)}, 400

    @application.errorhandler(ClientError)
    @application.errorhandler(BotoCoreError)
    def failed(error: Exception) -> tuple[dict[str, str], int]:
        return {"error": f"AWS: {error}"}, 502

    @application.get("/", defaults={"token": ""})
    @application.get("/<token>")
    def nothing() -> str:
        return NOBODY

    @application.get("/<token>/", defaults={"name": "index.html"})
    @application.get("/<token>/<name>")
    def page(name: str) -> Response:
        return send_from_directory(PAGE, name)

    @application.get("/<token>/api/turns")
    def rows() -> dict[str, Any]:
        given = request.args
        wanted = Wanted(
            status=given.get("status") or None,
            chat=_number("chat"),
            since=_time("since"),
            until=_time("until"),
            text=given.get("text", ""),
        )
        found, following = turns.page(wanted, ROWS, given.get("next") or None)
        return {"rows": found, "next": following}

    @application.get("/<token>/api/turns/<name>")
    def turn(name: str) -> dict[str, Any]:
        found = detail(step_functions, stack.execution_arn(name), definitions.get(name))
        definitions[name] = found.definition
        explanation = explain(stack, found)
        return {
            **found.document(),
            "definition": found.definition,
            "explanation": asdict(explanation) if explanation else None,
        }

    @application.get("/<token>/api/turns/<name>/events")
    def events(name: str) -> list[dict[str, Any]]:
        found = history(step_functions, stack.execution_arn(name))
        return [{**event, "timestamp": event["timestamp"].isoformat(timespec="milliseconds")} for event in found]

    @application.get("/<token>/api/conversations/<key>")
    def conversation(key: str) -> dict[str, Any]:
        return Sessions(stack).show(key)

    @application.post("/<token>/api/turns/<name>/<action>")
    def act(name: str, action: str) -> dict[str, str]:
        actions = {"rerun": redrive, "rerun-from-start": rerun_from_start, "stop": stop}
        if action not in actions:
            abort(404)
        return {"name": actions[action](stack, name).rpartition(":")[2]}

    return application


def _number(name: str) -> int | None:
    """A whole number of the query. Raises ValueError that names it."""
    text = request.args.get(name)
    if not text:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"{name}: no whole number") from error


def _time(name: str) -> datetime | None:
    """A time of the query as the page sends it, ISO with its zone. Raises ValueError that names it."""
    text = request.args.get(name)
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if time.tzinfo is None:
        raise ValueError(f"{name}: {text!r} has no time zone")
    return time
