"""What AWS would refuse, or what would never answer there, as far as the files themselves tell: nothing is built.

The rehearsal asks this first (`rehearse.py`). Each check takes what was read and names what it finds.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samtranslator.yaml_helper import yaml_parse

from stepgram.embedded import dockerfile
from stepgram.embedded.client import ACCOUNT, REGION
from stepgram.embedded.dockerfile import DockerfileError
from stepgram.embedded.iam import Statement, Wanted, allows
from stepgram.embedded.limits import MEMORY, RESERVED, STORAGE, TIMEOUT, UNZIPPED, VARIABLES
from stepgram.embedded.packages import WANTED, make
from stepgram.embedded.template import Resolver, role_statements, translate
from stepgram.operators.model_access import PROFILE

STACK = "stepgram"
TARGET = "the recipe of its package"
CFN_LINT = "import sys; from cfnlint.runner import main; sys.exit(main())"
"""What the command `cfn-lint` does, in this environment whatever the path."""

LINE = re.compile(r"^.*?:(?P<line>\d+):\d+:\d+:\d+:(?P<rule>E\d+):(?P<text>.*)$")
"""One finding as `cfn-lint --format parseable` prints it; rules with E are errors."""

WHEELS = re.compile(r"--python-platform (?P<platform>\S+) --python-version (?P<python>\S+)")
MACHINES = {"arm64": "aarch64", "x86_64": "x86_64"}
"""Lambda's architectures as wheels name them; without any a function is x86_64."""

MODELS = ("MODEL_ID", *(f"ANTHROPIC_DEFAULT_{name}_MODEL" for name in ("OPUS", "SONNET", "HAIKU")))
"""The variables with the ids of models that the agent calls."""

STREAM = "bedrock:InvokeModelWithResponseStream"


@dataclass(frozen=True)
class Function:
    """One function. `source` is its resource as written, `properties` what SAM makes of it, Globals included.

    `variables` and `statements` are resolved with the template's defaults.
    """

    logical_id: str
    source: Mapping[str, Any]
    properties: Mapping[str, Any]
    variables: Mapping[str, str]
    statements: list[Statement]

    @property
    def is_image(self) -> bool:
        """Whether it is deployed as an image."""
        return bool(self.source["Properties"].get("PackageType") == "Image")


@dataclass(frozen=True)
class Plan:
    """A template that was read, and the folder it lies in."""

    root: Path
    parameters: Mapping[str, Mapping[str, Any]]
    functions: list[Function]
    definitions: Mapping[str, str]
    """Each state machine's DefinitionUri, by its logical id."""

    def possible(self, value: Any) -> list[int]:
        """The numbers that a property may have: its own, or all that its parameter names."""
        if not isinstance(value, dict):
            return [int(value)]
        parameter = self.parameters[value["Ref"]]
        named = [parameter[key] for key in ("Default", "MinValue", "MaxValue") if key in parameter]
        return [int(number) for number in (*named, *parameter.get("AllowedValues", []))]


Check = Callable[[Plan], Iterator[str]]


def refused(root: Path) -> list[str]:
    """Everything found in the files below `root`; nothing when AWS would take them.

    Raises PackageError when a package has no recipe.
    """
    if found := lint(root / "template.yaml"):
        return found
    plan = read(root)
    return list(places(plan)) or [problem for check in CHECKS for problem in check(plan)]


def lint(template: Path) -> list[str]:
    """The errors cfn-lint finds in the template; what only deserves a warning does not keep it from being deployed."""
    command = [sys.executable, "-c", CFN_LINT, "--format", "parseable", template.name]
    done = subprocess.run(command, cwd=template.parent, capture_output=True, text=True, check=False)
    found = [match for line in done.stdout.splitlines() if (match := LINE.match(line))]
    if done.returncode and not done.stdout:
        return [f"{template.name}: cfn-lint cannot read it: {done.stderr.strip()}"]
    return [f"{template.name}:{match['line']}: {match['text']} ({match['rule']})" for match in found]


def read(root: Path) -> Plan:
    """The template below `root`, with what SAM makes of it."""
    source = yaml_parse((root / "template.yaml").read_text(encoding="utf-8"))
    document = translate(source, {})
    resources = document["Resources"]
    resolve = Resolver(document, {}, {name: f"{STACK}-{name}" for name in resources}, STACK, "")
    functions = [
        Function(
            name,
            source["Resources"][name],
            resource["Properties"],
            {k: str(resolve(v)) for k, v in resource["Properties"].get("Environment", {}).get("Variables", {}).items()},
            role_statements(resources[f"{name}Role"]["Properties"], resolve),
        )
        for name, resource in resources.items()
        if resource["Type"] == "AWS::Lambda::Function"
    ]
    machines = {k: r for k, r in source["Resources"].items() if r["Type"] == "AWS::Serverless::StateMachine"}
    definitions = {name: machine["Properties"]["DefinitionUri"] for name, machine in machines.items()}
    return Plan(root, source.get("Parameters", {}), functions, definitions)


def places(plan: Plan) -> Iterator[str]:
    """The folders and files that the template and its Dockerfiles name are there."""
    for name, definition in plan.definitions.items():
        if not (plan.root / definition).is_file():
            yield f"{name}: there is no definition {definition}"
    for function in plan.functions:
        if function.is_image:
            yield from _places_of_image(plan, function)
        elif not (plan.root / function.source["Properties"]["CodeUri"]).is_dir():
            yield f"{function.logical_id}: CodeUri {function.source['Properties']['CodeUri']} is no folder"


def _places_of_image(plan: Plan, function: Function) -> Iterator[str]:
    given = function.source.get("Metadata", {})
    context = plan.root / given["DockerContext"]
    if not context.is_dir():
        yield f"{function.logical_id}: DockerContext {given['DockerContext']} is no folder"
    elif not (context / given["Dockerfile"]).is_file():
        yield f"{function.logical_id}: there is no Dockerfile {given['DockerContext']}/{given['Dockerfile']}"
    else:
        try:
            image = dockerfile.read(context / given["Dockerfile"])
        except DockerfileError as error:
            yield str(error)
            return
        for source in (*image.requirements, *(source for source, _ in image.copies)):
            if not (context / source).exists():
                yield f"{function.logical_id}: {given['Dockerfile']} copies {source}, which is not there"


def limits(plan: Plan) -> Iterator[str]:
    """Time, memory and storage are what Lambda has, with every value that the template's parameters allow."""
    for function in plan.functions:
        storage = function.properties.get("EphemeralStorage", {}).get("Size", STORAGE[0])
        asked = [
            ("Timeout", TIMEOUT, "seconds", function.properties.get("Timeout", 3)),
            ("MemorySize", MEMORY, "MB", function.properties.get("MemorySize", MEMORY[0])),
            ("EphemeralStorage", STORAGE, "MB", storage),
        ]
        for name, allowed, unit, value in asked:
            for number in plan.possible(value):
                if number not in allowed:
                    yield (
                        f"{function.logical_id}: {name} {number} is not between {allowed[0]} and {allowed[-1]} {unit}"
                    )


def python(plan: Plan) -> Iterator[str]:
    """Functions run with the Python that their wheels are for, and that is rehearsed."""
    for function in plan.functions:
        if function.is_image:
            given = function.source["Metadata"]
            tag = dockerfile.read(plan.root / given["DockerContext"] / given["Dockerfile"]).python
            if not re.match(rf"{re.escape(WANTED)}(\D|$)", tag):
                yield f"{function.logical_id}: the image is FROM Python {tag}, not {WANTED}"
            continue
        runtime = str(function.properties["Runtime"])
        if runtime != f"python{WANTED}":
            yield f"{function.logical_id}: Runtime is {runtime}, not python{WANTED}"
        if (wheels := _wheels(plan, function)) and wheels["python"] != WANTED:
            yield f"{function.logical_id}: {TARGET} takes wheels for Python {wheels['python']}, not {WANTED}"


def architecture(plan: Plan) -> Iterator[str]:
    """Wheels are for the machines that the functions run on."""
    for function in plan.functions:
        wheels = None if function.is_image else _wheels(plan, function)
        (machine,) = function.properties.get("Architectures", ["x86_64"])
        if wheels and not wheels["platform"].startswith(MACHINES[machine]):
            yield f"{function.logical_id}: {TARGET} takes wheels for {wheels['platform']}, but it runs on {machine}"


def _wheels(plan: Plan, function: Function) -> re.Match[str] | None:
    """What `sam build` would ask wheels for."""
    recipe = make(plan.root / function.source["Properties"]["CodeUri"], function.logical_id, {}, dry=True)
    return WHEELS.search(recipe)


def variables(plan: Plan) -> Iterator[str]:
    """No variable is Lambda's own, and all together are not too many."""
    for function in plan.functions:
        for name in sorted(RESERVED & function.variables.keys()):
            yield f"{function.logical_id}: the variable {name} is Lambda's own and cannot be set"
        size = len(json.dumps(function.variables, separators=(",", ":"), ensure_ascii=False).encode())
        if size > VARIABLES:
            yield f"{function.logical_id}: its variables are {size} bytes together, over {VARIABLES}"


def model_rights(plan: Plan) -> Iterator[str]:
    """The agent may call the models it is given, where it calls Bedrock by its own role.

    A profile needs rights for itself and for the model behind it
    (https://docs.aws.amazon.com/bedrock/latest/userguide/inference-profiles-prereq.html); a global one for the model
    in no region, too (https://docs.aws.amazon.com/bedrock/latest/userguide/global-cross-region-inference.html).
    """
    for function in plan.functions:
        given = function.variables
        if given.get("MODEL_PROVIDER") != "bedrock" or given.get("MODEL_SECRET_ID"):
            continue
        models = dict.fromkeys(given[name] for name in MODELS if given.get(name))
        for arn in (arn for model in models for arn in model_arns(model, given.get("BEDROCK_REGION") or REGION)):
            if not allows(function.statements, Wanted(STREAM, arn)):
                yield f"{function.logical_id} may not {STREAM} on {arn}"


def model_arns(model: str, region: str) -> list[str]:
    """What a call of a model needs rights on, by its id, its profile's id or an ARN."""
    if model.startswith("arn:"):
        return [model]
    if not PROFILE.match(model):
        return [f"arn:aws:bedrock:{region}::foundation-model/{model}"]
    where, _, own = model.partition(".")
    regions = [region, ""] if where == "global" else [region]
    profile = f"arn:aws:bedrock:{region}:{ACCOUNT}:inference-profile/{model}"
    return [profile, *(f"arn:aws:bedrock:{one}::foundation-model/{own}" for one in regions)]


def unzipped(folder: Path) -> list[str]:
    """The built code of the zip functions is not more than Lambda takes."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size <= UNZIPPED:
        return []
    return [f"the package of the zip functions is {size / 2**20:.0f} MB unzipped, over {UNZIPPED // 2**20} MB"]


CHECKS: tuple[Check, ...] = (limits, python, architecture, variables, model_rights)
