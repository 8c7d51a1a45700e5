"""The removal Job's process."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.artifacts import FILES, manifest, write_files
from torchscript_operator.artifact import request
from torchscript_operator.artifact.failures import CLASSES, FailureReason, WorkerError
from torchscript_operator.artifact.store import FolderStore, find_complete, publish, remove
from torchscript_operator.export.remove import main

FIRST, SECOND = "a" * 64, "b" * 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store with two artifacts."""
    files = tmp_path / "files"
    for key in (FIRST, SECOND):
        publish(FolderStore(tmp_path / "store"), manifest(write_files(files), key), files)
    return tmp_path / "store"


def run(folder: Path, tmp_path: Path, *keys: str, uri: str | None = None) -> tuple[int, dict[str, Any]]:
    """Its exit code and its termination message."""
    asked = {"model": "ml/minilm", "store": {"uri": uri or f"file://{folder}"}, "keys": keys}
    message = tmp_path / "termination"
    environment = {request.REMOVE_VARIABLE: json.dumps(asked), request.TERMINATION_LOG_VARIABLE: str(message)}
    return main(environment), json.loads(message.read_text())


def test_only_what_is_named_is_removed(folder: Path, tmp_path: Path) -> None:
    code, outcome = run(folder, tmp_path, FIRST)
    assert (code, outcome["succeeded"]) == (0, True)
    assert [path.name for path in folder.iterdir()] == [SECOND]
    assert find_complete(FolderStore(folder), SECOND) is not None


def test_removing_again_is_fine(folder: Path, tmp_path: Path) -> None:
    assert run(folder, tmp_path, FIRST, SECOND)[0] == 0
    assert run(folder, tmp_path, FIRST, SECOND)[0] == 0


def test_store_that_refuses_is_told_with_its_class(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.write_text("a file where a folder should be")
    code, outcome = run(store, tmp_path, FIRST, uri="s3://")
    assert code == CLASSES[FailureReason.INVALID_REQUEST].exit_code
    assert outcome["failure"]["stage"] == "remove"


@pytest.mark.parametrize("key", ["../../etc", "", "A" * 64, "a" * 63])
def test_what_is_no_key_is_refused(folder: Path, tmp_path: Path, key: str) -> None:
    code, outcome = run(folder, tmp_path, key)
    assert code == CLASSES[FailureReason.INVALID_REQUEST].exit_code
    assert outcome["failure"]["reason"] == "InvalidRequest"
    assert len(list(folder.iterdir())) == 2


def test_absent_request_is_refused(tmp_path: Path) -> None:
    code = main({request.TERMINATION_LOG_VARIABLE: str(tmp_path / "termination")})
    assert code == CLASSES[FailureReason.INVALID_REQUEST].exit_code


def test_completion_mark_goes_first_so_that_a_broken_removal_leaves_no_whole_artifact(folder: Path) -> None:
    class Broken(FolderStore):
        def delete(self, path: str) -> None:
            super().delete(path)
            raise WorkerError(FailureReason.STORE_UNREACHABLE, "The connection broke.")

    with pytest.raises(WorkerError, match="broke"):
        remove(Broken(folder / FIRST))
    assert find_complete(FolderStore(folder), FIRST) is None
    assert remove(FolderStore(folder / FIRST)) >= len(FILES)
    assert not (folder / FIRST).exists()
