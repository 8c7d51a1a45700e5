"""torch.neuron.trace for Inferentia 1 (inf1). Written from AWS's documentation; it has never run on the hardware."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from torchscript_operator.artifact.manifest import CompilerReport
from torchscript_operator.artifact.request import COMPILER_TIMEOUT_VARIABLE, Compilation
from torchscript_operator.export.backends import neuron_log, neuron_runtime

if TYPE_CHECKING:
    from torch import nn

    from torchscript_operator.export.backends import Compiled

NAME = "neuron"
RUNTIME = "torch_neuron"
PRECISION_FLAG = "--fast-math"
PRECISIONS = {
    "float32": ("--fast-math", "none"),
    # Matrix products in bfloat16, the rest in float32. neuron-cc's own default casts everything.
    "bfloat16": ("--fast-math", "fp32-cast-matmult", "no-fast-relayout"),
}
NOTHING_COMPILED = "No operations were successfully partitioned and compiled"
SEPARATE_WEIGHTS_BYTES = 1_900_000_000
"""Constants above this do not fit into the compiled graph."""


class Neuron:
    """torch-neuron. Fallback is on, since embeddings run on the CPU by design, and its log says what else did."""

    fixed_shapes: ClassVar[bool] = True

    def __init__(self) -> None:
        """Arguments are known after check()."""
        self._arguments: tuple[str, ...] = ()

    def check(self, compilation: Compilation) -> None:
        """Take the arguments; compiling without a device needs no others. WorkerError INVALID_REQUEST."""
        neuron_runtime.require(RUNTIME, NAME)
        self._arguments = neuron_runtime.with_precision(
            compilation.arguments, compilation.precision, PRECISION_FLAG, PRECISIONS
        )

    def versions(self) -> Mapping[str, str]:
        """Those of torch-neuron and of its compiler."""
        return neuron_runtime.versions(("torch-neuron", "neuron-cc"))

    def compile(
        self, module: "nn.Module", example: Sequence[NDArray[Any]], file: Path, provenance: Mapping[str, str]
    ) -> CompilerReport:
        """Compile for an example's sizes, and see in the log that every sub-graph was.

        WorkerError COMPILATION_FAILED, UNSUPPORTED_OPERATOR, OUT_OF_MEMORY, DEADLINE_EXCEEDED or OUT_OF_DISK.
        """
        torch_neuron = neuron_runtime.tracer(RUNTIME, NAME)
        options: dict[str, Any] = {"compiler_args": list(self._arguments), "fallback": True, "strict": False}
        if seconds := os.environ.get(COMPILER_TIMEOUT_VARIABLE):
            options["compiler_timeout"] = int(seconds)
        if sum(item.numel() * item.element_size() for item in module.parameters()) > SEPARATE_WEIGHTS_BYTES:
            options["separate_weights"] = True
        batch, sequence = example[0].shape
        with neuron_runtime.working(file) as folder, neuron_log.reading() as log:
            try:
                traced = torch_neuron.trace(
                    module.eval(), neuron_runtime.tensors(example), compiler_workdir=folder, **options
                )
            except Exception as error:
                # The compiler's own words on sub-graphs come first: the error only sums them up.
                if NOTHING_COMPILED in str(error):
                    told = log.failed_graphs or log.returned
                    raise ((log.problem() if told else None) or log.nothing("No sub-graph was compiled")) from error
                raise neuron_runtime.failure(error, "torch.neuron.trace") from error
            report = log.report(f"b{batch}-s{sequence}")
            neuron_runtime.save(traced, file, provenance)
        return report

    def load(self, file: Path) -> "Compiled":
        """Read a compiled file back onto the device. WorkerError DEVICE_UNAVAILABLE."""
        return neuron_runtime.load(file, RUNTIME, NAME)
