"""The rules our definitions keep, beyond what cfn-lint knows. `make check` runs this file; the tests do too."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from samtranslator.yaml_helper import yaml_parse

ROOT = Path(__file__).resolve().parents[1]
PLATFORM = {
    "Lambda.TooManyRequestsException",
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.ClientExecutionTimeoutException",
}
AWS = "AwsUnavailable"
ASLEEP, WAKING_SECONDS = "Lambda.ResourceNotReadyException", 120
"""A function nobody called for weeks refuses its first calls while it wakes up."""

ONCE = ("TurnFailed", "TellFailure", "RunInBackground")
"""States that are not tried again for long: what TurnFailed raises is another state's error, for the others somebody
waits."""

SHARED = ("ApprovalTimedOut", "ReleaseFailedLock")
"""States that share the code of AskApproval and ReleaseLock."""

BOTO3 = re.compile(r"ClientError|BotoCoreError|.*(Timeout|Connection|Endpoint)Error")
"""Names that boto3's errors have: they differ from service to service, so no definition may match them."""


def snake(name: str) -> str:
    """`AcquireLock` -> `acquire_lock`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def problems(path: Path, template: dict[str, Any]) -> list[str]:
    """What is wrong with one definition; an empty list when it keeps the rules."""
    document = json.loads(path.read_text(encoding="utf-8"))
    states = document["States"]
    found = []
    reached = {document["StartAt"]}
    for state in states.values():
        reached |= {state.get("Next"), state.get("Default")}
        reached |= {rule["Next"] for rule in [*state.get("Catch", []), *state.get("Choices", [])]}
    found += [f"{name}: no transition leads here" for name in states if name not in reached]
    found += [f"{name}: there is no such state" for name in reached - {None} if name not in states]
    for name, state in states.items():
        if not state.get("Comment"):
            found.append(f"{name}: no Comment")
        if not re.fullmatch(r"[A-Z][A-Za-z]+", name):
            found.append(f"{name}: not PascalCase")
        if state["Type"] == "Task" and "lambda:invoke" in state["Resource"]:
            found += _lambda_problems(name, state, template)
            if path.name == "turn.asl.json" and name not in ONCE and _waits_for(ASLEEP, state) < WAKING_SECONDS:
                found.append(f"{name}: a function that slept is not waited for")
        if state["Type"] == "Task" and not {"TimeoutSeconds", "TimeoutSecondsPath"} & set(state):
            found.append(f"{name}: no TimeoutSeconds")
    used = set(re.findall(r"\$\{(\w+)\}", path.read_text(encoding="utf-8")))
    given = next(
        r["Properties"]["DefinitionSubstitutions"]
        for r in template["Resources"].values()
        if r.get("Properties", {}).get("DefinitionUri") == str(path.relative_to(ROOT))
    )
    found += [f"${{{name}}}: not substituted by the template" for name in used - set(given)]
    found += [f"{name}: substituted by the template, not used" for name in set(given) - used]
    return found


def _lambda_problems(name: str, state: dict[str, Any], template: dict[str, Any]) -> list[str]:
    found = []
    retried = {error for rule in state.get("Retry", []) for error in rule["ErrorEquals"]}
    if name not in ONCE and not retried >= {*PLATFORM, AWS}:
        found.append(f"{name}: platform errors are not retried: {sorted({*PLATFORM, AWS} - retried)}")
    found += [f"{name}: {error} is a name of boto3's" for error in sorted(retried) if BOTO3.fullmatch(error)]
    logical_id = state["Parameters"]["FunctionName"].strip("${}").removesuffix("Arn")
    properties = template["Resources"][logical_id]["Properties"]
    if "Handler" not in properties:
        return found
    module = importlib.import_module(properties["Handler"].rsplit(".", 1)[0])
    code = module.STATES.get(name)
    if code is None:
        return [*found, f"{name}: {module.__name__} does not know it"]
    where = code.__module__.rsplit(".", 1)[1]
    if name not in SHARED and where != snake(name):
        found.append(f"{name}: its code is in {where}, not in {snake(name)}")
    return found


def _waits_for(error: str, state: dict[str, Any]) -> float:
    """Seconds that a state's retries of an error wait in all, without jitter."""
    rule = next((rule for rule in state.get("Retry", []) if error in rule["ErrorEquals"]), {"MaxAttempts": 0})
    pauses = (rule["IntervalSeconds"] * rule["BackoffRate"] ** n for n in range(rule["MaxAttempts"]))
    return sum(min(pause, rule.get("MaxDelaySeconds", pause)) for pause in pauses)


def main() -> int:
    """Print every problem; exit status 1 when there is one."""
    template = yaml_parse((ROOT / "template.yaml").read_text(encoding="utf-8"))
    found = [f"{p.name}: {x}" for p in sorted((ROOT / "statemachine").glob("*.json")) for x in problems(p, template)]
    sys.stdout.writelines(f"{line}\n" for line in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
