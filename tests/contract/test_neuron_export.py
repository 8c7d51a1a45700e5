"""torch-neuron and torch-neuronx behind the export, against doubles: what is refused, and what the manifest says.

The doubles hold our calls to the documented signatures and fail in the documented ways. Nothing here has run on AWS's
compilers or devices.
"""

import importlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract import neuron, tasking, tiny
from tests.contract.neuron import Worker
from torchscript_operator.artifact.failures import FailureReason
from torchscript_operator.artifact.manifest import Manifest
from torchscript_operator.artifact.outcome import ExportOutcome
from torchscript_operator.artifact.request import COMPILER_TIMEOUT_VARIABLE
from torchscript_operator.export.backends import neuron as neuron_backend

TRANSLATE = "text2text-generation"
ONE_SHAPE = [{"batch": 2, "sequence": 16}]


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path, tmp_path: Path) -> Iterator[Worker]:
    for _ in neuron.importable(monkeypatch):
        yield Worker(monkeypatch, tiny_folder, tmp_path)


@pytest.fixture
def traced(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Keywords of each call of torch_neuron.trace."""
    assert worker
    module = importlib.import_module("torch_neuron")
    calls: list[dict[str, Any]] = []
    compile_right = module.trace

    def spy(func: Any, example_inputs: Any, **keywords: Any) -> Any:
        calls.append(keywords)
        return compile_right(func, example_inputs, **keywords)

    monkeypatch.setattr(module, "trace", spy)
    return calls


def manifest_of(worker: Worker, outcome: ExportOutcome) -> Manifest:
    assert outcome.succeeded, outcome.failure
    return Manifest.model_validate_json((worker.store / str(outcome.key) / "manifest.json").read_bytes())


def failure(outcome: ExportOutcome) -> tuple[FailureReason, str]:
    assert outcome.failure is not None
    return outcome.failure.reason, outcome.failure.message


@pytest.mark.parametrize("compiler", ["neuron", "neuronx"])
def test_each_bucket_has_a_file_of_its_own_and_passes_on_the_device(worker: Worker, compiler: str) -> None:
    manifest = manifest_of(worker, worker.export(compiler))
    models = [(entry.name, entry.shape and entry.shape.name) for entry in manifest.files if entry.role == "model"]
    assert models == [("model-b1-s32.pt", "b1-s32"), ("model-b8-s64.pt", "b8-s64")]
    assert {axis.kind for tensor in manifest.inputs for axis in tensor.axes} == {"fixed"}
    assert manifest.parity.verdict == "Passed"
    assert manifest.versions["compiler"].startswith(f"torch-{compiler} ")


def test_manifest_lists_what_was_left_on_the_cpu(worker: Worker) -> None:
    reports = manifest_of(worker, worker.export()).compiler_reports
    assert reports is not None
    assert [report.shape for report in reports] == ["b1-s32", "b8-s64"]
    assert reports[0].cpu_operators == {"aten::embedding": 3, "aten::size": 2}
    assert (reports[0].subgraphs, reports[0].operators, reports[0].compiled_operators) == (1, 565, 548)


@pytest.fixture
def translator(worker: Worker, tmp_path: Path) -> Worker:
    worker.source = tiny.write_marian(tmp_path / "marian")
    return worker


@pytest.mark.parametrize("compiler", ["neuron", "neuronx"])
@pytest.mark.parametrize("beams", [1, 3])
def test_translator_is_compiled_in_two_parts_and_writes_what_transformers_writes(
    translator: Worker, tmp_path: Path, compiler: str, beams: int
) -> None:
    import torch

    text = "a dog looks out of the window"
    served = tasking.serve(translator.source, tmp_path, TRANSLATE, compilation={"compiler": compiler})
    arrays = tasking.padded(tiny.vocabulary_size(translator.source), 9, 4)
    inputs = {name: torch.from_numpy(arrays[name]) for name in ("input_ids", "attention_mask")}
    encoded = served.loaded.tokenizing.tokenizer.encode(text).ids
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = served.model("AutoModelForSeq2SeqLM")
        (written,) = model.generate(input_ids=torch.tensor([encoded]), num_beams=beams)
        expected = model.generate(**inputs)

    assert {entry.name for entry in served.manifest.files if entry.role == "model"} == {
        "encoder-b2-s24.pt",
        "decoder-b2-s24.pt",
    }
    assert {axis.kind for part in served.manifest.parts for spec in part.inputs for axis in spec.axes} == {"fixed"}
    answer = served.loaded.tokenizing.tokenizer.decode(written.tolist(), skip_special_tokens=True)
    assert served.predict(text, num_beams=beams)[0]["generated_text"].split() == answer.split()
    found = served.infer({name: arrays[name] for name in inputs})["sequences"]
    assert (found[:, : expected.shape[1]] == expected.numpy()).all()


def test_translators_log_is_read_for_each_part_and_bucket(translator: Worker) -> None:
    manifest = manifest_of(translator, translator.export(task=TRANSLATE))

    assert [(report.part, report.shape) for report in manifest.compiler_reports or ()] == [
        (part, shape) for part in ("encoder", "decoder") for shape in ("b1-s32", "b8-s64")
    ]


@pytest.mark.parametrize("compiler", ["neuron", "neuronx"])
@pytest.mark.parametrize("mode", ["all-failed", "killed", "wrong"])
def test_translator_that_does_not_compile_is_refused(translator: Worker, compiler: str, mode: str) -> None:
    translator.compiler(mode)

    reason, message = failure(translator.export(compiler, task=TRANSLATE, shapes=ONE_SHAPE))

    assert reason is FAILURES[compiler, mode][0]
    assert FAILURES[compiler, mode][1] in message
    assert "manifest.json" not in translator.files()


FAILURES = {
    ("neuron", "partial"): (FailureReason.COMPILATION_FAILED, "failed on _NeuronGraph$698"),
    ("neuron", "uncompiled"): (FailureReason.COMPILATION_FAILED, "Only 1 of 2 sub-graphs were compiled"),
    ("neuron", "nothing-placed"): (FailureReason.COMPILATION_FAILED, "No operator is placed on the Neuron runtime"),
    ("neuron", "all-failed"): (FailureReason.COMPILATION_FAILED, "failed on _NeuronGraph$698"),
    ("neuron", "silent"): (FailureReason.COMPILATION_FAILED, "does not say how many sub-graphs"),
    ("neuron", "killed"): (FailureReason.OUT_OF_MEMORY, "it returned -9"),
    ("neuron", "slow"): (FailureReason.DEADLINE_EXCEEDED, "did not end within 1 s"),
    ("neuron", "unsupported"): (FailureReason.UNSUPPORTED_OPERATOR, "aten::erfinv"),
    ("neuron", "wrong"): (FailureReason.PARITY_FAILED, "differs"),
    ("neuronx", "all-failed"): (FailureReason.COMPILATION_FAILED, "internal compiler error"),
    ("neuronx", "killed"): (FailureReason.OUT_OF_MEMORY, "it returned -9"),
    ("neuronx", "unsupported"): (FailureReason.UNSUPPORTED_OPERATOR, "does not support: aten::erfinv"),
    ("neuronx", "wrong"): (FailureReason.PARITY_FAILED, "differs"),
}


@pytest.mark.parametrize(("compiler", "mode"), FAILURES, ids="-".join)
def test_failure_of_the_compiler_is_classified_and_publishes_nothing(worker: Worker, compiler: str, mode: str) -> None:
    worker.compiler(mode)
    reason, message = failure(worker.export(compiler, shapes=ONE_SHAPE))
    assert reason is FAILURES[compiler, mode][0]
    assert FAILURES[compiler, mode][1] in message
    assert "manifest.json" not in worker.files()
    assert not [name for name in worker.files() if name.endswith(".pt")]


@pytest.mark.parametrize("compiler", ["neuron", "neuronx"])
@pytest.mark.parametrize(("state", "words"), [("absent", "could not be initialized"), ("busy", "not available")])
def test_device_that_is_not_there_is_a_failure_and_never_a_pass(
    worker: Worker, compiler: str, state: str, words: str
) -> None:
    worker.device(state)
    outcome = worker.export(compiler, shapes=ONE_SHAPE)
    reason, message = failure(outcome)
    assert reason is FailureReason.DEVICE_UNAVAILABLE
    assert words in message
    assert (outcome.artifact, outcome.parity, worker.files()) == (None, None, [])


def test_a_warning_policy_does_not_let_a_missing_device_through(worker: Worker) -> None:
    worker.device("absent")
    outcome = worker.export(shapes=ONE_SHAPE, parity={"policy": "Warn"})
    assert failure(outcome)[0] is FailureReason.DEVICE_UNAVAILABLE


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        ({}, ["--fast-math", "none"]),
        ({"precision": "bfloat16"}, ["--fast-math", "fp32-cast-matmult", "no-fast-relayout"]),
        ({"arguments": ("--fast-math", "all")}, ["--fast-math", "all"]),
    ],
    ids=["float32", "bfloat16", "given"],
)
def test_fast_math_is_always_spelt_out(
    worker: Worker, traced: list[dict[str, Any]], given: dict[str, Any], flags: list[str]
) -> None:
    outcome = worker.export(shapes=ONE_SHAPE, parity={"absoluteTolerance": "0.1", "relativeTolerance": "0.1"}, **given)
    assert outcome.succeeded, outcome.failure
    assert traced[0]["compiler_args"] == flags


def test_the_compilers_own_default_would_not_have_passed(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(neuron_backend.PRECISIONS, "float32", ())
    assert failure(worker.export(shapes=ONE_SHAPE))[0] is FailureReason.PARITY_FAILED


@pytest.mark.parametrize(
    ("compiler", "given", "words"),
    [
        ("neuron", {"precision": "bfloat16", "arguments": ("--fast-math", "none")}, "sets --fast-math by itself"),
        ("neuron", {"precision": "int8"}, "no precision int8"),
        ("neuronx", {"precision": "bfloat16", "arguments": ("--auto-cast=all",)}, "sets --auto-cast by itself"),
        ("neuronx", {"arguments": ("--target", "inf1")}, "--target takes one of inf2, trn1, trn1n, trn2, not 'inf1'"),
        ("neuronx", {"proof": "Deferred"}, "needs --target"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(
    worker: Worker, compiler: str, given: dict[str, Any], words: str
) -> None:
    reason, message = failure(worker.export(compiler, shapes=ONE_SHAPE, **given))
    assert reason is FailureReason.INVALID_REQUEST
    assert words in message


def test_compiler_is_told_how_long_it_may_take(
    worker: Worker, traced: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(COMPILER_TIMEOUT_VARIABLE, "3240")
    assert worker.export(shapes=ONE_SHAPE).succeeded
    assert traced[0]["compiler_timeout"] == 3240


def test_fallback_is_asked_for_and_large_weights_are_kept_apart(
    worker: Worker, traced: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert worker.export(shapes=ONE_SHAPE).succeeded
    monkeypatch.setattr(neuron_backend, "SEPARATE_WEIGHTS_BYTES", 0)
    assert worker.export(shapes=[{"batch": 1, "sequence": 16}]).succeeded
    assert [call["fallback"] for call in traced] == [True, True]
    assert [call.get("separate_weights") for call in traced] == [None, True]


def test_what_the_compiler_leaves_behind_is_not_in_the_artifact(worker: Worker, traced: list[dict[str, Any]]) -> None:
    assert worker.export(shapes=ONE_SHAPE).succeeded
    assert not Path(traced[0]["compiler_workdir"]).exists()


def test_empty_stub_from_a_package_index_is_no_compiler(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sys.modules.pop("torch_neuron", None)
    (tmp_path / "stub/torch_neuron").mkdir(parents=True)
    (tmp_path / "stub/torch_neuron/__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path / "stub")
    reason, message = failure(worker.export(shapes=ONE_SHAPE))
    assert reason is FailureReason.INVALID_REQUEST
    assert "empty stub" in message
