"""The dashboard: it asks for metrics that exist, by labels that they have."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import promql_parser
import pytest
from prometheus_client import Counter, Gauge, Histogram

from tests.golden.chart import rendering
from torchscript_operator.controller import metrics
from torchscript_operator.controller.census import Census
from torchscript_operator.serve.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

PATH = rendering.CHART / "dashboards/torchscript-operator.json"
DASHBOARD: dict[str, Any] = json.loads(PATH.read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel.get("targets", ())]
SCRAPED = {"instance", "job", "namespace", "pod"}
"""Labels that Prometheus adds to everything."""


def known() -> dict[str, set[str]]:
    """Names of all series that our processes expose, and their own labels."""
    kinds = (Counter, Gauge, Histogram)
    collectors = [each for holder in (metrics, Metrics()) for each in vars(holder).values() if isinstance(each, kinds)]
    families = [(each._name, each._type, each._labelnames) for each in collectors]
    families += [(each.name, each.type, each._labelnames) for each in Census().collect()]
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    return {
        name + suffix: {*labels, *({"le"} if suffix == "_bucket" else ())}
        for name, kind, labels in families
        for suffix in suffixes[kind]
    }


def nodes(node: Any) -> Iterator[Any]:
    """A parsed query and all its parts."""
    yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
        if (part := getattr(node, name, None)) is not None and not isinstance(part, (str, float)):
            yield from nodes(part)
    for argument in getattr(node, "args", None) or ():
        yield from nodes(argument)


def parsed(query: str) -> Any:
    return promql_parser.parse(query.replace("$__rate_interval", "5m"))


def selectors(query: str) -> list[Any]:
    return [node for node in nodes(parsed(query)) if isinstance(node, promql_parser.VectorSelector)]


def test_there_is_a_query_behind_every_panel() -> None:
    assert len(QUERIES) > 20
    assert all(panel.get("targets") for panel in PANELS if panel["type"] != "row")


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_query_is_about_metrics_and_labels_that_exist(title: str, query: str) -> None:
    series = known()
    found = selectors(query)
    assert found, title
    for selector in found:
        assert selector.name in series, title
        asked = {matcher.name for matcher in selector.matchers.matchers}
        assert asked <= series[selector.name] | SCRAPED, title
    labels = set().union(*(series[selector.name] for selector in found)) | SCRAPED
    grouped = set(re.findall(r"\w+", " ".join(re.findall(r"(?:by|on|group_left) \(([^)]*)\)", query))))
    assert grouped <= labels, title


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_counters_are_asked_for_their_rate(title: str, query: str) -> None:
    rated = {
        selector.name
        for node in nodes(parsed(query))
        if isinstance(node, promql_parser.Call) and node.func.name in {"rate", "increase"}
        for argument in node.args
        for selector in nodes(argument)
        if isinstance(selector, promql_parser.VectorSelector)
    }
    counted = {each.name for each in selectors(query) if re.search("_(total|bucket|sum|count)$", each.name)}
    assert counted == rated, title


def test_panels_have_an_id_and_a_place_of_their_own_and_say_what_they_show() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        area = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not area & taken, panel["title"]
        taken |= area
        assert panel["type"] == "row" or panel["description"].endswith(".")


def test_panels_use_the_data_source_that_is_chosen() -> None:
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource", "model"]
    for panel in PANELS:
        for holder in [panel, *panel.get("targets", ())]:
            if panel["type"] != "row":
                assert holder["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_config_map_holds_the_file_where_the_sidecar_looks() -> None:
    items = rendering.objects("--set", "grafana.dashboards.enabled=true")
    (found,) = [each for each in rendering.of_kind(items, "ConfigMap") if PATH.name in each["data"]]
    assert json.loads(found["data"][PATH.name]) == DASHBOARD
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["metadata"]["namespace"] == rendering.NAMESPACE
