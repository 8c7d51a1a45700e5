"""One forward pass: rows to tensors, padded with a mask; the compiled model; outputs cut back to each row."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from torchscript_operator.artifact.manifest import Manifest
from torchscript_operator.artifact.request import Shape
from torchscript_operator.serve.buckets import Buckets
from torchscript_operator.serve.rows import ATTENTION_MASK, INPUT_IDS, Computed, Result, Row, always
from torchscript_operator.serve.tasks.base import Task


class TorchRunner:
    """Runs the TorchScript files of one artifact. Safe to call from several threads: it holds no state of a pass."""

    def __init__(
        self,
        manifest: Manifest,
        modules: Mapping[Shape | None, Any],
        task: Task,
        *,
        pad_id: int,
        maximum_rows: int,
        maximum_tokens: int,
        threads: int = 1,
        workers: int = 1,
    ) -> None:
        """Take what was loaded.

        modules: the declared shape of each file, or None for the one file of all shapes, to its ScriptModule.
        pad_id: the token that stands where there is none. maximum_rows, maximum_tokens: bounds of one pass.
        threads: of all passes together. workers: most passes at one time.
        """
        self.manifest = manifest
        self.task = task
        self.buckets = Buckets.of(manifest)
        self._modules = dict(modules)
        self._names = [tensor.name for tensor in manifest.inputs]
        self._sequence_outputs = {
            output.name for output in manifest.outputs if any(axis.name == "sequence" for axis in output.axes[1:2])
        }
        self._fill = {INPUT_IDS: pad_id}
        self._maximum_rows = maximum_rows
        self._maximum_tokens = maximum_tokens
        self._shared_threads = max(1, threads // workers)
        # GNU's OpenMP makes every barrier sleep once the threads of all its teams are more than the processors.
        self._lone_threads = max(1, threads - (workers - 1) * (self._shared_threads - 1))
        self.workers = workers
        self.mixed_lengths = ATTENTION_MASK in self._names

    def padded(self, length: int) -> int:
        """The sequence length at which a row of this length runs."""
        return self.buckets.padded(length)

    def capacity(self, padded: int) -> int:
        """The most rows of one pass at this padded length: the batch limit, the bucket, the token budget."""
        rows = self.buckets.largest_batch(padded)
        if rows is None:
            rows = max(1, self._maximum_tokens // padded)
        return min(self._maximum_rows, rows)

    def file_of(self, size: Shape) -> Shape | None:
        """The shape whose file runs at this size; None when one file serves all."""
        return None if None in self._modules else self.buckets.file_shape(size)

    def run(self, rows: Sequence[Row], *, alone: bool, wanted: Callable[[], bool] = always) -> Computed:  # noqa: ARG002 -- it is one step
        """Compute rows of one or several requests; alone: with all threads, which one calling thread only may have."""
        self.use_threads(alone=alone)
        longest = max(row.length for row in rows)
        size = self.buckets.fit(len(rows), longest)
        tensors = self._tensors(rows, size)
        outputs = self.forward(tensors, size)
        answers: Sequence[Result] = ()
        if any(row.want == "answer" for row in rows):
            answers = self.task.finish(
                {name: self._cut(name, array, len(rows), longest) for name, array in outputs.items()},
                self._mask(tensors, rows)[:, :longest],
            )
        results = [
            answers[index]
            if row.want == "answer"
            else {name: self._row(name, array, index, row.length) for name, array in outputs.items()}
            for index, row in enumerate(rows)
        ]
        return Computed(results, size.batch * size.sequence)

    def use_threads(self, *, alone: bool) -> None:
        """Give the calling thread its share of the threads, or all of them."""
        # Counts for the calling thread only, although torch's documentation does not say so.
        torch.set_num_threads(self._lone_threads if alone else self._shared_threads)

    def run_arrays(self, inputs: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.float32]]:
        """Compute a whole batch of shape (batch, sequence) at once, as a golden case is."""
        batch, sequence = inputs[INPUT_IDS].shape
        rows = [
            Row({name: array[index] for name, array in inputs.items()}, sequence, "outputs") for index in range(batch)
        ]
        size = self.buckets.fit(batch, sequence)
        outputs = self.forward(self._tensors(rows, size), size)
        return {name: self._cut(name, array, batch, sequence) for name, array in outputs.items()}

    def forward(self, tensors: Mapping[str, NDArray[np.int64]], size: Shape) -> dict[str, NDArray[np.float32]]:
        """The compiled model at one size.

        Raises RuntimeError when it gives other outputs than the manifest says, or fails.
        """
        module = self._modules[self.file_of(size)]
        with torch.inference_mode():
            given = module(*(torch.from_numpy(tensors[name]) for name in self._names))
        if isinstance(given, dict):
            given = [given[output.name] for output in self.manifest.outputs]
        values = [given] if isinstance(given, torch.Tensor) else list(given)
        if len(values) != len(self.manifest.outputs):
            msg = f"the model gave {len(values)} outputs, the manifest names {len(self.manifest.outputs)}"
            raise RuntimeError(msg)
        return {
            output.name: value.to(torch.float32).numpy()
            for output, value in zip(self.manifest.outputs, values, strict=True)
        }

    def _tensors(self, rows: Sequence[Row], size: Shape) -> dict[str, NDArray[np.int64]]:
        tensors = {}
        for name in self._names:
            array = np.full((size.batch, size.sequence), self._fill.get(name, 0), dtype=np.int64)
            for index, row in enumerate(rows):
                array[index, : row.length] = row.inputs[name]
            # Rows that only fill the bucket repeat the first: all-masked rows give NaN in some attention kernels.
            array[len(rows) :] = array[0]
            tensors[name] = array
        return tensors

    def _mask(self, tensors: Mapping[str, NDArray[np.int64]], rows: Sequence[Row]) -> NDArray[np.int64]:
        if ATTENTION_MASK in tensors:
            return tensors[ATTENTION_MASK][: len(rows)]
        width = tensors[INPUT_IDS].shape[1]
        lengths = np.array([row.length for row in rows])
        return (np.arange(width)[None, :] < lengths[:, None]).astype(np.int64)

    def _cut(self, name: str, array: NDArray[np.float32], rows: int, length: int) -> NDArray[np.float32]:
        return array[:rows, :length] if name in self._sequence_outputs else array[:rows]

    def _row(self, name: str, array: NDArray[np.float32], index: int, length: int) -> NDArray[np.float32]:
        return array[index, :length] if name in self._sequence_outputs else array[index]
