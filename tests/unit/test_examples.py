"""Every example is a model that the API's types take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from torchscript_operator.api.v1alpha1 import API_VERSION, KIND, TorchScriptModelSpec

FOLDER = Path(__file__).resolve().parents[2] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.yaml"))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_there_are_examples() -> None:
    assert {path.stem for path in EXAMPLES} >= {
        "least",
        "minilm",
        "volume",
        "huggingface-private",
        "export-only",
        "guarded",
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_valid(path: Path) -> None:
    body = read(path)
    assert body["apiVersion"] == API_VERSION
    assert body["kind"] == KIND
    # Applied to the namespace of the user's choice.
    assert body["metadata"].keys() == {"name"}
    TorchScriptModelSpec.model_validate(body["spec"])


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_begins_with_what_it_is_for(path: Path) -> None:
    assert path.read_text().startswith("# ")


def test_export_only_serves_nothing() -> None:
    spec = TorchScriptModelSpec.model_validate(read(FOLDER / "export-only.yaml")["spec"])
    assert spec.serving.targets == ()


def test_least_relies_on_the_charts_store() -> None:
    assert read(FOLDER / "least.yaml")["spec"].keys() == {"source", "task"}
