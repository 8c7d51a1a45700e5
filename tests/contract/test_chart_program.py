"""The program of `helm test` makes a model that an export reads from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.golden.chart import rendering
from torchscript_operator.artifact.request import HuggingFaceSource
from torchscript_operator.export.source import resolve

if TYPE_CHECKING:
    from pathlib import Path

REPOSITORY = "helm-test/tiny"


def test_the_program_is_an_export_jobs_hub(tmp_path: Path) -> None:
    program = rendering.module(rendering.CHART / "files/helm_test.py")
    expected = program.make_model(tmp_path / "model")
    assert [len(row) for row in expected] == [32, 32]
    with program.serving(tmp_path / "model", REPOSITORY, 0) as port:
        source = HuggingFaceSource(repository=REPOSITORY, endpoint=f"http://127.0.0.1:{port}")
        found = resolve(source, tmp_path / "scratch", {})
    assert found.identity.revision == program.COMMIT
    names = {path.relative_to(found.folder).as_posix() for path in found.folder.rglob("*") if path.is_file()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "modules.json", "1_Pooling/config.json"} <= names
