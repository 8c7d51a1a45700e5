"""What the two Neuron compilers have in common: their flags, their failures, and running a compiled file."""

import importlib.metadata
import importlib.util
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from torchscript_operator.artifact.devices import no_device
from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.export.memory import is_out_of_memory

if TYPE_CHECKING:
    from torchscript_operator.export.backends import Compiled

KILLED = "Compile command returned: -9"
DISK_FULL = ("PytorchStreamWriter failed", "No space left on device")


def gives(arguments: Sequence[str], flag: str) -> bool:
    """Whether arguments hold a flag, as `--flag value` or `--flag=value`."""
    return any(argument == flag or argument.startswith(f"{flag}=") for argument in arguments)


def value_of(arguments: Sequence[str], flag: str) -> str | None:
    """The first value of a flag; None where it is not given."""
    for index, argument in enumerate(arguments):
        if argument.startswith(f"{flag}="):
            return argument[len(flag) + 1 :]
        if argument == flag:
            return next(iter(arguments[index + 1 : index + 2]), None)
    return None


def with_precision(
    arguments: Sequence[str], precision: str, flag: str, flags: Mapping[str, Sequence[str]]
) -> tuple[str, ...]:
    """The arguments with a precision's flags, which are always spelt out, since compilers change their defaults.

    WorkerError INVALID_REQUEST for a precision without flags, or one that contradicts a flag given by hand.
    """
    if precision not in flags:
        message = f"Precision {precision!r} is not one of the Neuron compilers; use {' or '.join(sorted(flags))}."
        raise WorkerError(FailureReason.INVALID_REQUEST, message)
    if not gives(arguments, flag):
        return (*arguments, *flags[precision])
    if precision != "float32":
        message = f"Precision {precision} sets {flag} by itself; remove one of precision and compilerArguments."
        raise WorkerError(FailureReason.INVALID_REQUEST, message)
    return tuple(arguments)


def versions(distributions: Sequence[str]) -> dict[str, str]:
    """Versions of a compiler's distributions as one line of the manifest."""
    return {"compiler": ", ".join(f"{name} {_version(name)}" for name in distributions)}


def _version(distribution: str) -> str:
    """An image may hold a compiler without metadata; the image's reference in the key stands for it then."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def require(runtime: str, compiler: str) -> None:
    """WorkerError INVALID_REQUEST where the compiler's module is not installed."""
    if importlib.util.find_spec(runtime) is None:
        message = f"Compiler {compiler!r} is not in this worker image: it has no module {runtime}."
        raise WorkerError(FailureReason.INVALID_REQUEST, message)


def tracer(runtime: str, compiler: str) -> Any:
    """The compiler's module, imported. WorkerError INVALID_REQUEST for one that cannot trace, such as an empty stub."""
    try:
        module = import_module(runtime)
    except (ImportError, OSError) as error:
        message = f"Compiler {compiler!r} is not in this worker image: {runtime} cannot be imported ({error})."
        raise WorkerError(FailureReason.INVALID_REQUEST, message) from error
    if not hasattr(module, "trace"):
        message = f"Compiler {compiler!r} is not in this worker image: its {runtime} is an empty stub."
        raise WorkerError(FailureReason.INVALID_REQUEST, message)
    return module


@contextmanager
def working(file: Path) -> Iterator[str]:
    """A folder beside a file for what the compiler leaves behind, gone afterwards; without gradients, quietly."""
    import torch  # noqa: PLC0415

    temporary = tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.stem}-")
    with temporary as folder, torch.no_grad(), warnings.catch_warnings():
        # What the tracer guesses about values, parity measures.
        warnings.simplefilter("ignore")
        yield folder


def save(traced: Any, file: Path, provenance: Mapping[str, str]) -> None:
    """Write a compiled module. WorkerError OUT_OF_DISK."""
    import torch  # noqa: PLC0415

    try:
        torch.jit.save(traced, str(file), _extra_files=dict(provenance))
    except RuntimeError as error:
        if any(words in str(error) for words in DISK_FULL):
            raise WorkerError(FailureReason.OUT_OF_DISK, f"There is no room to write {file.name}.") from error
        raise


def tensors(example: Sequence[NDArray[Any]]) -> tuple[Any, ...]:
    """Example inputs as torch tensors."""
    import torch  # noqa: PLC0415

    return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in example)


def failure(error: Exception, what: str) -> WorkerError:
    """Classify an error of a compiler by its type and words. Raises it again if it was this process's own memory."""
    if isinstance(error, WorkerError):
        return error
    if isinstance(error, subprocess.TimeoutExpired):
        message = f"{what} did not end within {error.timeout:.0f} s."
        return WorkerError(FailureReason.DEADLINE_EXCEEDED, message)
    killed = isinstance(error, subprocess.CalledProcessError) and error.returncode == -9  # noqa: PLR2004
    if killed or KILLED in str(error):
        message = f"{what} was killed (it returned -9), most likely for want of memory."
        return WorkerError(FailureReason.OUT_OF_MEMORY, message)
    if is_out_of_memory(error):
        raise error
    return no_device(error) or WorkerError(FailureReason.COMPILATION_FAILED, f"{what} failed ({describe(error)}).")


def describe(error: Exception) -> str:
    """Type and first line of an error."""
    line = next(iter(str(error).strip().splitlines()), "")[:300].rstrip(".")
    return f"{type(error).__name__}: {line}"


def load(file: Path, runtime: str, compiler: str) -> "Compiled":
    """Read a compiled file back and run it on the device.

    WorkerError DEVICE_UNAVAILABLE, here or at the first call: the runtime initialises itself when it likes.
    """
    import torch  # noqa: PLC0415

    # Registers the operators that the file calls.
    tracer(runtime, compiler)
    with _on_device(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = torch.jit.load(str(file)).eval()  # type: ignore[no-untyped-call]

    def run(arrays: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        with _on_device(), torch.no_grad():
            answer = loaded(*tensors(arrays))
        outputs = answer if isinstance(answer, (tuple, list)) else (answer,)
        return tuple(_array(output) for output in outputs)

    return run


def _array(output: Any) -> NDArray[Any]:
    """A tensor's values; bfloat16, which numpy does not know, as float32."""
    import torch  # noqa: PLC0415

    found: NDArray[Any] = (output.to(torch.float32) if output.is_floating_point() else output).numpy()
    return found


@contextmanager
def _on_device() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if (missing := no_device(error)) is not None:
            raise missing from error
        raise
