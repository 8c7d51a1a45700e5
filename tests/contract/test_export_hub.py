"""Repositories of the Hub, read through huggingface_hub from a local server."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract import hub, tiny
from tests.contract.exporting import make_request, run_job
from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.request import FolderSource, HuggingFaceSource
from torchscript_operator.export.source import ResolvedSource, resolve

WITH_TOKEN = {"HF_TOKEN": hub.TOKEN}


@pytest.fixture
def server(tiny_folder: Path, tmp_path: Path) -> Iterator[hub.Hub]:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "repository"))
    tiny.write_pooling(folder, "cls", normalize=False)
    (folder / "README.md").write_text("A model.")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    with hub.serving(folder) as found:
        yield found


def read(server: hub.Hub, tmp_path: Path, environment: dict[str, str] | None = None, **changes: Any) -> ResolvedSource:
    value = {"repository": hub.REPOSITORY, "endpoint": server.endpoint} | changes
    return resolve(HuggingFaceSource.model_validate(value), tmp_path / "scratch", environment or {})


def reason_of(
    server: hub.Hub, tmp_path: Path, environment: dict[str, str] | None = None, **changes: Any
) -> FailureReason:
    with pytest.raises(WorkerError) as caught:
        read(server, tmp_path, environment, **changes)
    assert hub.TOKEN not in caught.value.message
    return caught.value.reason


def test_commit_behind_the_revision_is_recorded(server: hub.Hub, tmp_path: Path) -> None:
    found = read(server, tmp_path, revision="v1")

    assert found.identity.revision == hub.COMMIT
    assert found.identity.location == f"hf://{hub.REPOSITORY}@{hub.COMMIT}"


def downloads(server: hub.Hub) -> list[str]:
    """Names of the files whose content was asked for."""
    return sorted(
        line.rpartition("/")[2] for line in server.requests if line.startswith("GET ") and "/resolve/" in line
    )


def test_commit_that_is_in_the_cache_is_not_downloaded_again(server: hub.Hub, tmp_path: Path) -> None:
    environment = {"TSM_SOURCE_CACHE": str(tmp_path / "cache")}
    first = read(server, tmp_path, environment)
    assert "model.safetensors" in downloads(server)
    server.requests.clear()

    again = read(server, tmp_path, environment)

    assert downloads(server) == []
    assert again == first
    assert again.identity == read(server, tmp_path).identity


def test_branch_that_moved_on_is_downloaded_beside_the_cached_commit(server: hub.Hub, tmp_path: Path) -> None:
    environment = {"TSM_SOURCE_CACHE": str(tmp_path / "cache")}
    first = read(server, tmp_path, environment)
    moved = "f" * 40
    server.revisions |= {"main": moved, moved: moved}
    (server.folder / "tokenizer_config.json").write_text("{}")

    found = read(server, tmp_path, environment)

    assert found.identity.revision == moved
    assert found.identity.files_digest != first.identity.files_digest
    assert read(server, tmp_path, environment, revision=hub.COMMIT) == first


def test_cached_file_that_was_changed_is_another_source(server: hub.Hub, tmp_path: Path) -> None:
    environment = {"TSM_SOURCE_CACHE": str(tmp_path / "cache")}
    first = read(server, tmp_path, environment)
    (first.folder / "tokenizer_config.json").write_text("{}")

    again = read(server, tmp_path, environment)

    altered = (again.folder / "tokenizer_config.json").read_text() == "{}"
    assert (again.identity.files_digest != first.identity.files_digest) is altered


def test_only_files_that_are_read_are_downloaded(server: hub.Hub, tmp_path: Path) -> None:
    found = read(server, tmp_path)

    names = {path.relative_to(found.folder).as_posix() for path in found.folder.rglob("*") if path.is_file()}
    assert names == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "modules.json",
        "1_Pooling/config.json",
    }
    assert not any("pytorch_model" in line for line in server.requests)


def test_same_files_have_the_same_digest_wherever_they_lie(server: hub.Hub, tmp_path: Path) -> None:
    from_hub = read(server, tmp_path)
    from_folder = resolve(FolderSource(path=str(server.folder)), tmp_path / "scratch", {})

    assert from_hub.identity.files_digest == from_folder.identity.files_digest


def test_files_of_an_earlier_attempt_are_not_mixed_in(server: hub.Hub, tmp_path: Path) -> None:
    first = read(server, tmp_path)
    (server.folder / "modules.json").unlink()

    second = read(server, tmp_path)

    assert first.identity.files_digest != second.identity.files_digest
    assert not (second.folder / "modules.json").exists()


def test_gated_repository_opens_to_the_token(server: hub.Hub, tmp_path: Path) -> None:
    server.gated = True

    assert read(server, tmp_path, WITH_TOKEN).identity.revision == hub.COMMIT


def test_gated_repository_is_closed_to_others(server: hub.Hub, tmp_path: Path) -> None:
    server.gated = True

    assert reason_of(server, tmp_path) is FailureReason.SOURCE_ACCESS_DENIED
    assert reason_of(server, tmp_path, {"HF_TOKEN": "hf_of_another"}) is FailureReason.SOURCE_ACCESS_DENIED


def test_private_repository_is_not_found_without_a_token_and_denied_with_a_wrong_one(
    server: hub.Hub, tmp_path: Path
) -> None:
    server.private = True

    assert reason_of(server, tmp_path) is FailureReason.SOURCE_NOT_FOUND
    assert reason_of(server, tmp_path, {"HF_TOKEN": "hf_of_another"}) is FailureReason.SOURCE_ACCESS_DENIED
    assert read(server, tmp_path, WITH_TOKEN).identity.revision == hub.COMMIT


@pytest.mark.parametrize(
    "changes", [{"repository": "owner/missing"}, {"revision": "v9"}, {"repository": "not a name!"}]
)
def test_repository_or_revision_that_is_not_there(server: hub.Hub, tmp_path: Path, changes: dict[str, Any]) -> None:
    assert reason_of(server, tmp_path, **changes) is FailureReason.SOURCE_NOT_FOUND


def test_repository_without_safetensors_names_the_pickle(server: hub.Hub, tmp_path: Path) -> None:
    (server.folder / "model.safetensors").unlink()

    with pytest.raises(WorkerError, match=r"pytorch_model\.bin") as caught:
        read(server, tmp_path)

    assert caught.value.reason is FailureReason.SOURCE_INVALID


@pytest.mark.parametrize(
    ("status", "reason"), [(500, FailureReason.SOURCE_UNREACHABLE), (403, FailureReason.SOURCE_ACCESS_DENIED)]
)
def test_server_that_answers_errors(server: hub.Hub, tmp_path: Path, status: int, reason: FailureReason) -> None:
    server.status = status

    assert reason_of(server, tmp_path) is reason


def test_server_that_does_not_answer(server: hub.Hub, tmp_path: Path) -> None:
    assert reason_of(server, tmp_path, endpoint="http://127.0.0.1:9") is FailureReason.SOURCE_UNREACHABLE


def test_export_from_the_hub_never_logs_the_token(server: hub.Hub, tmp_path: Path) -> None:
    server.gated = True
    source = {"kind": "HuggingFace", "repository": hub.REPOSITORY, "endpoint": server.endpoint}

    result = run_job(make_request(source, tmp_path / "store"), tmp_path / "job", WITH_TOKEN)

    assert result.exit_code == 0, result.log
    assert result.outcome.source_revision == hub.COMMIT
    assert hub.TOKEN not in result.message + str(result.log)
    assert not any(
        hub.TOKEN.encode() in path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()
    )
