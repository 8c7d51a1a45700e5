"""golden.safetensors: inputs with eager's outputs, replayed by every serving pod on its own hardware.

safetensors and not pickle, because the file is read before anything of the artifact is trusted.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

GOLDEN_NAME = "golden.safetensors"


@dataclass(frozen=True)
class GoldenCase:
    """One batch that was run through the eager model."""

    name: str
    """Unique within the file and free of slashes, such as b8-s128."""
    inputs: dict[str, NDArray[np.int64]]
    """Input name to array of shape (batch, sequence)."""
    outputs: dict[str, NDArray[Any]]
    """Output name to eager's array, float32 or int64 for tokens; its first axis is the batch."""


def write(path: Path, cases: list[GoldenCase]) -> None:
    """Write all cases to one file."""
    tensors: dict[str, NDArray[np.generic]] = {}
    for case in cases:
        tensors |= {f"{case.name}/inputs/{name}": np.ascontiguousarray(array) for name, array in case.inputs.items()}
        tensors |= {f"{case.name}/outputs/{name}": np.ascontiguousarray(array) for name, array in case.outputs.items()}
    save_file(tensors, path)


def read(path: Path) -> list[GoldenCase]:
    """Read the cases back, ordered by name."""
    cases: dict[str, GoldenCase] = {}
    for full_name, array in sorted(load_file(path).items()):
        case_name, side, name = full_name.split("/", 2)
        case = cases.setdefault(case_name, GoldenCase(case_name, {}, {}))
        getattr(case, side)[name] = array
    return list(cases.values())
