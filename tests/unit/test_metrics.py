"""Metrics: written as CloudWatch reads them, and the dashboard and alarms show what is written."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from samtranslator.yaml_helper import yaml_parse

from functions.common.observability import DIMENSIONS, METRICS, NAMESPACE, logger, measure
from functions.common.settings import use_environment
from tests.conftest import ROOT

TEMPLATE = yaml_parse((ROOT / "template.yaml").read_text())
RESOURCES: dict[str, dict[str, Any]] = TEMPLATE["Resources"]
ALARMS = {name: r["Properties"] for name, r in RESOURCES.items() if r["Type"] == "AWS::CloudWatch::Alarm"}
SOURCES = "".join(path.read_text() for path in (ROOT / "functions").rglob("*.py"))


def dashboard() -> dict[str, Any]:
    body: dict[str, Any] = json.loads(RESOURCES["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"][0])
    return body


def shown() -> set[str]:
    """The names of our metrics on the dashboard."""
    names = set()
    for widget in dashboard()["widgets"]:
        namespace = ""
        for line in widget["properties"].get("metrics", []):
            if isinstance(line[0], dict):
                names.add(re.findall(r'MetricName="(\w+)"', line[0]["expression"])[0])
                continue
            namespace = namespace if line[0] in (".", "...") else line[0]
            if namespace == NAMESPACE and line[0] != "...":
                names.add(line[1])
    return names


def watched() -> set[str]:
    """The names of our metrics that alarms watch."""
    stats = [m["MetricStat"]["Metric"] for a in ALARMS.values() for m in a.get("Metrics", []) if "MetricStat" in m]
    return {m["MetricName"] for m in [*stats, *ALARMS.values()] if m.get("Namespace") == NAMESPACE}


def test_the_dashboard_shows_every_metric_and_the_alarms_watch_known_ones() -> None:
    assert shown() == set(METRICS)
    assert watched() == {"WaitingSeconds", "CostUsd", "ProgressFailures"}


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_measured_somewhere(name: str) -> None:
    assert re.search(rf'{name}=|"{name}": 1', SOURCES)


def test_every_alarm_is_on_the_dashboard_and_reaches_the_topic() -> None:
    alarms = next(w for w in dashboard()["widgets"] if w["type"] == "alarm")["properties"]["alarms"]

    assert sorted(alarms) == sorted(f"${{{name}.Arn}}" for name in ALARMS)
    assert all(alarm["AlarmActions"] == [{"Ref": "AlarmTopic"}] for alarm in ALARMS.values())
    assert "KmsMasterKeyId" not in RESOURCES["AlarmTopic"].get("Properties", {})


def test_no_widget_lies_on_another() -> None:
    taken: set[tuple[int, int]] = set()
    for widget in dashboard()["widgets"]:
        columns = range(widget["x"], widget["x"] + widget["width"])
        rows = range(widget["y"], widget["y"] + widget["height"])
        cells = {(x, y) for x in columns for y in rows}
        assert not cells & taken
        assert max(columns) < 24
        taken |= cells


def test_a_measurement_is_a_line_in_the_embedded_metric_format(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(logger, "info", lambda message, extra: lines.append(extra))
    use_environment({"POWERTOOLS_SERVICE_NAME": "my-bot"})
    try:
        measure("ModelRejected", TurnsFailed=1, TurnSeconds=2.5)
    finally:
        use_environment(None)

    (together, by_error) = lines
    directive = together["_aws"]["CloudWatchMetrics"][0]
    assert (directive["Namespace"], directive["Dimensions"]) == (NAMESPACE, [["service"]])
    assert {m["Name"]: m["Unit"] for m in directive["Metrics"]} == {"TurnsFailed": "Count", "TurnSeconds": "Seconds"}
    assert (together["service"], together["TurnSeconds"]) == ("my-bot", [2.5])
    assert sorted(by_error["_aws"]["CloudWatchMetrics"][0]["Dimensions"][0]) == ["error", "service"]
    assert (by_error["error"], by_error["TurnsFailed"]) == ("ModelRejected", [1.0])
    assert "TurnSeconds" not in by_error
    assert set(DIMENSIONS) <= set(METRICS)
