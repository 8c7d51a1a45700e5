import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.http_server import listening
from tests.unit.artifacts import FILES, manifest, write_files
from torchscript_operator.artifact import digest, store_errors
from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.request import StoreLocation
from torchscript_operator.artifact.store import (
    ARTIFACT_REASONS,
    SOURCE_REASONS,
    Credentials,
    FolderStore,
    fetch,
    find_complete,
    open_store,
    publish,
)
from torchscript_operator.artifact.store_s3 import S3Store

KEY = "k" * 64


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write_files(tmp_path / "files")
    return tmp_path / "files"


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


def reason_of(action: Callable[[], object]) -> FailureReason:
    with pytest.raises(WorkerError) as caught:
        action()
    return caught.value.reason


def test_published_artifact_can_be_found_and_fetched(store: FolderStore, files: Path, tmp_path: Path) -> None:
    written = manifest(write_files(files), KEY)

    reference = publish(store, written, files)

    assert reference.uri == f"file://{tmp_path}/store/{KEY}"
    assert reference.size_bytes == sum(map(len, FILES.values()))
    assert find_complete(store, KEY) == (written, reference)
    assert fetch(FolderStore(tmp_path / "store" / KEY), reference.digest, tmp_path / "fetched") == written
    assert (tmp_path / "fetched" / "model.pt").read_bytes() == FILES["model.pt"]


def test_manifest_of_the_key_comes_last(files: Path, tmp_path: Path) -> None:
    order: list[str] = []

    class Recording(FolderStore):
        def upload(self, path: str, file: Path) -> None:
            order.append(path)
            super().upload(path, file)

        def write_bytes(self, path: str, data: bytes) -> None:
            order.append(path)
            super().write_bytes(path, data)

    publish(Recording(tmp_path / "store"), manifest(write_files(files), KEY), files)

    assert order[-1] == f"{KEY}/manifest.json"
    assert order[-2].endswith("/manifest.json")
    assert len(order) == len(FILES) + 2


@pytest.mark.parametrize("interrupted_at", [0, 1, 2, 3])
def test_interrupted_publication_is_absent_and_can_be_taken_up(
    store: FolderStore, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted_at: int
) -> None:
    written = manifest(write_files(files), KEY)
    left = interrupted_at

    def replace_or_fail(self: Path, target: Path) -> Path:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        os.rename(self, target)  # noqa: PTH104 - the method itself is replaced
        return target

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace_or_fail)
        with pytest.raises(KeyboardInterrupt):
            publish(store, written, files)

    assert find_complete(store, KEY) is None
    assert not list((tmp_path / "store").rglob("*.partial"))
    publish(store, written, files)
    assert find_complete(store, KEY) is not None


def test_file_that_is_there_is_not_uploaded_again(store: FolderStore, files: Path, tmp_path: Path) -> None:
    written = manifest(write_files(files), KEY)
    publish(store, written, files)
    before = (tmp_path / "store" / KEY / written.files[0].path).stat().st_ino

    publish(store, written, files)

    assert (tmp_path / "store" / KEY / written.files[0].path).stat().st_ino == before


def test_many_writers_of_one_key_leave_a_whole_artifact(files: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    manifests = [manifest(write_files(files), KEY, untied_weights=number) for number in range(2)]
    threads = [
        threading.Thread(target=publish, args=(FolderStore(root), manifests[number % 2], files)) for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    found = find_complete(FolderStore(root), KEY)
    assert found is not None
    assert found[0] in manifests
    fetch(FolderStore(root / KEY), found[1].digest, tmp_path / "fetched")


def damage(kind: str, path: Path) -> None:
    if kind == "removed":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.write_bytes(b"?" + path.read_bytes()[1:])


@pytest.mark.parametrize("kind", ["removed", "truncated"])
@pytest.mark.parametrize("name", ["model.pt", "config.json"])
def test_key_with_a_damaged_file_is_not_complete(
    store: FolderStore, files: Path, tmp_path: Path, kind: str, name: str
) -> None:
    written = manifest(write_files(files), KEY)
    publish(store, written, files)
    entry = next(entry for entry in written.files if entry.name == name)
    damage(kind, tmp_path / "store" / KEY / entry.path)

    assert find_complete(store, KEY) is None


@pytest.mark.parametrize("content", [b"", b"{}", b"not json"])
def test_manifest_that_cannot_be_read_is_not_complete(store: FolderStore, content: bytes) -> None:
    store.write_bytes(f"{KEY}/manifest.json", content)

    assert find_complete(store, KEY) is None


def test_manifest_of_another_key_is_not_complete(store: FolderStore, files: Path) -> None:
    written = manifest(write_files(files), "o" * 64)
    publish(store, written, files)
    store.write_bytes(f"{KEY}/manifest.json", written.encode())

    assert find_complete(store, KEY) is None


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("removed", FailureReason.ARTIFACT_NOT_FOUND),
        ("truncated", FailureReason.DIGEST_MISMATCH),
        ("altered", FailureReason.DIGEST_MISMATCH),
    ],
)
@pytest.mark.parametrize("name", ["model.pt", "manifest.json"])
def test_damaged_artifact_is_never_fetched(
    store: FolderStore, files: Path, tmp_path: Path, kind: str, reason: FailureReason, name: str
) -> None:
    written = manifest(write_files(files), KEY)
    reference = publish(store, written, files)
    hexadecimal = reference.digest.removeprefix("sha256:")
    path = written.files[0].path if name == "model.pt" else f"{hexadecimal}/manifest.json"
    damage(kind, tmp_path / "store" / KEY / path)

    found = reason_of(lambda: fetch(FolderStore(tmp_path / "store" / KEY), reference.digest, tmp_path / "fetched"))

    assert found is reason
    assert not (tmp_path / "fetched" / "model.pt").exists()


def test_fetched_file_is_kept_when_it_verifies_and_replaced_when_not(
    store: FolderStore, files: Path, tmp_path: Path
) -> None:
    reference = publish(store, manifest(write_files(files), KEY), files)
    target = tmp_path / "fetched"
    fetch(FolderStore(tmp_path / "store" / KEY), reference.digest, target)
    kept = (target / "model.pt").stat().st_ino
    (target / "config.json").write_bytes(b"altered")

    fetch(FolderStore(tmp_path / "store" / KEY), reference.digest, target)

    assert (target / "model.pt").stat().st_ino == kept
    assert (target / "config.json").read_bytes() == FILES["config.json"]


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b"])
def test_path_that_leads_out_of_the_folder_is_refused(store: FolderStore, path: str) -> None:
    assert reason_of(lambda: store.read_bytes(path)) is FailureReason.INVALID_REQUEST


@pytest.mark.parametrize("uri", ["", "models", "ftp://a/b", "s3:///prefix", "file://host/path", "file:relative"])
def test_location_of_an_unknown_kind_is_refused(uri: str) -> None:
    assert reason_of(lambda: open_store(StoreLocation(uri=uri))) is FailureReason.INVALID_REQUEST


def test_folder_uri_may_hold_escaped_characters(tmp_path: Path) -> None:
    store = open_store(StoreLocation(uri=f"file://{tmp_path}/with%20space"))
    store.write_bytes("file", b"x")

    assert (tmp_path / "with space" / "file").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("number", "artifact", "source"),
    [
        (28, FailureReason.OUT_OF_DISK, FailureReason.OUT_OF_DISK),
        (13, FailureReason.STORE_ACCESS_DENIED, FailureReason.SOURCE_ACCESS_DENIED),
        (30, FailureReason.STORE_ACCESS_DENIED, FailureReason.SOURCE_ACCESS_DENIED),
        (2, FailureReason.ARTIFACT_NOT_FOUND, FailureReason.SOURCE_NOT_FOUND),
        (5, FailureReason.STORE_UNREACHABLE, FailureReason.SOURCE_UNREACHABLE),
        (22, FailureReason.INTERNAL_ERROR, FailureReason.INTERNAL_ERROR),
    ],
)
def test_error_of_the_system_gets_the_class_of_its_side(
    number: int, artifact: FailureReason, source: FailureReason
) -> None:
    for reasons, expected in ((ARTIFACT_REASONS, artifact), (SOURCE_REASONS, source)):

        def fail(reasons: store_errors.StoreReasons = reasons) -> None:
            with store_errors.mapped("write", "file:///x", reasons):
                raise OSError(number, os.strerror(number))

        assert reason_of(fail) is expected


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        ({}, None),
        ({"P_AWS_ACCESS_KEY_ID": "a"}, None),
        ({"P_AWS_ACCESS_KEY_ID": "a", "P_AWS_SECRET_ACCESS_KEY": ""}, None),
        ({"P_AWS_ACCESS_KEY_ID": "a", "P_AWS_SECRET_ACCESS_KEY": "s"}, Credentials("a", "s")),
        (
            {"P_AWS_ACCESS_KEY_ID": "a", "P_AWS_SECRET_ACCESS_KEY": "s", "P_AWS_SESSION_TOKEN": "t"},
            Credentials("a", "s", "t"),
        ),
    ],
)
def test_credentials_are_all_there_or_left_to_the_sdk(present: dict[str, str], expected: Credentials | None) -> None:
    assert Credentials.from_environment("P_", present) == expected


def test_credentials_do_not_show_their_secrets() -> None:
    assert "secret" not in repr(Credentials("id", "secret", "secret-token"))


Answer = tuple[int, bytes, dict[str, str]]


@contextmanager
def answering(*answers: Answer) -> Iterator[tuple[str, list[str | None]]]:
    """An endpoint that gives these answers in turn, the last again and again; and the Range headers that it saw."""
    left = list(answers)
    ranges: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            ranges.append(self.headers.get("Range"))
            status, content, headers = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
            self.close_connection = True

    with listening(Handler) as port:
        yield f"http://user:hidden@127.0.0.1:{port}", ranges


def error_page(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>key AKIA-secret is refused</Message></Error>".encode()


def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch, reasons: Any = ARTIFACT_REASONS, attempts: int = 1) -> S3Store:
    monkeypatch.setattr("torchscript_operator.artifact.store_s3.MAXIMUM_ATTEMPTS", attempts)
    location = StoreLocation(uri="s3://bucket/prefix", endpoint=endpoint.replace("user:hidden@", ""))
    return S3Store(location, Credentials("AKIA-secret", "secret"), reasons)


@pytest.mark.parametrize(
    ("status", "code", "artifact", "source"),
    [
        (403, "AccessDenied", FailureReason.STORE_ACCESS_DENIED, FailureReason.SOURCE_ACCESS_DENIED),
        (403, "InvalidAccessKeyId", FailureReason.STORE_ACCESS_DENIED, FailureReason.SOURCE_ACCESS_DENIED),
        (404, "XAdminUserNotFound", FailureReason.STORE_ACCESS_DENIED, FailureReason.SOURCE_ACCESS_DENIED),
        (400, "ExpiredToken", FailureReason.STORE_ACCESS_DENIED, FailureReason.SOURCE_ACCESS_DENIED),
        (404, "NoSuchBucket", FailureReason.STORE_NOT_FOUND, FailureReason.SOURCE_NOT_FOUND),
        (404, "NoSuchKey", FailureReason.ARTIFACT_NOT_FOUND, FailureReason.SOURCE_NOT_FOUND),
        (400, "AuthorizationHeaderMalformed", FailureReason.STORE_NOT_FOUND, FailureReason.SOURCE_NOT_FOUND),
        (503, "SlowDown", FailureReason.STORE_UNREACHABLE, FailureReason.SOURCE_UNREACHABLE),
        (500, "InternalError", FailureReason.STORE_UNREACHABLE, FailureReason.SOURCE_UNREACHABLE),
        (400, "InvalidArgument", FailureReason.INTERNAL_ERROR, FailureReason.INTERNAL_ERROR),
    ],
)
def test_answer_of_s3_gets_the_class_of_its_side(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str, artifact: FailureReason, source: FailureReason
) -> None:
    with answering((status, error_page(code), {})) as (endpoint, _):
        for reasons, expected in ((ARTIFACT_REASONS, artifact), (SOURCE_REASONS, source)):
            with pytest.raises(WorkerError) as caught:
                s3(endpoint, monkeypatch, reasons).read_bytes("file")
            assert caught.value.reason is expected
            assert "s3://bucket/prefix/file" in caught.value.message
            assert "secret" not in caught.value.message


def test_busy_server_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering((503, error_page("SlowDown"), {}), (200, b"content", {})) as (endpoint, ranges):
        assert s3(endpoint, monkeypatch, attempts=2).read_bytes("file") == b"content"

    assert len(ranges) == 2


def test_download_is_taken_up_where_the_connection_broke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = (200, b"first ", {"Content-Length": "12", "ETag": '"1"'})
    with answering(broken, (206, b"second", {"ETag": '"1"'})) as (endpoint, ranges):
        found = s3(endpoint, monkeypatch, attempts=2).download("file", tmp_path / "file")

    assert (tmp_path / "file").read_bytes() == b"first second"
    assert found == digest.of_bytes(b"first second")
    assert ranges == [None, "bytes=6-"]


@pytest.mark.parametrize(
    ("tag", "refusal", "asked"),
    [
        ('"1"', [(412, error_page("PreconditionFailed"), {})], [None, "bytes=6-", None]),
        ('"1"', [(200, b"first second", {})], [None, "bytes=6-", None]),
        ("", [], [None, None]),
    ],
    ids=["replaced", "no ranges", "no tags"],
)
def test_download_that_cannot_be_taken_up_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tag: str, refusal: list[Any], asked: list[str | None]
) -> None:
    broken = (200, b"other ", {"Content-Length": "12"} | ({"ETag": tag} if tag else {}))
    with answering(broken, *refusal, (200, b"first second", {})) as (endpoint, ranges):
        found = s3(endpoint, monkeypatch, attempts=2).download("file", tmp_path / "file")

    assert (tmp_path / "file").read_bytes() == b"first second"
    assert found == digest.of_bytes(b"first second")
    assert ranges == asked


def test_download_that_breaks_each_time_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering((200, b"first ", {"Content-Length": "12"})) as (endpoint, _):
        store = s3(endpoint, monkeypatch, attempts=2)
        assert reason_of(lambda: store.download("file", tmp_path / "file")) is FailureReason.STORE_UNREACHABLE

    assert not list(tmp_path.iterdir())


def test_endpoint_in_a_message_has_no_password() -> None:
    assert store_errors.without_userinfo("https://user:hidden@s3.local:9000/?key=hidden") == "https://s3.local:9000/"


def test_endpoint_that_is_no_address_is_refused() -> None:
    location = StoreLocation(uri="s3://bucket/prefix", endpoint="not an address")

    assert reason_of(lambda: open_store(location, Credentials("a", "b"))) is FailureReason.STORE_NOT_FOUND
