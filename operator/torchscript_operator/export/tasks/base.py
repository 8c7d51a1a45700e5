"""What every task has."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from torchscript_operator.artifact.manifest import Agreement, Pooling

if TYPE_CHECKING:
    from torch import nn

Arrays = Mapping[str, NDArray[Any]]
"""Input or output name to array."""
AxisName = Literal["batch", "sequence", "target", "feature"]


@dataclass(frozen=True)
class Output:
    """One output of a task."""

    name: str
    axes: tuple[AxisName, ...]
    agreement: Agreement | None = None
    """What this output decides, which parity also compares."""

    @property
    def scores(self) -> bool:
        """Whether this output decides anything."""
        return self.agreement is not None

    def mask(self, attention_mask: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Values or rows that count, for inputs with this mask of (batch, sequence); None for all."""
        return attention_mask.astype(np.bool_) if "sequence" in self.axes else None


@dataclass(frozen=True)
class TextStyle:
    """How texts become inputs when parity is measured, so that it is measured on what the task is used with."""

    pairs: Literal["never", "some", "always"] = "never"
    """Which texts are read together with the one after them: none, every second, all."""
    mask: bool = False
    """Put the mask token in the place of one token of each text."""


class Task(ABC):
    """A task by its name in Transformers."""

    name: ClassVar[str]
    auto_class: ClassVar[str]
    """The class of Transformers that loads the model with this task's head."""
    heads: ClassVar[tuple[str, ...]] = ()
    """How the names of model classes end that have this task's head; empty when any model will do."""
    encoder_decoder: ClassVar[bool] = False
    """Whether the model is an encoder with a decoder."""
    texts: ClassVar[TextStyle] = TextStyle()

    @classmethod
    @abstractmethod
    def of_folder(cls, folder: Path) -> "Task":
        """Read what the model folder says about this task. WorkerError SOURCE_INVALID or TASK_MISMATCH."""

    @property
    def pooling(self) -> Pooling | None:
        """How token vectors become one vector, for tasks that do."""
        return None

    @property
    @abstractmethod
    def outputs(self) -> tuple[Output, ...]:
        """Outputs in the order of the compiled model's tuple."""

    def load_options(self, model_class: type) -> dict[str, Any]:  # noqa: ARG002
        """Keywords for loading that leave out parts which the task does not use."""
        return {}

    @abstractmethod
    def wrap(self, model: "nn.Module", input_names: tuple[str, ...]) -> "nn.Module":
        """The module to trace."""

    def arrange(self, inputs: Arrays) -> Arrays:
        """Inputs of (batch, sequence) as the model itself takes them."""
        return inputs

    @abstractmethod
    def reference(self, answer: Any, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Outputs by name from the answer of the model itself, without the code that was traced."""


def forward_options(model: "nn.Module") -> dict[str, Any]:
    """Keywords that keep a model from returning caches, which cannot be traced."""
    return {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
