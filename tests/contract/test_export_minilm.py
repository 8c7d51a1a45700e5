"""The real model, exported by the Job's process, against Transformers' own answers."""

import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.contract.exporting import ExportedArtifact, run_job
from torchscript_operator.artifact import digest, golden
from torchscript_operator.artifact.outcome import MAXIMUM_BYTES
from torchscript_operator.artifact.request import StoreLocation
from torchscript_operator.artifact.store import fetch, open_store

TEXTS = [
    "A short one.",
    "A cat sits on the mat and looks out of the window at the rain, which has not stopped since Monday.",
    "Zwei Sätze. Der zweite ist auf Deutsch und hat Umlaute.",
]


@pytest.fixture(scope="module")
def compiled(minilm_artifact: ExportedArtifact) -> Any:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(str(minilm_artifact.file("model.pt"))).eval()  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def eager(minilm_folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModel.from_pretrained(minilm_folder, local_files_only=True).eval()
    return model, AutoTokenizer.from_pretrained(minilm_folder, local_files_only=True)


def encode(tokenizer: Any, texts: list[str], length: int) -> Any:
    return tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")


def both(compiled: Any, eager: tuple[Any, Any], texts: list[str], length: int) -> tuple[Any, Any, Any]:
    """Compiled outputs, eager's last hidden state, and the mask."""
    import torch

    model, tokenizer = eager
    encoded = encode(tokenizer, texts, length)
    with torch.no_grad():
        outputs = compiled(encoded["input_ids"], encoded["attention_mask"], encoded["token_type_ids"])
        expected = model(**encoded).last_hidden_state
    return outputs, expected, encoded["attention_mask"]


@pytest.mark.parametrize(("copies", "length"), [(1, 32), (8, 64), (1, 128), (5, 17), (11, 200)])
def test_token_vectors_equal_eager_at_traced_and_other_sizes(
    compiled: Any, eager: tuple[Any, Any], copies: int, length: int
) -> None:
    texts = (TEXTS * copies)[:copies]

    outputs, expected, mask = both(compiled, eager, texts, length)

    rows = mask.bool()
    assert np.abs(outputs[0][rows].numpy() - expected[rows].numpy()).max() < 1e-5


def test_sentence_embedding_is_the_normalised_mean_of_unpadded_vectors(compiled: Any, eager: tuple[Any, Any]) -> None:
    outputs, expected, mask = both(compiled, eager, TEXTS, 64)

    for row, text_mask, embedding in zip(expected.numpy(), mask.numpy(), outputs[1].numpy(), strict=True):
        mean = row[: text_mask.sum()].mean(axis=0)
        assert np.abs(mean / np.linalg.norm(mean) - embedding).max() < 1e-5


def test_padding_does_not_change_an_embedding(compiled: Any, eager: tuple[Any, Any]) -> None:
    short, _, _ = both(compiled, eager, TEXTS[:1], 8)
    long, _, _ = both(compiled, eager, TEXTS[:1], 128)

    assert np.abs(short[1].numpy() - long[1].numpy()).max() < 1e-5


def test_manifest_says_what_was_found(minilm_artifact: ExportedArtifact) -> None:
    manifest = minilm_artifact.manifest

    assert manifest.architecture == "BertModel"
    assert [spec.name for spec in manifest.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    assert [spec.name for spec in manifest.outputs] == ["last_hidden_state", "sentence_embedding"]
    assert {axis.kind for spec in manifest.inputs for axis in spec.axes} == {"dynamic"}
    assert manifest.outputs[1].axes[-1].size == 384
    assert manifest.pooling is not None
    assert (manifest.pooling.mode, manifest.pooling.normalize) == ("mean", True)
    assert manifest.pooling.origin == "sentence-transformers"
    assert manifest.maximum_sequence == 64
    assert manifest.parity.verdict == "Passed"
    assert {(figure.output, figure.shape) for figure in manifest.parity.outputs} == {
        (output, shape) for output in ("last_hidden_state", "sentence_embedding") for shape in ("b1-s32", "b8-s64")
    }


def test_every_file_has_the_size_and_digest_of_its_entry(minilm_artifact: ExportedArtifact) -> None:
    entries = minilm_artifact.manifest.files

    assert {entry.name for entry in entries} == {
        "model.pt",
        "tokenizer.json",
        "tokenizer_config.json",
        "config.json",
        "golden.safetensors",
    }
    for entry in entries:
        path = minilm_artifact.file(entry.name)
        assert (digest.of_file(path), path.stat().st_size) == (entry.sha256, entry.size_bytes)


def test_artifact_can_be_fetched_by_its_digest(minilm_artifact: ExportedArtifact, tmp_path: Path) -> None:
    store = open_store(StoreLocation(uri=minilm_artifact.uri))

    assert fetch(store, minilm_artifact.digest, tmp_path) == minilm_artifact.manifest
    assert digest.of_file(tmp_path / "model.pt") == minilm_artifact.manifest.files[0].sha256


def test_tokenizer_neither_pads_nor_cuts_and_gives_transformers_ids(
    minilm_artifact: ExportedArtifact, eager: tuple[Any, Any]
) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm_artifact.file("tokenizer.json")))

    for text in [*TEXTS, "word " * 300]:
        assert tokenizer.encode(text).ids == eager[1](text, truncation=False, padding=False)["input_ids"]
    facts = json.loads(minilm_artifact.file("tokenizer_config.json").read_text())
    assert facts == {
        "padToken": "[PAD]",
        "padTokenId": 0,
        "clsTokenId": 101,
        "maskTokenId": 103,
        "unkTokenId": 100,
        "cleanUpSpaces": False,
        "paddingSide": "right",
        "modelMaxLength": 512,
    }


def test_golden_cases_replay(minilm_artifact: ExportedArtifact, compiled: Any) -> None:
    import torch

    cases = golden.read(minilm_artifact.file("golden.safetensors"))

    assert [case.name for case in cases] == ["b1-s32", "b8-s64"]
    for case in cases:
        names = [spec.name for spec in minilm_artifact.manifest.inputs]
        assert (case.inputs["attention_mask"] == 0).any()
        with torch.no_grad():
            outputs = compiled(*(torch.from_numpy(case.inputs[name]) for name in names))
        assert np.abs(outputs[1].numpy() - case.outputs["sentence_embedding"]).max() < 1e-5


def test_compiled_file_carries_its_key(minilm_artifact: ExportedArtifact) -> None:
    import torch

    extra = {"torchscript-operator.json": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.load(str(minilm_artifact.file("model.pt")), _extra_files=extra)  # type: ignore[no-untyped-call]

    assert json.loads(extra["torchscript-operator.json"])["key"] == minilm_artifact.key


def test_termination_message_fits_and_names_the_artifact(minilm_artifact: ExportedArtifact) -> None:
    result = minilm_artifact.result

    assert len(result.message.encode()) <= MAXIMUM_BYTES
    assert result.outcome.succeeded
    assert not result.outcome.cache_hit
    assert result.outcome.request_digest == minilm_artifact.request.digest()
    assert result.outcome.artifact is not None
    assert result.outcome.artifact.uri == minilm_artifact.uri


def test_log_tells_each_stage_with_its_seconds(minilm_artifact: ExportedArtifact) -> None:
    ended = [line["stage"] for line in minilm_artifact.result.log if "elapsedSeconds" in line]

    assert ended == ["resolve", "load", "golden", "trace", "axes", "parity", "package", "upload"]
    assert {line["model"] for line in minilm_artifact.result.log} == {"tests/model"}


def test_second_export_of_a_key_is_a_quick_cache_hit(minilm_artifact: ExportedArtifact, tmp_path: Path) -> None:
    started = time.monotonic()
    result = run_job(minilm_artifact.request, tmp_path)

    assert result.outcome.cache_hit
    assert result.outcome.artifact == minilm_artifact.result.outcome.artifact
    assert result.outcome.parity == minilm_artifact.result.outcome.parity
    assert "load" not in {line.get("stage") for line in result.log}
    assert time.monotonic() - started < 30


def test_same_request_into_another_store_gives_the_same_digest(
    minilm_artifact: ExportedArtifact, tmp_path: Path
) -> None:
    location = StoreLocation(uri=f"file://{tmp_path}/store")
    result = run_job(minilm_artifact.request.model_copy(update={"store": location}), tmp_path / "scratch")

    assert result.outcome.artifact is not None
    assert result.outcome.artifact.digest == minilm_artifact.digest
