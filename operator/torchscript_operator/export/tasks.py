"""What a task is: which head it loads, what it puts out, and how eager computes the same without our wrapper."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.manifest import Pooling
from torchscript_operator.export import files

if TYPE_CHECKING:
    from torch import nn

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Output:
    """One output of a task."""

    name: str
    axes: tuple[Literal["batch", "sequence", "feature"], ...]
    scores: bool = False
    """The last axis holds scores of classes, so that parity also compares the best one."""

    def mask(self, attention_mask: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Rows of this output that count, for inputs with this mask of (batch, sequence); None for all."""
        return attention_mask.astype(np.bool_) if "sequence" in self.axes else None


class Task(ABC):
    """A task by its name in Transformers."""

    name: ClassVar[str]
    auto_class: ClassVar[str]
    """The class of Transformers that loads the model with this task's head."""

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

    @abstractmethod
    def reference(self, answer: Any, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Outputs by name from the answer of the model itself, without the code that was traced."""


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
        """Token vectors and text vectors."""
        return (
            Output("last_hidden_state", ("batch", "sequence", "feature")),
            Output("sentence_embedding", ("batch", "feature")),
        )

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
        vectors = pool(hidden.astype(np.float64), inputs["attention_mask"].astype(np.bool_), self.pooling)
        return {"last_hidden_state": hidden, "sentence_embedding": vectors.astype(np.float32)}


TASKS: dict[str, type[Task]] = {task.name: task for task in (FeatureExtraction,)}


def find(name: str) -> type[Task]:
    """The task of a name. WorkerError TASK_MISMATCH lists what there is."""
    if name not in TASKS:
        message = f"Task {name!r} is not known to this worker; it knows: {', '.join(sorted(TASKS))}."
        raise WorkerError(FailureReason.TASK_MISMATCH, message)
    return TASKS[name]


def forward_options(model: "nn.Module") -> dict[str, Any]:
    """Keywords that keep a model from returning caches, which cannot be traced."""
    return {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}


def pool(hidden: NDArray[Any], mask: NDArray[np.bool_], pooling: Pooling) -> NDArray[Any]:
    """One vector of each text in numpy: (batch, sequence, width) and (batch, sequence) to (batch, width)."""
    if pooling.mode == "cls":
        vectors = hidden[:, 0]
    elif pooling.mode == "max":
        vectors = np.stack([row[kept].max(axis=0) for row, kept in zip(hidden, mask, strict=True)])
    else:
        vectors = np.stack([row[kept].mean(axis=0) for row, kept in zip(hidden, mask, strict=True)])
    if pooling.normalize:
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors


POOLING_MODES: dict[str, Literal["mean", "cls", "max"]] = {
    "mean": "mean",
    "cls": "cls",
    "max": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
}
"""Both spellings that sentence-transformers has used."""


def read_pooling(folder: Path) -> Pooling:
    """The pooling of a model folder. WorkerError TASK_MISMATCH for modules that are not implemented."""
    if not (folder / "modules.json").is_file():
        return Pooling(mode="mean", normalize=True, origin="default")
    modules = files.read_json(folder / "modules.json")
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise WorkerError(FailureReason.SOURCE_INVALID, "The source's modules.json is no list of modules.")
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    unknown = sorted(set(kinds) - {"Transformer", "Pooling", "Normalize"})
    if unknown or kinds.count("Pooling") != 1:
        found = f"a module {unknown[0]!r}" if unknown else f"{kinds.count('Pooling')} pooling modules"
        message = f"The model's modules.json has {found}; only Transformer, Pooling and Normalize are implemented."
        raise WorkerError(FailureReason.TASK_MISMATCH, message)
    config = folder / str(modules[kinds.index("Pooling")].get("path", "")) / "config.json"
    return Pooling(mode=_mode(config), normalize="Normalize" in kinds, origin="sentence-transformers")


def _mode(config: Path) -> Literal["mean", "cls", "max"]:
    if not config.is_file():
        message = f"The source's modules.json names {config.parent.name}/config.json, which is not there."
        raise WorkerError(FailureReason.SOURCE_INVALID, message)
    pooling = files.read_json(config)
    named = pooling.get("pooling_mode")
    chosen = (
        [str(named)]
        if named is not None
        else [name for name, on in pooling.items() if name.startswith("pooling_mode_") and on is True]
    )
    if len(chosen) != 1 or chosen[0] not in POOLING_MODES:
        message = f"The model pools by {', '.join(chosen) or 'nothing'}; only one of mean, cls and max is implemented."
        raise WorkerError(FailureReason.TASK_MISMATCH, message)
    return POOLING_MODES[chosen[0]]
