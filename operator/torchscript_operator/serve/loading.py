"""From a digest to a model that may be served: fetch, verify, load, replay on this hardware, warm up.

Runs in a thread of its own, so that the HTTP server answers probes meanwhile. torch is imported beside the fetch: each
takes about as long, and hashing lets other threads run.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from torchscript_operator.artifact import digest as digests
from torchscript_operator.artifact import golden
from torchscript_operator.artifact.devices import no_device
from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.manifest import Manifest, OutputParity
from torchscript_operator.artifact.parity import Compared, Outputs, describe, worst_first
from torchscript_operator.artifact.request import ARTIFACT_CREDENTIALS_PREFIX, ServeRequest, Shape
from torchscript_operator.artifact.store import Credentials, fetch, open_store
from torchscript_operator.artifact.threads import available_threads
from torchscript_operator.serve.buckets import Buckets
from torchscript_operator.serve.rows import ATTENTION_MASK, INPUT_IDS
from torchscript_operator.serve.settings import Settings
from torchscript_operator.serve.tasks import Task, for_manifest
from torchscript_operator.serve.tasks.base import Bounds
from torchscript_operator.serve.tokenizing import Tokenizing, pad_token, read_config

if TYPE_CHECKING:
    from torchscript_operator.serve.runner import TorchRunner

LOGGER = logging.getLogger(__name__)
RUNTIMES = {"neuron": "torch_neuron", "neuronx": "torch_neuronx"}
"""Compiler to the module whose import registers its operators with torch; TorchScript's own are always there."""
MAXIMUM_WORKERS = 8
"""Beyond, Python's own lock between passes costs more than another pass at one time brings."""
FIRST_PASSES = 3
"""Passes at a file's first shape: TorchScript's profiling executor compiles on the second, the third runs that."""


class ReplayError(WorkerError):
    """The golden inputs gave other outputs here; carries the figures for the termination message."""

    def __init__(self, outputs: tuple[OutputParity, ...]) -> None:
        """Take the figures of every golden case, the worst first."""
        failed = [output for output in outputs if not output.passed]
        detail = describe(failed[0]) if failed else "there is nothing to replay"
        super().__init__(FailureReason.REPLAY_FAILED, f"{len(failed)} of {len(outputs)} comparisons failed: {detail}.")
        self.outputs = outputs


@dataclass(frozen=True)
class Loaded:
    """All that serving needs."""

    manifest: Manifest
    runner: "TorchRunner"
    task: Task
    tokenizing: Tokenizing
    replay: tuple[OutputParity, ...]


Progress = Callable[[str], None]
"""Told the name of each stage as it begins."""


def load(request: ServeRequest, settings: Settings, environment: Mapping[str, str], progress: Progress) -> Loaded:
    """Everything up to readiness.

    Raises WorkerError with the class of what went wrong; ReplayError with figures.
    """
    progress("fetch")
    # What goes wrong with it is raised by the import below.
    ahead = threading.Thread(target=_import_ahead, name="import", daemon=True)
    ahead.start()
    folder = settings.scratch_path / "artifact" / request.digest.removeprefix(digests.PREFIX)
    folder.mkdir(parents=True, exist_ok=True)
    store = open_store(request.artifact, Credentials.from_environment(ARTIFACT_CREDENTIALS_PREFIX, environment))
    # fetch() verifies the SHA-256 of every file, kept ones too: nothing below opens a file that did not pass.
    manifest = fetch(store, request.digest, folder)
    check_proven(manifest)
    progress("load")
    ahead.join()
    torch = import_module("torch")
    threads = settings.threads or available_threads()
    torch.set_num_threads(threads)
    task = for_manifest(manifest, read_config(manifest, folder), read_config(manifest, folder, "tokenizer_config.json"))
    task.bounds = Bounds(settings.request_rows, settings.queue_tokens)
    tokenizing = Tokenizing.load(manifest, folder)
    runner = _runner(
        manifest,
        folder,
        task,
        pad_id=pad_token(manifest, folder),
        maximum_rows=request.batching.maximum_batch_size,
        maximum_tokens=settings.batch_tokens,
        threads=threads,
        workers=settings.workers or min(threads, MAXIMUM_WORKERS),
    )
    progress("replay")
    replayed = replay(runner, golden.read(folder / golden.GOLDEN_NAME) if _has_golden(manifest) else [])
    progress("warm-up")
    warm_up(runner)
    return Loaded(manifest, runner, task, tokenizing, replayed)


def _import_ahead() -> None:
    with contextlib.suppress(Exception):
        import_module("torchscript_operator.serve.generating")


def check_proven(manifest: Manifest) -> None:
    """Raise WorkerError (ParityFailed) for an artifact that no gate has passed, whoever asked to serve it."""
    if manifest.parity.verdict != "Passed" and manifest.parity.tolerances.policy == "Enforce":
        worst = worst_first(manifest.parity.outputs)
        detail = f": {describe(worst[0])}" if worst else ""
        raise WorkerError(FailureReason.PARITY_FAILED, f"The artifact has not passed the parity gate{detail}.")


def replay(runner: "TorchRunner", cases: list[golden.GoldenCase]) -> tuple[OutputParity, ...]:
    """Run every golden case and compare with eager's outputs under the manifest's tolerances.

    Raises ReplayError when one differs, or when there is none; with the policy Warn a difference is only logged.
    """
    parity = runner.manifest.parity
    outputs = [Compared(spec.name, spec.agreement) for spec in runner.manifest.outputs]
    figures: list[OutputParity] = []
    for case in cases:
        computed = runner.run_arrays(case.inputs)
        mask = case.inputs.get(ATTENTION_MASK)
        # A case leaves out outputs that would make the file large, but never all of them.
        kept = [output for output in outputs if output.name in case.outputs] or outputs
        comparison = Outputs(kept, f"golden:{case.name}", parity.tolerances)
        masks = {
            output.name: mask.astype(np.bool_) if mask is not None and _per_token(runner, output.name) else None
            for output in kept
        }
        comparison.add(case.outputs, computed, masks)
        figures += comparison.results()
    ordered = tuple(worst_first(figures))
    if not ordered:
        raise ReplayError(ordered)
    if not all(figure.passed for figure in ordered):
        if parity.tolerances.policy == "Enforce":
            raise ReplayError(ordered)
        LOGGER.warning("the replay differs, served all the same as policy Warn says: %s", describe(ordered[0]))
    return ordered


def warm_up(runner: "TorchRunner") -> None:
    """Run every declared shape, and each file until it is compiled; a full mask, since padding costs the same."""
    compiled: set[Shape | None] = set()
    for shape in runner.buckets.shapes:
        inputs = _blank(runner, shape)
        started = time.monotonic()
        for _ in range(1 if runner.file_of(shape) in compiled else FIRST_PASSES):
            runner.run_arrays(inputs)
        compiled.add(runner.file_of(shape))
        LOGGER.debug("warmed %s in %.3f s", shape.name, time.monotonic() - started)


def _blank(runner: "TorchRunner", shape: Shape) -> dict[str, NDArray[np.int64]]:
    size = (shape.batch, min(shape.sequence, runner.buckets.longest))
    return {
        tensor.name: (np.ones if tensor.name in {ATTENTION_MASK, INPUT_IDS} else np.zeros)(size, dtype=np.int64)
        for tensor in runner.manifest.inputs
    }


def _per_token(runner: "TorchRunner", output: str) -> bool:
    return any(
        axis.name == "sequence" for spec in runner.manifest.outputs if spec.name == output for axis in spec.axes[1:2]
    )


def _has_golden(manifest: Manifest) -> bool:
    return any(entry.role == "golden" for entry in manifest.files)


def _runner(manifest: Manifest, folder: Path, task: Task, **limits: Any) -> "TorchRunner":
    if manifest.generation is None:
        one: TorchRunner = import_module("torchscript_operator.serve.runner").TorchRunner(
            manifest, _modules(manifest, folder), task, **limits
        )
        return one
    parts = {part.name: _modules(manifest, folder, part.name) for part in manifest.parts}
    found: TorchRunner = import_module("torchscript_operator.serve.generating").GenerationRunner(
        manifest, parts, task, **limits
    )
    return found


def _modules(manifest: Manifest, folder: Path, part: str | None = None) -> dict[Shape | None, Any]:
    files = {
        entry.shape: folder / Path(entry.name).name
        for entry in manifest.files
        if entry.role == "model" and entry.part == part
    }
    expected = {None} if None in files else {Buckets.of(manifest).file_shape(shape) for shape in manifest.shapes}
    if not expected <= files.keys():
        raise WorkerError(FailureReason.INVALID_REQUEST, "the artifact has no model file for one of its shapes")
    runtime = RUNTIMES.get(manifest.compilation.compiler)
    if runtime is not None:
        try:
            import_module(runtime)
        except ImportError as error:
            msg = f"this image has no {runtime}, which files of the compiler {manifest.compilation.compiler} need"
            raise WorkerError(FailureReason.INVALID_REQUEST, msg) from error
    torch = import_module("torch")
    try:
        return {shape: torch.jit.load(str(path), map_location="cpu").eval() for shape, path in files.items()}
    except RuntimeError as error:
        text = str(error).strip().splitlines()
        msg = f"torch {torch.__version__} cannot load the model file: {text[0] if text else error}"
        raise no_device(error) or WorkerError(FailureReason.INVALID_REQUEST, msg) from error
