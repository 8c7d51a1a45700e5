"""Every input that cannot be exported ends with its reason and a message that says what was found."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contract import tiny
from tests.contract.exporting import TOLERANCES, make_request, run_job
from torchscript_operator.artifact.failures import CLASSES, FailureReason
from torchscript_operator.artifact.outcome import Failure
from torchscript_operator.artifact.request import EXPORT_VARIABLE, SCRATCH_VARIABLE
from torchscript_operator.export.logs import Progress
from torchscript_operator.export.pipeline import run


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may break."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def failure_of(source: Path | dict[str, Any], tmp_path: Path, **changes: Any) -> Failure:
    outcome = run(make_request(source, tmp_path / "store", **changes), {}, tmp_path / "scratch")
    assert not outcome.succeeded
    assert outcome.failure is not None
    assert outcome.failure.message.endswith(CLASSES[outcome.failure.reason].advice)
    return outcome.failure


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def remove_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text("{not json")


def config_of_another_program(folder: Path) -> None:
    (folder / "config.json").write_text('{"name": "something else"}')


def list_as_config(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def unknown_type(folder: Path) -> None:
    edit_config(folder, model_type="made-up")


def custom_code(folder: Path) -> None:
    edit_config(folder, model_type="made-up", auto_map={"AutoModel": "modeling.Model"})


def config_with_nonsense(folder: Path) -> None:
    edit_config(folder, num_attention_heads=5)


def other_width(folder: Path) -> None:
    edit_config(folder, hidden_size=64)


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickle_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncate_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def empty_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def text_as_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")


def missing_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def remove_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def break_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')


def vocabulary_larger_than_the_embeddings(folder: Path) -> None:
    shutil.rmtree(folder)
    tiny.write_model(folder, vocab_size=20)


def pooling_module_without_config(folder: Path) -> None:
    tiny.write_pooling(folder, "mean", normalize=True)
    (folder / "1_Pooling" / "config.json").unlink()


INVALID_SOURCES: dict[Callable[[Path], None], str] = {
    remove_config: "has no config.json",
    break_config: "config.json is not valid JSON",
    config_of_another_program: "names no model_type",
    list_as_config: "names no model_type",
    unknown_type: "'made-up' is unknown to Transformers",
    custom_code: "custom code is off",
    config_with_nonsense: "cannot load",
    other_width: "",
    remove_weights: "has no model.safetensors",
    pickle_weights: "only pickle weights (pytorch_model.bin)",
    truncate_weights: "model.safetensors is damaged",
    empty_weights: "model.safetensors is damaged: it has only 0 bytes",
    text_as_weights: "model.safetensors is damaged",
    missing_shard: "names model-00001-of-00002.safetensors, which is not there",
    remove_tokenizer: "has no tokenizer files",
    break_tokenizer: "tokenizer cannot be loaded",
    vocabulary_larger_than_the_embeddings: "but the model has only 20 embeddings",
    pooling_module_without_config: "names 1_Pooling/config.json, which is not there",
}


@pytest.mark.parametrize("damage", INVALID_SOURCES)
def test_source_that_is_no_whole_model(folder: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    damage(folder)

    failure = failure_of(folder, tmp_path)

    assert failure.reason is FailureReason.SOURCE_INVALID, failure.message
    assert INVALID_SOURCES[damage] in failure.message
    assert not (tmp_path / "store").exists()


def test_source_that_is_written_to_during_the_export_is_not_published(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say = Progress.say

    def say_and_write(progress: Progress, message: str) -> None:
        say(progress, message)
        if message.startswith("The source is"):
            edit_config(folder, hidden_act="relu")

    monkeypatch.setattr(Progress, "say", say_and_write)
    failure = failure_of(folder, tmp_path)
    assert (failure.reason, failure.stage) == (FailureReason.SOURCE_CHANGED, "resolve")
    assert "config.json" in failure.message
    assert not (tmp_path / "store").exists()


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    failure = failure_of(tmp_path / "nothing", tmp_path)

    assert (failure.reason, failure.stage) == (FailureReason.SOURCE_NOT_FOUND, "resolve")
    assert str(tmp_path / "nothing") in failure.message


def test_folder_that_is_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    assert failure_of(tmp_path / "empty", tmp_path).reason is FailureReason.SOURCE_NOT_FOUND


def test_unknown_task_lists_the_known_ones(folder: Path, tmp_path: Path) -> None:
    failure = failure_of(folder, tmp_path, task="text-to-speech")

    assert failure.reason is FailureReason.TASK_MISMATCH
    assert "feature-extraction" in failure.message


def remove_layer(folder: Path) -> str:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    lost = "encoder.layer.1.output.dense.weight"
    del tensors[lost]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return lost


def test_weights_that_would_be_random_are_refused(folder: Path, tmp_path: Path) -> None:
    lost = remove_layer(folder)

    failure = failure_of(folder, tmp_path)

    assert failure.reason is FailureReason.TASK_MISMATCH
    assert lost in failure.message


def test_missing_pooler_does_not_matter(folder: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("pooler.")}
    assert kept != tensors
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})

    assert run(make_request(folder, tmp_path / "store"), {}, tmp_path / "scratch").succeeded


def test_encoder_decoder_has_no_features(tmp_path: Path) -> None:
    from transformers import T5Config, T5Model

    size = tiny.write_tokenizer(tmp_path / "t5")
    config = T5Config(vocab_size=size, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    T5Model(config).save_pretrained(tmp_path / "t5")

    failure = failure_of(tmp_path / "t5", tmp_path)

    assert failure.reason is FailureReason.TASK_MISMATCH
    assert "'t5'" in failure.message


def test_model_of_images_has_no_text_features(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel

    tiny.write_tokenizer(tmp_path / "vit")
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8
    )
    ViTModel(config).save_pretrained(tmp_path / "vit")

    failure = failure_of(tmp_path / "vit", tmp_path)

    assert failure.reason is FailureReason.SOURCE_INVALID
    assert "not a text model" in failure.message


def test_pooling_that_is_not_implemented(folder: Path, tmp_path: Path) -> None:
    tiny.write_pooling(folder, "mean_sqrt_len", normalize=True)

    failure = failure_of(folder, tmp_path)

    assert failure.reason is FailureReason.TASK_MISMATCH
    assert "pooling_mode_mean_sqrt_len_tokens" in failure.message


def test_shape_longer_than_the_positions_names_the_maximum(folder: Path, tmp_path: Path) -> None:
    failure = failure_of(folder, tmp_path, shapes=[{"batch": 1, "sequence": 65}])

    assert failure.reason is FailureReason.SHAPE_TOO_LONG
    assert "b1-s65" in failure.message
    assert "64 tokens" in failure.message


def test_longest_possible_shape_is_exported(folder: Path, tmp_path: Path) -> None:
    request = make_request(folder, tmp_path / "store", shapes=[{"batch": 2, "sequence": 64}])

    assert run(request, {}, tmp_path / "scratch").succeeded


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"compilation": {"compiler": "neuron", "precision": "int8"}}, "has no precision int8"),
        ({"compilation": {"compiler": "neuronx", "precision": "auto"}}, "has no precision auto"),
        ({"compilation": {"compiler": "neuron"}}, "'neuron' is not in this worker image"),
        ({"compilation": {"arguments": ["-O2"]}}, "takes no arguments"),
        ({"parity": TOLERANCES | {"absoluteTolerance": "much"}}, "absoluteTolerance"),
        ({"samples": {"path": "/nowhere/texts"}}, "/nowhere/texts"),
    ],
)
def test_request_that_cannot_be_met(folder: Path, tmp_path: Path, changes: dict[str, Any], found: str) -> None:
    failure = failure_of(folder, tmp_path, **changes)

    assert failure.reason is FailureReason.INVALID_REQUEST
    assert found in failure.message


def test_store_of_an_unknown_kind(folder: Path, tmp_path: Path) -> None:
    outcome = run(make_request(folder, "ftp://host/path"), {}, tmp_path / "scratch")

    assert outcome.failure is not None
    assert outcome.failure.reason is FailureReason.INVALID_REQUEST
    assert "ftp://host/path" in outcome.failure.message


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (MemoryError(), FailureReason.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 1 byte"), FailureReason.OUT_OF_MEMORY),
        (OSError(28, "No space left on device"), FailureReason.OUT_OF_DISK),
        (KeyError("layer"), FailureReason.INTERNAL_ERROR),
    ],
)
def test_error_in_the_middle_gets_its_class(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, reason: FailureReason
) -> None:
    def fail(*_: Any) -> None:
        raise raised

    monkeypatch.setattr("torchscript_operator.export.compare.detect_axes", fail)

    failure = failure_of(folder, tmp_path)

    assert (failure.reason, failure.stage) == (reason, "axes")


def test_error_of_the_tracer_is_a_failed_compilation(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def fail(*_: Any, **__: Any) -> None:
        message = "cannot trace this\nand more"
        raise RuntimeError(message)

    monkeypatch.setattr(torch.jit, "trace", fail)

    failure = failure_of(folder, tmp_path)

    assert failure.reason is FailureReason.COMPILATION_FAILED
    assert "cannot trace this" in failure.message


def test_unexpected_error_shows_no_secret(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        message = "sent hf_secretsecret"
        raise KeyError(message)

    monkeypatch.setattr("torchscript_operator.export.source.resolve", fail)
    outcome = run(make_request(folder, tmp_path / "store"), {"HF_TOKEN": "hf_secretsecret"}, tmp_path / "scratch")

    assert outcome.failure is not None
    assert "hf_secretsecret" not in outcome.to_json()


def test_process_reports_a_failure_by_exit_code_and_termination_message(tmp_path: Path) -> None:
    result = run_job(make_request(tmp_path / "nothing", tmp_path / "store"), tmp_path / "scratch")

    assert result.exit_code == CLASSES[FailureReason.SOURCE_NOT_FOUND].exit_code
    assert result.outcome.failure is not None
    assert result.outcome.failure.reason is FailureReason.SOURCE_NOT_FOUND
    assert any(line["level"] == "error" for line in result.log)


@pytest.mark.parametrize("text", ["", "{}", "not json"])
def test_process_refuses_a_request_that_it_cannot_read(tmp_path: Path, text: str) -> None:
    result = run_job(text, tmp_path / "scratch")

    assert result.exit_code == CLASSES[FailureReason.INVALID_REQUEST].exit_code
    assert result.outcome.failure is not None
    assert EXPORT_VARIABLE in result.outcome.failure.message


def test_process_ends_promptly_when_it_is_evicted(minilm_folder: Path, tmp_path: Path) -> None:
    request = make_request(minilm_folder, tmp_path / "store", shapes=[{"batch": 32, "sequence": 512}])
    environment = {EXPORT_VARIABLE: request.to_json(), SCRATCH_VARIABLE: str(tmp_path / "scratch")}
    command = [sys.executable, "-m", "torchscript_operator.export"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if json.loads(line)["stage"] == "trace")
        process.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        code = process.wait(timeout=60)

    assert code == 128 + signal.SIGTERM
    assert time.monotonic() - asked < 10
    assert not (tmp_path / "store").exists()


def test_bad_source_does_not_wait_for_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from torchscript_operator.export.pipeline import run\n"
        "from torchscript_operator.artifact.request import ExportRequest\n"
        f"run(ExportRequest.model_validate_json(sys.argv[1]), {{}}, Path({str(tmp_path)!r}))\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    request = make_request(tmp_path / "nothing", tmp_path / "store").to_json()
    process = subprocess.run([sys.executable, "-c", code, request], capture_output=True, text=True, check=True)

    assert process.stdout.splitlines()[-1] == "[]"
