"""Files below a folder: a mounted volume, or a directory of this machine."""

import errno
import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from torchscript_operator.artifact import digest
from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.store_errors import ARTIFACT_REASONS, StoreReasons, mapped


class FolderStore:
    """A folder. Every method raises WorkerError with a class of `reasons`."""

    def __init__(self, root: Path, reasons: StoreReasons = ARTIFACT_REASONS) -> None:
        """Take the folder; it is made on the first write."""
        self._root = root
        self._reasons = reasons
        self.uri = f"file://{root}"

    def read_bytes(self, path: str) -> bytes:
        """A small file's content."""
        with mapped("read", self._where(path), self._reasons):
            return self._path(path).read_bytes()

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a small file; readers see the old one or the new one, also after a crash."""
        with mapped("write", self._where(path), self._reasons), _replacing(self._path(path)) as stream:
            stream.write(data)

    def upload(self, path: str, file: Path) -> None:
        """Copy a file to a path that holds its SHA-256; does nothing where one of the same size lies already."""
        if self.size(path) == file.stat().st_size:
            return
        with (
            mapped("write", self._where(path), self._reasons),
            file.open("rb") as source,
            _replacing(self._path(path)) as stream,
        ):
            _copy(source, stream)

    def download(self, path: str, to: Path, sha256: str | None = None) -> str:
        """Copy a file, which appears whole or not at all; the hexadecimal SHA-256 of its bytes.

        WorkerError DIGEST_MISMATCH when that differs from the `sha256` asked for.
        """
        with (
            mapped("read", self._where(path), self._reasons),
            self._path(path).open("rb") as source,
            _replacing(to) as stream,
        ):
            found = _copy(source, stream)
            if sha256 is not None and found != sha256:
                message = f"{self._where(path)} has SHA-256 {found} instead of {sha256}."
                raise WorkerError(FailureReason.DIGEST_MISMATCH, message)
        return found

    def size(self, path: str) -> int | None:
        """Size in bytes, None where there is nothing."""
        with mapped("look up", self._where(path), self._reasons):
            try:
                return self._path(path).stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                return None

    def exists(self, path: str) -> bool:
        """Whether a file lies there."""
        return self.size(path) is not None

    def list_files(self) -> dict[str, str]:
        """Path below the folder to size, inode and time of the last change, of all files."""
        with mapped("list", self.uri, self._reasons):
            # rglob is silent about a root that is missing or closed; this is not.
            next(self._root.iterdir(), None)
            files = sorted(path for path in self._root.rglob("*") if path.is_file())
            return {path.relative_to(self._root).as_posix(): _version(path.stat()) for path in files}

    def delete(self, path: str) -> None:
        """Delete a file, and folders that it leaves empty; one that is not there is fine."""
        with mapped("delete", self._where(path), self._reasons):
            file = self._path(path)
            file.unlink(missing_ok=True)
            for folder in file.parents:
                if not folder.is_relative_to(self._root) or not _remove_empty(folder):
                    return

    def _path(self, path: str) -> Path:
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise WorkerError(FailureReason.INVALID_REQUEST, f"{path!r} leads out of {self.uri}.")
        return self._root / path

    def _where(self, path: str) -> str:
        return f"{self.uri}/{path}"


def _version(found: os.stat_result) -> str:
    return f"{found.st_size}-{found.st_ino}-{found.st_mtime_ns}"


def _remove_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
            return False
        raise
    return True


def _copy(source: BinaryIO, stream: BinaryIO) -> str:
    state = hashlib.sha256()
    while chunk := source.read(digest.CHUNK_BYTES):
        stream.write(chunk)
        state.update(chunk)
    return state.hexdigest()


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A stream into a new file that takes the place of `path` when all has been written and has reached the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        partial.unlink(missing_ok=True)
