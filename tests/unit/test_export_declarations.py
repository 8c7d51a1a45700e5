import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.manifest import Pooling
from torchscript_operator.export import architectures, backends, tasks
from torchscript_operator.export.backends.torchscript import TorchScript
from torchscript_operator.export.logs import Progress
from torchscript_operator.export.memory import is_out_of_memory


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514}, 512),
        ({"model_type": "mpnet", "max_position_embeddings": 514}, 512),
        ({"model_type": "gpt2", "n_positions": 1024}, 1024),
        ({"model_type": "t5"}, None),
        ({"model_type": "deberta-v2", "max_position_embeddings": 512, "position_biased_input": False}, None),
        ({"model_type": "xlnet", "max_position_embeddings": -1}, None),
    ],
)
def test_positions_limit_the_sequence(config: dict[str, Any], limit: int | None) -> None:
    assert architectures.maximum_positions(config) == limit


def model_of(model_type: str, forward: Any) -> Any:
    return SimpleNamespace(config=SimpleNamespace(model_type=model_type), forward=forward)


def tokenizer_of(*names: str) -> Any:
    return SimpleNamespace(model_input_names=names)


def test_unknown_architecture_takes_what_its_forward_and_tokenizer_share() -> None:
    def forward(input_ids: Any, attention_mask: Any, token_type_ids: Any, labels: Any) -> None: ...

    found = architectures.of_model(model_of("new", forward), tokenizer_of("input_ids", "attention_mask"))
    wider = architectures.of_model(model_of("new", forward), tokenizer_of(*architectures.INPUT_NAMES))

    assert found.inputs == ("input_ids", "attention_mask")
    assert wider.inputs == architectures.INPUT_NAMES


def test_segments_are_left_out_where_the_model_has_none() -> None:
    def forward(input_ids: Any, attention_mask: Any, token_type_ids: Any) -> None: ...

    model = model_of("deberta-v2", forward)
    model.config.type_vocab_size = 0
    without = architectures.of_model(model, tokenizer_of(*architectures.INPUT_NAMES))
    model.config.type_vocab_size = 2
    read = architectures.of_model(model, tokenizer_of(*architectures.INPUT_NAMES))

    assert (without.inputs, without.segments) == (architectures.TWO, 1)
    assert (read.inputs, read.segments) == (architectures.THREE, 2)


@pytest.mark.parametrize(
    "model_type",
    [
        "bert",
        "distilbert",
        "roberta",
        "xlm-roberta",
        "albert",
        "electra",
        "mpnet",
        "deberta-v2",
        "camembert",
        "marian",
    ],
)
def test_architecture_is_declared(model_type: str) -> None:
    assert architectures.ARCHITECTURES[model_type].model_type == model_type


@pytest.mark.parametrize(
    ("model_class", "task"),
    [
        ("BertForMaskedLM", "fill-mask"),
        ("ElectraForPreTraining", "fill-mask"),
        ("XLMRobertaForSequenceClassification", "text-classification"),
        ("DebertaV2ForTokenClassification", "token-classification"),
        ("AlbertForQuestionAnswering", "question-answering"),
        ("MPNetForMultipleChoice", "multiple-choice"),
        ("MarianMTModel", "text2text-generation"),
        ("BertModel", None),
    ],
)
def test_task_is_known_by_the_name_of_a_model_class(model_class: str, task: str | None) -> None:
    assert tasks.of_architecture(model_class) == task


def test_model_of_images_is_no_text_model() -> None:
    def forward(pixel_values: Any) -> None: ...

    with pytest.raises(WorkerError) as caught:
        architectures.of_model(model_of("vit", forward), tokenizer_of("input_ids"))

    assert caught.value.reason is FailureReason.SOURCE_INVALID


def test_every_known_task_answers_to_its_name() -> None:
    assert all(tasks.find(name).name == name for name in tasks.TASKS)


def write_modules(folder: Path, kinds: list[str], pooling: dict[str, Any]) -> None:
    modules = [{"path": f"{index}_{kind}", "type": f"any.path.{kind}"} for index, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


def test_pooling_defaults_to_the_normalised_mean(tmp_path: Path) -> None:
    assert tasks.read_pooling(tmp_path) == Pooling(mode="mean", normalize=True, origin="default")


@pytest.mark.parametrize(
    ("pooling", "mode"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode": "mean", "embedding_dimension": 384}, "mean"),
    ],
)
def test_pooling_is_read_in_both_spellings(tmp_path: Path, pooling: dict[str, Any], mode: str) -> None:
    write_modules(tmp_path, ["Transformer", "Pooling"], pooling)

    assert tasks.read_pooling(tmp_path) == Pooling.model_validate(
        {"mode": mode, "normalize": False, "origin": "sentence-transformers"}
    )


@pytest.mark.parametrize(
    ("kinds", "pooling"),
    [
        (["Transformer", "Pooling", "Dense"], {"pooling_mode": "mean"}),
        (["Transformer", "Normalize"], {"pooling_mode": "mean"}),
        (["Transformer", "Pooling"], {"pooling_mode": "lasttoken"}),
        (["Transformer", "Pooling"], {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}),
        (["Transformer", "Pooling"], {}),
    ],
)
def test_pooling_that_is_not_implemented_is_refused(tmp_path: Path, kinds: list[str], pooling: dict[str, Any]) -> None:
    write_modules(tmp_path, kinds, pooling)

    with pytest.raises(WorkerError) as caught:
        tasks.read_pooling(tmp_path)

    assert caught.value.reason is FailureReason.TASK_MISMATCH


def test_transformer_without_pooling_gives_vectors_of_tokens_alone(tmp_path: Path) -> None:
    write_modules(tmp_path, ["Transformer"], {})

    task = tasks.FeatureExtraction.of_folder(tmp_path)

    assert task.pooling == Pooling(mode="none", normalize=False, origin="sentence-transformers")
    assert [output.name for output in task.outputs] == ["last_hidden_state"]


@pytest.mark.parametrize("mode", ["mean", "cls", "max"])
@pytest.mark.parametrize("normalize", [True, False])
def test_pooling_of_the_wrapper_is_that_of_the_reference(mode: Any, normalize: bool) -> None:
    import torch

    from torchscript_operator.export import wrapper

    generator = np.random.default_rng(1)
    hidden = generator.normal(size=(4, 6, 8)).astype(np.float32)
    mask = np.arange(6)[None] < np.array([1, 3, 5, 6])[:, None]
    pooling = Pooling(mode=mode, normalize=normalize, origin="default")

    ours = wrapper.pool(torch.from_numpy(hidden), torch.from_numpy(mask.astype(np.int64)), pooling).numpy()

    np.testing.assert_allclose(ours, tasks.pool(hidden, mask, pooling), atol=1e-6)


def test_answer_without_token_vectors_is_another_task() -> None:
    with pytest.raises(WorkerError, match="logits but no last_hidden_state") as caught:
        tasks.FeatureExtraction(Pooling(mode="cls", normalize=False, origin="default")).reference({"logits": 1}, {})

    assert caught.value.reason is FailureReason.TASK_MISMATCH


def test_masks_follow_the_axes_of_an_output() -> None:
    mask = np.array([[1, 0]])

    assert tasks.Output("tokens", ("batch", "sequence", "feature")).mask(mask) is not None
    assert tasks.Output("positions", ("batch", "sequence")).mask(mask) is not None
    assert tasks.Output("texts", ("batch", "feature")).mask(mask) is None


def test_known_compilers_satisfy_the_protocol() -> None:
    backend: backends.Backend = TorchScript()

    assert backend.versions()["compiler"].startswith("torchscript ")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate"), True),
        (RuntimeError("shape mismatch"), False),
    ],
)
def test_lack_of_memory_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_lack_of_memory_behind_another_error_is_found() -> None:
    error = ValueError("cannot load")
    error.__cause__ = MemoryError()

    assert is_out_of_memory(error)


def test_progress_measures_a_stage_and_adds_what_is_known(caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress()
    progress.know(key="abc")
    with caplog.at_level(logging.INFO), progress.stage("load", "Loading"):
        progress.say("half way")

    assert [vars(record)["stage"] for record in caplog.records] == ["load"] * 3
    assert {vars(record)["key"] for record in caplog.records} == {"abc"}
    assert "elapsedSeconds" in vars(caplog.records[-1])
    assert progress.seconds.keys() == {"load"}


def test_stage_that_failed_is_still_named() -> None:
    progress = Progress()
    with pytest.raises(KeyError), progress.stage("load", "Loading"):
        raise KeyError

    assert progress.stage_name == "load"
