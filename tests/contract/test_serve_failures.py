"""How a serving process ends when it must not serve: exit code, termination message, and nothing served."""

import shutil
import socket
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.contract.exporting import ExportedArtifact
from tests.contract.serving import make_request, pod
from torchscript_operator.artifact import digest, golden
from torchscript_operator.artifact.failures import FailureReason
from torchscript_operator.artifact.outcome import MAXIMUM_BYTES
from torchscript_operator.artifact.request import ServeRequest, StoreLocation
from torchscript_operator.artifact.store import open_store, publish


@pytest.fixture
def artifact(tiny_artifact: ExportedArtifact, tmp_path: Path) -> ExportedArtifact:
    """A copy that a test may spoil."""
    shutil.copytree(tiny_artifact.store, tmp_path / "store")
    return ExportedArtifact(tiny_artifact.request, tiny_artifact.result, tmp_path / "store")


def republish(artifact: ExportedArtifact, folder: Path, cases: list[golden.GoldenCase]) -> ServeRequest:
    """The same artifact with other golden cases, honestly signed: what a defect of the node would look like."""
    folder.mkdir()
    manifest = artifact.manifest
    for entry in manifest.files:
        shutil.copy(artifact.store / artifact.key / entry.path, folder / entry.name)
    golden.write(folder / golden.GOLDEN_NAME, cases)
    files = tuple(
        entry.model_copy(
            update={
                "sha256": digest.of_file(folder / entry.name),
                "size_bytes": (folder / entry.name).stat().st_size,
            }
        )
        for entry in manifest.files
    )
    changed = manifest.model_copy(update={"files": files})
    reference = publish(open_store(StoreLocation(uri=f"file://{artifact.store}")), changed, folder)
    return make_request(reference.uri, reference.digest)


def test_a_tampered_model_is_never_loaded(artifact: ExportedArtifact, tmp_path: Path) -> None:
    path = artifact.file("model.pt")
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pod(make_request(artifact.uri, artifact.digest), tmp_path / "pod") as running:
        assert running.wait_exit() == 89
        assert running.outcome.failure.reason == FailureReason.DIGEST_MISMATCH
        assert running.outcome.failure.stage == "fetch"
        assert running.outcome.digest == artifact.digest
        assert "load" not in [line.get("stage") for line in running.log]


def test_a_tampered_manifest_is_not_believed(artifact: ExportedArtifact, tmp_path: Path) -> None:
    path = artifact.store / artifact.key / artifact.digest.removeprefix("sha256:") / "manifest.json"
    path.chmod(0o644)
    path.write_text(path.read_text().replace("float32", "float16"))
    with pod(make_request(artifact.uri, artifact.digest), tmp_path / "pod") as running:
        assert running.wait_exit() == 89


def test_a_restarted_container_fetches_again_what_was_spoiled(artifact: ExportedArtifact, tmp_path: Path) -> None:
    request = make_request(artifact.uri, artifact.digest)
    with pod(request, tmp_path / "pod") as running:
        running.wait_ready()
    (spoiled,) = (tmp_path / "pod/scratch").rglob("model.pt")
    spoiled.write_bytes(b"no model")
    with pod(request, tmp_path / "pod") as running:
        running.wait_ready()


def test_golden_outputs_that_this_node_does_not_give_end_with_figures(
    artifact: ExportedArtifact, tmp_path: Path
) -> None:
    cases = golden.read(artifact.file(golden.GOLDEN_NAME))
    for case in cases:
        case.outputs["sentence_embedding"] = case.outputs["sentence_embedding"] + np.float32(0.25)
    request = republish(artifact, tmp_path / "files", cases)
    with pod(request, tmp_path / "pod") as running:
        assert running.wait_exit() == 90
        outcome = running.outcome
        text = (running.folder / "termination-log").read_text()
    assert (outcome.failure.stage, outcome.failure.reason) == ("replay", FailureReason.REPLAY_FAILED)
    assert "sentence_embedding" in outcome.failure.message
    assert outcome.parity is not None
    worst = outcome.parity.outputs[0]
    assert not worst.passed
    assert float(worst.maximum_absolute_difference) == pytest.approx(0.25, rel=0.01)
    assert len(text.encode()) <= MAXIMUM_BYTES


def test_a_missing_artifact_has_its_own_exit_code(artifact: ExportedArtifact, tmp_path: Path) -> None:
    with pod(make_request(artifact.uri, "sha256:" + "0" * 64), tmp_path / "pod") as running:
        assert running.wait_exit() == 88
        assert running.outcome.failure.reason == FailureReason.ARTIFACT_NOT_FOUND


@pytest.mark.parametrize("request_text", ["", '{"schemaVersion":2}'])
def test_a_request_of_another_version_is_refused(request_text: str, tmp_path: Path) -> None:
    with pod(request_text, tmp_path) as running:
        assert running.wait_exit() == 64
        assert running.outcome.failure.reason == FailureReason.INVALID_REQUEST


def test_a_bad_setting_is_named(artifact: ExportedArtifact, tmp_path: Path) -> None:
    request = make_request(artifact.uri, artifact.digest)
    with pod(request, tmp_path / "pod", {"TSM_SERVE_QUEUE_ROWS": "many"}) as running:
        assert running.wait_exit() == 64
        assert "TSM_SERVE_QUEUE_ROWS" in running.outcome.failure.message


def test_a_port_that_is_taken_ends_the_process(artifact: ExportedArtifact, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pod(make_request(artifact.uri, artifact.digest), tmp_path / "pod", {"TSM_SERVE_PORT": port}) as running:
            assert running.wait_exit() == 70
            assert port in running.outcome.failure.message


def test_probes_are_answered_while_it_loads(artifact: ExportedArtifact, tmp_path: Path) -> None:
    with pod(make_request(artifact.uri, artifact.digest), tmp_path / "pod") as running:
        url = running.url
        assert httpx.get(f"{url}/v2/health/live").status_code == 200
        early = httpx.get(f"{url}/v2/health/ready")
        assert early.status_code in {200, 503}
        running.wait_ready()
        stages = [line["stage"] for line in running.log if line["message"].startswith("stage ")]
    assert stages == ["fetch", "load", "replay", "warm-up", "serve"]


def test_a_termination_while_it_loads_ends_at_once(artifact: ExportedArtifact, tmp_path: Path) -> None:
    with pod(make_request(artifact.uri, artifact.digest), tmp_path / "pod") as running:
        assert running.url
        running.terminate()
        assert running.wait_exit() == 0
