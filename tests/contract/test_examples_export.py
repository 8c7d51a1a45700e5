"""Each task's example, exported, loaded and asked what its page asks; source, store and a search's budget differ."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import yaml

from tests.contract import tiny
from tests.contract.tasking import one_thread
from tests.unit import pages
from tests.unit.serving import live
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


def question(task: str) -> tuple[str, str]:
    """The path and the body that the task's page has a reader send."""
    (command,) = [each for each in pages.of("curl") if each.page == f"docs/tasks/{task}.md"]
    body = command.words[command.words.index("-d") + 1]
    # Small models have BERT's word for a gap.
    return command.words[1].removeprefix("http://localhost:8080"), body.replace("<mask>", "[MASK]")


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
    path, body = question(request.task)
    with live(model=(loaded.runner, loaded.tokenizing)) as server:
        # Only OpenAI's requests name the model, which is the example's.
        name = httpx.get(f"{server.url}/v1/models").json()["data"][0]["id"]
        body = body.replace('"model": "minilm"', f'"model": "{name}"')
        answer = httpx.post(f"{server.url}{path}", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200, answer.text
    assert answer.json()
