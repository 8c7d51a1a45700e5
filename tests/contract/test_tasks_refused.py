"""A task that a model has no trained head for fails the export; nothing is ever served with random weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.contract import tiny
from tests.contract.tasking import export, padded, serve
from torchscript_operator.artifact.failures import FailureReason


def edit_config(folder: Path, **changes: Any) -> Path:
    """Change config.json; None removes a field."""
    path = folder / "config.json"
    config = {name: value for name, value in (json.loads(path.read_text()) | changes).items() if value is not None}
    path.write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("task", tiny.HEADS)
def test_model_without_a_head_is_refused(tiny_folder: Path, tmp_path: Path, task: str) -> None:
    outcome = export(tiny_folder, tmp_path, task)

    assert outcome.failure is not None
    assert (outcome.failure.reason, outcome.failure.stage) == (FailureReason.TASK_MISMATCH, "load")
    assert "config.json says BertModel, which has no head" in outcome.failure.message
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("task", tiny.HEADS)
def test_weights_that_loading_would_make_up_are_named(tiny_folder: Path, tmp_path: Path, task: str) -> None:
    import shutil

    folder = edit_config(Path(shutil.copytree(tiny_folder, tmp_path / "model")), architectures=None)

    outcome = export(folder, tmp_path, task)

    assert outcome.failure is not None
    assert outcome.failure.reason is FailureReason.TASK_MISMATCH
    assert "The source has no weights for" in outcome.failure.message


def test_head_of_another_task_with_weights_of_the_same_names_is_refused(tmp_path: Path) -> None:
    # Both heads are a `classifier`: it would load without a word and classify tokens with what was trained for texts.
    folder = tiny.write_head(tmp_path / "model", "text-classification", "Bert")

    outcome = export(folder, tmp_path, "token-classification")

    assert outcome.failure is not None
    assert outcome.failure.reason is FailureReason.TASK_MISMATCH
    assert "BertForSequenceClassification, made for the task 'text-classification'" in outcome.failure.message


def test_head_of_the_wrong_number_of_classes_is_refused(tmp_path: Path) -> None:
    folder = tiny.write_head(tmp_path / "model", "text-classification", "Bert")
    edit_config(folder, id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})

    outcome = export(folder, tmp_path, "text-classification")

    assert outcome.failure is not None
    assert outcome.failure.reason is FailureReason.SOURCE_INVALID


def test_head_for_pretraining_can_fill_masks(tmp_path: Path) -> None:
    import transformers

    size = tiny.write_tokenizer(tmp_path / "model")
    config = transformers.BertConfig(vocab_size=size, **tiny.ARCHITECTURES["Bert"])
    transformers.BertForPreTraining(config).save_pretrained(tmp_path / "model")

    assert export(tmp_path / "model", tmp_path, "fill-mask").succeeded


@pytest.mark.parametrize(
    ("task", "write"),
    [
        ("text2text-generation", lambda folder: tiny.write_head(folder, "fill-mask", "Bert")),
        ("fill-mask", tiny.write_marian),
        ("feature-extraction", tiny.write_marian),
    ],
)
def test_encoder_is_no_translator_and_a_translator_no_encoder(tmp_path: Path, task: str, write: Any) -> None:
    outcome = export(write(tmp_path / "model"), tmp_path, task)

    assert outcome.failure is not None
    assert outcome.failure.reason is FailureReason.TASK_MISMATCH
    assert f"no head for task '{task}'" in outcome.failure.message


def test_fill_mask_without_a_mask_token_is_refused(tmp_path: Path) -> None:
    folder = tiny.write_head(tmp_path / "model", "fill-mask", "Bert")
    path = folder / "tokenizer_config.json"
    facts = json.loads(path.read_text())
    del facts["mask_token"]
    path.write_text(json.dumps(facts))

    outcome = export(folder, tmp_path, "fill-mask")

    assert outcome.failure is not None
    assert outcome.failure.reason is FailureReason.TASK_MISMATCH
    assert "no mask token" in outcome.failure.message


def test_custom_code_is_never_run(tmp_path: Path) -> None:
    folder = tiny.write_head(tmp_path / "model", "fill-mask", "Bert")
    marker = tmp_path / "ran"
    (folder / "modeling_own.py").write_text(f"open({str(marker)!r}, 'w')\n")
    edit_config(folder, model_type="own", auto_map={"AutoConfig": "modeling_own.Config"})

    outcome = export(folder, tmp_path, "fill-mask")

    assert outcome.failure is not None
    assert outcome.failure.reason is FailureReason.SOURCE_INVALID
    assert "custom code is off" in outcome.failure.message
    assert not marker.exists()


OWN_CODE = """
from pathlib import Path

from transformers import BertConfig, BertForMaskedLM

Path({marker!r}).touch()


class Config(BertConfig):
    model_type = "own"


class Model(BertForMaskedLM):
    config_class = Config

    def forward(self, input_ids, attention_mask, token_type_ids, return_dict=True, **options):
        answer = super().forward(input_ids, attention_mask, token_type_ids, return_dict=True)
        answer["logits"] = answer["logits"] * 2
        return answer if return_dict else (answer["logits"],)
"""


def own_model(folder: Path, marker: Path, module: str = "modeling_own") -> Path:
    """A BERT whose own code doubles its scores."""
    tiny.write_head(folder, "fill-mask", "Bert")
    (folder / "modeling_own.py").write_text(OWN_CODE.format(marker=str(marker)))
    names = {"AutoConfig": f"{module}.Config", "AutoModelForMaskedLM": f"{module}.Model"}
    edit_config(folder, model_type="own", auto_map=names, architectures=["Model"])
    return folder


def test_custom_code_runs_where_it_is_trusted_and_is_what_is_exported(tmp_path: Path) -> None:
    folder, marker = own_model(tmp_path / "model", tmp_path / "ran"), tmp_path / "ran"

    served = serve(folder, tmp_path, "fill-mask", trust=["RemoteCode"])

    import torch
    from transformers import BertForMaskedLM

    assert marker.exists()
    assert served.manifest.architecture == "Model"
    arrays = padded(tiny.vocabulary_size(folder), 9)
    edit_config(folder, model_type="bert")
    plain = BertForMaskedLM.from_pretrained(folder, local_files_only=True).eval()
    with torch.no_grad():
        expected = plain(**{name: torch.from_numpy(array) for name, array in arrays.items()}).logits.numpy() * 2
    assert np.abs(served.infer(arrays)["logits"] - expected).max() < 1e-4


def test_custom_code_is_part_of_the_key(tmp_path: Path) -> None:
    folder = own_model(tmp_path / "model", tmp_path / "ran")
    before = export(folder, tmp_path, "fill-mask", trust=["RemoteCode"])
    (folder / "modeling_own.py").write_text((folder / "modeling_own.py").read_text().replace("* 2", "* 3"))

    after = export(folder, tmp_path, "fill-mask", trust=["RemoteCode"])

    assert before.succeeded
    assert after.succeeded
    assert before.key != after.key


def test_trusted_code_of_another_repository_is_refused(tmp_path: Path) -> None:
    folder = own_model(tmp_path / "model", tmp_path / "ran", "other/repository--modeling_own")

    outcome = export(folder, tmp_path, "fill-mask", trust=["RemoteCode"])

    assert outcome.failure is not None
    assert outcome.failure.reason is FailureReason.SOURCE_INVALID
    assert "in another repository" in outcome.failure.message
    assert not (tmp_path / "ran").exists()


def test_pickle_weights_are_read_where_they_are_trusted_and_safetensors_are_missing(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    folder = tiny.write_head(tmp_path / "model", "fill-mask", "Bert")
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    both = export(folder, tmp_path, "fill-mask", trust=["PickleWeights"])
    (folder / "model.safetensors").unlink()

    refused = export(folder, tmp_path, "fill-mask")
    read = export(folder, tmp_path, "fill-mask", trust=["PickleWeights"])

    assert refused.failure is not None
    assert "only pickle weights" in refused.failure.message
    assert both.succeeded
    assert read.succeeded, read.failure
    assert read.key != both.key
