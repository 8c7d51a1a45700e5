"""torch_neuronx.trace for inf2 and trn1. Written from AWS's documentation; it has never run on the hardware."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.request import Compilation
from torchscript_operator.export.backends import neuron_runtime

if TYPE_CHECKING:
    from torch import nn

    from torchscript_operator.export.backends import Compiled

NAME = "neuronx"
RUNTIME = "torch_neuronx"
PRECISION_FLAG = "--auto-cast"
PRECISIONS = {
    "float32": ("--auto-cast", "none"),
    "bfloat16": ("--auto-cast", "matmult", "--auto-cast-type", "bf16"),
}
TARGET_FLAG = "--target"
TARGETS = ("inf2", "trn1", "trn1n", "trn2")
"""What --target takes."""
PLATFORM_VARIABLE = "NEURON_PLATFORM_TARGET_OVERRIDE"
"""Has to be set before the import where there is no device. Which values it takes is unconfirmed; we give it that of
--target, unless the environment has one already."""
LISTED = 8
"""Operators named in a message."""


class NeuronX:
    """torch-neuronx: everything is compiled or the call fails, so that there is nothing to read in a log."""

    fixed_shapes: ClassVar[bool] = True

    def __init__(self, *, device_absent: bool = False) -> None:
        """Compile for a device that is not there, or for the one that is. Arguments are known after check()."""
        self._arguments: tuple[str, ...] = ()
        self._device_absent = device_absent

    def check(self, compilation: Compilation) -> None:
        """Take the arguments. Without a device, they have to say what to compile for. WorkerError INVALID_REQUEST."""
        neuron_runtime.require(RUNTIME, NAME)
        given = compilation.arguments
        target = neuron_runtime.value_of(given, TARGET_FLAG)
        if (target is not None or self._device_absent) and target not in TARGETS:
            message = (
                f"Compiling without a device needs {TARGET_FLAG} and one of {', '.join(TARGETS)} in the arguments."
            )
            if target is not None:
                message = f"{TARGET_FLAG} takes one of {', '.join(TARGETS)}, not {target!r}."
            raise WorkerError(FailureReason.INVALID_REQUEST, message)
        self._arguments = neuron_runtime.with_precision(given, compilation.precision, PRECISION_FLAG, PRECISIONS)
        if self._device_absent and target is not None:
            os.environ.setdefault(PLATFORM_VARIABLE, target)

    def versions(self) -> Mapping[str, str]:
        """Those of torch-neuronx and of its compiler."""
        return neuron_runtime.versions(("torch-neuronx", "neuronx-cc"))

    def compile(
        self, module: "nn.Module", example: Sequence[NDArray[Any]], file: Path, provenance: Mapping[str, str]
    ) -> None:
        """Compile for an example's sizes.

        WorkerError COMPILATION_FAILED, UNSUPPORTED_OPERATOR, OUT_OF_MEMORY, DEVICE_UNAVAILABLE or OUT_OF_DISK.
        """
        torch_neuronx = neuron_runtime.tracer(RUNTIME, NAME)
        options: dict[str, Any] = {"cpu_backend": True} if self._device_absent else {}
        inputs = neuron_runtime.tensors(example)
        with neuron_runtime.working(file) as folder:
            try:
                traced = torch_neuronx.trace(
                    module.eval(), inputs, compiler_workdir=folder, compiler_args=list(self._arguments), **options
                )
            except Exception as error:
                found = neuron_runtime.failure(error, "torch_neuronx.trace")
                if found.reason is FailureReason.COMPILATION_FAILED:
                    found = _unsupported(torch_neuronx, module, inputs) or found
                raise found from error
            neuron_runtime.save(traced, file, provenance)

    def load(self, file: Path) -> "Compiled":
        """Read a compiled file back onto the device. WorkerError DEVICE_UNAVAILABLE."""
        return neuron_runtime.load(file, RUNTIME, NAME)


def _unsupported(torch_neuronx: Any, module: "nn.Module", inputs: tuple[Any, ...]) -> WorkerError | None:
    """Ask the compiler which operators it does not have, after it failed; None where it names none."""
    try:
        analysis = torch_neuronx.analyze(module, inputs)
        found = sorted({str(operator) for operator in analysis["unsupported_operators"]})
    except Exception:  # noqa: BLE001 - the compiler's first failure is the one to tell of
        return None
    if not found:
        return None
    message = f"torch_neuronx.trace does not support: {', '.join(found[:LISTED])}."
    return WorkerError(FailureReason.UNSUPPORTED_OPERATOR, message)
