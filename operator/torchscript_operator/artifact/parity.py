"""The parity gate: compiled outputs against eager's, failing closed wherever a comparison is not possible.

A row is one vector along an output's last axis. Beside the values, what an output decides has to agree: see Agreement.
Generated tokens are compared as one-hot vectors, so that the cosine of two sequences is the share of equal positions.
Everything is computed in float64. Figures are rounded towards the
worse side, so that a report never shows a bound as kept that was missed.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_UP, Context, Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchscript_operator.artifact.comparable import best_span, select, sequences_of
from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.manifest import Agreement, OutputParity, Parity
from torchscript_operator.artifact.ordering import worst_first as worst_first  # noqa: PLC0414 - where others look for it
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


@dataclass(frozen=True)
class Compared:
    """One output as it is compared."""

    name: str
    agreement: Agreement | None = None
    """For `span` another output has to be compared as `position`: it holds the starts, and this one the ends."""


class Outputs:
    """Gathers the comparisons of all outputs at one shape over any number of batches."""

    def __init__(self, outputs: Sequence[Compared], shape: str, tolerances: Tolerances) -> None:
        """Take the outputs; their order is that of the results."""
        self._comparisons = {
            output.name: Comparison(output.name, shape, tolerances, agreement=output.agreement) for output in outputs
        }
        self._starts = next((output.name for output in outputs if output.agreement == "position"), None)
        self._ends = {output.name for output in outputs if output.agreement == "span"}

    def add(
        self,
        expected: Mapping[str, NDArray[Any]],
        actual: Mapping[str, NDArray[Any]],
        masks: Mapping[str, NDArray[np.bool_] | None],
    ) -> None:
        """Add a batch: output name to array, and to the mask that Comparison.add takes; what is missing fails."""
        for name, comparison in self._comparisons.items():
            starts = None
            if name in self._ends and self._starts is not None:
                starts = (expected.get(self._starts), actual.get(self._starts))
            comparison.add(expected.get(name), actual.get(name), masks.get(name), starts)

    def results(self) -> list[OutputParity]:
        """The figures of all outputs so far."""
        return [comparison.result() for comparison in self._comparisons.values()]


Pair = tuple[NDArray[Any] | None, NDArray[Any] | None]
"""Eager's array and the compiled model's."""


class Comparison:
    """Gathers the comparison of one output at one shape over any number of batches."""

    def __init__(
        self,
        output: str,
        shape: str,
        tolerances: Tolerances,
        *,
        scores: bool = False,
        agreement: Agreement | None = None,
    ) -> None:
        """Compare rows of `output` and what they decide; `scores` is short for the agreement `class`."""
        self._output = output
        self._shape = shape
        self._bounds = Bounds.parse(tolerances)
        self._agreement: Agreement | None = agreement or ("class" if scores else None)
        self._rows = 0
        self._decisions = 0
        self._agreeing = 0
        self._non_finite = 0
        self._comparable = True
        self._within = True
        self._absolute = 0.0
        self._relative = 0.0
        self._cosine = 1.0

    def add(
        self,
        reference: NDArray[Any] | None,
        candidate: NDArray[Any] | None,
        mask: NDArray[np.bool_] | None = None,
        starts: Pair | None = None,
    ) -> None:
        """Add a batch: arrays of one shape, and a mask over their leading axes that is true where rows are compared.

        A mask over all axes leaves out single values of rows. `starts` are the starts of spans whose ends are added.
        What cannot be compared (an array missing, other shapes, no floating point, a mask that does not fit) fails the
        whole comparison. Tokens are integers of (batch, length), padded at their ends with negative numbers.
        """
        if self._agreement == "token":
            self._add_tokens(reference, candidate)
            return
        selected = select(reference, candidate, mask)
        begun = select(*starts, mask) if starts is not None else None
        if selected is None or (
            self._agreement == "span" and (begun is None or begun.kept.shape != selected.kept.shape)
        ):
            self._comparable = False
            return
        step = max(1, CHUNK_VALUES // selected.kept.shape[1])
        for start in range(0, len(selected.kept), step):
            rows = slice(start, start + step)
            self._add_rows(*selected.rows(rows))
            if self._agreement in {"class", "position"}:
                self._decide(*(scores.argmax(axis=1) for scores in selected.scores(rows)))
            elif begun is not None and self._agreement == "span":
                ends, first = selected.scores(rows), begun.scores(rows)
                self._decide(*(best_span(first[side], ends[side]) for side in (0, 1)))
        if self._agreement == "choice" and len(selected.kept):
            everything = selected.scores(slice(None))
            self._decide(*(scores.argmax(axis=0) for scores in everything))

    def _decide(self, expected: NDArray[np.int64], actual: NDArray[np.int64]) -> None:
        self._decisions += len(expected)
        self._agreeing += int(np.count_nonzero(expected == actual))

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
            within = np.isfinite(difference) & (difference <= allowed)
            self._within &= bool(within.all())
            relative = np.where(difference == 0.0, 0.0, difference / magnitude)
        self._absolute = max(self._absolute, float(difference.max()))
        self._relative = max(self._relative, float(relative.max()))
        cosine = cosine_similarity(expected, actual)
        if expected.shape[1] == 1:
            # The direction of a single number is its sign, which says nothing about a value next to zero.
            cosine = np.where(within[:, 0], 1.0, cosine)
        self._cosine = min(self._cosine, float(cosine.min()))

    def _add_tokens(self, reference: NDArray[Any] | None, candidate: NDArray[Any] | None) -> None:
        sequences = sequences_of(reference, candidate)
        if sequences is None:
            self._comparable = False
            return
        expected, actual = sequences
        counted = (expected >= 0) | (actual >= 0)
        equal = (expected == actual) & counted
        self._rows += len(expected)
        self._decisions += int(counted.sum())
        self._agreeing += int(equal.sum())
        if equal.sum() != counted.sum():
            self._absolute = self._relative = 1.0
        shares = equal.sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
        self._cosine = min(self._cosine, float(np.where(counted.any(axis=1), shares, 1.0).min(initial=1.0)))

    def result(self) -> OutputParity:
        """The figures so far and whether they pass; nothing compared does not."""
        compared = self._comparable and self._rows > 0
        agreement = self._agreeing / self._decisions if self._decisions else 0.0
        agrees = self._agreement is None or (self._decisions > 0 and agreement >= self._bounds.agreement)
        # The values of tokens are names: only how many are the same counts.
        values = self._agreement == "token" or (self._within and self._cosine >= self._bounds.cosine)
        return OutputParity(
            output=self._output,
            shape=self._shape,
            rows=self._rows,
            maximum_absolute_difference=figure(self._absolute) if compared else NOT_COMPARABLE,
            maximum_relative_difference=figure(self._relative) if compared else NOT_COMPARABLE,
            minimum_cosine_similarity=share(self._cosine) if compared else NOT_COMPARABLE,
            agreement=(share(agreement) if compared else NOT_COMPARABLE) if self._agreement else None,
            non_finite=self._non_finite,
            passed=compared and values and agrees,
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


def describe(parity: OutputParity) -> str:
    """One output's figures as half a sentence, for messages."""
    if parity.non_finite:
        return f"{parity.output} at {parity.shape} holds {parity.non_finite} NaN or infinite values"
    if not parity.rows or parity.maximum_absolute_difference == NOT_COMPARABLE:
        return f"{parity.output} at {parity.shape} could not be compared ({parity.rows} rows)"
    agreement = f", agreement {parity.agreement}" if parity.agreement is not None else ""
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
