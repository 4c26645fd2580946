"""The definition lint passes, and finds what it is for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from samtranslator.yaml_helper import yaml_parse

from tests import definitions
from tests.conftest import ROOT


def test_the_definitions_keep_the_rules() -> None:
    assert definitions.main() == 0


@pytest.mark.parametrize(
    ("breakage", "message"),
    [
        (lambda s: s["Persist"].pop("Comment"), "Persist: no Comment"),
        (lambda s: s["Persist"].update(Next="Nowhere"), "Nowhere: there is no such state"),
        (lambda s: s["AgentDone"].update(Default="Reply"), "Persist: no transition leads here"),
        (lambda s: s["Reply"].update(Retry=[]), "Reply: platform errors are not retried"),
        (lambda s: s["Reply"].pop("TimeoutSeconds"), "Reply: no TimeoutSeconds"),
    ],
)
def test_a_broken_definition_is_found(breakage: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ROOT / "statemachine" / "turn.asl.json"
    document = json.loads(path.read_text())
    breakage(document["States"])
    template = yaml_parse((ROOT / "template.yaml").read_text())
    monkeypatch.setattr(type(path), "read_text", lambda self, encoding="": json.dumps(document))

    assert any(line.startswith(message) for line in definitions.problems(path, template))
