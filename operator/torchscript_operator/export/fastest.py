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
from torchscript_operator.export.backends import Compiled as Run
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
    """What a search needs of a model."""

    module: "nn.Module"
    """What is traced, in float32."""
    similarity: Callable[["nn.Module"], float]
    """The smallest cosine similarity to eager that such a module has before its trace."""
    open_pass: Callable[[Built], Pass]
    """Loads a form's files into a forward pass at every shape."""
    shapes: tuple[Shape, ...]
    int8_tolerances: Tolerances
    """What layers are ranked by, before the gate itself decides."""


@dataclass(frozen=True)
class Part:
    """A module that is compiled into a file of its own: most tasks have one."""

    module: "nn.Module"
    reference: Forward
    maker: InputMaker
    inputs: tuple[str, ...]
    outputs: tuple[Output, ...]
    name: str | None = None
    """Which part of an artifact of several modules it is."""

    def pair(self, run: Run) -> Pair:
        """Eager beside a compiled file of this part."""
        return Pair(self.reference, run, self.inputs, self.outputs)

    def run_of(self, module: "nn.Module") -> Run:
        """A module in the place of this part's, run as it is."""
        forward = forward_of(module, self.inputs, self.outputs)

        def run(arrays: Sequence[Any]) -> tuple[Any, ...]:
            answer = forward(dict(zip(self.inputs, arrays, strict=True)))
            return tuple(answer[output.name] for output in self.outputs)

        return run


def find(
    sides: Sides, asked: Compilation, make: Callable[[Form, Path], Built], folder: Path, progress: Progress
) -> Found:
    """Search, and move the files of what was found to the folder. WorkerError where no form can be made at all.

    make: compiles and proves a form in a folder of its own.
    """
    import torch  # noqa: PLC0415

    clock = Clock(asked.search_seconds or SEARCH_SECONDS)
    texts = sum(shape.batch for shape in sides.shapes)
    search = Search(make, sides.open_pass, texts, available_threads(), torch.set_num_threads, clock, progress)
    required = Bounds.parse(sides.int8_tolerances).cosine
    forms = Forms(sides.module, sides.similarity, required, clock, progress)
    found = search.run(forms.of(asked.precision, search.similarity_of), folder / "forms")
    for file in found.built.models:
        (found.built.folder / file.name).replace(folder / file.name)
    shutil.rmtree(folder / "forms")
    return found.moved_to(folder)


def open_pass(parts: Sequence[Part], shapes: Sequence[Shape], built: Built) -> Pass:
    """Load a form's files and run each part once at each shape, on full masks: padding costs the same as tokens."""
    backend = TorchScript()
    loaded = {(file.part, file.shape): backend.load(built.folder / file.name) for file in built.models}
    runs = []
    for part in parts:
        for shape in shapes:
            batch = part.maker.synthetic(shape, masked=False)
            arrays = [batch.inputs[name] for name in part.inputs]
            runs.append((loaded.get((part.name, None)) or loaded[part.name, shape], arrays))

    def run() -> None:
        for compiled, arrays in runs:
            compiled(arrays)

    return run


def similarity(part: Part, module: "nn.Module", shapes: Sequence[Shape], bounds: Tolerances) -> float:
    """The smallest cosine similarity to eager that a module has before its trace, on one batch with padding."""
    longest = max(shape.sequence for shape in shapes)
    shape = Shape(batch=PROBE.batch, sequence=min(PROBE.sequence, longest))
    probe = Case("texts and random tokens", part.maker.mixed(SENTENCES, shape))
    return smallest_cosine(part.pair(part.run_of(module)).measure([probe], shape, bounds))


def forward_of(module: "nn.Module", inputs: Sequence[str], outputs: Sequence[Output]) -> Forward:
    """A module that is to be traced, run as it is."""
    import torch  # noqa: PLC0415

    def forward(given: Mapping[str, Any]) -> Mapping[str, Any]:
        arrays = [torch.from_numpy(np.ascontiguousarray(given[name])) for name in inputs]
        with torch.no_grad():
            answer = module(*arrays)
        return {output.name: value.numpy() for output, value in zip(outputs, answer, strict=True)}

    return forward
