"""The fastest form of one model on this node: what the search needs of the model, and where its files end up."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchscript_operator.artifact.parity import Bounds
from torchscript_operator.artifact.request import Compilation, Shape, Tolerances
from torchscript_operator.artifact.threads import available_threads
from torchscript_operator.export.backends.torchscript import TorchScript
from torchscript_operator.export.compare import Case, Pair
from torchscript_operator.export.forms import Forms
from torchscript_operator.export.inputs import SENTENCES, InputMaker
from torchscript_operator.export.logs import Progress
from torchscript_operator.export.model import Forward
from torchscript_operator.export.package import Built
from torchscript_operator.export.precision import Form
from torchscript_operator.export.search import Clock, Found, Pass, Search, smallest_cosine
from torchscript_operator.export.tasks import Output

if TYPE_CHECKING:
    from torch import nn

PROBE = Shape(batch=8, sequence=64)
"""Largest batch that the sensitivity of layers is measured on."""
SEARCH_SECONDS = 120
"""Budget of a search when the request names none."""


@dataclass(frozen=True)
class Sides:
    """The eager side of a search."""

    module: "nn.Module"
    """What is traced, in float32."""
    reference: Forward
    maker: InputMaker
    outputs: tuple[Output, ...]
    shapes: tuple[Shape, ...]
    int8_tolerances: Tolerances
    """What layers are ranked by, before the gate itself decides."""


def find(
    sides: Sides, asked: Compilation, make: Callable[[Form, Path], Built], folder: Path, progress: Progress
) -> Found:
    """Search, and move the files of what was found to the folder. WorkerError where no form can be made at all.

    make: compiles and proves a form in a folder of its own.
    """
    import torch  # noqa: PLC0415

    clock = Clock(asked.search_seconds or SEARCH_SECONDS)
    texts = sum(shape.batch for shape in sides.shapes)
    search = Search(
        make, lambda built: open_pass(sides, built), texts, available_threads(), torch.set_num_threads, clock, progress
    )
    required = Bounds.parse(sides.int8_tolerances).cosine
    forms = Forms(sides.module, lambda module: similarity(sides, module), required, clock, progress)
    found = search.run(forms.of(asked.precision, search.similarity_of), folder / "forms")
    for file in found.built.models:
        (found.built.folder / file.name).replace(folder / file.name)
    shutil.rmtree(folder / "forms")
    return found.moved_to(folder)


def open_pass(sides: Sides, built: Built) -> Pass:
    """Load a form's files and run them once at each shape, on full masks: padding costs the same as tokens."""
    backend = TorchScript()
    loaded = {file.shape: backend.load(built.folder / file.name) for file in built.models}
    runs = []
    for shape in sides.shapes:
        batch = sides.maker.synthetic(shape, masked=False)
        arrays = [batch.inputs[name] for name in sides.maker.input_names]
        runs.append((loaded[None] if None in loaded else loaded[shape], arrays))

    def run() -> None:
        for compiled, arrays in runs:
            compiled(arrays)

    return run


def similarity(sides: Sides, module: "nn.Module") -> float:
    """The smallest cosine similarity to eager that a module has before its trace, on one batch with padding."""
    longest = max(shape.sequence for shape in sides.shapes)
    shape = Shape(batch=PROBE.batch, sequence=min(PROBE.sequence, longest))
    probe = Case("texts and random tokens", sides.maker.mixed(SENTENCES, shape))
    forward = forward_of(module, sides.maker, sides.outputs)

    def run(arrays: Sequence[Any]) -> tuple[Any, ...]:
        answer = forward(dict(zip(sides.maker.input_names, arrays, strict=True)))
        return tuple(answer[output.name] for output in sides.outputs)

    pair = Pair(sides.reference, run, sides.maker.input_names, sides.outputs)
    return smallest_cosine(pair.measure([probe], shape, sides.int8_tolerances))


def forward_of(module: "nn.Module", maker: InputMaker, outputs: Sequence[Output]) -> Forward:
    """A module that is to be traced, run as it is."""
    import torch  # noqa: PLC0415

    def forward(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        arrays = [torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in maker.input_names]
        with torch.no_grad():
            answer = module(*arrays)
        return {output.name: value.numpy() for output, value in zip(outputs, answer, strict=True)}

    return forward
