"""The console page: the turns of a stack, and one turn as a graph of its definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from flask import Flask, Response

from stepgram.executions import detail, list_executions
from stepgram.graph import draw
from stepgram.stack import Stack

PAGE = Path(__file__).parent / "embedded" / "pages" / "console.html"
ROWS = 50


def app(stack: Stack) -> Flask:
    """The WSGI application for one stack; it only reads."""
    application = Flask("console")
    step_functions, machine = stack.client("stepfunctions"), stack.outputs["TurnArn"]
    definition = step_functions.describe_state_machine(stateMachineArn=machine)["definition"]

    @application.get("/")
    def page() -> Response:
        return Response(PAGE.read_text(encoding="utf-8"), mimetype="text/html")

    @application.get("/executions")
    def executions() -> list[dict[str, Any]]:
        return list_executions(step_functions, machine, None, None, ROWS)

    @application.get("/executions/<name>")
    def execution(name: str) -> Any:
        try:
            found = detail(step_functions, stack.execution_arn(name))
        except ClientError as error:
            return Response(str(error), 404)
        return {**found.document(), "graph": draw(definition, found.states)}

    return application
