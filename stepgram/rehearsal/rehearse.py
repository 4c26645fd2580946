"""`make rehearse`: would this deploy work? On this machine, from the real packages, under Lambda's limits.

The packages are built as `sam build` builds them, the stack starts in strict mode (`stepgram.embedded.containers`),
and somebody plays in its chat (`stepgram.rehearsal.play`). Exit status 0: it would deploy; 1: it would not, and why.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from stepgram.embedded.dockerfile import DockerfileError
from stepgram.embedded.packages import WANTED, PackageError, Packages, shared_cache
from stepgram.embedded.stack import EmbeddedStack
from stepgram.embedded.template import ROOT, FunctionSpec
from stepgram.rehearsal import deployable
from stepgram.rehearsal.play import Rehearsal, Wrong, cannot_start, logical

ANY = "RehearsalFunction"
"""A zip function's logical id, as SAM calls the make target with; all of them share one recipe."""

NOT_TRIED = (
    "Not tried here: the build of the agent's image (the packages of dnf, requirements-mcp.txt), the model on Bedrock, "
    "the limits of Step Functions on the definitions, the account's quotas."
)
"""What the verdict does not cover."""

out = Console(highlight=False, soft_wrap=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="make rehearse", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="folder with template.yaml, functions/, statemachine/")
    parser.add_argument("--only-start", action="store_true", help="build the packages and start each function, no more")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stepgram-rehearsal-", ignore_cleanup_errors=True) as home:
        problems = rehearse(given.root, Path(home), given.only_start)
    if problems:
        out.print("\n[bold red]This would not deploy:[/bold red]")
        for problem in problems:
            out.print(f"  {escape(problem)}")
    else:
        verdict = "Every function starts from its package." if given.only_start else "This would deploy."
        out.print(f"\n[bold green]{verdict}[/bold green]")
        out.print(NOT_TRIED, style="dim")
    sys.stdout.flush()
    os._exit(1 if problems else 0)  # the stack's threads are still there: see stepgram/cli.py, run


def rehearse(root: Path, home: Path, only_start: bool = False) -> list[str]:
    """Build, start and play what lies below `root`; what is wrong with it, nothing when it would deploy."""
    try:
        if problems := _look(root):
            return problems
        packages = _build(root)
        if problems := deployable.unzipped(packages.zip(ANY)):
            return problems
    except (PackageError, DockerfileError) as error:
        return [str(error)]
    with EmbeddedStack(home, environment={}, packages=packages, template=root / "template.yaml") as stack:
        out.print(f"  each function runs {stack.functions.limits}", style="dim")
        specs = stack.deployment.functions.values()
        problems = [problem for spec in specs if (problem := _start(stack, spec)) is not None]
        if problems or only_start:
            return problems
        return _play(Rehearsal(stack), home / "functions.log")


def _look(root: Path) -> list[str]:
    """What the files themselves tell, before anything is built."""
    began = time.monotonic()
    problems = deployable.refused(root)
    _tell(not problems, time.monotonic() - began, "the template, by cfn-lint, and what it fits together with", "")
    return problems


def _build(root: Path) -> Packages:
    """Everything that is run later, built or found in the cache."""
    packages = Packages(shared_cache(), root)
    version = packages.python.version
    note = "" if version == WANTED else f"Lambda has {WANTED}, which is not installed here"
    _timed(f"Python {version} and AWS's runtime client", lambda: packages.runtime, note)
    _timed("the zip of the small functions, by the make target of sam build", lambda: packages.zip(ANY))
    _timed("the agent's folder, as its Dockerfile says", lambda: packages.agent)
    return packages


def _start(stack: EmbeddedStack, spec: FunctionSpec) -> str | None:
    """Start a function from its package; the problem, if there is one."""
    began = time.monotonic()
    failed = stack.functions.start(spec)
    _tell(failed is None, time.monotonic() - began, f"{spec.logical_id} starts", "")
    return None if failed is None else cannot_start(spec, failed)


def _play(rehearsal: Rehearsal, log: Path) -> list[str]:
    """The parts in order, up to the first that goes wrong."""
    for part in rehearsal.parts():
        began = time.monotonic()
        wrong, seen = [], ""
        try:
            seen = part.play()
        except Wrong as error:
            wrong = [f"{part.name}: {error}"]
        problems = [*dict.fromkeys(rehearsal.refusals()), *wrong]
        _tell(not problems, time.monotonic() - began, part.name, seen)
        if problems:
            return [*problems, *_platform_errors(log)]
    return []


def _platform_errors(log: Path) -> list[str]:
    """What Lambda itself said of functions that ended, ran out of time or of memory."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    reports = [json.loads(line) for line in lines if line.startswith('{"type": "platform.report"')]
    return [f"{logical(report['record']['function'])}: {report['message']}" for report in reports]


def _timed(name: str, do: Callable[[], object], note: str = "") -> None:
    began = time.monotonic()
    do()
    _tell(True, time.monotonic() - began, name, note)


def _tell(well: bool, seconds: float, name: str, seen: str) -> None:
    sign = "[green]✓[/green]" if well else "[red]✗[/red]"
    out.print(f"{sign} {seconds:6.1f} s  {escape(name)}  [dim]{escape(seen)}[/dim]")


if __name__ == "__main__":
    main()
