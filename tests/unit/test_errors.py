"""The vocabulary of errors and the definitions say the same."""

from __future__ import annotations

import inspect
import json
import re

import pytest

from functions.common import errors
from functions.common.errors import model_error
from tests.conftest import ROOT

TURN = json.loads((ROOT / "statemachine" / "turn.asl.json").read_text())
CLASSES = {name: c for name, c in vars(errors).items() if inspect.isclass(c) and issubclass(c, Exception)}


def names(kind: str) -> set[str]:
    rules = [rule for state in TURN["States"].values() for rule in state.get(kind, [])]
    return {name for rule in rules for name in rule["ErrorEquals"] if "." not in name}


def test_every_error_that_the_definition_matches_is_in_the_module() -> None:
    assert names("Retry") | names("Catch") <= set(CLASSES)


def test_the_state_that_raises_the_original_error_tries_nothing_again() -> None:
    """Whatever its Retry named, a turn could have failed with: `Lambda.Unknown`, `AwsUnavailable`, any name at all."""
    assert "Retry" not in TURN["States"]["TurnFailed"]


def test_the_tree_in_the_docstring_is_the_hierarchy() -> None:
    assert errors.__doc__ is not None
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__)) | {"StepgramError"}

    assert drawn == set(CLASSES)


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        ("ModelThrottled", 6),
        ("ModelUnavailable", 4),
        ("AgentCrashed", 1),
        ("AgentTimedOut", 1),
        ("TelegramUnavailable", 6),
        ("LockContended", 3),
        ("AwsUnavailable", 6),
    ],
)
def test_retries_are_those_of_the_tree(error: str, attempts: int) -> None:
    rules = [r for s in TURN["States"].values() for r in s.get("Retry", []) if error in r["ErrorEquals"]]

    assert rules
    assert {rule["MaxAttempts"] for rule in rules} == {attempts}


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (429, "ModelThrottled"),
        (503, "ModelThrottled"),
        (529, "ModelThrottled"),
        (500, "ModelUnavailable"),
        (None, "ModelUnavailable"),
        (401, "ModelAccessDenied"),
        (403, "ModelAccessDenied"),
        (400, "ModelRejected"),
        (404, "ModelRejected"),
    ],
)
def test_a_status_of_the_model_endpoint_has_a_name(status: int | None, name: str) -> None:
    assert type(model_error(status, "x")).__name__ == name
