"""What a report shows beside the figures: how differences are distributed, and the inputs they are largest for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from torchscript_operator.artifact.parity import cosine_similarity
from torchscript_operator.artifact.request import Shape

Origin = Literal["texts", "random tokens", "texts and random tokens"]
"""Where a batch comes from."""
SMALLEST_EXPONENT, LARGEST_EXPONENT = -9, 2
"""Decades that differences are counted in; smaller and larger ones go into the first and the last bin."""
BINS_A_DECADE = 2
EXPONENTS = np.linspace(SMALLEST_EXPONENT, LARGEST_EXPONENT, (LARGEST_EXPONENT - SMALLEST_EXPONENT) * BINS_A_DECADE + 1)
"""Edges of the bins as powers of ten."""
WORST_SAMPLES = 5
"""Inputs shown for each output."""
MAXIMUM_TEXT = 300
"""Characters of a text that are shown."""


@dataclass
class Distribution:
    """Absolute differences of one output at one shape."""

    output: str
    shape: str
    equal: int = 0
    """Values that are the same bit for bit."""
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(EXPONENTS) - 1, dtype=np.int64))
    """Values in each bin of EXPONENTS."""

    def add(self, differences: NDArray[Any]) -> None:
        """Count finite differences of any shape."""
        unequal = differences[differences > 0]
        self.equal += differences.size - unequal.size
        exponents = np.clip(np.log10(unequal), SMALLEST_EXPONENT, LARGEST_EXPONENT)
        self.counts += np.histogram(exponents, EXPONENTS)[0]

    def to_json(self) -> dict[str, Any]:
        """JSON of the counts; empty bins at both ends are left out."""
        filled = np.flatnonzero(self.counts)
        first, last = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, 0)
        bins = [
            {"from": f"{10 ** EXPONENTS[index]:.2g}", "to": f"{10 ** EXPONENTS[index + 1]:.2g}", "values": int(count)}
            for index, count in list(enumerate(self.counts))[first:last]
        ]
        return {"output": self.output, "shape": self.shape, "equal": self.equal, "bins": bins}


@dataclass(frozen=True)
class Sample:
    """One input and how far the compiled model is from eager there."""

    output: str
    shape: str
    origin: Origin
    text: str
    """The tokens as text, cut to MAXIMUM_TEXT characters."""
    tokens: int
    difference: float
    """Largest absolute difference of a value that counts."""
    cosine: float
    """Smallest cosine similarity of a row that counts."""

    def to_json(self) -> dict[str, Any]:
        """JSON with the figures as short strings."""
        figures = {
            "maximumAbsoluteDifference": f"{self.difference:.3g}",
            "minimumCosineSimilarity": f"{self.cosine:.6g}",
        }
        where = {"output": self.output, "shape": self.shape, "origin": self.origin}
        return {**where, "text": self.text, "tokens": self.tokens, **figures}


class Evidence:
    """Gathers both while parity is measured."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        """Take what makes a text of tokens."""
        self._decode = decode
        self._distributions: dict[tuple[str, str], Distribution] = {}
        self._worst: dict[str, list[Sample]] = {}

    @property
    def distributions(self) -> tuple[Distribution, ...]:
        """In the order in which outputs and shapes were measured."""
        return tuple(self._distributions.values())

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The inputs with the largest differences of each output, the worst first."""
        return tuple(sample for samples in self._worst.values() for sample in samples)

    def add(
        self,
        output: str,
        shape: Shape,
        origin: Origin,
        inputs: Mapping[str, NDArray[Any]],
        expected: NDArray[Any] | None,
        actual: NDArray[Any] | None,
        mask: NDArray[np.bool_] | None,
    ) -> None:
        """Add a batch of one output as parity compares it; what is no floating point or not comparable is passed by.

        expected, actual: (batch, …). mask: over the leading axes, true where values count.
        """
        if expected is None or actual is None or expected.shape != actual.shape or expected.ndim == 0:
            return
        if expected.dtype.kind != "f" or actual.dtype.kind != "f" or not np.isfinite(actual).all():
            return
        kept = np.ones(expected.shape[:1], dtype=np.bool_) if mask is None else mask
        kept = np.broadcast_to(kept.reshape(kept.shape + (1,) * (expected.ndim - kept.ndim)), expected.shape)
        differences = np.where(kept, np.abs(actual - expected), 0)
        distribution = self._distributions.setdefault((output, shape.name), Distribution(output, shape.name))
        distribution.add(differences[kept])
        ids, attention = inputs.get("input_ids"), inputs.get("attention_mask")
        if ids is None or attention is None or ids.ndim != 2 or len(ids) != len(expected):  # noqa: PLR2004
            return
        worst = self._worst.setdefault(output, [])
        largest = differences.reshape(len(differences), -1).max(axis=1)
        for row in np.argsort(-largest)[:WORST_SAMPLES]:
            if len(worst) == WORST_SAMPLES and largest[row] <= worst[-1].difference:
                break
            rows = kept[row].reshape(-1, expected.shape[-1]).any(axis=1)
            pair = (array[row].reshape(-1, expected.shape[-1])[rows].astype(np.float64) for array in (expected, actual))
            tokens = ids[row][attention[row] != 0].tolist()
            text = " ".join(self._decode(tokens).split())
            if any(sample.text == text[:MAXIMUM_TEXT] and sample.difference >= largest[row] for sample in worst):
                continue
            worst[:] = [sample for sample in worst if sample.text != text[:MAXIMUM_TEXT]]
            sample = Sample(
                output,
                shape.name,
                origin,
                text[:MAXIMUM_TEXT],
                len(tokens),
                float(largest[row]),
                float(cosine_similarity(*pair).min(initial=1.0)),
            )
            worst.append(sample)
            worst.sort(key=lambda found: -found.difference)
            del worst[WORST_SAMPLES:]
