"""Binary tensor data of the Open Inference Protocol: JSON first, then the tensors' bytes one after the other.

Pure functions over a client's bytes, so that a fuzzer can try them. Nothing is copied but texts.
"""

import math
import re
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEADER = "inference-header-content-length"
"""HTTP header with the length in bytes of the JSON at the body's start."""
SIZE = "binary_data_size"
"""Parameter of a tensor whose values follow the JSON: how many bytes are its own."""
TYPES = {
    "BOOL": "|b1",
    "INT8": "|i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "UINT8": "|u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
"""Datatype to NumPy's name of it; bytes on the wire are little-endian. BYTES has a form of its own."""
LENGTH = struct.Struct("<I")
"""Before each element of a BYTES tensor: its length in bytes."""
DIGITS = re.compile(r"[0-9]{1,12}")
"""A length in a header; int() would also take signs, spaces and digits of other scripts."""


class BinaryError(ValueError):
    """Bytes that are not what their JSON or their length says; the message is for the client."""


def split(body: bytes, declared: str | None) -> tuple[memoryview, memoryview]:
    """The JSON and what follows it. declared: the value of HEADER, None when the body is JSON alone."""
    whole = memoryview(body)
    if declared is None:
        return whole, whole[:0]
    if not DIGITS.fullmatch(declared) or int(declared) > len(body):
        msg = f"Inference-Header-Content-Length must be the length of the JSON, 0 to {len(body)}"
        raise BinaryError(msg)
    return whole[: int(declared)], whole[int(declared) :]


def cut(rest: memoryview, sizes: Sequence[int]) -> list[memoryview]:
    """One piece for each size; all bytes must be used."""
    if any(size < 0 for size in sizes) or sum(sizes) != len(rest):
        msg = f"the tensors' {SIZE} add up to {sum(sizes)} bytes, but {len(rest)} bytes follow the JSON"
        raise BinaryError(msg)
    pieces, start = [], 0
    for size in sizes:
        pieces.append(rest[start : start + size])
        start += size
    return pieces


def numbers(raw: memoryview | bytes, datatype: str, shape: Sequence[int]) -> NDArray[Any]:
    """Values of a tensor of numbers, flat and without a copy. shape: sizes of 0 or more."""
    if datatype not in TYPES:
        msg = f"the datatype {datatype!r} has no binary form here"
        raise BinaryError(msg)
    kind = np.dtype(TYPES[datatype])
    expected = math.prod(shape) * kind.itemsize
    if len(raw) != expected:
        msg = f"{len(raw)} bytes do not fit the shape {list(shape)} of {datatype}, which has {expected}"
        raise BinaryError(msg)
    return np.frombuffer(raw, kind)


def texts(raw: memoryview | bytes, shape: Sequence[int]) -> list[bytes]:
    """Elements of a BYTES tensor, flat."""
    found: list[bytes] = []
    start, expected = 0, math.prod(shape)
    while start < len(raw):
        if start + LENGTH.size > len(raw):
            raise BinaryError("a BYTES tensor ends in the middle of a length")
        (length,) = LENGTH.unpack_from(raw, start)
        start += LENGTH.size
        if start + length > len(raw):
            raise BinaryError("a BYTES tensor ends in the middle of an element")
        found.append(bytes(raw[start : start + length]))
        start += length
        if len(found) > expected:
            break
    if len(found) != expected:
        msg = f"a BYTES tensor of the shape {list(shape)} has {expected} elements, not {len(found)} or more"
        raise BinaryError(msg)
    return found


def encode_numbers(array: NDArray[Any], datatype: str) -> bytes:
    """An output as it goes over the wire."""
    return np.ascontiguousarray(array, dtype=TYPES[datatype]).tobytes()


def encode_texts(elements: Iterable[bytes]) -> bytes:
    """A BYTES tensor as it goes over the wire."""
    return b"".join(LENGTH.pack(len(element)) + element for element in elements)
