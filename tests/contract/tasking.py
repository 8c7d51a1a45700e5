"""A small model exported for a task and loaded as a serving pod loads it, both in this process."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.contract.exporting import make_request
from torchscript_operator.artifact.manifest import Manifest
from torchscript_operator.artifact.outcome import ExportOutcome
from torchscript_operator.artifact.request import ServeRequest, StoreLocation

SHAPES = [{"batch": 2, "sequence": 24}]


@dataclass(frozen=True)
class Served:
    """An artifact behind a loaded server without HTTP, and the model that it was made from."""

    folder: Path
    """The model's own."""
    store: Path
    manifest: Manifest
    loaded: Any
    """serve.loading.Loaded."""

    def predict(self, inputs: Any, **parameters: Any) -> Any:
        """The answer of POST /predict."""

        async def run(rows: Sequence[Any]) -> Sequence[Any]:
            runner = self.loaded.runner
            for row in rows:
                runner.buckets.check(row.length)
            room = min(runner.capacity(runner.padded(row.length)) for row in rows)
            parts = [rows[start : start + room] for start in range(0, len(rows), room)]
            return [result for part in parts for result in runner.run(part, alone=True).results]

        return asyncio.run(self.loaded.task.predict(inputs, parameters, self.loaded.tokenizing, run))

    def infer(self, arrays: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[Any]]:
        """The answer of the Open Inference Protocol to tensors of one shape."""
        from torchscript_operator.serve.rows import Row

        count, length = arrays["input_ids"].shape
        rows = [Row({name: array[i] for name, array in arrays.items()}, length, "outputs") for i in range(count)]
        results = self.loaded.runner.run(rows, alone=True).results
        return {spec.name: np.stack([result[spec.name] for result in results]) for spec in self.manifest.outputs}

    def model(self, auto_class: str) -> Any:
        """The eager model, loaded anew."""
        import transformers

        return getattr(transformers, auto_class).from_pretrained(self.folder, local_files_only=True).eval()

    def file(self, part: str | None = None) -> Path:
        """The compiled module."""
        entry = next(entry for entry in self.manifest.files if entry.role == "model" and entry.part == part)
        return self.store / self.manifest.key / entry.path


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread: starting others takes longer than models of this size."""
    import torch

    from torchscript_operator.export import build

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "available_threads", lambda: 1)
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)


def export(folder: Path, root: Path, task: str, **changes: Any) -> ExportOutcome:
    """Export a model folder into root/store."""
    from torchscript_operator.export.pipeline import run

    request = make_request(folder, root / "store", task=task, **({"shapes": SHAPES} | changes))
    with one_thread():
        return run(request, {}, root / "scratch")


def serve(folder: Path, root: Path, task: str, **changes: Any) -> Served:
    """Export, then load as a pod does: verify, replay, warm."""
    from torchscript_operator.serve.loading import load
    from torchscript_operator.serve.settings import Settings

    outcome = export(folder, root, task, **changes)
    assert outcome.artifact is not None, outcome.failure
    request = ServeRequest(
        model="tests/model",
        target="cpu",
        artifact=StoreLocation(uri=outcome.artifact.uri),
        digest=outcome.artifact.digest,
    )
    with one_thread():
        loaded = load(request, Settings(scratch=str(root / "serve"), threads=1), {}, lambda _stage: None)
    return Served(folder, root / "store", loaded.manifest, loaded)


def padded(vocabulary: int, *lengths: int, seed: int = 1) -> dict[str, NDArray[np.int64]]:
    """Random token ids of these lengths with a mask and, for what reads them, two segments."""
    generator = np.random.default_rng(seed)
    longest = max(lengths)
    mask = (np.arange(longest)[None] < np.array(lengths)[:, None]).astype(np.int64)
    ids = generator.integers(5, vocabulary, size=mask.shape) * mask
    types = (np.arange(longest)[None] >= np.array(lengths)[:, None] // 2) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types.astype(np.int64)}
