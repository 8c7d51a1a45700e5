"""tsm init: what it makes of a model's config and files, and of a Hub that does not answer."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import huggingface_hub
import pytest
import yaml
from huggingface_hub import errors
from typer.testing import CliRunner

from torchscript_operator.api.v1alpha1 import TorchScriptModelSpec
from torchscript_operator.cli import starter
from torchscript_operator.cli.errors import CliError
from torchscript_operator.cli.main import app
from torchscript_operator.cli.starter import Found, Wish

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BERT = {
    "architectures": ["BertForMaskedLM"],
    "model_type": "bert",
    "max_position_embeddings": 512,
    "num_hidden_layers": 6,
    "hidden_size": 384,
}
MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json")


def found(**fields: Any) -> Found:
    return Found(**{"config": BERT, "names": MODEL_FILES, "weights_bytes": 90_000_000, "commit": COMMIT, **fields})


def spec(wish: Wish, known: Found) -> TorchScriptModelSpec:
    return TorchScriptModelSpec.model_validate(yaml.safe_load(starter.write(wish, known))["spec"])


def test_task_without_numpy_is_what_the_hub_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchscript_operator.export.tasks", None)
    monkeypatch.delattr("torchscript_operator.export.tasks", raising=False)
    assert starter.task_of(found(pipeline="fill-mask")) == "fill-mask"
    assert starter.task_of(found()) is None


@pytest.mark.parametrize(
    ("fields", "task"),
    [
        ({}, "fill-mask"),
        ({"modules": True}, "feature-extraction"),
        ({"config": {"architectures": ["BertModel"]}}, "feature-extraction"),
        ({"config": {"architectures": ["RobertaForSequenceClassification"]}}, "text-classification"),
        ({"config": {"architectures": ["MarianMTModel"]}}, "text2text-generation"),
        ({"config": {}, "pipeline": "sentence-similarity"}, "feature-extraction"),
        ({"config": {}, "pipeline": "token-classification"}, "token-classification"),
        ({"config": {"architectures": ["LlamaForCausalLM"]}, "pipeline": "text-generation"}, None),
        ({"config": {}}, None),
    ],
)
def test_task_is_found(fields: dict[str, Any], task: str | None) -> None:
    assert starter.task_of(found(**fields)) == task


def test_file_is_pinned_to_the_commit_and_begins_with_what_it_is_for() -> None:
    text = starter.write(Wish("owner/tiny"), found())
    assert text.startswith("# owner/tiny: BertForMaskedLM, 6 layers, width 384, 90 MB, texts of at most 512 tokens.")
    assert spec(Wish("owner/tiny"), found()).source.hugging_face is not None
    assert f"revision: {COMMIT}" in text


@pytest.mark.parametrize(
    ("longest", "sequence", "expected"),
    [
        (512, None, [(1, 128), (8, 128), (8, 512)]),
        (8192, None, [(1, 128), (8, 128), (8, 512)]),
        (128, None, [(1, 128), (8, 128)]),
        (64, None, [(1, 64), (8, 64)]),
        (None, None, [(1, 128), (8, 128)]),
        (512, 200, [(1, 128), (8, 128), (8, 200)]),
    ],
)
def test_shapes_follow_the_longest_text(
    longest: int | None, sequence: int | None, expected: list[tuple[int, int]]
) -> None:
    assert [(shape["batch"], shape["sequence"]) for shape in starter.shapes_of(longest, sequence)] == expected


def test_sentence_transformers_own_limit_counts() -> None:
    assert found(maximum_tokens=256).longest == 256
    assert found(config={"model_type": "roberta", "max_position_embeddings": 514}).longest == 512


def test_large_model_has_memory_of_its_own() -> None:
    made = spec(Wish("owner/large"), found(weights_bytes=2 * 2**30))
    assert made.targets[0].job.resources is not None
    assert made.targets[0].job.resources.limits == {"memory": "7Gi"}
    assert made.serving.resources is not None
    assert spec(Wish("owner/tiny"), found()).serving.resources is None


def test_accelerators_are_targets_with_a_proof_of_their_own() -> None:
    made = spec(Wish("owner/tiny", compilers=("torchscript", "neuron", "neuronx")), found())
    assert [(target.name, target.verify is not None) for target in made.targets] == [
        ("cpu", False),
        ("inf1", True),
        ("inf2", True),
    ]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("sentence-transformers/all-MiniLM-L6-v2", "all-minilm-l6-v2"),
        ("owner/__", "model"),
        ("s3://bucket/some.Model/", "some-model"),
        ("owner/" + "x" * 60, "x" * 40),
    ],
)
def test_names_are_made_from_the_source(source: str, expected: str) -> None:
    assert starter.name_of(source) == expected


def test_unknown_task_is_asked_for() -> None:
    with pytest.raises(CliError, match="What task"):
        starter.write(Wish("owner/x"), Found())


def test_pickle_weights_are_refused() -> None:
    names = ("config.json", "pytorch_model.bin", "tokenizer.json")
    with pytest.raises(Exception, match="pickle weights"):
        starter.write(Wish("owner/x"), found(names=names))


# The Hub.


class Hub:
    """What of HfApi is used, over a folder."""

    problem: Exception | None = None
    folder = Path()

    def __init__(self, endpoint: str | None, token: str | None) -> None:
        self.endpoint, self.token = endpoint, token

    def model_info(self, _repository: str, **_options: Any) -> Any:
        if Hub.problem is not None:
            raise Hub.problem
        names = [path.name for path in Hub.folder.iterdir()]
        siblings = [SimpleNamespace(rfilename=name, size=(Hub.folder / name).stat().st_size) for name in names]
        return SimpleNamespace(sha=COMMIT, siblings=siblings, pipeline_tag=None)

    def hf_hub_download(self, _repository: str, name: str, revision: str) -> str:
        assert revision == COMMIT
        return str(Hub.folder / name)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(BERT))
    (folder / "model.safetensors").write_bytes(b"x" * 100)
    (folder / "tokenizer.json").write_text("{}")
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(Hub, "folder", folder)
    monkeypatch.setattr(Hub, "problem", None)
    monkeypatch.chdir(tmp_path)
    return Hub


def tsm(*arguments: str, **options: Any) -> Any:
    return CliRunner().invoke(app, ["init", *arguments], **options)


@pytest.mark.usefixtures("hub")
def test_repository_becomes_a_file() -> None:
    result = tsm("owner/tiny")
    assert result.exit_code == 0, result.output
    body = yaml.safe_load(Path("model.yaml").read_text())
    assert body["spec"]["task"] == "fill-mask"
    assert body["spec"]["source"]["huggingFace"] == {"repository": "owner/tiny", "revision": COMMIT}
    assert "tsm plan model.yaml" in Path("model.yaml").read_text()


@pytest.mark.usefixtures("hub")
def test_file_that_is_there_stays() -> None:
    Path("model.yaml").write_text("mine")
    assert tsm("owner/tiny").exit_code == 2
    assert Path("model.yaml").read_text() == "mine"
    assert tsm("owner/tiny", "--force").exit_code == 0


@pytest.mark.usefixtures("hub")
def test_folder_of_the_file_is_made() -> None:
    assert tsm("owner/tiny", "-f", "models/inf2.yaml").exit_code == 0
    assert "tsm plan models/inf2.yaml" in Path("models/inf2.yaml").read_text()


@pytest.mark.usefixtures("hub")
def test_file_that_cannot_be_written_is_one_message() -> None:
    Path("models").write_text("a file")
    result = tsm("owner/tiny", "-f", "models/inf2.yaml")
    assert result.exit_code == 2
    assert "models/inf2.yaml cannot be written: " in result.stderr


@pytest.mark.usefixtures("hub")
def test_file_can_be_printed() -> None:
    assert yaml.safe_load(tsm("owner/tiny", "-f", "-", "--name", "mine").stdout)["metadata"] == {"name": "mine"}


def answer(code: int) -> httpx.Response:
    return httpx.Response(code, request=httpx.Request("GET", "http://hub"))


@pytest.mark.parametrize(
    ("problem", "code", "words"),
    [
        (errors.RepositoryNotFoundError, 66, "no repository owner/tiny"),
        (errors.GatedRepoError, 77, "is gated"),
        (errors.RevisionNotFoundError, 66, "no revision main"),
    ],
)
def test_refusals_of_the_hub_have_their_own_words(
    hub: type[Hub], monkeypatch: pytest.MonkeyPatch, problem: type[Exception], code: int, words: str
) -> None:
    monkeypatch.setattr(hub, "problem", problem("no", response=answer(404)))  # type: ignore[call-arg]
    result = tsm("owner/tiny")
    assert result.exit_code == code
    assert words in result.stderr


def test_hub_that_does_not_answer_leaves_the_task_to_be_given(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "problem", ConnectionError("no route"))
    assert tsm("owner/tiny").exit_code == 2
    assert tsm("owner/tiny", "--task", "fill-mask").exit_code == 0
    text = Path("model.yaml").read_text()
    assert "nothing could be read" in text
    assert "revision" not in text


@pytest.mark.usefixtures("hub")
def test_cache_of_this_machine_helps_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(BERT))

    def look(_repository: str, name: str, revision: str) -> str | None:
        assert revision == "main"
        return str(snapshot / name) if (snapshot / name).is_file() else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", look)
    result = tsm("owner/tiny", "--offline")
    assert result.exit_code == 0, result.output
    assert COMMIT in Path("model.yaml").read_text()
    assert "cache" in result.stderr


@pytest.mark.usefixtures("hub")
def test_missing_library_leaves_the_task_to_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert tsm("owner/tiny", "--task", "fill-mask").exit_code == 0


def test_folder_tells_what_a_bucket_holds(hub: type[Hub]) -> None:
    result = tsm("s3://models/tiny", "--from", str(hub.folder), "-f", "-")
    body = yaml.safe_load(result.stdout)
    assert body["spec"]["source"] == {"s3": {"uri": "s3://models/tiny"}}
    assert body["spec"]["task"] == "fill-mask"


@pytest.mark.parametrize(
    "arguments", [[], ["owner/x", "--task", "nonsense"], ["owner/x", "--compiler", "nonsense"]], ids=str
)
@pytest.mark.usefixtures("hub")
def test_wrong_options_are_refused(arguments: list[str]) -> None:
    result = tsm(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_name_that_no_repository_can_have_is_one_message() -> None:
    with pytest.raises(CliError, match="no name of a repository") as raised:
        starter.from_hub("bad name", "main", None, offline=True)
    assert "OWNER/NAME" in raised.value.advice
