"""torch.jit.trace for the CPU."""

import importlib.metadata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.request import Compilation
from torchscript_operator.export.memory import is_out_of_memory

if TYPE_CHECKING:
    from torch import nn

    from torchscript_operator.export.backends import Compiled

DISK_FULL = "PytorchStreamWriter failed"
"""How torch.jit.save says that it could not write."""


class TorchScript:
    """The tracer that comes with torch. Its own check is off: it only warns, and parity compares more."""

    fixed_shapes: ClassVar[bool] = False

    def __init__(self, *, frozen: bool = False) -> None:
        """With `frozen`, fold the weights into the graph before the file is saved."""
        self._frozen = frozen

    def check(self, compilation: Compilation) -> None:
        """Accept every precision, without arguments."""
        if compilation.arguments:
            message = "Compiler torchscript takes no arguments; remove compilerArguments."
            raise WorkerError(FailureReason.INVALID_REQUEST, message)

    def versions(self) -> Mapping[str, str]:
        """The compiler is torch itself."""
        return {"compiler": f"torchscript {importlib.metadata.version('torch')}"}

    def compile(
        self, module: "nn.Module", example: Sequence[NDArray[Any]], file: Path, provenance: Mapping[str, str]
    ) -> None:
        """Trace and save; the traced module shares the weights of the eager one."""
        import torch  # noqa: PLC0415

        tensors = tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in example)
        try:
            with _quiet(), torch.no_grad():
                traced = torch.jit.trace(module.eval(), tensors, strict=False, check_trace=False)  # type: ignore[no-untyped-call]
                if self._frozen:
                    traced = torch.jit.freeze(traced)
                torch.jit.save(traced, str(file), _extra_files=dict(provenance))
        except Exception as error:
            if is_out_of_memory(error):
                raise
            if DISK_FULL in str(error):
                message = f"There is no room to write {file.name}."
                raise WorkerError(FailureReason.OUT_OF_DISK, message) from error
            # The model's own code runs inside the tracer, so that anything can come out of it.
            line = next(iter(str(error).strip().splitlines()), "")[:300]
            message = f"torch.jit.trace failed ({type(error).__name__}: {line})."
            raise WorkerError(FailureReason.COMPILATION_FAILED, message) from error

    def load(self, file: Path) -> "Compiled":
        """Load the saved file as a server does."""
        import torch  # noqa: PLC0415

        with _quiet():
            loaded = torch.jit.load(str(file), map_location="cpu").eval()  # type: ignore[no-untyped-call]

        def run(arrays: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
            with _quiet(), torch.no_grad():
                answer = loaded(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays))
            outputs = answer if isinstance(answer, tuple) else (answer,)
            return tuple(output.numpy() for output in outputs)

        return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch.jit's farewell and the tracer's guesses about values, which parity measures instead."""
    import torch  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.")
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
        # DeBERTa's code makes tensors of sizes, which are tensors already while it is traced.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"transformers\.models\.")
        yield
