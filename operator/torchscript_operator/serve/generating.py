"""Forward passes of an encoder and a decoder in turns: rows to tensors, and to the tokens written from them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.generation import Sizes, to_array, write
from torchscript_operator.artifact.manifest import Manifest
from torchscript_operator.artifact.request import Shape
from torchscript_operator.serve.rows import ATTENTION_MASK, INPUT_IDS, AbandonedError, Computed, Row, Writing, always
from torchscript_operator.serve.runner import TorchRunner
from torchscript_operator.serve.tasks.base import Task
from torchscript_operator.serve.tasks.generation import SEQUENCES

ENCODER, DECODER = "encoder", "decoder"
"""Names of the manifest's parts."""


class GenerationRunner(TorchRunner):
    """Writes one sequence for each row. One pass of the engine is a whole search, so rows wait for the longest one."""

    def __init__(
        self, manifest: Manifest, parts: Mapping[str, Mapping[Shape | None, Any]], task: Task, **limits: Any
    ) -> None:
        """Take each part's files by shape, as TorchRunner takes those of its one module, and its limits.

        Raises WorkerError (InvalidRequest) for an artifact without settings of generation.
        """
        super().__init__(manifest, parts[ENCODER], task, **limits)
        if manifest.generation is None:
            raise WorkerError(FailureReason.INVALID_REQUEST, "the artifact does not say how sequences are generated")
        self._decoders = dict(parts[DECODER])
        self._settings = manifest.generation

    def capacity(self, padded: int) -> int:
        """The most rows of one pass: the decoder runs each of them once for every beam."""
        rows = super().capacity(padded)
        return rows if not self.buckets.dynamic_batch else max(1, rows // self._settings.beams)

    def run(self, rows: Sequence[Row], *, alone: bool, wanted: Callable[[], bool] = always) -> Computed:
        """Write sequences; rows that are to be searched for alike run together.

        A search that nobody waits for any more ends at its next token: the longest take minutes, and would be taken
        for hung. Raises AbandonedError then.
        """
        self.use_threads(alone=alone)
        results: list[Any] = [None] * len(rows)
        computed = 0
        usual = Writing(self._settings.beams, self._settings.maximum_length)
        for writing in dict.fromkeys(row.writing or usual for row in rows):
            chosen = [index for index, row in enumerate(rows) if (row.writing or usual) == writing]
            size = self.buckets.fit(len(chosen), max(rows[index].length for index in chosen))
            written = self._write([rows[index] for index in chosen], size, writing, wanted)
            for index, tokens in zip(chosen, written, strict=True):
                results[index] = {SEQUENCES: tokens}
            computed += size.batch * size.sequence
        return Computed(results, computed)

    def run_arrays(self, inputs: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[Any]]:
        """Write the sequences of a golden case, which are short."""
        batch, sequence = inputs[INPUT_IDS].shape
        rows = [
            Row({name: array[index] for name, array in inputs.items()}, sequence, "outputs") for index in range(batch)
        ]
        writing = Writing(self._settings.beams, self._settings.replay_length)
        written = self._write(rows, self.buckets.fit(batch, sequence), writing)
        return {SEQUENCES: written[:, : self._settings.replay_length]}

    def _write(
        self, rows: Sequence[Row], size: Shape, writing: Writing, wanted: Callable[[], bool] = always
    ) -> NDArray[np.int64]:
        """(rows, maximum length), filled up with the pad token: rows of one request can be stacked."""
        tensors = self._tensors(rows, size)
        file = self.file_of(size)
        with torch.inference_mode():
            hidden = self._modules[file](*(torch.from_numpy(tensors[name]) for name in self._names))[0]

        def decode(*arrays: NDArray[Any]) -> NDArray[Any]:
            if not wanted():
                raise AbandonedError
            with torch.inference_mode():
                scores = self._decoders[file](*map(torch.from_numpy, arrays))[0]
            found: NDArray[Any] = scores.to(torch.float32).numpy()
            return found

        found = write(
            self._settings,
            len(rows),
            tensors[ATTENTION_MASK],
            hidden.numpy(),
            decode,
            Sizes(
                None if self.buckets.dynamic_batch else size.batch * self._settings.beams,
                None if self.buckets.dynamic_sequence else self._settings.maximum_length,
            ),
            beams=writing.beams,
            maximum_length=writing.maximum_length,
        )
        return to_array(found, self._settings.pad_token, self._settings.maximum_length)
