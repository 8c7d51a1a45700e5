"""The command line asks the worker for what the controller would ask it for."""

from pathlib import Path
from typing import Any

import pytest

from torchscript_operator.artifact.outcome import ArtifactReference
from torchscript_operator.artifact.request import FolderSource, HuggingFaceSource, Samples, StoreLocation
from torchscript_operator.cli import requests
from torchscript_operator.cli.errors import CliError
from torchscript_operator.cli.requests import Overrides
from torchscript_operator.controller import jobs
from torchscript_operator.controller.model import Model
from torchscript_operator.controller.settings import Settings

STORE = StoreLocation(uri="file:///store")


def model(**spec: Any) -> Model:
    body = {"source": {"huggingFace": {"repository": "owner/name"}}, "task": "feature-extraction", **spec}
    metadata = {"namespace": "default", "name": "minilm", "uid": "", "generation": 1}
    return Model.parse({"metadata": metadata, "spec": body})


def request(given: Model, **overrides: Any) -> Any:
    return requests.export_request(given, given.spec.targets[0], Overrides(STORE, **overrides))


def test_the_request_is_the_controllers_but_for_store_and_image() -> None:
    given = model(artifact={"uri": "s3://bucket"}, inputs={"shapes": [{"batch": 2, "sequence": 16}]})
    theirs = jobs.export_request(given, given.spec.targets[0], Settings(worker_image="worker:1"))
    assert request(given) == theirs.model_copy(update={"store": STORE, "worker_image": ""})


def test_one_process_compiles_and_proves() -> None:
    target = {"name": "inf1", "compiler": "neuron", "verify": {"nodeSelector": {"a": "b"}}}
    assert request(model(targets=[target])).proof is None


def test_a_targets_image_is_no_part_of_what_is_made_here() -> None:
    assert request(model(targets=[{"name": "cpu", "job": {"image": "own:1"}}])).worker_image == ""


TRUSTED = {"huggingFace": {"repository": "owner/name"}, "trust": ["RemoteCode", "PickleWeights"]}


def test_what_runs_code_needs_the_word_of_whoever_owns_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(requests.TRUST_VARIABLE, "PickleWeights")
    with pytest.raises(CliError, match="RemoteCode, which can run code") as caught:
        request(model(source=TRUSTED))
    assert "TSM_TRUST=RemoteCode,PickleWeights" in caught.value.advice


def test_what_is_trusted_on_both_sides_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(requests.TRUST_VARIABLE, "PickleWeights,RemoteCode")
    assert request(model(source=TRUSTED)).trust == ("PickleWeights", "RemoteCode")
    assert request(model()).trust is None


def test_a_folder_replaces_the_source(tmp_path: Path) -> None:
    assert request(model(), source=tmp_path).source == FolderSource(path=str(tmp_path))


def test_a_relative_folder_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert request(model(), source=Path("folder")).source == FolderSource(path=str(tmp_path / "folder"))


def test_without_one_the_source_is_the_files_own() -> None:
    assert request(model()).source == HuggingFaceSource(repository="owner/name")


def test_a_volume_as_source_needs_a_folder(tmp_path: Path) -> None:
    given = model(source={"persistentVolumeClaim": {"claimName": "models"}})
    with pytest.raises(CliError, match="the volume 'models', which only a cluster has") as caught:
        request(given)
    assert "--source" in caught.value.advice
    assert request(given, source=tmp_path).source == FolderSource(path=str(tmp_path))


def test_samples_in_a_config_map_need_a_file(tmp_path: Path) -> None:
    given = model(inputs={"samples": {"configMap": {"name": "texts", "key": "k"}}})
    with pytest.raises(CliError, match="the ConfigMap 'texts', which only a cluster has") as caught:
        request(given)
    assert "--samples" in caught.value.advice
    file = tmp_path / "texts"
    assert request(given, samples=file).samples == Samples(path=str(file))


def test_the_served_artifact_is_the_exported_one() -> None:
    given = model(serving={"batching": {"maximumBatchSize": 3}})
    artifact = ArtifactReference(uri="s3://bucket/key", digest="sha256:ab", size_bytes=1)
    store = StoreLocation(uri="s3://bucket", endpoint="http://s3", region="r")
    wanted = requests.export_request(given, given.spec.targets[0], Overrides(store))
    served = requests.serve_request(wanted, given, artifact)
    assert served.artifact == StoreLocation(uri="s3://bucket/key", endpoint="http://s3", region="r")
    assert (served.model, served.target, served.digest) == ("default/minilm", "cpu", "sha256:ab")
    assert served.batching.maximum_batch_size == 3
