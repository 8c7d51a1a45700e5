"""SHA-256 over files and over canonical JSON: the identity of everything that is stored."""

import hashlib
import json
from pathlib import Path
from typing import Any, BinaryIO

CHUNK_BYTES = 1024 * 1024
"""Bytes read at a time; large enough that hashing, not the system call, is the cost."""

PREFIX = "sha256:"
"""Digests in a status or a request carry their algorithm, as OCI digests do."""


def canonical_json(value: Any) -> bytes:
    """Encode a JSON value so that equal values give equal bytes: sorted keys, no white space, UTF-8, no NaN.

    Raises ValueError for NaN and infinities, which JSON cannot express.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def of_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


def of_value(value: Any) -> str:
    """Hexadecimal SHA-256 of a JSON value in canonical form."""
    return of_bytes(canonical_json(value))


def of_stream(stream: BinaryIO) -> str:
    """Hexadecimal SHA-256 of what is left in a binary stream."""
    state = hashlib.sha256()
    while chunk := stream.read(CHUNK_BYTES):
        state.update(chunk)
    return state.hexdigest()


def of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as stream:
        return of_stream(stream)
