"""Each task's example, exported and loaded; only source, store and the budget of a search are this machine's."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.contract import tiny
from tests.contract.tasking import one_thread
from torchscript_operator.artifact.request import ExportRequest, ServeRequest, StoreLocation
from torchscript_operator.cli import files, requests

FOLDER = Path(__file__).resolve().parents[2] / "examples"
LONG = {"max_position_embeddings": 514}


def head(task: str, architecture: str) -> Callable[[Path], Path]:
    return lambda folder: tiny.write_head(folder, task, architecture, **LONG)


def embedder(folder: Path) -> Path:
    tiny.write_pooling(tiny.write_model(folder, **LONG), "mean", normalize=True)
    return folder


MODELS: dict[str, Callable[[Path], Path]] = {
    "minilm": embedder,
    "fill-mask": head("fill-mask", "Roberta"),
    "text-classification": head("text-classification", "DistilBert"),
    "token-classification": head("token-classification", "Bert"),
    "question-answering": head("question-answering", "DistilBert"),
    "multiple-choice": head("multiple-choice", "Roberta"),
    "translation": lambda folder: tiny.write_marian(folder, tiny.write_sentencepiece),
}
"""Example to a small random model of the architecture that it names."""


def asked(example: str, source: Path, store: Path) -> ExportRequest:
    model = files.read_model(str(FOLDER / f"{example}.yaml"), None)
    overrides = requests.Overrides(StoreLocation(uri=f"file://{store}"), source)
    found = requests.export_request(model, model.spec.targets[0], overrides)
    if found.compilation.search_seconds is None:
        return found
    # Small models are measured in less.
    return found.model_copy(update={"compilation": found.compilation.model_copy(update={"search_seconds": 10})})


def test_every_task_has_an_example() -> None:
    tasks = {yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["spec"]["task"] for name in MODELS}

    assert tasks == {"feature-extraction", "text2text-generation", *tiny.HEADS}


@pytest.mark.parametrize("example", MODELS)
def test_example_is_exported_and_loaded(tmp_path: Path, example: str) -> None:
    from torchscript_operator.export.pipeline import run
    from torchscript_operator.serve.loading import load
    from torchscript_operator.serve.settings import Settings

    request = asked(example, MODELS[example](tmp_path / "model"), tmp_path / "store")
    with one_thread():
        outcome = run(request, {}, tmp_path / "scratch")
        assert outcome.artifact is not None, outcome.failure
        location = StoreLocation(uri=outcome.artifact.uri)
        served = ServeRequest(model="tests/model", target="cpu", artifact=location, digest=outcome.artifact.digest)
        loaded = load(served, Settings(scratch=str(tmp_path / "pod"), threads=1), {}, lambda _: None)

    assert loaded.manifest.task == request.task
    assert loaded.manifest.parity.verdict == "Passed"
