"""What the documentation says that the code knows: `make docs` writes it, `make check` sees that it is current."""

from __future__ import annotations

import ast
import inspect
import json
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from samtranslator.yaml_helper import yaml_parse

import functions
from functions.common import errors
from functions.common.models import Price, known
from functions.common.observability import DIMENSIONS, METRICS
from functions.common.settings import Settings
from stepgram.cli import main
from stepgram.operators.estimate import Line, Usage, idle, prices, seeds, stepgram

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


def error_sections() -> str:
    """A section for each error a turn can end with: what it means and what to do."""
    own = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)]
    raised = [
        (e.__name__, inspect.getdoc(e) or "", e.remedy)  # type: ignore[attr-defined]
        for e in own
        if "remedy" in vars(e) and e is not errors.StepgramError
    ]
    parts = [f"### {name}\n\n{meaning} **Do:** {remedy}" for name, meaning, remedy in raised]
    return "\n\n".join([*parts, *(f"### {name}\n\n**Do:** {remedy}" for name, remedy in errors.PLATFORM.items())])


def metrics() -> str:
    """The metrics of namespace Stepgram."""
    rows: list[tuple[object, ...]] = [
        (f"`{name}`", unit, f"{meaning}{f', by `{DIMENSIONS[name]}` too' if name in DIMENSIONS else ''}")
        for name, (unit, meaning) in METRICS.items()
    ]
    return _table(("Metric", "Unit", "What it measures"), rows)


def estimate() -> str:
    """The bill of a month by list prices, this design and the seeds'."""
    usage = Usage()
    bills = (("Stepgram", stepgram(usage)), ("The seeds' queue design", seeds(usage)))
    return "\n\n".join(_bill(title, bill) for title, bill in bills)


def idle_cost() -> str:
    """The bill of a month in which nobody writes."""
    return _bill("Stepgram, idle", idle())


def _bill(title: str, bill: list[Line]) -> str:
    rows: list[tuple[object, ...]] = [(line.part, line.what, f"{line.cost:.2f}") for line in bill]
    rows.append(("**together**", "", f"**{sum(line.cost for line in bill):.2f}**"))
    return _table((title, "What for", "US dollars a month"), rows)


def prices_of() -> str:
    """Where the prices are from, in a sentence."""
    known = prices()
    month = f"{Usage().turns:,} turns a month, list prices of {known['region']} as known in {known['date']}"
    return f"{month}, without the free tier (but for the dashboard)."


def models() -> str:
    """The pinned models: ids and prices."""

    def row(name: str, ids: tuple[str, str], price: Price) -> tuple[object, ...]:
        shown = (f"{value:.3f}" if round(value, 2) != value else f"{value:.2f}" for value in _prices(price))
        return (name, *ids, *shown)

    rows: list[tuple[object, ...]] = []
    for model in known().models.values():
        rows.append(row(model.name, (f"`{model.bedrock}`", f"`{model.anthropic}`"), model))
        if model.long_prompt is not None:
            rows.append(row(f"… prompts over {model.long_prompt.above_tokens:,} tokens", ("", ""), model.long_prompt))
    head = (f"US dollars per million tokens, read {known().date}", "Bedrock", "Anthropic API")
    return _table((*head, "Input", "Output", "Cache write", "Cache read"), rows)


def _prices(price: Price) -> tuple[float, ...]:
    return (price.input, price.output, price.cache_write, price.cache_read)


def parameters() -> str:
    """The template's parameters."""
    rows: list[tuple[object, ...]] = [
        (f"`{name}`", f"`{given['Default']}`" if given.get("Default") not in (None, "") else "", given["Description"])
        for name, given in _template()["Parameters"].items()
    ]
    return _table(("Parameter", "Default", "Meaning"), rows)


def _settings() -> Iterator[type[Settings]]:
    """All settings models, of all rooms."""
    for module in pkgutil.walk_packages(functions.__path__, "functions."):
        import_module(module.name)
    found = [Settings]
    for model in found:
        found += model.__subclasses__()
    return iter(found)


def environment() -> str:
    """What the functions read from their environment, by the settings models."""
    seen: dict[str, tuple[object, ...]] = {}
    for model in _settings():
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


def attacks() -> str:
    """What `tests/attacks/` tries, by kind: what stops it, and each attack as its test names it."""
    kinds = []
    for path in sorted((ROOT / "tests" / "attacks").glob("test_*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        kind = (ast.get_docstring(module) or "").partition("\n")[0].rstrip(".")
        stops = next(
            ast.literal_eval(node.value)
            for node in module.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "STOPPED_BY"
        )
        tests = [n.name for n in module.body if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")]
        kinds.append((kind, stops, path.name, tests))
    count = sum(len(tests) for *_, tests in kinds)
    lines = [f"{len(kinds)} kinds, {count} attacks, many of them in several forms; all refused."]
    for kind, stops, name, tests in kinds:
        lines += ["", f"### {kind}", "", f"**What stops it.** {stops} (`tests/attacks/{name}`)", ""]
        lines += [f"- {test.removeprefix('test_').replace('_', ' ')}" for test in tests]
    return "\n".join(lines)
