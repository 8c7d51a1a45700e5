"""Exports with the Neuron doubles, in this process."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import doubles
from tests.contract.exporting import make_request
from torchscript_operator.artifact.outcome import ExportOutcome
from torchscript_operator.artifact.request import ExportRequest
from torchscript_operator.export.pipeline import run

RUNTIMES = ("torch_neuron", "torch_neuronx")


class Worker:
    """A worker image with the Neuron doubles: a node with a device unless said otherwise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, source: Path, folder: Path) -> None:
        self._monkeypatch = monkeypatch
        self.source = source
        self.store = folder / "store"
        self.scratch = folder / "scratch"
        self.scratch.mkdir()

    def device(self, state: str) -> None:
        self._monkeypatch.setenv("TSM_NEURON_DOUBLE_DEVICE", state)

    def compiler(self, mode: str) -> None:
        self._monkeypatch.setenv("TSM_NEURON_DOUBLE_COMPILER", mode)

    def request(self, compiler: str = "neuron", *, arguments: tuple[str, ...] = (), **changes: Any) -> ExportRequest:
        precision = changes.pop("precision", "float32")
        compilation = {"compiler": compiler, "arguments": list(arguments), "precision": precision}
        return make_request(self.source, self.store, compilation=compilation, **changes)

    def run(self, request: ExportRequest) -> ExportOutcome:
        return run(request, {}, self.scratch)

    def export(self, compiler: str = "neuron", **changes: Any) -> ExportOutcome:
        return self.run(self.request(compiler, **changes))

    def files(self) -> list[str]:
        """Names of all stored files."""
        return sorted({path.name for path in self.store.rglob("*") if path.is_file()})


def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The doubles on the import path; afterwards as if they had never been there."""
    monkeypatch.syspath_prepend(doubles.NEURON)
    monkeypatch.setenv("TSM_NEURON_DOUBLE_DEVICE", "present")
    # Set and deleted, so that what the backend sets is undone.
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "undone")
    monkeypatch.delenv("NEURON_PLATFORM_TARGET_OVERRIDE")
    yield
    for name in RUNTIMES:
        sys.modules.pop(name, None)
