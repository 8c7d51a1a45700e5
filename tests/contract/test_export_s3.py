"""Sources and artifacts in a real S3 server."""

import shutil
import threading
from pathlib import Path

import pytest

from tests.contract.exporting import make_request, run_job
from tests.contract.s3 import ACCESS_KEY, SECRET_KEY, S3Server
from tests.unit.artifacts import manifest, write_files
from torchscript_operator.artifact import digest
from torchscript_operator.artifact.failures import CLASSES, FailureReason, WorkerError
from torchscript_operator.artifact.request import (
    ARTIFACT_CREDENTIALS_PREFIX,
    SOURCE_CREDENTIALS_PREFIX,
    FolderSource,
    S3Source,
    StoreLocation,
)
from torchscript_operator.artifact.store import Credentials, fetch, find_complete, open_store, publish
from torchscript_operator.artifact.store_s3 import S3Store
from torchscript_operator.export.source import resolve

KEY = "k" * 64


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """A prefix of the test's own."""
    return digest.of_bytes(request.node.nodeid.encode())[:12]


def source_reason(s3: S3Server, uri: str, tmp_path: Path, secret: str = SECRET_KEY) -> FailureReason:
    with pytest.raises(WorkerError) as caught:
        resolve(S3Source(uri=uri, endpoint=s3.endpoint), tmp_path, s3.variables(SOURCE_CREDENTIALS_PREFIX, secret))
    assert secret not in caught.value.message
    assert ACCESS_KEY not in caught.value.message
    assert uri in caught.value.message
    return caught.value.reason


def test_source_has_the_digest_of_the_same_folder(s3: S3Server, prefix: str, tiny_folder: Path, tmp_path: Path) -> None:
    s3.upload_folder(tiny_folder, prefix)
    source = S3Source(uri=f"s3://models/{prefix}/", endpoint=s3.endpoint)

    found = resolve(source, tmp_path, s3.variables(SOURCE_CREDENTIALS_PREFIX))

    expected = resolve(FolderSource(path=str(tiny_folder)), tmp_path / "unused", {})
    assert found.identity.files_digest == expected.identity.files_digest


def test_source_that_is_replaced_while_it_is_read_is_told(
    s3: S3Server, prefix: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.upload_folder(tiny_folder, prefix)
    download = S3Store.download

    def download_and_replace(store: S3Store, path: str, to: Path, sha256: str | None = None) -> str:
        found = download(store, path, to, sha256)
        s3.store(prefix).write_bytes("config.json", (tiny_folder / "config.json").read_bytes() + b"\n")
        return found

    monkeypatch.setattr(S3Store, "download", download_and_replace)
    reason = source_reason(s3, f"s3://models/{prefix}", tmp_path)
    assert reason is FailureReason.SOURCE_CHANGED


def test_empty_prefix_is_not_found(s3: S3Server, tmp_path: Path) -> None:
    assert source_reason(s3, "s3://models/nothing-here", tmp_path) is FailureReason.SOURCE_NOT_FOUND


def test_missing_bucket_is_not_found(s3: S3Server, tmp_path: Path) -> None:
    assert source_reason(s3, "s3://no-such-bucket/tiny", tmp_path) is FailureReason.SOURCE_NOT_FOUND


def test_wrong_secret_is_denied(s3: S3Server, tmp_path: Path) -> None:
    reason = source_reason(s3, "s3://models/tiny", tmp_path, secret="a-wrong-secret")  # noqa: S106

    assert reason is FailureReason.SOURCE_ACCESS_DENIED


def test_export_from_s3_to_s3_ends_in_an_artifact_that_can_be_fetched(
    s3: S3Server, prefix: str, tiny_folder: Path, tmp_path: Path
) -> None:
    s3.upload_folder(tiny_folder, f"{prefix}/source")
    source = {"kind": "S3", "uri": f"s3://models/{prefix}/source", "endpoint": s3.endpoint}
    request = make_request(source, "s3://unused").model_copy(update={"store": s3.location(f"{prefix}/artifacts")})
    secrets = s3.variables(SOURCE_CREDENTIALS_PREFIX) | s3.variables(ARTIFACT_CREDENTIALS_PREFIX)

    result = run_job(request, tmp_path / "job", secrets)
    again = run_job(request, tmp_path / "job", secrets)

    assert result.exit_code == 0, result.log
    assert again.outcome.cache_hit
    assert SECRET_KEY not in result.message + str(result.log)
    artifact = result.outcome.artifact
    assert artifact is not None
    location = StoreLocation(uri=artifact.uri, endpoint=s3.endpoint)
    fetched = fetch(open_store(location, Credentials(ACCESS_KEY, SECRET_KEY)), artifact.digest, tmp_path / "fetched")
    assert fetched.key == result.outcome.key


@pytest.mark.parametrize(
    ("bucket", "secret", "reason"),
    [
        ("no-such-bucket", SECRET_KEY, FailureReason.STORE_NOT_FOUND),
        ("models", "a-wrong-secret", FailureReason.STORE_ACCESS_DENIED),
    ],
)
def test_store_that_cannot_be_used_fails_before_anything_is_compiled(
    s3: S3Server, tiny_folder: Path, tmp_path: Path, bucket: str, secret: str, reason: FailureReason
) -> None:
    request = make_request(tiny_folder, "s3://unused").model_copy(update={"store": s3.location("artifacts", bucket)})

    result = run_job(request, tmp_path, s3.variables(ARTIFACT_CREDENTIALS_PREFIX, secret))

    assert result.exit_code == CLASSES[reason].exit_code
    assert result.outcome.failure is not None
    assert f"s3://{bucket}/artifacts" in result.outcome.failure.message
    assert "load" not in {line.get("stage") for line in result.log}


def test_large_file_is_uploaded_in_parts_and_verified(s3: S3Server, prefix: str, tmp_path: Path) -> None:
    content = bytes(range(256)) * 200_000
    (tmp_path / "large").write_bytes(content)
    store = s3.store(prefix)

    store.upload("sha/large", tmp_path / "large")

    assert store.download("sha/large", tmp_path / "copy", digest.of_bytes(content)) == digest.of_bytes(content)
    assert (tmp_path / "copy").read_bytes() == content


def test_altered_object_is_refused(s3: S3Server, prefix: str, tmp_path: Path) -> None:
    written = manifest(write_files(tmp_path / "files"), KEY)
    reference = publish(s3.store(prefix), written, tmp_path / "files")
    stored = s3.bucket / prefix / KEY / written.files[0].path
    stored.write_bytes(stored.read_bytes()[:-1] + b"!")

    with pytest.raises(WorkerError) as caught:
        fetch(s3.store(f"{prefix}/{KEY}"), reference.digest, tmp_path / "fetched")

    assert caught.value.reason is FailureReason.DIGEST_MISMATCH
    assert not (tmp_path / "fetched" / "model.pt").exists()


def test_truncated_object_makes_the_key_incomplete(s3: S3Server, prefix: str, tmp_path: Path) -> None:
    written = manifest(write_files(tmp_path / "files"), KEY)
    publish(s3.store(prefix), written, tmp_path / "files")
    stored = s3.bucket / prefix / KEY / written.files[0].path
    stored.write_bytes(stored.read_bytes()[:-1])

    assert find_complete(s3.store(prefix), KEY) is None
    publish(s3.store(prefix), written, tmp_path / "files")
    assert find_complete(s3.store(prefix), KEY) is not None


def test_many_writers_of_one_key_leave_a_whole_artifact(s3: S3Server, prefix: str, tmp_path: Path) -> None:
    written = manifest(write_files(tmp_path / "files"), KEY)
    threads = [threading.Thread(target=publish, args=(s3.store(prefix), written, tmp_path / "files")) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    found = find_complete(s3.store(prefix), KEY)
    assert found is not None
    fetch(s3.store(f"{prefix}/{KEY}"), found[1].digest, tmp_path / "fetched")


def test_server_that_has_gone_is_unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchscript_operator.artifact.store_s3.MAXIMUM_ATTEMPTS", 1)
    location = StoreLocation(uri="s3://models/prefix", endpoint="http://127.0.0.1:9")

    with pytest.raises(WorkerError) as caught:
        S3Store(location, Credentials(ACCESS_KEY, SECRET_KEY)).download("file", tmp_path / "file")

    assert caught.value.reason is FailureReason.STORE_UNREACHABLE
    assert "http://127.0.0.1:9" in caught.value.message


def test_listing_names_every_object_below_the_prefix(s3: S3Server, prefix: str, tiny_folder: Path) -> None:
    s3.upload_folder(tiny_folder, prefix)

    assert s3.store(prefix).list_files().keys() == {
        path.relative_to(tiny_folder).as_posix() for path in tiny_folder.rglob("*") if path.is_file()
    }
    shutil.rmtree(s3.bucket / prefix)
    assert s3.store(prefix).list_files() == {}
