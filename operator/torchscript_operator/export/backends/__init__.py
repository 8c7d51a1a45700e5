"""Compilers behind one protocol: what differs between torch.jit, torch-neuron and torch-neuronx, and nothing else."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from numpy.typing import NDArray

from torchscript_operator.artifact.manifest import CompilerReport
from torchscript_operator.artifact.request import Compilation

if TYPE_CHECKING:
    from torch import nn

Compiled = Callable[[Sequence[NDArray[Any]]], tuple[NDArray[Any], ...]]
"""A compiled model that was read back from its file: arrays in the order of its inputs to arrays of its outputs."""


class Backend(Protocol):
    """A compiler."""

    fixed_shapes: ClassVar[bool]
    """Files run at the sizes that they were compiled for and no others: one a bucket, and no other size is tried."""

    def check(self, compilation: Compilation) -> None:
        """Raise WorkerError INVALID_REQUEST for arguments or a precision that this compiler does not take."""

    def versions(self) -> Mapping[str, str]:
        """Versions that enter the artifact's key, found without importing torch."""

    def compile(
        self, module: "nn.Module", example: Sequence[NDArray[Any]], file: Path, provenance: Mapping[str, str]
    ) -> CompilerReport | None:
        """Compile for an example's sizes and save to a file, with name to text stored inside it.

        Compilers that may leave operators on the CPU report which. WorkerError COMPILATION_FAILED,
        UNSUPPORTED_OPERATOR, OUT_OF_MEMORY, DEADLINE_EXCEEDED or OUT_OF_DISK.
        """

    def load(self, file: Path) -> Compiled:
        """Read a compiled model back; raises RuntimeError when called with sizes that it does not take.

        WorkerError DEVICE_UNAVAILABLE, here or when called, where the device that it runs on is not there.
        """


def find(compilation: Compilation, *, device_absent: bool = False) -> Backend:
    """The backend of a compiler, for a node with its device or without. WorkerError INVALID_REQUEST if it is absent."""
    from torchscript_operator.export.backends.neuron import Neuron  # noqa: PLC0415
    from torchscript_operator.export.backends.neuronx import NeuronX  # noqa: PLC0415
    from torchscript_operator.export.backends.torchscript import TorchScript  # noqa: PLC0415

    backends: dict[str, Backend] = {
        "torchscript": TorchScript(),
        "neuron": Neuron(),
        "neuronx": NeuronX(device_absent=device_absent),
    }
    backend = backends[compilation.compiler]
    backend.check(compilation)
    return backend
