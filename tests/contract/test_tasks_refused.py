"""A task that a model has no trained head for fails the export; nothing is ever served with random weights."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.contract import tiny
from tests.contract.tasking import export
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
