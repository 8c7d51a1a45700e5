"""The chart's alerts, evaluated by Prometheus itself: each fires on what it is for, and on nothing of a healthy day."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.contract import promtool
from tests.golden.chart import rendering
from tests.unit.test_chart_dashboard import SCRAPED, known
from tests.unit.test_chart_operations import WATCHED

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.contract.promtool import Json

HERE = {"job": f"{rendering.RELEASE}-torchscript-operator-metrics", "namespace": rendering.NAMESPACE}
MINUTES = 60
"""How long each case lasts; the longest wait of an alert is half of it."""
PODS = ("a", "b")
"""The first one leads."""


def series(name: str, values: str, **labels: str) -> Json:
    """Samples of one series as it is scraped, a minute apart; fails where our processes have no such series."""
    assert labels.keys() - SCRAPED == known()[name], name
    given = ",".join(f'{key}="{value}"' for key, value in {**HERE, "pod": "a", **labels}.items())
    return {"series": f"{name}{{{given}}}", "values": values}


def steady(value: float) -> str:
    return f"{float(value)}x{MINUTES}"


def growing(by: float, start: float = 0) -> str:
    return f"{start}+{by}x{MINUTES}"


WELL = [
    *(series("tsm_leader", steady(pod == PODS[0]), pod=pod) for pod in PODS),
    # An operator that waits takes no key; what it had before says nothing.
    *(series("tsm_queue_oldest_seconds", steady(900 * (pod != PODS[0])), pod=pod) for pod in PODS),
    *(series("tsm_watch_age_seconds", "0 60 120 180 240 " * 12, pod=pod, resource="jobs") for pod in PODS),
    series("tsm_last_resync_timestamp_seconds", growing(60)),
    series("tsm_reconcile_total", growing(100), result="success"),
    series("tsm_reconcile_total", growing(10), result="error"),
    series("tsm_api_calls_total", growing(1000), verb="get", code="200"),
    series("tsm_api_calls_total", growing(400), verb="get", code="404"),
    series("tsm_api_calls_total", growing(400), verb="patch", code="409"),
    series("tsm_api_calls_total", growing(50), verb="get", code="500"),
    *(
        series("tsm_model_not_ready", steady(1), model=f"ml/{reason.lower()}", reason=reason)
        for reason in ("Suspended", "Exporting", "Verifying", "RetryingWithMoreMemory")
    ),
    # Half an hour is not over.
    series("tsm_model_not_ready", "_x35 " + steady(1), model="ml/late", reason="RollingOut"),
]
"""A busy day on which nothing wakes anybody."""


def changed(**names: list[Json]) -> list[Json]:
    """The healthy day, with other series for some metrics."""
    kept = [it for it in WELL if it["series"].partition("{")[0] not in names]
    return [*kept, *(it for new in names.values() for it in new)]


class Case(NamedTuple):
    """Series on which an alert is to fire, it alone, and what it then says."""

    given: list[Json]
    says: str
    labels: Mapping[str, str] = MappingProxyType({})


ILL: dict[str, Case] = {
    "TorchScriptOperatorAbsent": Case(
        changed(tsm_leader=[series("tsm_leader", steady(0))]),
        "No pod of release-torchscript-operator leads, or none can be scraped. Models go on serving; nothing new is "
        "exported, rolled out or healed.",
    ),
    "TorchScriptOperatorSeveralLeaders": Case(
        changed(
            tsm_leader=[series("tsm_leader", steady(1), pod=pod) for pod in PODS],
            tsm_queue_oldest_seconds=[series("tsm_queue_oldest_seconds", steady(1), pod=pod) for pod in PODS],
        ),
        "2 pods of release-torchscript-operator lead at once. Nothing breaks, but everything is done twice.",
    ),
    "TorchScriptOperatorQueueStuck": Case(
        changed(tsm_queue_oldest_seconds=[series("tsm_queue_oldest_seconds", growing(60))]),
        "A model has waited 1h 0m 0s for a pass.",
    ),
    "TorchScriptOperatorDeaf": Case(
        changed(tsm_watch_age_seconds=[series("tsm_watch_age_seconds", growing(60), resource="pods")]),
        "The watch of pods in pod a has not begun again for 1h 0m 0s.",
        {"pod": "a", "resource": "pods"},
    ),
    "TorchScriptOperatorResyncMissed": Case(
        changed(tsm_last_resync_timestamp_seconds=[series("tsm_last_resync_timestamp_seconds", steady(0))]),
        "The last full look was 1h 0m 0s ago. What events have missed goes unnoticed.",
    ),
    "TorchScriptOperatorPassesFail": Case(
        changed(
            tsm_reconcile_total=[
                series("tsm_reconcile_total", growing(2), result="success"),
                series("tsm_reconcile_total", growing(2), result="error"),
            ]
        ),
        "50% of all passes over models end in an error and are tried again.",
    ),
    "TorchScriptOperatorApiErrors": Case(
        changed(
            tsm_api_calls_total=[
                series("tsm_api_calls_total", growing(6), verb="get", code="200"),
                series("tsm_api_calls_total", growing(1), verb="patch", code="403"),
                series("tsm_api_calls_total", growing(1), verb="list", code="0"),
            ]
        ),
        "25% of its requests fail or are refused.",
    ),
    "TorchScriptModelNotReady": Case(
        [
            *WELL,
            # A rollout and its failure take turns: neither lasts as long as the alert waits.
            series("tsm_model_not_ready", "1x14 _x14 1x14", model="ml/minilm", reason="RollingOut"),
            series("tsm_model_not_ready", "_x15 1x14 _x14 1x16", model="ml/minilm", reason="PodsNotReady"),
        ],
        "ml/minilm is not Ready: PodsNotReady.",
        {"model": "ml/minilm"},
    ),
    "TorchScriptModelStalled": Case(
        [*WELL, series("tsm_model_stalled", steady(1), model="ml/minilm", reason="ParityFailed")],
        "ml/minilm goes no further by itself: ParityFailed. What served before still does.",
        {"model": "ml/minilm", "reason": "ParityFailed"},
    ),
}


@pytest.fixture(scope="module")
def groups() -> list[Json]:
    (found,) = rendering.of_kind(rendering.objects(*WATCHED), "PrometheusRule")
    rules: list[Json] = found["spec"]["groups"]
    return rules


def alerts(groups: list[Json]) -> dict[str, Json]:
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def silent(name: str) -> Json:
    """That an alert does not fire at the end."""
    return {"eval_time": f"{MINUTES}m", "alertname": name}


def fires(groups: list[Json], name: str) -> Json:
    """That an alert fires at the end, and what it says."""
    rule, case = alerts(groups)[name], ILL[name]
    annotations = {**rule["annotations"], "description": case.says}
    expected = {"exp_labels": {**rule["labels"], **case.labels}, "exp_annotations": annotations}
    return {**silent(name), "exp_alerts": [expected]}


def test_each_alert_fires_on_what_it_is_for_and_alone(groups: list[Json], tmp_path: Path) -> None:
    assert ILL.keys() == alerts(groups).keys()
    cases = {
        name: {
            "input_series": case.given,
            "alert_rule_test": [fires(groups, each) if each == name else silent(each) for each in ILL],
        }
        for name, case in ILL.items()
    }
    promtool.firing(tmp_path, groups, cases)


def test_no_alert_fires_on_a_healthy_day(groups: list[Json], tmp_path: Path) -> None:
    promtool.firing(tmp_path, groups, {"healthy": {"input_series": WELL, "alert_rule_test": list(map(silent, ILL))}})


def test_operator_of_another_release_does_not_stand_in_for_one_that_is_absent(
    groups: list[Json], tmp_path: Path
) -> None:
    other = series("tsm_leader", steady(1))
    other["series"] = other["series"].replace(rendering.NAMESPACE, "another")
    absent = "TorchScriptOperatorAbsent"
    expected = [fires(groups, name) if name == absent else silent(name) for name in ILL]
    promtool.firing(tmp_path, groups, {"another release": {"input_series": [other], "alert_rule_test": expected}})
