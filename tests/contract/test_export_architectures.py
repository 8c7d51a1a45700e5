"""Small random models of other architectures, and models whose axes are fixed."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.contract import tiny
from tests.contract.exporting import make_request
from torchscript_operator.artifact.manifest import Manifest
from torchscript_operator.export.backends.torchscript import TorchScript
from torchscript_operator.export.pipeline import run

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
CONFIGS: dict[str, dict[str, Any]] = {
    "DistilBertModel": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64},
    "RobertaModel": SMALL | {"max_position_embeddings": 66, "pad_token_id": 0, "type_vocab_size": 1},
    "XLMRobertaModel": SMALL | {"max_position_embeddings": 66, "pad_token_id": 0, "type_vocab_size": 1},
    "CamembertModel": SMALL | {"max_position_embeddings": 66, "pad_token_id": 0, "type_vocab_size": 1},
    "MPNetModel": SMALL | {"max_position_embeddings": 66, "pad_token_id": 0},
    "AlbertModel": SMALL | {"max_position_embeddings": 64, "embedding_size": 16},
    "ElectraModel": SMALL | {"max_position_embeddings": 64, "embedding_size": 16},
    "DebertaV2Model": tiny.ARCHITECTURES["DebertaV2"],
    "ModernBertModel": SMALL | {"max_position_embeddings": 64, "pad_token_id": 0},
}


def write(folder: Path, model_class: str, settings: dict[str, Any]) -> Path:
    import torch
    import transformers

    size = tiny.write_tokenizer(folder)
    torch.manual_seed(1)
    found = getattr(transformers, model_class)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found(found.config_class(vocab_size=size, **settings)).save_pretrained(folder)
    return folder


def exported(folder: Path, tmp_path: Path) -> tuple[Manifest, Path]:
    outcome = run(make_request(folder, tmp_path / "store"), {}, tmp_path / "scratch")
    assert outcome.succeeded, outcome.failure
    root = tmp_path / "store" / str(outcome.key)
    return Manifest.model_validate_json((root / "manifest.json").read_bytes()), root


@pytest.mark.parametrize("model_class", CONFIGS)
def test_architecture_exports_with_eagers_outputs(tmp_path: Path, model_class: str) -> None:
    import torch
    import transformers

    folder = write(tmp_path / "model", model_class, CONFIGS[model_class])

    manifest, root = exported(folder, tmp_path)

    model = getattr(transformers, model_class).from_pretrained(folder, local_files_only=True).eval()
    compiled = TorchScript().load(root / manifest.files[0].path)
    ids = torch.randint(5, 60, (3, 21))
    mask = (torch.arange(21)[None] < torch.tensor([21, 4, 9])[:, None]).long()
    ids[mask == 0] = 0
    arrays = {"input_ids": ids.numpy(), "attention_mask": mask.numpy(), "token_type_ids": torch.zeros_like(ids).numpy()}
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).last_hidden_state.numpy()
    actual = compiled([arrays[spec.name] for spec in manifest.inputs])[0]
    assert manifest.architecture == model_class
    assert np.abs(actual - expected)[mask.numpy() == 1].max() < 1e-5


def fixed(axis: str) -> Callable[..., Any]:
    """A wrapper's forward that bakes in one traced size, as LED's encoder does."""
    from torchscript_operator.export import wrapper

    right = wrapper.TokenVectors.forward

    def forward(self: Any, *inputs: Any) -> Any:
        count, length = (int(size) for size in inputs[0].shape)
        hidden, embedding = right(self, *inputs)
        if axis == "batch":
            return hidden.view(count, -1, hidden.shape[2]), embedding
        return hidden.view(-1, length, hidden.shape[2]), embedding

    return forward


@pytest.mark.parametrize("axis", ["batch", "sequence"])
def test_fixed_axis_gives_one_file_for_each_bucket(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, axis: str
) -> None:
    from torchscript_operator.export import wrapper

    monkeypatch.setattr(wrapper.TokenVectors, "forward", fixed(axis))

    manifest, root = exported(tiny_folder, tmp_path)

    assert axis in {found.name for found in manifest.inputs[0].axes if found.kind == "fixed"}
    models = [entry for entry in manifest.files if entry.role == "model"]
    assert [entry.name for entry in models] == ["model-b1-s32.pt", "model-b8-s64.pt"]
    for entry in models:
        assert entry.shape is not None
        example = np.ones((entry.shape.batch, entry.shape.sequence), dtype=np.int64)
        outputs = TorchScript().load(root / entry.path)([example, example, example * 0])
        assert outputs[0].shape[:2] == example.shape


@pytest.mark.parametrize(("mode", "normalize"), [("cls", True), ("max", False), ("mean", False)])
def test_pooling_is_what_the_models_files_say(tmp_path: Path, mode: str, normalize: bool) -> None:
    import torch
    import transformers

    folder = tiny.write_model(tmp_path / "model")
    tiny.write_pooling(folder, mode, normalize=normalize)
    manifest, root = exported(folder, tmp_path)
    ids = np.array([[2, 10, 11, 12, 3, 0, 0]])
    mask = (ids != 0).astype(np.int64)

    embedding = TorchScript().load(root / manifest.files[0].path)([ids, mask, ids * 0])[1][0]

    model = transformers.BertModel.from_pretrained(folder, local_files_only=True).eval()
    with torch.no_grad():
        hidden = model(torch.from_numpy(ids), torch.from_numpy(mask)).last_hidden_state[0, :5].numpy()
    expected = {"cls": hidden[0], "max": hidden.max(axis=0), "mean": hidden.mean(axis=0)}[mode]
    if normalize:
        expected = expected / np.linalg.norm(expected)
    assert np.abs(embedding - expected).max() < 1e-5
    assert manifest.pooling is not None
    assert manifest.pooling.mode == mode


def test_slow_tokenizer_files_are_converted(tmp_path: Path) -> None:
    folder = tiny.write_model(tmp_path / "model")
    import json

    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')

    manifest, _ = exported(folder, tmp_path)

    assert "tokenizer.json" in {entry.name for entry in manifest.files}


def test_users_samples_are_measured_and_change_the_key(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("the cat sat\n\nthe dog sat on the mat\n", encoding="utf-8")
    plain = run(make_request(tiny_folder, tmp_path / "store"), {}, tmp_path / "scratch")
    request = make_request(tiny_folder, tmp_path / "store", samples={"path": str(tmp_path / "texts")})
    sampled = run(request, {}, tmp_path / "scratch")

    assert plain.parity is not None
    assert sampled.parity is not None
    assert plain.key != sampled.key
    rows = [
        {figure.shape: figure.rows for figure in found.parity.outputs} for found in (plain, sampled) if found.parity
    ]
    assert rows[1]["b1-s32"] > rows[0]["b1-s32"]


def test_golden_file_stays_small(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchscript_operator.artifact import golden
    from torchscript_operator.export import package

    monkeypatch.setattr(package, "MAXIMUM_GOLDEN_BYTES", 4096)

    manifest, root = exported(tiny_folder, tmp_path)

    entry = next(entry for entry in manifest.files if entry.role == "golden")
    assert [set(case.outputs) for case in golden.read(root / entry.path)] == [{"sentence_embedding"}] * 2


def test_two_exports_of_one_key_at_once_end_in_one_whole_artifact(tiny_folder: Path, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from tests.contract.exporting import run_job
    from torchscript_operator.artifact.store import FolderStore, find_complete

    request = make_request(tiny_folder, tmp_path / "store")
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda name: run_job(request, tmp_path / name), ("first", "second")))

    assert [result.exit_code for result in results] == [0, 0]
    digests = {result.outcome.artifact.digest for result in results if result.outcome.artifact}
    assert len(digests) == 1
    assert find_complete(FolderStore(tmp_path / "store"), str(results[0].outcome.key)) is not None
    assert not list((tmp_path / "store").rglob("*.partial"))
