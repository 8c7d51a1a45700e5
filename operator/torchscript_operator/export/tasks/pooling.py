"""How a model's sentence-transformers files say that token vectors become one vector a text."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.manifest import Pooling
from torchscript_operator.export import files

POOLING_MODES: dict[str, Literal["mean", "cls", "max"]] = {
    "mean": "mean",
    "cls": "cls",
    "max": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
}
"""Both spellings that sentence-transformers has used."""


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


def read_pooling(folder: Path) -> Pooling:
    """The pooling of a model folder. WorkerError TASK_MISMATCH for modules that are not implemented."""
    if not (folder / "modules.json").is_file():
        return Pooling(mode="mean", normalize=True, origin="default")
    modules = files.read_json(folder / "modules.json")
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise WorkerError(FailureReason.SOURCE_INVALID, "The source's modules.json is no list of modules.")
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    if kinds == ["Transformer"]:
        return Pooling(mode="none", normalize=False, origin="sentence-transformers")
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
