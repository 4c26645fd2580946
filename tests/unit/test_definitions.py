"""The definition lint passes, and finds what it is for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from samtranslator.yaml_helper import yaml_parse

from stepgram.operators.executions import failure_route
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
        (lambda s: [r.update(MaxAttempts=2) for r in s["Reply"]["Retry"]], "Reply: a function that slept is not"),
        (
            lambda s: s["Reply"]["Retry"][0]["ErrorEquals"].append("ClientError"),
            "Reply: ClientError is a name of boto3's",
        ),
        (lambda s: s.update(Answer={**s["Reply"]}), "Answer: functions.turn.handler does not know it"),
    ],
)
def test_a_broken_definition_is_found(breakage: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ROOT / "statemachine" / "turn.asl.json"
    document = json.loads(path.read_text())
    breakage(document["States"])
    template = yaml_parse((ROOT / "template.yaml").read_text())
    monkeypatch.setattr(type(path), "read_text", lambda self, encoding="": json.dumps(document))

    assert any(line.startswith(message) for line in definitions.problems(path, template))


def test_what_stepfunctions_local_plays_has_what_the_definition_selects() -> None:
    """That image needs Docker, so nothing else here would notice that the mocked answers fell behind."""
    states = json.loads((ROOT / "statemachine" / "turn.asl.json").read_text())["States"]
    mocked = json.loads((ROOT / "tests" / "docker" / "mock.json").read_text())
    cases = mocked["StateMachines"]["stepgram-turn"]["TestCases"].values()
    checked = 0
    for state, name in {pair for case in cases for pair in case.items()}:
        selected = states[state].get("ResultSelector", {}).values()
        wanted = {path.split(".")[2] for path in selected if path.startswith("$.Payload.")}
        for answer in mocked["MockedResponses"][name].values():
            if "Return" in answer and wanted:
                assert wanted <= set(answer["Return"]["Payload"]), f"{state}: {name}"
                checked += 1
    assert checked >= 8


def test_the_route_of_a_failure_is_read_from_the_definition() -> None:
    definition = (ROOT / "statemachine" / "turn.asl.json").read_text()

    waits, route = ["ReadNoticeDelay", "WaitToReport"], ["ReportFailure", "ReleaseFailedLock", "TurnFailed"]
    assert failure_route(definition) == [*waits, *route]
