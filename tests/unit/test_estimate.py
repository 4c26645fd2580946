"""The estimate follows the template: what it has is paid for, what it has not is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from functions.common.observability import METRICS
from stepgram.operators.estimate import Usage, idle, stepgram, used

ALARM = {"Type": "AWS::CloudWatch::Alarm", "Properties": {"MetricName": "X"}}
SUM = {
    "Type": "AWS::CloudWatch::Alarm",
    "Properties": {"Metrics": [{"Expression": "a + b"}, {"MetricStat": {}}, {"MetricStat": {}}]},
}
SNAPSHOT = {
    "Type": "AWS::Serverless::Function",
    "Properties": {"MemorySize": 1024, "SnapStart": {"ApplyOn": "PublishedVersions"}},
}


def costs(folder: Path, *resources: dict[str, Any]) -> dict[str, float]:
    """What a template of these resources costs while idle, by part."""
    path = folder / "template.yaml"
    path.write_text(json.dumps({"Resources": {f"R{n}": one for n, one in enumerate(resources)}}))
    return {line.part: round(line.cost, 2) for line in idle(path) if line.cost}


def test_an_idle_stack_costs_less_than_five_dollars_a_month() -> None:
    assert 0 < sum(line.cost for line in idle()) < 5


def test_without_turns_nothing_but_the_idle_stack_is_paid_for() -> None:
    assert stepgram(Usage(turns=0)) == idle()


def test_an_alarm_on_a_sum_costs_each_of_its_metrics(tmp_path: Path) -> None:
    assert costs(tmp_path, ALARM, SUM) == {"CloudWatch alarms": 0.30}


def test_an_accounts_first_three_dashboards_are_free(tmp_path: Path) -> None:
    dashboard = {"Type": "AWS::CloudWatch::Dashboard"}

    assert costs(tmp_path, *[dashboard] * 3) == {}
    assert costs(tmp_path, *[dashboard] * 4) == {"CloudWatch dashboard": 3.00}


def test_a_snapshot_that_waits_is_paid_for(tmp_path: Path) -> None:
    assert costs(tmp_path, SNAPSHOT) == {"Lambda SnapStart": 3.95}


@pytest.mark.parametrize(("turns", "share"), [(73, 0.1), (730, 1), (100_000, 1)])
def test_a_metric_is_paid_for_in_the_hours_in_which_it_was_told_something(turns: int, share: float) -> None:
    metrics = next(line for line in used(Usage(turns=turns)) if line.part == "CloudWatch metrics")

    assert metrics.cost == pytest.approx(len(METRICS) * 0.30 * share)
