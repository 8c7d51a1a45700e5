"""What an inference asks, whatever protocol it came by: checked tensors or texts to rows, results to output tensors."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchscript_operator.artifact.manifest import TensorSpec
from torchscript_operator.serve.buckets import TooLongError
from torchscript_operator.serve.errors import ApiError, refuse, too_long
from torchscript_operator.serve.exchange import check_count
from torchscript_operator.serve.rows import ATTENTION_MASK, INPUT_IDS, Result, Row
from torchscript_operator.serve.state import Model, State

OUTPUT_DATATYPE = "FP32"
"""What every output is sent as; narrower floats have no JSON form and widen without loss."""
TEXT = "text"
"""Name of the input that takes texts in place of tensors."""
BYTES = "BYTES"
"""Datatype of texts."""
AXES = 2
"""Inputs are (batch, sequence)."""


@dataclass(frozen=True)
class Given:
    """An input as a protocol's decoder hands it over; its shape has no negative size."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: NDArray[Any] | Sequence[Any]
    """Numbers: an array, flat or of the shape itself. BYTES: a flat sequence of str or bytes."""


@dataclass(frozen=True)
class Asked:
    """One inference."""

    inputs: Sequence[Given]
    outputs: Sequence[str] = ()
    """Names in the order wanted; none for the usual ones."""
    truncate: bool = False
    """Cut texts that are too long; the client said so."""

    @property
    def by_text(self) -> bool:
        """Whether the server has to tokenise."""
        return any(tensor.name == TEXT for tensor in self.inputs)


@dataclass(frozen=True)
class Output:
    """One tensor of an answer."""

    name: str
    datatype: str
    array: NDArray[Any]


def output_datatype(spec: TensorSpec) -> str:
    """The datatype that an output is sent as: tokens as they are, all else as float32."""
    return spec.dtype if spec.dtype == "INT64" else OUTPUT_DATATYPE


def has_sequence(spec: TensorSpec) -> bool:
    """Whether an output follows the tokens."""
    return any(axis.name == "sequence" for axis in spec.axes[1:])


def wanted(model: Model, asked: Asked) -> list[TensorSpec]:
    """The outputs to give.

    Without a choice these are all; for texts, whose lengths differ, those with one value a text where there are any.
    Raises ApiError 400 for unknown and repeated names.
    """
    specs = {spec.name: spec for spec in model.manifest.outputs}
    if not asked.outputs:
        chosen = [spec for spec in specs.values() if not (asked.by_text and has_sequence(spec))]
        return chosen or list(specs.values())
    unknown = [name for name in asked.outputs if name not in specs]
    if unknown:
        refuse(f"unknown output {unknown[0]!r}; the model gives {', '.join(specs)}")
    if len(set(asked.outputs)) < len(asked.outputs):
        refuse("an output is asked for twice")
    return [specs[name] for name in asked.outputs]


async def to_rows(state: State, model: Model, asked: Asked) -> list[Row]:
    """The rows of an inference.

    Raises ApiError 400 that names the input for anything that the manifest does not allow.
    """
    if asked.by_text:
        return await _rows_of_texts(state, model, asked)
    if asked.truncate:
        refuse(f"truncate cuts texts; tensors are taken as they are, so it needs the input {TEXT!r}")
    arrays = _checked(model, asked.inputs)
    check_count(state, len(arrays[INPUT_IDS]))
    return _rows_of_tensors(arrays)


def to_outputs(specs: Sequence[TensorSpec], rows: Sequence[Row], results: Sequence[Result]) -> list[Output]:
    """Output tensors of all rows.

    Outputs that follow the tokens of texts of unlike length are filled up with zeros, and `attention_mask` beside them
    says how far each text goes.
    Raises ApiError 500 for numbers that are not finite.
    """
    outputs = []
    longest = max(row.length for row in rows)
    ragged = any(row.length < longest for row in rows)
    for spec in specs:
        arrays = [result[spec.name] for result in results]
        if ragged and has_sequence(spec):
            arrays = [np.pad(array, [(0, longest - len(array)), *[(0, 0)] * (array.ndim - 1)]) for array in arrays]
        array = np.stack(arrays)
        if not np.isfinite(array).all():
            raise ApiError(500, f"output {spec.name!r} holds NaN or infinite values", code="not_finite")
        outputs.append(Output(spec.name, output_datatype(spec), array))
    return outputs


def mask_output(rows: Sequence[Row]) -> Output:
    """`attention_mask` of texts, (batch, longest): 1 where an output's position is a token of the text."""
    lengths = np.array([row.length for row in rows])
    mask = (np.arange(lengths.max())[None, :] < lengths[:, None]).astype(np.int64)
    return Output(ATTENTION_MASK, "INT64", mask)


async def _rows_of_texts(state: State, model: Model, asked: Asked) -> list[Row]:
    if len(asked.inputs) > 1:
        refuse(f"the input {TEXT!r} stands alone: give texts or tensors, not both")
    (given,) = asked.inputs
    if not model.tokenizing.available:
        refuse("this artifact has no tokenizer: give tensors")
    if given.datatype != BYTES:
        refuse(f"input {TEXT!r} must have the datatype {BYTES}, not {given.datatype!r}")
    if len(given.shape) not in {1, AXES} or given.shape[1:] not in {(), (1,)}:
        refuse(f"input {TEXT!r} must have the shape [batch] or [batch, 1]")
    if len(given.values) != math.prod(given.shape):
        refuse(f"input {TEXT!r}: {len(given.values)} texts do not fit the shape {list(given.shape)}")
    if not len(given.values):
        refuse(f"input {TEXT!r} is empty")
    check_count(state, len(given.values))
    texts = [_text(index, value) for index, value in enumerate(given.values)]
    try:
        return await model.tokenizing.rows(
            texts, model.buckets, state.executor, truncate=asked.truncate, want="outputs"
        )
    except TooLongError as error:
        raise too_long(error, "inputs") from None


def _text(index: int, value: Any) -> str:
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            refuse(f"input {TEXT!r}: element {index} is not UTF-8")
    if not isinstance(value, str):
        refuse(f"input {TEXT!r}: element {index} is no text")
    if not value:
        refuse(f"input {TEXT!r}: element {index} is an empty text")
    return value


def _checked(model: Model, given: Sequence[Given]) -> dict[str, NDArray[np.int64]]:
    """Input name to array of shape (batch, sequence)."""
    specs = {spec.name: spec for spec in model.manifest.inputs}
    arrays: dict[str, NDArray[np.int64]] = {}
    for tensor in given:
        if tensor.name not in specs:
            refuse(f"unknown input {tensor.name!r}; the model takes {', '.join(specs)}, or {TEXT!r} alone")
        if tensor.name in arrays:
            refuse(f"input {tensor.name!r} is given twice")
        arrays[tensor.name] = _array(tensor, specs[tensor.name])
    missing = [name for name in specs if name not in arrays]
    if missing:
        refuse(f"missing input {', '.join(map(repr, missing))}")
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) > 1:
        refuse(f"all inputs must have one shape, not {', '.join(sorted(str(list(shape)) for shape in shapes))}")
    _check_values(model, arrays)
    return arrays


def _rows_of_tensors(arrays: Mapping[str, NDArray[np.int64]]) -> list[Row]:
    """One row for each row of the client's tensors, at the client's own length and with its own mask."""
    batch, sequence = arrays[INPUT_IDS].shape
    return [Row({name: array[index] for name, array in arrays.items()}, sequence, "outputs") for index in range(batch)]


def _array(tensor: Given, spec: TensorSpec) -> NDArray[np.int64]:
    name = repr(tensor.name)
    if tensor.datatype != spec.dtype:
        refuse(f"input {name} must have the datatype {spec.dtype}, not {tensor.datatype!r}")
    if len(tensor.shape) != AXES:
        refuse(f"input {name} must have a shape of two sizes, batch and sequence")
    if 0 in tensor.shape:
        refuse(f"input {name} is empty")
    values = np.asarray(tensor.values)
    if values.dtype != np.int64:
        refuse(f"input {name}: data holds values that are not 64-bit integers")
    if values.shape != tensor.shape and values.shape != (math.prod(tensor.shape),):
        refuse(f"input {name}: data of shape {list(values.shape)} does not fit the shape {list(tensor.shape)}")
    return values.reshape(tensor.shape)


def _check_values(model: Model, arrays: Mapping[str, NDArray[np.int64]]) -> None:
    for name, array in arrays.items():
        limit = model.tokenizing.limits.get(name)
        if array.min() < 0 or (limit is not None and array.max() >= limit):
            allowed = "0 or more" if limit is None else f"0 to {limit - 1}"
            refuse(f"input {name!r} holds values outside {allowed}")
    if ATTENTION_MASK in arrays and not arrays[ATTENTION_MASK].any(axis=1).all():
        refuse(f"input {ATTENTION_MASK!r} has a row without any 1: there is nothing to compute for it")
