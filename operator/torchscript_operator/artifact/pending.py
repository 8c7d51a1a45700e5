"""Artifacts that are compiled but not proven: stored where a verify Job finds them and no server ever looks.

Below `<prefix>/<key>/` the files lie as they will in the finished artifact. In place of a manifest there is
`<sha256>/pending.json`, and last `pending.json`: other names than those that servers read, around a document that is
no manifest, so that even a copy under a manifest's name is refused. Proving one uploads no file a second time.
"""

from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from torchscript_operator.artifact import digest as digests
from torchscript_operator.artifact.contract import Document
from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.manifest import Manifest, Parity
from torchscript_operator.artifact.outcome import ArtifactReference
from torchscript_operator.artifact.request import PendingLocation, Tolerances
from torchscript_operator.artifact.store import Store

PENDING_NAME = "pending.json"


class Pending(Document):
    """pending.json."""

    schema_version: Literal[1] = 1
    unproven: Manifest
    """The manifest to be; its parity is that of nothing compared, which is a failure under any policy."""

    def encode(self) -> bytes:
        """The bytes that are stored and whose SHA-256 a verify Job is given."""
        return digests.canonical_json(self.model_dump(mode="json", by_alias=True, exclude_none=True))


def unproven(tolerances: Tolerances) -> Parity:
    """The parity of what has not been compared: a failure, enforced whatever the policy."""
    return Parity(verdict="Failed", tolerances=tolerances.model_copy(update={"policy": "Enforce"}), outputs=())


def publish_pending(store: Store, manifest: Manifest, files: Path) -> ArtifactReference:
    """Upload the files, then pending.json by digest, then the one that says the key is compiled. May be run again."""
    encoded = Pending(unproven=manifest).encode()
    sha256 = digests.of_bytes(encoded)
    for entry in manifest.files:
        store.upload(f"{manifest.key}/{entry.path}", files / entry.name)
    store.write_bytes(f"{manifest.key}/{sha256}/{PENDING_NAME}", encoded)
    store.write_bytes(f"{manifest.key}/{PENDING_NAME}", encoded)
    return _reference(store, manifest, sha256)


def find_pending(store: Store, key: str) -> tuple[Manifest, ArtifactReference] | None:
    """What is compiled under a key when it can be read and every file is there at its size; else None."""
    try:
        encoded = store.read_bytes(f"{key}/{PENDING_NAME}")
        manifest = Pending.model_validate_json(encoded).unproven
    except ValidationError:
        return None
    except WorkerError as error:
        if error.reason is FailureReason.ARTIFACT_NOT_FOUND:
            return None
        raise
    sha256 = digests.of_bytes(encoded)
    if manifest.key != key or store.size(f"{key}/{sha256}/{PENDING_NAME}") != len(encoded):
        return None
    if any(store.size(f"{key}/{entry.path}") != entry.size_bytes for entry in manifest.files):
        return None
    return manifest, _reference(store, manifest, sha256)


def fetch_pending(store: Store, location: PendingLocation, to: Path) -> Manifest:
    """Download what is compiled into a folder, every byte verified.

    WorkerError ARTIFACT_NOT_FOUND, DIGEST_MISMATCH, or INVALID_REQUEST for a document of another release.
    """
    sha256 = location.digest.removeprefix(digests.PREFIX)
    path = f"{location.key}/{sha256}/{PENDING_NAME}"
    encoded = store.read_bytes(path)
    found = digests.of_bytes(encoded)
    if found != sha256:
        message = f"{store.uri}/{path} has SHA-256 {found} instead of {sha256}."
        raise WorkerError(FailureReason.DIGEST_MISMATCH, message)
    try:
        manifest = Pending.model_validate_json(encoded).unproven
    except ValidationError as error:
        message = f"{store.uri}/{path} cannot be read by this worker ({error.error_count()} errors)."
        raise WorkerError(FailureReason.INVALID_REQUEST, message) from error
    if manifest.key != location.key:
        message = f"{store.uri}/{path} is of the key {manifest.key}."
        raise WorkerError(FailureReason.DIGEST_MISMATCH, message)
    for entry in manifest.files:
        store.download(f"{manifest.key}/{entry.path}", to / Path(entry.name).name, entry.sha256)
    return manifest


def _reference(store: Store, manifest: Manifest, sha256: str) -> ArtifactReference:
    return ArtifactReference(
        uri=f"{store.uri}/{manifest.key}",
        digest=f"{digests.PREFIX}{sha256}",
        size_bytes=sum(entry.size_bytes for entry in manifest.files),
    )
