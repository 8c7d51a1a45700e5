"""feature-extraction: vectors of tokens, and of texts."""

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.manifest import Pooling
from torchscript_operator.export.tasks.base import Arrays, Output, Task, forward_options
from torchscript_operator.export.tasks.pooling import pool, read_pooling

if TYPE_CHECKING:
    from torch import nn


class FeatureExtraction(Task):
    """Vectors of tokens, and of texts as the model's sentence-transformers files say (mean and normalised without)."""

    name = "feature-extraction"
    auto_class = "AutoModel"

    def __init__(self, pooling: Pooling) -> None:
        """Take the pooling."""
        self._pooling = pooling

    @classmethod
    def of_folder(cls, folder: Path) -> "FeatureExtraction":
        """Read modules.json and the pooling module's config."""
        return cls(read_pooling(folder))

    @property
    def pooling(self) -> Pooling:
        """The pooling that the model's files ask for."""
        return self._pooling

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Token vectors and, unless nothing is pooled, text vectors."""
        tokens = Output("last_hidden_state", ("batch", "sequence", "feature"))
        if self.pooling.mode == "none":
            return (tokens,)
        return (tokens, Output("sentence_embedding", ("batch", "feature")))

    def load_options(self, model_class: type) -> dict[str, Any]:
        """Leave out BERT's pooler, which neither output uses and many checkpoints do not have."""
        takes = inspect.signature(model_class).parameters
        return {"add_pooling_layer": False} if "add_pooling_layer" in takes else {}

    def wrap(self, model: "nn.Module", input_names: tuple[str, ...]) -> "nn.Module":
        """Pool inside the traced module, so that a server only passes vectors on."""
        from torchscript_operator.export.wrapper import TokenVectors  # noqa: PLC0415

        return TokenVectors(model, input_names, self.pooling, forward_options(model))

    def reference(self, answer: Any, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Pool in numpy and in float64."""
        if "last_hidden_state" not in answer:
            message = f"The model gives {', '.join(answer)} but no last_hidden_state, so it has no features of tokens."
            raise WorkerError(FailureReason.TASK_MISMATCH, message)
        hidden = answer["last_hidden_state"].numpy()
        if self.pooling.mode == "none":
            return {"last_hidden_state": hidden}
        vectors = pool(hidden.astype(np.float64), inputs["attention_mask"].astype(np.bool_), self.pooling)
        return {"last_hidden_state": hidden, "sentence_embedding": vectors.astype(np.float32)}
