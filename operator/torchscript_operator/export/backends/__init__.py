"""Compilers behind one protocol: what differs between torch.jit, torch-neuron and torch-neuronx, and nothing else."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.request import Compilation

if TYPE_CHECKING:
    from torch import nn

Compiled = Callable[[Sequence[NDArray[Any]]], tuple[NDArray[Any], ...]]
"""A compiled model that was read back from its file: arrays in the order of its inputs to arrays of its outputs."""


class Backend(Protocol):
    """A compiler."""

    def check(self, compilation: Compilation) -> None:
        """Raise WorkerError INVALID_REQUEST for arguments or a precision that this compiler does not take."""

    def versions(self) -> Mapping[str, str]:
        """Versions that enter the artifact's key, found without importing torch."""

    def compile(
        self, module: "nn.Module", example: Sequence[NDArray[Any]], file: Path, provenance: Mapping[str, str]
    ) -> None:
        """Compile for an example's sizes and save to a file, with name to text stored inside it.

        WorkerError COMPILATION_FAILED, UNSUPPORTED_OPERATOR or OUT_OF_DISK.
        """

    def load(self, file: Path) -> Compiled:
        """Read a compiled model back; raises RuntimeError when called with sizes that it does not take."""


def find(compilation: Compilation) -> Backend:
    """The backend of a compiler. WorkerError INVALID_REQUEST for one that this worker does not have."""
    from torchscript_operator.export.backends.torchscript import TorchScript  # noqa: PLC0415

    backends: dict[str, Backend] = {"torchscript": TorchScript()}
    if compilation.compiler not in backends:
        known = ", ".join(sorted(backends))
        message = f"Compiler {compilation.compiler!r} is not in this worker image; it has: {known}."
        raise WorkerError(FailureReason.INVALID_REQUEST, message)
    backend = backends[compilation.compiler]
    backend.check(compilation)
    return backend
