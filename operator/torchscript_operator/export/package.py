"""Putting an artifact together: its golden inputs, its small files, and its manifest."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from torchscript_operator.artifact import digest, golden
from torchscript_operator.artifact.golden import GOLDEN_NAME, GoldenCase
from torchscript_operator.artifact.manifest import Axis, CompilerReport, FileEntry, Parity, TensorSpec
from torchscript_operator.artifact.request import Shape
from torchscript_operator.export import tokenizer
from torchscript_operator.export.compare import AxisKinds, run_at
from torchscript_operator.export.evidence import Evidence
from torchscript_operator.export.inputs import Batch
from torchscript_operator.export.model import Forward
from torchscript_operator.export.precision import Form
from torchscript_operator.export.tasks import Output
from torchscript_operator.export.tasks.base import AxisName
from torchscript_operator.export.tokenizer import LoadedTokenizer

MAXIMUM_GOLDEN_BYTES = 10_000_000
"""Outputs kept in golden.safetensors, all buckets together: every pod downloads and replays them at each start."""
DATATYPES = {"float32": "FP32", "float16": "FP16", "int64": "INT64", "bool": "BOOL"}
"""numpy's names in the Open Inference Protocol."""


@dataclass(frozen=True)
class ModelFile:
    """A compiled file."""

    name: str
    shape: Shape | None
    """The bucket that it was made for; None when it serves all."""
    part: str | None = None
    """Which part of an artifact of several modules it is."""


@dataclass(frozen=True)
class Compiled:
    """A form's files on disk."""

    form: Form
    folder: Path
    models: tuple[ModelFile, ...]
    axes: AxisKinds
    reports: tuple[CompilerReport, ...] = ()
    """What compilers that work in parts say they did, a file each."""
    quantized_layers: int = 0


@dataclass(frozen=True)
class Built(Compiled):
    """The same with its proof."""

    parity: Parity = field(kw_only=True)
    evidence: Evidence = field(kw_only=True)


def model_name(shape: Shape | None, part: str = "model") -> str:
    """model.pt, or model-b8-s128.pt for one bucket; in place of `model` the name of one of several parts."""
    return f"{part}.pt" if shape is None else f"{part}-{shape.name}.pt"


def golden_case(batch: Batch, reference: Forward, outputs: Sequence[Output], budget_bytes: int) -> GoldenCase:
    """Eager's answer to a batch; outputs are kept while they fit the budget, the smallest always.

    Where even that one does not fit, as scores of a large vocabulary do not, the batch is made smaller.
    """
    answer = run_at(batch.shape, "The eager model", lambda: reference(batch.inputs))
    arrays = {output.name: np.asarray(answer[output.name], dtype=np.float32) for output in outputs}
    smallest = min(array.nbytes for array in arrays.values())
    smaller = _smaller(batch, smallest / budget_bytes)
    if smaller is not None:
        return golden_case(smaller, reference, outputs, budget_bytes)
    kept: dict[str, NDArray[np.float32]] = {}
    for name, array in sorted(arrays.items(), key=lambda item: (item[1].nbytes, item[0])):
        if not kept or sum(other.nbytes for other in kept.values()) + array.nbytes <= budget_bytes:
            kept[name] = array
    return GoldenCase(batch.shape.name, batch.inputs, kept)


def _smaller(batch: Batch, excess: float) -> Batch | None:
    """A batch with fewer rows or, when there is but one, tokens, as many times fewer as are too many; None if it fits.

    Other sizes than the bucket's need no other file: whoever replays them pads them to the bucket.
    """
    count, length = batch.inputs["attention_mask"].shape
    if excess <= 1 or (count, length) == (1, 1):
        return None
    rows = max(1, int(count / excess))
    tokens = length if count > 1 else max(1, int(length / excess))
    return Batch(batch.shape, {name: array[:rows, :tokens] for name, array in batch.inputs.items()})


def write_small_files(folder: Path, source: Path, loaded: LoadedTokenizer, cases: list[GoldenCase]) -> None:
    """Write the tokenizer, the model's own config.json and the golden cases."""
    tokenizer.save(loaded, folder)
    shutil.copyfile(source / "config.json", folder / "config.json")
    golden.write(folder / GOLDEN_NAME, cases)


def entries(folder: Path, models: Iterable[ModelFile]) -> tuple[FileEntry, ...]:
    """All files of the artifact with their digests, the models first."""
    small: tuple[tuple[str, Literal["tokenizer", "config", "golden"]], ...] = (
        (tokenizer.TOKENIZER_NAME, "tokenizer"),
        (tokenizer.FACTS_NAME, "config"),
        ("config.json", "config"),
        (GOLDEN_NAME, "golden"),
    )
    found = [_entry(folder, model.name, "model", model.shape, model.part) for model in models]
    return (*found, *(_entry(folder, name, role, None) for name, role in small))


def input_specs(names: Sequence[str], axes: AxisKinds, shapes: Sequence[Shape]) -> tuple[TensorSpec, ...]:
    """Inputs in call order, all int64 of (batch, sequence)."""
    return tuple(
        TensorSpec(name=name, dtype="INT64", axes=_axes(("batch", "sequence"), axes, shapes, 0)) for name in names
    )


def output_specs(
    outputs: Sequence[Output], example: Mapping[str, NDArray[Any]], axes: AxisKinds, shapes: Sequence[Shape]
) -> tuple[TensorSpec, ...]:
    """Outputs in the order of the compiled model's tuple; the width is an example's."""
    return tuple(
        TensorSpec(
            name=output.name,
            dtype=DATATYPES[example[output.name].dtype.name],
            axes=_axes(output.axes, axes, shapes, example[output.name].shape[-1]),
            agreement=output.agreement,
        )
        for output in outputs
    )


def _axes(names: Sequence[AxisName], kinds: AxisKinds, shapes: Sequence[Shape], width: int) -> tuple[Axis, ...]:
    sizes = {
        "batch": {shape.batch for shape in shapes},
        "sequence": {shape.sequence for shape in shapes},
        "feature": {width},
    }
    found = {"batch": kinds.batch, "sequence": kinds.sequence, "feature": "fixed"}
    return tuple(
        Axis.model_validate(
            {"name": name, "kind": found[name]}
            | ({"size": min(sizes[name])} if found[name] == "fixed" and len(sizes[name]) == 1 else {})
        )
        for name in names
    )


def _entry(
    folder: Path,
    name: str,
    role: Literal["model", "tokenizer", "config", "golden"],
    shape: Shape | None,
    part: str | None = None,
) -> FileEntry:
    path = folder / name
    return FileEntry(
        name=name, role=role, sha256=digest.of_file(path), size_bytes=path.stat().st_size, shape=shape, part=part
    )
