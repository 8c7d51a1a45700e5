"""What of two arrays is compared: rows and values that count, sequences of one length, and the best spans."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Selected:
    """Rows of (rows, width) that are compared, and which of their values count."""

    expected: NDArray[Any]
    actual: NDArray[Any]
    kept: NDArray[np.bool_]

    def rows(self, part: slice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Both sides with zeros where nothing counts."""
        return self._filled(part, 0.0)

    def scores(self, part: slice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Both sides with what never is the best where nothing counts."""
        return self._filled(part, -np.inf)

    def _filled(self, part: slice, fill: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        kept = self.kept[part]
        return (
            np.where(kept, self.expected[part].astype(np.float64), fill),
            np.where(kept, self.actual[part].astype(np.float64), fill),
        )


def best_span(starts: NDArray[np.float64], ends: NDArray[np.float64]) -> NDArray[np.int64]:
    """The span of the highest sum of both scores that does not end before it starts: (rows, width) to (rows,).

    A span is numbered start * width + end. Positions that do not count are -inf in both arrays.
    """
    with np.errstate(invalid="ignore"):
        sums = np.maximum.accumulate(starts, axis=1) + ends
    end = sums.argmax(axis=1)
    width = starts.shape[1]
    before = np.arange(width)[None, :] <= end[:, None]
    start = np.where(before, starts, -np.inf).argmax(axis=1)
    spans: NDArray[np.int64] = start * width + end
    return spans


def select(
    reference: NDArray[Any] | None, candidate: NDArray[Any] | None, mask: NDArray[np.bool_] | None
) -> Selected | None:
    """What is compared, or None when it is not comparable."""
    if reference is None or candidate is None:
        return None
    if reference.dtype.kind != "f" or candidate.dtype.kind != "f":
        return None
    if reference.shape != candidate.shape or reference.ndim == 0 or reference.shape[-1] == 0:
        return None
    if mask is None:
        mask = np.ones(reference.shape[:-1], dtype=np.bool_)
    if mask.dtype != np.bool_ or mask.shape != reference.shape[: mask.ndim]:
        return None
    kept = np.broadcast_to(mask.reshape(mask.shape + (1,) * (reference.ndim - mask.ndim)), reference.shape)
    rows = kept.any(axis=-1)
    width = reference.shape[-1]
    return Selected(*(array[rows].reshape(-1, width) for array in (reference, candidate, kept)))


def sequences_of(
    reference: NDArray[Any] | None, candidate: NDArray[Any] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Tokens of (batch, length) brought to one length with -1, or None when they are not comparable."""
    if reference is None or candidate is None or reference.dtype.kind != "i" or candidate.dtype.kind != "i":
        return None
    if reference.ndim != 2 or candidate.ndim != 2 or len(reference) != len(candidate):  # noqa: PLR2004
        return None
    length = max(reference.shape[1], candidate.shape[1])
    padded = [
        np.pad(array, ((0, 0), (0, length - array.shape[1])), constant_values=-1) for array in (reference, candidate)
    ]
    return padded[0].astype(np.int64), padded[1].astype(np.int64)
