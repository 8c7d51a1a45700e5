"""Each task's example, exported, loaded and asked what its page asks; source, store and a search's budget differ."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contract import tiny
from tests.contract.tasking import one_thread
from tests.reader import Reader
from tests.unit import pages
from tests.unit.serving import live
from torchscript_operator.artifact.request import ExportRequest, ServeRequest, StoreLocation
from torchscript_operator.cli import files, requests

FOLDER = Path(__file__).resolve().parents[2] / "examples"
LONG = {"max_position_embeddings": 514}


def head(task: str, architecture: str) -> Callable[[Path], Path]:
    return lambda folder: tiny.write_head(folder, task, architecture, **LONG)


def gaps(folder: Path) -> Path:
    """With RoBERTa's own word for a gap."""
    tiny.write_head(folder, "fill-mask", "Roberta", **LONG)
    for file in folder.glob("*.json"):
        file.write_text(file.read_text().replace("[MASK]", "<mask>"))
    return folder


def embedder(folder: Path) -> Path:
    tiny.write_pooling(tiny.write_model(folder, **LONG), "mean", normalize=True)
    return folder


MODELS: dict[str, Callable[[Path], Path]] = {
    "minilm": embedder,
    "fill-mask": gaps,
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


CURLS = [*pages.select("docs/tasks/*.md", "curl"), *pages.select("examples/*.yaml", "curl")]
"""What a reader asks: a page is named after its task, an example by its file."""
ANSWERS: dict[str, Any] = {
    "feature-extraction": {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
        "model": "toy",
        "usage": {"prompt_tokens": 1, "total_tokens": 1},
    },
    "fill-mask": [{"score": 0.5, "token": 1, "token_str": "", "sequence": ""}],
    "text-classification": [[{"label": "", "score": 0.5}]],
    "token-classification": [{"entity_group": "", "score": 0.5, "word": "", "start": 1, "end": 1}],
    "question-answering": {"score": 0.5, "start": 1, "end": 1, "answer": ""},
    "multiple-choice": [{"index": 1, "choice": "", "score": 0.5}],
    "text2text-generation": [{"generated_text": ""}],
}
"""Shapes of the answers: a value stands for others of its type, a list for any that is not empty."""


def model_name(example: str) -> str:
    """The Service's name, too."""
    name: str = yaml.safe_load((FOLDER / f"{example}.yaml").read_text())["metadata"]["name"]
    return name


def is_shaped_like(found: Any, shape: Any) -> bool:
    if isinstance(shape, dict):
        same = isinstance(found, dict) and found.keys() == shape.keys()
        return same and all(is_shaped_like(found[key], shape[key]) for key in shape)
    if isinstance(shape, list):
        return isinstance(found, list) and found != [] and all(is_shaped_like(each, shape[0]) for each in found)
    return type(found) is type(shape)


@pytest.mark.parametrize("example", MODELS)
def test_example_is_exported_and_loaded_and_answers_what_its_page_asks(tmp_path: Path, example: str) -> None:
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
    with live(model=(loaded.runner, loaded.tokenizing)) as server:
        # Only OpenAI's requests name the model.
        swaps = {"http://localhost:8080": server.url, '"model": "minilm"': '"model": "toy"'}
        reader = Reader(tmp_path, swaps | {f"http://{model_name(example)}/": f"{server.url}/"})
        asks = [each for each in CURLS if Path(each.page).stem in {request.task, example}]
        answers = [json.loads(reader.types(each.line)) for each in asks]
    assert len({each.page for each in asks}) == 2
    assert [is_shaped_like(answer, ANSWERS[request.task]) for answer in answers] == [True, True], answers
