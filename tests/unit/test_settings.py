"""The settings file."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from torchscript_operator.controller import settings
from torchscript_operator.controller.settings import Settings


def write(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text)
    return path


def test_worker_image_is_all_that_must_be_given(tmp_path: Path) -> None:
    found = settings.load(write(tmp_path, "workerImage: worker:1"))
    assert found.worker_image == "worker:1"
    assert found.watch_namespaces == ()


def test_path_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.PATH_VARIABLE, str(write(tmp_path, "workerImage: worker:1")))
    assert settings.load().worker_image == "worker:1"


def test_absent_path_is_a_key_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(settings.PATH_VARIABLE, raising=False)
    with pytest.raises(KeyError):
        settings.load()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "workerImage: [1]",
        "workerImage: w\nunknown: 1",
        "workerImage: w\nworkers: 0",
        "workerImage: w\nresyncSeconds: 1",
        "workerImage: w\ncompilers: {novel: {}}",
        "workerImage: w\nartifactStore: {uri: http://no}",
    ],
)
def test_bad_value_is_a_validation_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValidationError):
        settings.load(write(tmp_path, text))


def test_what_is_no_yaml_is_a_yaml_error(tmp_path: Path) -> None:
    with pytest.raises(yaml.YAMLError):
        settings.load(write(tmp_path, "workerImage: [unclosed"))


def test_compiler_without_defaults_gets_plain_ones() -> None:
    found = Settings.model_validate({"workerImage": "w"}).defaults("torchscript")
    assert found.backoff_limit == 3
    assert found.job.node_selector == {}
