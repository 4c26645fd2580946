"""What the documentation says that the code knows: `make docs` writes it, `make check` sees that it is current."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import click
from samtranslator.yaml_helper import yaml_parse

from functions.common import errors, settings
from functions.common.settings import Settings
from stepgram.cli import main

ROOT = Path(__file__).resolve().parents[1]


def _template() -> dict[str, Any]:
    template: dict[str, Any] = yaml_parse((ROOT / "template.yaml").read_text(encoding="utf-8"))
    return template


def _definition(machine: str) -> dict[str, Any]:
    definition: dict[str, Any] = json.loads((ROOT / "statemachine" / f"{machine}.asl.json").read_text(encoding="utf-8"))
    return definition


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    return "\n".join([_row(*head), _row(*("---" for _ in head)), *(_row(*row) for row in rows)])


def states(machine: str) -> str:
    """The states of a definition: name, type, and their comments."""
    found = _definition(machine)["States"].items()
    return _table(("State", "Type", "What happens"), [(f"`{n}`", s["Type"], s["Comment"]) for n, s in found])


def error_tree() -> str:
    """The tree of errors, as the module draws it."""
    lines = inspect.getdoc(errors) or ""
    tree = [line for line in lines.splitlines() if line.startswith("    ")]
    return "```\n" + "\n".join(line[4:] for line in tree) + "\n```"


def parameters() -> str:
    """The template's parameters."""
    rows: list[tuple[object, ...]] = [
        (f"`{name}`", f"`{given['Default']}`" if given.get("Default") not in (None, "") else "", given["Description"])
        for name, given in _template()["Parameters"].items()
    ]
    return _table(("Parameter", "Default", "Meaning"), rows)


def environment() -> str:
    """What the functions read from their environment, by the settings models."""
    seen: dict[str, tuple[object, ...]] = {}
    for model in vars(settings).values():
        if not (inspect.isclass(model) and issubclass(model, Settings)):
            continue
        for field in model.model_fields.values():
            if field.alias is None or field.description is None:
                continue
            default = "required" if field.is_required() else field.default
            shown = ",".join(default) if isinstance(default, tuple) else default
            seen[field.alias] = (f"`{field.alias}`", "" if shown in (None, "") else f"`{shown}`", field.description)
    return _table(("Variable", "Default", "Meaning"), [seen[name] for name in sorted(seen)])


def commands() -> str:
    """The help of every command."""
    parts = []

    def walk(command: click.Command, path: str, parent: click.Context | None) -> None:
        context = click.Context(command, info_name=path.rsplit(" ", 1)[-1], parent=parent, max_content_width=100)
        if isinstance(command, click.Group):
            if parent is not None:
                parts.append(f"### `{path}`\n\n```\n{command.get_help(context)}\n```")
            for name in command.commands:
                walk(command.commands[name], f"{path} {name}", context)
        else:
            parts.append(f"### `{path}`\n\n```\n{command.get_help(context)}\n```")

    walk(main, "stepgram", None)
    return "\n\n".join(parts)


def alarms() -> list[str]:
    """The names of the template's alarms."""
    resources = _template()["Resources"].items()
    return [name for name, resource in resources if resource["Type"] == "AWS::CloudWatch::Alarm"]
