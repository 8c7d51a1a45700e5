"""Where artifacts lie: publishing one so that it is whole or absent, and fetching one so that nothing else is read."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from torchscript_operator.artifact import digest as digests
from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.manifest import MANIFEST_NAME, Manifest
from torchscript_operator.artifact.outcome import ArtifactReference
from torchscript_operator.artifact.request import StoreLocation
from torchscript_operator.artifact.store_credentials import Credentials
from torchscript_operator.artifact.store_errors import ARTIFACT_REASONS, SOURCE_REASONS, StoreReasons
from torchscript_operator.artifact.store_folder import FolderStore

COMPLETION_MARKS = frozenset({MANIFEST_NAME, "pending.json"})
"""Files whose presence says that a key is proven, or compiled."""

__all__ = [
    "ARTIFACT_REASONS",
    "SOURCE_REASONS",
    "Credentials",
    "FolderStore",
    "Store",
    "StoreReasons",
    "fetch",
    "find_complete",
    "open_store",
    "publish",
    "remove",
]


class Store(Protocol):
    """Files at paths below one place. Every method raises WorkerError, and nothing else."""

    uri: str
    """The place, without credentials and without a slash at the end."""

    def read_bytes(self, path: str) -> bytes:
        """A small file's content."""

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a small file; readers see the old one or the new one."""

    def upload(self, path: str, file: Path) -> None:
        """Store a file at a path that holds its SHA-256; does nothing where one of the same size lies already."""

    def download(self, path: str, to: Path, sha256: str | None = None) -> str:
        """Fetch a file whole or not at all, verify its SHA-256 while it streams, and return that."""

    def size(self, path: str) -> int | None:
        """Size in bytes, None where there is nothing."""

    def exists(self, path: str) -> bool:
        """Whether a file lies there."""

    def list_files(self) -> dict[str, str]:
        """Path to what changes with the content, of everything below the place."""

    def delete(self, path: str) -> None:
        """Delete a file; one that is not there is fine."""


def open_store(
    location: StoreLocation, credentials: Credentials | None = None, reasons: StoreReasons = ARTIFACT_REASONS
) -> Store:
    """The store at a location; nothing is read or written yet. WorkerError INVALID_REQUEST for another scheme."""
    parts = urlsplit(location.uri)
    if parts.scheme == "s3" and parts.netloc:
        # Imported where it is needed: it costs a serving pod a tenth of a second and 5 MB.
        found: Store = import_module("torchscript_operator.artifact.store_s3").S3Store(location, credentials, reasons)
        return found
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return FolderStore(Path(unquote(parts.path)), reasons)
    message = f"{location.uri!r} is neither s3://bucket/prefix nor file:///absolute/path."
    raise WorkerError(FailureReason.INVALID_REQUEST, message)


@dataclass(frozen=True)
class Mark:
    """The document that says what a key's files are, and by its presence that all of them are there."""

    name: str
    encode: Callable[[Manifest], bytes]
    """The bytes that are stored, and whose SHA-256 is the artifact's digest."""
    decode: Callable[[bytes], Manifest]
    """Raises ValidationError for anything else."""


PROVEN = Mark(MANIFEST_NAME, Manifest.encode, Manifest.model_validate_json)
"""What servers read."""


def publish(store: Store, manifest: Manifest, files: Path, mark: Mark = PROVEN) -> ArtifactReference:
    """Upload an artifact's files, then its mark by digest, then the mark that says the key is complete.

    `files` is a folder with every file of the manifest by its plain name. Interrupted anywhere, it can be run again,
    and any number of processes may publish one key at a time.
    """
    encoded = mark.encode(manifest)
    sha256 = digests.of_bytes(encoded)
    for entry in manifest.files:
        store.upload(f"{manifest.key}/{entry.path}", files / entry.name)
    store.write_bytes(f"{manifest.key}/{sha256}/{mark.name}", encoded)
    store.write_bytes(f"{manifest.key}/{mark.name}", encoded)
    return _reference(store, manifest, sha256)


def find_complete(store: Store, key: str, mark: Mark = PROVEN) -> tuple[Manifest, ArtifactReference] | None:
    """The artifact of a key when its mark can be read and every file is there at its size; else None.

    Contents are not read: whoever loads the artifact verifies them by `fetch`.
    """
    try:
        encoded = store.read_bytes(f"{key}/{mark.name}")
        manifest = mark.decode(encoded)
    except ValidationError:
        return None
    except WorkerError as error:
        if error.reason is FailureReason.ARTIFACT_NOT_FOUND:
            return None
        raise
    sha256 = digests.of_bytes(encoded)
    if manifest.key != key or store.size(f"{key}/{sha256}/{mark.name}") != len(encoded):
        return None
    if any(store.size(f"{key}/{entry.path}") != entry.size_bytes for entry in manifest.files):
        return None
    return manifest, _reference(store, manifest, sha256)


def fetch(store: Store, digest: str, to: Path, mark: Mark = PROVEN, key: str | None = None) -> Manifest:
    """Download the artifact whose mark has this digest (sha256:<hex>) into a folder, every byte verified.

    The store's uri ends in the artifact's key, or the key is given. Files that lie in the folder already and verify are
    kept, so that a restarted container does not download again. WorkerError ARTIFACT_NOT_FOUND, DIGEST_MISMATCH, or
    INVALID_REQUEST for a mark of another release.
    """
    below = f"{key}/" if key else ""
    sha256 = digest.removeprefix(digests.PREFIX)
    path = f"{below}{sha256}/{mark.name}"
    encoded = store.read_bytes(path)
    found = digests.of_bytes(encoded)
    if found != sha256:
        message = f"{store.uri}/{path} has SHA-256 {found} instead of {sha256}."
        raise WorkerError(FailureReason.DIGEST_MISMATCH, message)
    try:
        manifest = mark.decode(encoded)
    except ValidationError as error:
        message = f"{store.uri}/{path} cannot be read by this worker ({error.error_count()} errors)."
        raise WorkerError(FailureReason.INVALID_REQUEST, message) from error
    if key not in {None, manifest.key}:
        message = f"{store.uri}/{path} is of the key {manifest.key}."
        raise WorkerError(FailureReason.DIGEST_MISMATCH, message)
    for entry in manifest.files:
        target = to / Path(entry.name).name
        if not (target.is_file() and digests.of_file(target) == entry.sha256):
            store.download(f"{below}{entry.path}", target, entry.sha256)
    (to / mark.name).write_bytes(encoded)
    return manifest


def remove(store: Store) -> int:
    """Delete the artifact whose key the store's uri ends in; the number of files that were there.

    What marks it as complete goes first, so that nobody takes the rest for a whole artifact. Interrupted anywhere, it
    can be run again. WorkerError where the store cannot be reached or does not allow it.
    """
    try:
        paths = store.list_files()
    except WorkerError as error:
        if error.reason is FailureReason.ARTIFACT_NOT_FOUND:
            return 0
        raise
    for path in sorted(paths, key=lambda path: (path not in COMPLETION_MARKS, path)):
        store.delete(path)
    return len(paths)


def _reference(store: Store, manifest: Manifest, sha256: str) -> ArtifactReference:
    return ArtifactReference(
        uri=f"{store.uri}/{manifest.key}",
        digest=f"{digests.PREFIX}{sha256}",
        size_bytes=sum(entry.size_bytes for entry in manifest.files),
    )
