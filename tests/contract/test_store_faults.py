"""What can go wrong between a worker and its store, on a real S3 server: nothing half done is ever taken for whole."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.contract import faulty, s3
from tests.contract.exporting import make_request, run_job, start_job
from tests.contract.faulty import Proxy, Request
from tests.contract.s3 import ACCESS_KEY, SECRET_KEY, S3Server
from tests.unit.artifacts import FILES, manifest
from torchscript_operator.artifact import digest
from torchscript_operator.artifact.failures import CLASSES, FailureReason, WorkerError
from torchscript_operator.artifact.manifest import FileEntry, Manifest
from torchscript_operator.artifact.request import ARTIFACT_CREDENTIALS_PREFIX
from torchscript_operator.artifact.store import Credentials, fetch, find_complete, publish
from torchscript_operator.artifact.store_s3 import PART_BYTES, S3Store

KEY = "f" * 64
PUBLISH = """
import sys
from pathlib import Path
from torchscript_operator.artifact.manifest import Manifest
from torchscript_operator.artifact.request import StoreLocation
from torchscript_operator.artifact.store import Credentials, publish, open_store
endpoint, uri, folder, access, secret = sys.argv[1:]
written = Manifest.model_validate_json((Path(folder) / "manifest.json").read_bytes())
publish(open_store(StoreLocation(uri=uri, endpoint=endpoint), Credentials(access, secret)), written, Path(folder))
"""


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """A prefix of the test's own."""
    return digest.of_bytes(request.node.nodeid.encode())[:12]


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[Proxy]:
    with faulty.before(s3) as found:
        yield found


@pytest.fixture
def artifact(tmp_path: Path) -> tuple[Manifest, Path]:
    """An artifact whose model goes up in three parts, and its folder."""
    folder = tmp_path / "files"
    folder.mkdir()
    contents = FILES | {"model.pt": os.urandom(1024) * (2 * PART_BYTES // 1024 + 1)}
    entries = []
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        role = "model" if name == "model.pt" else "config"
        entries.append(
            FileEntry.model_validate(
                {"name": name, "role": role, "sha256": digest.of_bytes(content), "sizeBytes": len(content)}
            )
        )
    written = manifest(tuple(entries), KEY)
    (folder / "manifest.json").write_bytes(written.encode())
    return written, folder


def is_whole(server: S3Server, prefix: str, to: Path) -> bool:
    found = find_complete(server.store(prefix), KEY)
    if found is None:
        return False
    fetch(server.store(f"{prefix}/{KEY}"), found[1].digest, to)
    return True


MOMENTS: dict[str, Callable[[Request], bool]] = {
    "second part of the model": lambda request: "partNumber=2" in request.path,
    "end of the parts": lambda request: request.method == "POST" and "uploadId=" in request.path,
    "second file": lambda request: request.method == "PUT" and request.path.endswith("config.json"),
    "manifest by digest": lambda request: _is_manifest(request) and not request.path.endswith(f"{KEY}/manifest.json"),
    "manifest of the key": lambda request: _is_manifest(request) and request.path.endswith(f"{KEY}/manifest.json"),
}


def _is_manifest(request: Request) -> bool:
    return request.method == "PUT" and request.path.endswith("/manifest.json")


@pytest.mark.parametrize("moment", MOMENTS)
def test_publication_killed_anywhere_is_absent_and_is_redone(
    s3: S3Server, proxy: Proxy, prefix: str, artifact: tuple[Manifest, Path], tmp_path: Path, moment: str
) -> None:
    proxy.fault = lambda request: "hang" if MOMENTS[moment](request) else None
    written, folder = artifact
    uri = f"s3://models/{prefix}"
    process = subprocess.Popen(
        [sys.executable, "-c", PUBLISH, proxy.server.endpoint, uri, str(folder), ACCESS_KEY, SECRET_KEY]
    )
    assert proxy.hanging.wait(120)
    process.kill()
    assert process.wait() == -signal.SIGKILL

    assert find_complete(s3.store(prefix), KEY) is None
    publish(s3.store(prefix), written, folder)

    assert is_whole(s3, prefix, tmp_path / "fetched")


def test_files_that_are_up_already_are_not_sent_again(
    s3: S3Server, proxy: Proxy, prefix: str, artifact: tuple[Manifest, Path], tmp_path: Path
) -> None:
    written, folder = artifact
    s3.store(prefix).upload(f"{KEY}/{written.files[0].path}", folder / "model.pt")

    publish(proxy.server.store(prefix), written, folder)

    assert [path.rpartition("/")[2] for path in proxy.written()] == ["config.json", "manifest.json", "manifest.json"]
    assert is_whole(s3, prefix, tmp_path / "fetched")


def test_manifest_of_the_key_is_the_last_that_is_written(
    proxy: Proxy, prefix: str, artifact: tuple[Manifest, Path]
) -> None:
    reference = publish(proxy.server.store(prefix), *artifact)

    sha256 = reference.digest.removeprefix("sha256:")
    assert proxy.written()[-2:] == [
        f"/models/{prefix}/{KEY}/{sha256}/manifest.json",
        f"/models/{prefix}/{KEY}/manifest.json",
    ]
    assert proxy.written().count(f"/models/{prefix}/{KEY}/{artifact[0].files[0].path}") == 3


def test_server_that_is_busy_at_first_is_asked_again(
    proxy: Proxy, prefix: str, artifact: tuple[Manifest, Path], tmp_path: Path
) -> None:
    busy: list[str] = []

    def once(request: Request) -> str | None:
        if request.attempt > 1:
            return None
        busy.append(request.path)
        return "busy"

    proxy.fault = once

    publish(proxy.server.store(prefix), *artifact)

    assert is_whole(proxy.server, prefix, tmp_path / "fetched")
    assert len(busy) > 10


@pytest.mark.parametrize("action", ["publish", "find", "fetch"])
def test_server_that_stays_busy_is_unreachable(
    s3: S3Server,
    proxy: Proxy,
    prefix: str,
    artifact: tuple[Manifest, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    action: str,
) -> None:
    monkeypatch.setattr("torchscript_operator.artifact.store_s3.MAXIMUM_ATTEMPTS", 2)
    if action != "publish":
        reference = publish(s3.store(prefix), *artifact)
    proxy.fault = lambda _: "busy"

    actions: dict[str, Callable[[], object]] = {
        "publish": lambda: publish(proxy.server.store(prefix), *artifact),
        "find": lambda: find_complete(proxy.server.store(prefix), KEY),
        "fetch": lambda: fetch(proxy.server.store(f"{prefix}/{KEY}"), reference.digest, tmp_path / "fetched"),
    }

    with pytest.raises(WorkerError) as caught:
        actions[action]()

    assert caught.value.reason is FailureReason.STORE_UNREACHABLE
    assert CLASSES[caught.value.reason].transient
    assert "503" in caught.value.message
    assert not (tmp_path / "fetched" / "model.pt").exists()


def is_model(request: Request) -> bool:
    return request.method == "GET" and request.path.endswith("model.pt")


def test_download_that_breaks_is_taken_up_where_it_broke(
    s3: S3Server, proxy: Proxy, prefix: str, artifact: tuple[Manifest, Path], tmp_path: Path
) -> None:
    reference = publish(s3.store(prefix), *artifact)
    # The answer to the third attempt is the last quarter of the file.
    proxy.fault = lambda request: "cut" if is_model(request) and request.attempt <= 2 else None

    fetch(proxy.server.store(f"{prefix}/{KEY}"), reference.digest, tmp_path / "fetched")

    assert (tmp_path / "fetched" / "model.pt").read_bytes() == (artifact[1] / "model.pt").read_bytes()
    assert sum(line.endswith("model.pt") for line in proxy.done) == 3


def test_object_that_is_replaced_while_its_download_is_broken_is_read_anew(
    s3: S3Server, proxy: Proxy, prefix: str, tmp_path: Path
) -> None:
    # As a source is read, whose digest nobody knows beforehand: half of each would be a model that never was.
    old, new = os.urandom(1 << 20), os.urandom(1 << 20)
    s3.store(prefix).write_bytes("model.pt", old)

    def replace(request: Request) -> str | None:
        if is_model(request) and request.attempt == 2:
            s3.store(prefix).write_bytes("model.pt", new)
        return "cut" if is_model(request) and request.attempt == 1 else None

    proxy.fault = replace

    found = proxy.server.store(prefix).download("model.pt", tmp_path / "model.pt")

    assert (tmp_path / "model.pt").read_bytes() == new
    assert found == digest.of_bytes(new)


def test_download_that_always_breaks_leaves_nothing(
    s3: S3Server, proxy: Proxy, prefix: str, artifact: tuple[Manifest, Path], tmp_path: Path
) -> None:
    reference = publish(s3.store(prefix), *artifact)
    proxy.fault = lambda request: "cut" if is_model(request) else None

    with pytest.raises(WorkerError) as caught:
        fetch(proxy.server.store(f"{prefix}/{KEY}"), reference.digest, tmp_path / "fetched")

    assert caught.value.reason is FailureReason.STORE_UNREACHABLE
    assert not list((tmp_path / "fetched").iterdir())


@pytest.mark.parametrize("name", ["model.pt", "config.json", "manifest.json"])
def test_byte_that_changes_on_the_way_is_refused(
    s3: S3Server, proxy: Proxy, prefix: str, artifact: tuple[Manifest, Path], tmp_path: Path, name: str
) -> None:
    reference = publish(s3.store(prefix), *artifact)
    proxy.fault = lambda request: "alter" if request.method == "GET" and request.path.endswith(name) else None

    with pytest.raises(WorkerError) as caught:
        fetch(proxy.server.store(f"{prefix}/{KEY}"), reference.digest, tmp_path / "fetched")

    assert caught.value.reason is FailureReason.DIGEST_MISMATCH
    assert not (tmp_path / "fetched" / name).exists()


@pytest.mark.parametrize("damage", ["truncated", "altered", "removed"])
@pytest.mark.parametrize("name", ["model.pt", "config.json", "manifest.json"])
def test_stored_object_that_is_damaged_is_never_fetched(
    s3: S3Server, prefix: str, artifact: tuple[Manifest, Path], tmp_path: Path, damage: str, name: str
) -> None:
    written, _ = artifact
    reference = publish(s3.store(prefix), *artifact)
    paths = {entry.name: entry.path for entry in written.files}
    paths["manifest.json"] = f"{reference.digest.removeprefix('sha256:')}/manifest.json"
    stored = s3.bucket / prefix / KEY / paths[name]
    content = stored.read_bytes()
    if damage == "removed":
        stored.unlink()
    else:
        stored.write_bytes(content[:-1] if damage == "truncated" else content[:-1] + b"?")

    with pytest.raises(WorkerError) as caught:
        fetch(s3.store(f"{prefix}/{KEY}"), reference.digest, tmp_path / "fetched")

    expected = FailureReason.ARTIFACT_NOT_FOUND if damage == "removed" else FailureReason.DIGEST_MISMATCH
    assert caught.value.reason is expected
    assert not (tmp_path / "fetched" / name).exists()


def test_store_that_may_only_be_read_refuses_a_publication_and_serves(
    tmp_path: Path, artifact: tuple[Manifest, Path]
) -> None:
    buckets = tmp_path / "s3" / "buckets"
    with s3.serving(buckets) as writable:
        reference = publish(writable.store("first"), *artifact)
    with s3.serving(buckets, "--readonly") as server:
        with pytest.raises(WorkerError) as caught:
            publish(server.store("second"), *artifact)
        fetch(server.store(f"first/{KEY}"), reference.digest, tmp_path / "fetched")

    assert caught.value.reason is FailureReason.STORE_ACCESS_DENIED
    assert "s3://models/second" in caught.value.message


@pytest.mark.parametrize("who", ["wrong secret", "unknown account"])
def test_store_that_denies_access_says_so_without_the_secret(s3: S3Server, prefix: str, who: str) -> None:
    credentials = {
        "wrong secret": Credentials(ACCESS_KEY, "another-secret"),
        "unknown account": Credentials("another-account", SECRET_KEY),
    }[who]

    with pytest.raises(WorkerError) as caught:
        find_complete(S3Store(s3.location(prefix), credentials), KEY)

    assert caught.value.reason is FailureReason.STORE_ACCESS_DENIED
    assert not any(secret in caught.value.message for secret in ("another-secret", SECRET_KEY, "another-account"))


def test_job_killed_while_it_uploads_leaves_no_artifact_and_its_successor_does(
    s3: S3Server, proxy: Proxy, prefix: str, tiny_folder: Path, tmp_path: Path
) -> None:
    proxy.fault = lambda request: "hang" if request.method == "PUT" and request.path.endswith(".pt") else None
    request = make_request(tiny_folder, "s3://unused")
    broken = request.model_copy(update={"store": proxy.server.location(prefix)})
    whole = request.model_copy(update={"store": s3.location(prefix)})
    variables = s3.variables(ARTIFACT_CREDENTIALS_PREFIX)

    process = start_job(broken, tmp_path / "first", variables)
    assert proxy.hanging.wait(300)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL

    found = run_job(whole, tmp_path / "second", variables)

    assert found.exit_code == 0, found.log
    assert not found.outcome.cache_hit
    assert find_complete(s3.store(prefix), str(found.outcome.key)) is not None


def test_two_jobs_of_one_key_at_once_end_in_one_whole_artifact(
    s3: S3Server, prefix: str, tiny_folder: Path, tmp_path: Path
) -> None:
    request = make_request(tiny_folder, "s3://unused").model_copy(update={"store": s3.location(prefix)})
    variables = s3.variables(ARTIFACT_CREDENTIALS_PREFIX)

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda name: run_job(request, tmp_path / name, variables), ("first", "second")))

    assert [result.exit_code for result in results] == [0, 0]
    artifacts = {result.outcome.artifact for result in results}
    assert len({found.digest for found in artifacts if found is not None}) == 1
    complete = find_complete(s3.store(prefix), str(results[0].outcome.key))
    assert complete is not None
    assert complete[1] in artifacts
    fetch(s3.store(f"{prefix}/{results[0].outcome.key}"), complete[1].digest, tmp_path / "fetched")
