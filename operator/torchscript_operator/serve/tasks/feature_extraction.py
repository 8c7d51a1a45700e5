"""feature-extraction: one vector a text.

The exporter puts the pooling into the model, where parity proves it. For an artifact with token vectors alone the
server pools as the manifest says.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.manifest import Manifest, Pooling, TensorSpec
from torchscript_operator.serve.buckets import Buckets
from torchscript_operator.serve.rows import Result
from torchscript_operator.serve.tasks.base import Arrays, InputError, Run, Task

if TYPE_CHECKING:
    from torchscript_operator.serve.tokenizing import Tokenizing

SMALLEST_COUNT = 1e-9
"""Divisor of a mean over no token at all."""
SMALLEST_NORM = 1e-12
"""Divisor of a vector of zeros."""
DEFAULT_POOLING = Pooling(mode="mean", normalize=False, origin="default")
"""For artifacts whose source says nothing about pooling."""
TEXT_VECTORS = ["batch", "feature"]
"""Axes of an output with one vector a text."""
TOKEN_VECTORS = ["batch", "sequence", "feature"]
"""Axes of an output with one vector a token."""


class FeatureExtraction(Task):
    """Embeddings."""

    def __init__(
        self, manifest: Manifest, config: Mapping[str, Any] | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        """Find the output with a vector for each text, or else for each token."""
        super().__init__(manifest, config, facts)
        self._pooling = manifest.pooling or DEFAULT_POOLING
        pooled = None if self._pooling.mode == "none" else _output(manifest, TEXT_VECTORS)
        self._pool = pooled is None
        output = pooled or _output(manifest, TOKEN_VECTORS)
        if output is None:
            raise WorkerError(FailureReason.INVALID_REQUEST, "the artifact has no output that is an embedding")
        self._output = output

    @property
    def width(self) -> int | None:
        """The hidden width, or None when the pooling is `none` and there is no one vector a text."""
        return None if self._pooling.mode == "none" else self._output.axes[-1].size

    def finish(self, outputs: Arrays, mask: NDArray[np.int64]) -> Sequence[Result]:
        """One float32 vector of shape (width,) a row, or (sequence, width) when nothing is pooled."""
        vectors = outputs[self._output.name]
        return list(pool(vectors, mask, self._pooling) if self._pool else vectors)

    async def predict(self, inputs: Any, parameters: Mapping[str, Any], tokenizing: "Tokenizing", run: Run) -> Any:
        """Token vectors of a text, (1, sequence, width), or a list of such for texts; `truncation` cuts long ones.

        Raises InputError.
        """
        texts = [inputs] if isinstance(inputs, str) else inputs
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
            raise InputError("inputs must be a text or a list of texts, none of them empty")
        unknown = set(parameters) - {"truncation"}
        if unknown or not isinstance(parameters.get("truncation", False), bool):
            raise InputError("the only parameter of this task is truncation, true or false")
        output = _output(self.manifest, TOKEN_VECTORS)
        if output is None or not tokenizing.available:
            raise InputError("this artifact has no token vectors or no tokenizer; use the Open Inference Protocol")
        truncate = parameters.get("truncation", False)
        results = await run(await tokenizing.rows(texts, Buckets.of(self.manifest), truncate=truncate, want="outputs"))
        answers = [result[output.name][None] for result in results]
        return answers[0] if isinstance(inputs, str) else answers

    def describe(self) -> dict[str, Any]:
        """The pooling beside the task."""
        return super().describe() | {
            "pooling": self._pooling.mode,
            "normalize": self._pooling.normalize,
            "width": self.width,
        }


def pool(tokens: NDArray[np.float32], mask: NDArray[np.int64], pooling: Pooling) -> NDArray[np.float32]:
    """Token vectors (batch, sequence, width) and mask (batch, sequence) to text vectors (batch, width)."""
    if pooling.mode == "mean":
        weights = mask.astype(np.float32)
        total = np.matmul(weights[:, None, :], tokens)[:, 0]
        vectors = total / np.maximum(weights.sum(axis=1, keepdims=True), SMALLEST_COUNT)
    elif pooling.mode == "max":
        vectors = np.where(mask[:, :, None] != 0, tokens, np.float32(-np.inf)).max(axis=1)
    elif pooling.mode == "cls":
        vectors = tokens[:, 0]
    else:
        vectors = tokens
    if pooling.normalize:
        norms = np.sqrt(np.square(vectors).sum(axis=-1, keepdims=True))
        vectors = vectors / np.maximum(norms, SMALLEST_NORM)
    return np.ascontiguousarray(vectors, dtype=np.float32)


def _output(manifest: Manifest, axes: list[str]) -> TensorSpec | None:
    return next((spec for spec in manifest.outputs if [axis.name for axis in spec.axes] == axes), None)
