"""Compile without a device, prove on one: what lies in the store in between, and what either step refuses."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import doubles
from tests.contract import neuron, tiny
from tests.contract.exporting import run_job
from tests.contract.neuron import Worker
from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.outcome import ExportOutcome
from torchscript_operator.artifact.pending import PENDING_NAME, Pending
from torchscript_operator.artifact.request import ExportRequest, PendingLocation, ServeRequest, StoreLocation
from torchscript_operator.artifact.store import fetch, find_complete, open_store

ONE_SHAPE = [{"batch": 2, "sequence": 16}]


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path, tmp_path: Path) -> Iterator[Worker]:
    for _ in neuron.importable(monkeypatch):
        yield Worker(monkeypatch, shutil.copytree(tiny_folder, tmp_path / "source"), tmp_path)


class Steps:
    """Both steps of one request."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.asked = worker.request(shapes=ONE_SHAPE, proof="Deferred")

    def compile(self) -> ExportOutcome:
        self.worker.device("absent")
        return self.worker.run(self.asked)

    def verify(self, compiled: ExportOutcome, device: str = "present") -> ExportOutcome:
        self.worker.device(device)
        return self.worker.run(asked_to_verify(self.asked, compiled))


def asked_to_verify(asked: ExportRequest, compiled: ExportOutcome) -> ExportRequest:
    assert compiled.pending is not None, compiled.failure
    assert compiled.key is not None
    location = PendingLocation(key=compiled.key, digest=compiled.pending.digest)
    return asked.model_copy(update={"pending": location})


@pytest.fixture
def steps(worker: Worker) -> Steps:
    return Steps(worker)


def refusal(outcome: ExportOutcome) -> FailureReason:
    assert outcome.failure is not None
    return outcome.failure.reason


def test_first_step_needs_no_device_and_proves_nothing(steps: Steps) -> None:
    compiled = steps.compile()
    assert compiled.succeeded, compiled.failure
    assert (compiled.artifact, compiled.parity) == (None, None)
    assert PENDING_NAME in steps.worker.files()
    assert not {"manifest.json", "report.json", "report.html"} & set(steps.worker.files())


def test_what_is_not_proven_is_found_by_no_server(steps: Steps) -> None:
    compiled = steps.compile()
    assert compiled.pending is not None
    assert find_complete(open_store(StoreLocation(uri=f"file://{steps.worker.store}")), str(compiled.key)) is None
    artifact = open_store(StoreLocation(uri=f"file://{steps.worker.store}/{compiled.key}"))
    with pytest.raises(WorkerError) as error:
        fetch(artifact, compiled.pending.digest, steps.worker.scratch / "served")
    assert error.value.reason is FailureReason.ARTIFACT_NOT_FOUND


def test_not_even_a_copy_under_the_manifests_name_is_served(steps: Steps) -> None:
    compiled = steps.compile()
    assert compiled.pending is not None
    folder = steps.worker.store / str(compiled.key)
    under_digest = folder / compiled.pending.digest.removeprefix("sha256:")
    shutil.copyfile(under_digest / PENDING_NAME, under_digest / "manifest.json")
    shutil.copyfile(folder / PENDING_NAME, folder / "manifest.json")
    assert find_complete(open_store(StoreLocation(uri=f"file://{steps.worker.store}")), str(compiled.key)) is None
    with pytest.raises(WorkerError) as error:
        fetch(open_store(StoreLocation(uri=f"file://{folder}")), compiled.pending.digest, steps.worker.scratch / "out")
    assert error.value.reason is FailureReason.INVALID_REQUEST


def test_what_is_not_proven_fails_under_any_policy(steps: Steps) -> None:
    steps.asked = steps.worker.request(shapes=ONE_SHAPE, proof="Deferred", parity={"policy": "Warn"})
    compiled = steps.compile()
    parity = Pending.model_validate_json(
        (steps.worker.store / str(compiled.key) / PENDING_NAME).read_bytes()
    ).unproven.parity
    assert (parity.verdict, parity.outputs, parity.tolerances.policy) == ("Failed", (), "Enforce")


def test_second_step_publishes_the_same_files_under_the_same_key(steps: Steps) -> None:
    compiled = steps.compile()
    (model,) = steps.worker.store.rglob("model-*.pt")
    before = model.stat()
    proven = steps.verify(compiled)
    assert proven.succeeded, proven.failure
    assert proven.parity is not None
    assert (proven.parity.verdict, proven.key) == ("Passed", compiled.key)
    complete = find_complete(open_store(StoreLocation(uri=f"file://{steps.worker.store}")), str(compiled.key))
    assert complete is not None
    assert complete[1] == proven.artifact
    assert (model.stat().st_ino, model.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert {"report.json", "report.html"} <= set(steps.worker.files())


def test_translator_is_compiled_and_proven_in_two_steps(steps: Steps, tmp_path: Path) -> None:
    steps.worker.source = tiny.write_marian(tmp_path / "marian")
    steps.asked = steps.worker.request(shapes=ONE_SHAPE, proof="Deferred", task="text2text-generation")

    proven = steps.verify(steps.compile())

    assert proven.succeeded, proven.failure
    assert proven.parity is not None
    assert {output.output for output in proven.parity.outputs} == {
        "encoder_hidden_states",
        "next_token_logits",
        "sequences",
    }


def test_either_step_run_again_is_a_cache_hit(steps: Steps) -> None:
    compiled = steps.compile()
    again = steps.compile()
    assert (again.cache_hit, again.pending) == (True, compiled.pending)
    proven = steps.verify(compiled)
    # Not even the device is looked at any more.
    assert (steps.verify(compiled, "absent").cache_hit, steps.verify(compiled, "absent").artifact) == (
        True,
        proven.artifact,
    )
    assert steps.compile().artifact == proven.artifact


def test_second_step_without_a_device_is_no_pass(steps: Steps) -> None:
    outcome = steps.verify(steps.compile(), "absent")
    assert refusal(outcome) is FailureReason.DEVICE_UNAVAILABLE
    assert (outcome.artifact, "manifest.json" in steps.worker.files()) == (None, False)


def test_second_step_refuses_what_computes_otherwise(steps: Steps) -> None:
    steps.worker.compiler("wrong")
    outcome = steps.verify(steps.compile())
    assert refusal(outcome) is FailureReason.PARITY_FAILED
    assert outcome.parity is not None
    assert outcome.parity.report is not None
    assert "report.html" in steps.worker.files()
    assert "manifest.json" not in steps.worker.files()


def test_source_that_changed_between_the_steps_is_refused(steps: Steps) -> None:
    compiled = steps.compile()
    config = steps.worker.source / "tokenizer_config.json"
    config.write_text(config.read_text() + " ")
    outcome = steps.verify(compiled)
    assert refusal(outcome) is FailureReason.DIGEST_MISMATCH
    assert outcome.failure is not None
    assert "has changed since it was compiled" in outcome.failure.message


def test_other_worker_than_the_one_that_compiled_is_refused(steps: Steps) -> None:
    compiled = steps.compile()
    steps.asked = steps.asked.model_copy(update={"worker_image": "worker:other"})
    outcome = steps.verify(compiled)
    assert refusal(outcome) is FailureReason.DIGEST_MISMATCH
    assert outcome.failure is not None
    assert "workerImage" in outcome.failure.message


def test_request_for_another_compiler_is_refused(steps: Steps) -> None:
    compiled = steps.compile()
    steps.asked = steps.worker.request("neuronx", shapes=ONE_SHAPE, proof="Deferred")
    assert refusal(steps.verify(compiled)) is FailureReason.INVALID_REQUEST


@pytest.mark.parametrize("pattern", ["model-*.pt", PENDING_NAME])
def test_file_that_was_altered_between_the_steps_is_refused(steps: Steps, pattern: str) -> None:
    compiled = steps.compile()
    for path in steps.worker.store.rglob(pattern):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    assert refusal(steps.verify(compiled)) is FailureReason.DIGEST_MISMATCH


def test_lost_file_is_told(steps: Steps) -> None:
    compiled = steps.compile()
    next(steps.worker.store.rglob("model-*.pt")).unlink()
    assert refusal(steps.verify(compiled)) is FailureReason.ARTIFACT_NOT_FOUND


def test_first_step_repairs_what_it_left_half_done(steps: Steps) -> None:
    compiled = steps.compile()
    next(steps.worker.store.rglob("model-*.pt")).unlink()
    again = steps.compile()
    assert (again.cache_hit, again.succeeded) == (False, True)
    assert steps.verify(again).succeeded
    assert again.key == compiled.key


def test_both_ways_of_proving_have_keys_of_their_own(steps: Steps) -> None:
    steps.worker.device("present")
    assert steps.worker.export(shapes=ONE_SHAPE).key != steps.compile().key


def test_neuronx_compiles_for_a_target_on_a_node_without_devices(worker: Worker, tmp_path: Path) -> None:
    """In processes of their own, since the variable for the target has to be there before the import."""
    environment = {name: value for name, value in os.environ.items() if name != "NEURON_PLATFORM_TARGET_OVERRIDE"}
    asked = worker.request("neuronx", arguments=("--target", "inf2"), shapes=ONE_SHAPE, proof="Deferred")
    compiled = run_job(asked, tmp_path / "first", environment | doubles.neuron_environment("absent"))
    assert compiled.exit_code == 0, compiled.message
    proven = run_job(
        asked_to_verify(asked, compiled.outcome), tmp_path / "second", environment | doubles.neuron_environment()
    )
    assert proven.exit_code == 0, proven.message
    assert proven.outcome.artifact is not None


def test_proven_artifact_is_loaded_replayed_and_warmed_up_on_the_device_alone(steps: Steps) -> None:
    from torchscript_operator.serve.ending import classify
    from torchscript_operator.serve.loading import load
    from torchscript_operator.serve.settings import Settings

    artifact = steps.verify(steps.compile()).artifact
    assert artifact is not None
    location = StoreLocation(uri=artifact.uri)
    request = ServeRequest(model="tests/model", target="inf1", artifact=location, digest=artifact.digest)
    settings = Settings.from_environment({"TSM_SCRATCH_PATH": str(steps.worker.scratch / "served")})
    loaded = load(request, settings, {}, lambda _: None)
    assert loaded.replay
    assert all(output.passed for output in loaded.replay)
    steps.worker.device("absent")
    with pytest.raises(RuntimeError) as error:
        load(request, settings, {}, lambda _: None)
    assert classify(error.value).reason is FailureReason.DEVICE_UNAVAILABLE
