"""What Prometheus is told of the models: how many there are in which state, and the figures of their artifacts.

All of it comes from statuses as they were last heard of, so that a restart loses nothing, and goes with the model.
Series of single models are bounded: where there are more, those of the worst parity and of models in trouble remain.
"""

import heapq
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from torchscript_operator.api import conditions
from torchscript_operator.controller.model import Json
from torchscript_operator.controller.queue import Key

MOST_SERIES = 2000
"""Of one metric about single models or targets."""
TROUBLES = {
    "tsm_model_not_ready": (conditions.READY, "False", "A model whose condition Ready is False, and why."),
    "tsm_model_stalled": (conditions.STALLED, "True", "A model with which only a person can go on, and why."),
}
"""Metrics of single models: the condition that each is about, and the status that makes a series."""


class Figures(NamedTuple):
    """Of a target's newest artifact."""

    target: str
    seconds: float | None
    difference: float | None
    """The greatest absolute difference from eager's outputs, over all outputs and shapes."""
    cosine: float | None
    """The least cosine similarity."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A model in short."""

    states: tuple[tuple[str, str], ...]
    """Type and status of each condition."""
    troubles: tuple[tuple[str, str], ...]
    """Metric and reason."""
    figures: tuple[Figures, ...]


def _number(text: object) -> float | None:
    try:
        found = float(str(text))
    except ValueError:
        return None
    return None if math.isnan(found) else found


def _worst(rows: list[Json], field: str, *, greatest: bool) -> float | None:
    found = [number for row in rows if (number := _number(row.get(field))) is not None]
    return (max if greatest else min)(found, default=None)


def figures(target: Json) -> Figures | None:
    """The figures of a target's status; None before anything is proven."""
    if "artifact" not in target:
        return None
    rows = (target.get("parity") or {}).get("outputs") or []
    return Figures(
        target["name"],
        target.get("durationSeconds"),
        _worst(rows, "maximumAbsoluteDifference", greatest=True),
        _worst(rows, "minimumCosineSimilarity", greatest=False),
    )


def entry(body: Json) -> Entry:
    """A model in short."""
    status = body.get("status") or {}
    found = {item["type"]: item for item in status.get("conditions") or ()}
    troubles = (
        (metric, found[kind]["reason"])
        for metric, (kind, bad, _) in TROUBLES.items()
        if found.get(kind, {}).get("status") == bad
    )
    told = (figures(target) for target in status.get("targets") or ())
    return Entry(
        states=tuple((sys.intern(kind), sys.intern(item["status"])) for kind, item in found.items()),
        troubles=tuple(troubles),
        figures=tuple(each for each in told if each is not None),
    )


class Census(Collector):
    """All models, as far as Prometheus is concerned."""

    def __init__(self) -> None:
        """Know of none."""
        self._entries: dict[Key, Entry] = {}

    def note(self, key: Key, body: Json) -> None:
        """Take in a model as it is now."""
        self._entries[key] = entry(body)

    def forget(self, key: Key) -> None:
        """Take in that a model is gone."""
        self._entries.pop(key, None)

    def collect(self) -> Iterator[Metric]:
        """Answer a scrape; it comes in a thread of its own."""
        entries = list(self._entries.items())
        yield GaugeMetricFamily("tsm_models", "Models that there are.", value=len(entries))
        yield self._states(entries)
        omitted = 0
        for metric, (_, _, text) in TROUBLES.items():
            family = GaugeMetricFamily(metric, text, labels=["model", "reason"])
            found = [(_name(key), reason) for key, it in entries for name, reason in it.troubles if name == metric]
            omitted += max(0, len(found) - MOST_SERIES)
            for model, reason in heapq.nsmallest(MOST_SERIES, found):
                family.add_metric([model, reason], 1)
            yield family
        rows = [(_name(key), each) for key, it in entries for each in it.figures]
        omitted += max(0, len(rows) - MOST_SERIES)
        yield from _figures(heapq.nlargest(MOST_SERIES, rows, key=lambda row: (row[1].difference or 0.0, row[0])))
        text = "Series of single models left out, since there are too many."
        yield GaugeMetricFamily("tsm_model_series_omitted", text, value=omitted)

    def _states(self, entries: list[tuple[Key, Entry]]) -> Metric:
        counts = Counter(state for _, it in entries for state in it.states)
        family = GaugeMetricFamily(
            "tsm_models_by_condition", "Models by the status of each condition.", labels=["condition", "status"]
        )
        for kind in conditions.ALL:
            for status in ("True", "False", "Unknown"):
                family.add_metric([kind, status], counts[kind, status])
        return family


def _name(key: Key) -> str:
    return f"{key.namespace}/{key.name}"


def _figures(rows: Iterable[tuple[str, Figures]]) -> Iterator[Metric]:
    told = {
        "seconds": ("tsm_export_duration_seconds", "Time that the Job took whose artifact is a target's newest."),
        "difference": (
            "tsm_parity_maximum_absolute_difference",
            "The greatest difference from eager's outputs, over all outputs and shapes of a target's newest artifact.",
        ),
        "cosine": (
            "tsm_parity_minimum_cosine_similarity",
            "The least cosine similarity with eager's outputs, over the same.",
        ),
    }
    rows = list(rows)
    for field, (metric, text) in told.items():
        family = GaugeMetricFamily(metric, text, labels=["model", "target"])
        for model, each in rows:
            value = getattr(each, field)
            if value is not None:
                family.add_metric([model, each.target], value)
        yield family
