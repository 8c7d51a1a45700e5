"""Parity for plots: each figure as a number beside the bound that it is held to. All pure."""

import math
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation

from torchscript_operator.api.v1alpha1.status import TargetStatus
from torchscript_operator.artifact import request, tolerances
from torchscript_operator.artifact.failures import WorkerError
from torchscript_operator.artifact.manifest import OutputParity
from torchscript_operator.artifact.ordering import worst_first
from torchscript_operator.cli import reports, status
from torchscript_operator.cli.cluster.access import Json
from torchscript_operator.cli.cluster.read import ModelView

DEFAULT_COSINE = tolerances.default_of("torchscript", "float32").cosine
"""The same for every compiler and precision."""


def of_model(view: ModelView) -> list[Json]:
    """Of each target that has been measured."""
    return [found for target in view.targets if (found := _of_target(view, target)) is not None]


def worst(measured: Iterable[Json]) -> Json | None:
    """The figure nearest to its bound, or farthest beyond it, of all targets; one that failed comes first."""
    found = [(part, figure) for part in measured for figure in part["rows"]]
    if not found:
        return None

    def badness(pair: tuple[Json, Json]) -> tuple[bool, float]:
        part, figure = pair
        difference, bound = figure["difference"], part["bounds"]["absolute"] if part["bounds"] else 0.0
        return not figure["passed"], math.inf if difference is None else difference / bound if bound else difference

    part, figure = max(found, key=badness)
    return {
        "target": part["target"],
        "output": figure["output"],
        "shape": figure["shape"],
        "difference": figure["difference"],
        "text": figure["differenceText"],
        "bound": part["bounds"]["absolute"] if part["bounds"] else None,
        "passed": figure["passed"],
    }


def _of_target(view: ModelView, target: TargetStatus) -> Json | None:
    """Those of an attempt that failed, as long as its pod is there; else those of the artifact."""
    failed = reports.of_failed_attempt(view, target)
    parity = failed or target.parity
    if parity is None:
        return None
    outputs = failed.outputs if failed else status.figures(target)
    precision = None if failed else target.precision
    return {
        "target": target.name,
        "of": "attempt" if failed else "artifact",
        "verdict": parity.verdict,
        "report": parity.report,
        "omitted": parity.omitted,
        "bounds": _bounds(view, target.name, precision),
        "rows": [_row(figure) for figure in worst_first(outputs)],
    }


def _row(figure: OutputParity) -> Json:
    return {
        "output": figure.output,
        "shape": figure.shape,
        "rows": figure.rows,
        "difference": number(figure.maximum_absolute_difference),
        "differenceText": figure.maximum_absolute_difference,
        "cosineDistance": distance(figure.minimum_cosine_similarity),
        "cosineText": figure.minimum_cosine_similarity,
        "agreement": figure.agreement,
        "nonFinite": figure.non_finite,
        "passed": figure.passed,
    }


def number(text: str | None) -> float | None:
    """A figure; None where the comparison was not possible."""
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else None


def distance(similarity: str | None) -> float | None:
    """One less a cosine similarity, with the digits that a float of the similarity has lost."""
    try:
        found = 1 - Decimal(similarity or "nan")
    except InvalidOperation:
        return None
    return max(float(found), 0.0) if found.is_finite() else None


def _bounds(view: ModelView, name: str, precision: str | None) -> Json | None:
    """What the spec says, and for the rest the defaults of the precision that was measured; None where unknown."""
    target = next((spec for spec in view.model.spec.targets if spec.name == name), None)
    if target is None or not view.is_readable:
        return None
    # A refused `auto` has fallen back to float32 before it gave up.
    wanted = precision or ("float32" if target.precision == "auto" else target.precision)
    asked = request.RequestedTolerances(**view.model.spec.parity.model_dump())
    try:
        held = tolerances.resolve(asked, target.compiler, wanted)
    except WorkerError:
        return None
    return {
        "absolute": number(held.absolute_tolerance),
        "relative": number(held.relative_tolerance),
        "cosineDistance": distance(held.minimum_cosine_similarity),
        "agreement": number(held.minimum_agreement),
    }
