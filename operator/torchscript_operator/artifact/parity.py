"""The parity gate: compiled outputs against eager's, failing closed wherever a comparison is not possible.

A row is one vector along an output's last axis. Everything is computed in float64. Figures are rounded towards the
worse side, so that a report never shows a bound as kept that was missed.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_UP, Context, Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.manifest import OutputParity, Parity
from torchscript_operator.artifact.request import Tolerances

CHUNK_VALUES = 4 * 1024 * 1024
"""Values compared at a time: bounds the float64 copies to some hundred megabytes, whatever the vocabulary."""
NOT_COMPARABLE = "nan"
"""The figure where there is nothing to compute one from."""

_ROUND_UP = Context(prec=3, rounding=ROUND_UP)


@dataclass(frozen=True)
class Bounds:
    """Tolerances as numbers. An element passes when |c - r| <= absolute + relative * |r|."""

    absolute: float
    relative: float
    cosine: float
    agreement: float

    @classmethod
    def parse(cls, tolerances: Tolerances) -> "Bounds":
        """Read the decimal strings; WorkerError INVALID_REQUEST for what is no number or would let anything pass."""
        return cls(
            absolute=_number("absoluteTolerance", tolerances.absolute_tolerance, 0.0, math.inf),
            relative=_number("relativeTolerance", tolerances.relative_tolerance, 0.0, math.inf),
            cosine=_number("minimumCosineSimilarity", tolerances.minimum_cosine_similarity, -1.0, 1.0),
            agreement=_number("minimumAgreement", tolerances.minimum_agreement, 0.0, 1.0),
        )


class Comparison:
    """Gathers the comparison of one output at one shape over any number of batches."""

    def __init__(self, output: str, shape: str, tolerances: Tolerances, *, scores: bool = False) -> None:
        """Compare rows of `output`; with `scores`, the top-1 index of each row has to agree as well."""
        self._output = output
        self._shape = shape
        self._bounds = Bounds.parse(tolerances)
        self._scores = scores
        self._rows = 0
        self._agreeing = 0
        self._non_finite = 0
        self._comparable = True
        self._within = True
        self._absolute = 0.0
        self._relative = 0.0
        self._cosine = 1.0

    def add(
        self, reference: NDArray[Any] | None, candidate: NDArray[Any] | None, mask: NDArray[np.bool_] | None = None
    ) -> None:
        """Add a batch: arrays of one shape, and a mask over their leading axes that is true where rows are compared.

        What cannot be compared (an array missing, other shapes, no floating point, a mask that does not fit) fails the
        whole comparison.
        """
        selected = _select(reference, candidate, mask)
        if selected is None:
            self._comparable = False
            return
        expected, actual = selected
        step = max(1, CHUNK_VALUES // expected.shape[1])
        for start in range(0, len(expected), step):
            self._add_rows(
                expected[start : start + step].astype(np.float64), actual[start : start + step].astype(np.float64)
            )

    def _add_rows(self, expected: NDArray[np.float64], actual: NDArray[np.float64]) -> None:
        self._rows += len(expected)
        broken = int(np.count_nonzero(~np.isfinite(actual)))
        self._non_finite += broken
        if broken or not np.isfinite(expected).all():
            self._comparable = False
            return
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            difference = np.abs(actual - expected)
            magnitude = np.abs(expected)
            allowed = self._bounds.absolute + self._bounds.relative * magnitude
            self._within &= bool((np.isfinite(difference) & (difference <= allowed)).all())
            relative = np.where(difference == 0.0, 0.0, difference / magnitude)
        self._absolute = max(self._absolute, float(difference.max()))
        self._relative = max(self._relative, float(relative.max()))
        self._cosine = min(self._cosine, float(cosine_similarity(expected, actual).min()))
        self._agreeing += int(np.count_nonzero(expected.argmax(axis=1) == actual.argmax(axis=1)))

    def result(self) -> OutputParity:
        """The figures so far and whether they pass; nothing compared does not."""
        compared = self._comparable and self._rows > 0
        agreement = self._agreeing / self._rows if self._rows else 0.0
        passed = (
            compared
            and self._within
            and self._cosine >= self._bounds.cosine
            and (not self._scores or agreement >= self._bounds.agreement)
        )
        return OutputParity(
            output=self._output,
            shape=self._shape,
            rows=self._rows,
            maximum_absolute_difference=figure(self._absolute) if compared else NOT_COMPARABLE,
            maximum_relative_difference=figure(self._relative) if compared else NOT_COMPARABLE,
            minimum_cosine_similarity=share(self._cosine) if compared else NOT_COMPARABLE,
            agreement=(share(agreement) if compared else NOT_COMPARABLE) if self._scores else None,
            non_finite=self._non_finite,
            passed=passed,
        )


def compare(
    output: str,
    shape: str,
    reference: NDArray[Any] | None,
    candidate: NDArray[Any] | None,
    mask: NDArray[np.bool_] | None,
    tolerances: Tolerances,
    *,
    scores: bool = False,
) -> OutputParity:
    """Compare one batch of one output; see Comparison.add for the arrays."""
    comparison = Comparison(output, shape, tolerances, scores=scores)
    comparison.add(reference, candidate, mask)
    return comparison.result()


def verdict(outputs: Iterable[OutputParity], expected: Iterable[tuple[str, str]], tolerances: Tolerances) -> Parity:
    """Passed only when every expected (output, shape) pair was compared and everything compared has passed.

    A pair without a comparison is added as a failed one of zero rows; nothing expected is a failure, too.
    """
    compared = list(outputs)
    pairs = list(dict.fromkeys(expected))
    known = {(parity.output, parity.shape) for parity in compared}
    compared += [
        compare(name, shape, None, None, None, tolerances) for name, shape in pairs if (name, shape) not in known
    ]
    passed = bool(pairs) and all(parity.passed for parity in compared)
    return Parity(verdict="Passed" if passed else "Failed", tolerances=tolerances, outputs=tuple(compared))


def worst_first(outputs: Iterable[OutputParity]) -> list[OutputParity]:
    """Order for readers in a hurry: failed before passed, not comparable first, then by the largest difference."""

    def badness(parity: OutputParity) -> tuple[bool, float, str, str]:
        difference = float(parity.maximum_absolute_difference)
        return (parity.passed, -math.inf if math.isnan(difference) else -difference, parity.output, parity.shape)

    return sorted(outputs, key=badness)


def describe(parity: OutputParity) -> str:
    """One output's figures as half a sentence, for messages."""
    if parity.non_finite:
        return f"{parity.output} at {parity.shape} holds {parity.non_finite} NaN or infinite values"
    if not parity.rows or parity.maximum_absolute_difference == NOT_COMPARABLE:
        return f"{parity.output} at {parity.shape} could not be compared ({parity.rows} rows)"
    agreement = f", top-1 agreement {parity.agreement}" if parity.agreement is not None else ""
    return (
        f"{parity.output} at {parity.shape} differs by up to {parity.maximum_absolute_difference}, "
        f"minimum cosine similarity {parity.minimum_cosine_similarity}{agreement}, over {parity.rows} rows"
    )


def cosine_similarity(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine per row of two (rows, width) arrays: 1 for two zero vectors, 0 for one of them zero.

    Computed from the distance of the unit vectors: equal rows give exactly 1, and close ones keep their digits.
    """
    unit_first, zero_first = _unit(first)
    unit_second, zero_second = _unit(second)
    cosine: NDArray[np.float64] = 1.0 - 0.5 * np.square(unit_first - unit_second).sum(axis=1)
    cosine = np.where(zero_first != zero_second, 0.0, cosine)
    return np.clip(cosine, -1.0, 1.0)


def figure(value: float) -> str:
    """Three significant digits, rounded away from zero, such as 1.24e-7; inf and nan by these names."""
    return f"{float(_ROUND_UP.create_decimal(value)):.3g}" if math.isfinite(value) else str(value)


def share(value: float) -> str:
    """A number of at most 1 with three significant digits of its distance from 1, rounded down, such as 0.999923."""
    return f"{(Decimal(1) - _ROUND_UP.create_decimal(1.0 - value)).normalize():f}"


def _select(
    reference: NDArray[Any] | None, candidate: NDArray[Any] | None, mask: NDArray[np.bool_] | None
) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """The (rows, width) arrays to compare, or None when they are not comparable."""
    if reference is None or candidate is None:
        return None
    if reference.dtype.kind != "f" or candidate.dtype.kind != "f":
        return None
    if reference.shape != candidate.shape or reference.ndim == 0 or reference.shape[-1] == 0:
        return None
    leading = reference.shape[:-1]
    if mask is None:
        rows = np.ones(leading, dtype=np.bool_)
    elif mask.dtype != np.bool_ or mask.shape != leading[: mask.ndim]:
        return None
    else:
        rows = np.broadcast_to(mask.reshape(mask.shape + (1,) * (len(leading) - mask.ndim)), leading)
    return reference[rows].reshape(-1, reference.shape[-1]), candidate[rows].reshape(-1, reference.shape[-1])


def _unit(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Rows divided by their norms, and which were zero; scaled first, since squares of large values overflow."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    zero = largest == 0.0
    scaled = rows / np.where(zero, 1.0, largest)
    norm = np.sqrt(np.square(scaled).sum(axis=1, keepdims=True))
    return scaled / np.where(zero, 1.0, norm), zero[:, 0]


def _number(name: str, text: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and least <= value <= most):
        limit = f"from {least:g}" + (f" to {most:g}" if math.isfinite(most) else "")
        raise WorkerError(FailureReason.INVALID_REQUEST, f"parity.{name} is {text!r} but has to be a number {limit}.")
    return value
