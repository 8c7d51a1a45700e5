"""What every task has."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchscript_operator.artifact.manifest import Manifest
from torchscript_operator.serve.rows import Result

Arrays = Mapping[str, NDArray[np.float32]]
"""Output name to array; its first axis is the batch."""


class Task(ABC):
    """Turns a batch's outputs into answers. Runs in the compute thread, so it works on whole batches."""

    def __init__(self, manifest: Manifest) -> None:
        """Take the artifact's manifest.

        Raises WorkerError (InvalidRequest) when the artifact has no output that the task needs.
        """
        self.manifest = manifest

    @property
    def width(self) -> int | None:
        """Length of the vector that an answer is, or None when answers are no embeddings."""
        return None

    @abstractmethod
    def finish(self, outputs: Arrays, mask: NDArray[np.int64]) -> Sequence[Result]:
        """Answers of a batch.

        outputs: as computed, (batch, sequence, …) or (batch, …). mask: (batch, sequence), 1 where a token counts.
        """

    def describe(self) -> dict[str, Any]:
        """What a client may want to know about the answers; part of the model's metadata."""
        return {"task": self.manifest.task}
