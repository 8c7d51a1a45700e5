"""Open Inference Protocol version 2 over REST: metadata, and inference with tensors or texts as JSON or bytes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from torchscript_operator import __version__
from torchscript_operator.serve import binary
from torchscript_operator.serve.errors import refuse
from torchscript_operator.serve.exchange import (
    body_of,
    compute,
    json_response,
    left,
    model_of,
    numbers_response,
    parse,
)
from torchscript_operator.serve.metadata import EXTENSIONS, check_name, metadata
from torchscript_operator.serve.state import State
from torchscript_operator.serve.tensors import (
    BYTES,
    Asked,
    Given,
    Output,
    has_sequence,
    mask_output,
    to_outputs,
    to_rows,
    wanted,
)

OCTETS = "application/octet-stream"
"""Content type of an answer that is not JSON alone."""


class RequestParameters(BaseModel):
    """Parameters of an inference; unknown ones are refused, so that none is ignored silently."""

    model_config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)

    binary_data_output: bool = False
    """Send outputs as bytes after the JSON, where an output does not say otherwise itself."""
    truncate: bool = False
    """Cut texts that are longer than the model takes at their end, which are errors otherwise."""
    timeout: int | None = Field(default=None, ge=1)
    """Microseconds that the client waits; the server's own limit holds too."""


class TensorParameters(BaseModel):
    """Parameters of an input."""

    model_config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)

    binary_data_size: int | None = Field(default=None, ge=0)
    """Bytes of this input among those that follow the JSON, in place of `data`."""


class OutputParameters(BaseModel):
    """Parameters of a requested output."""

    model_config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)

    binary_data: bool | None = None
    """Send this output as bytes after the JSON."""


class Tensor(BaseModel):
    """One input: `input_ids` and the others that the metadata lists, or `text` (BYTES, [batch]) alone."""

    model_config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    shape: list[int]
    datatype: str
    parameters: TensorParameters | None = None
    data: list[Any] | None = None
    """Row-major, flat or nested."""


class RequestedOutput(BaseModel):
    """An output that the client wants."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: str
    parameters: OutputParameters | None = None


class InferenceRequest(BaseModel):
    """Inputs of an inference and how to answer it."""

    model_config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)

    id: str | None = None
    """Comes back in the answer."""
    model_name: str | None = None
    """KServe's clients repeat the path's name here."""
    model_version: str | None = None
    parameters: RequestParameters | None = None
    inputs: list[Tensor] = Field(min_length=1)
    outputs: list[RequestedOutput] | None = None
    """None for all; for texts, all that have one value a text."""


class OutputTensor(BaseModel):
    """One output; `data` is absent when the bytes follow the JSON."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class InferenceResponse(BaseModel):
    """Outputs of an inference."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class TensorMetadata(BaseModel):
    """A tensor's name, datatype and sizes, -1 where the client chooses."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """What the model takes and gives, and what the artifact is."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: dict[str, Any]


class ServerMetadata(BaseModel):
    """The server."""

    name: str
    version: str
    extensions: list[str]


class ModelReady(BaseModel):
    """Whether the model may be asked."""

    name: str
    ready: bool


class InferenceError(BaseModel):
    """An error in the protocol's shape."""

    error: str


async def server(_state: State, _request: Request) -> Response:
    """GET /v2."""
    return json_response({"name": "torchscript-operator", "version": __version__, "extensions": list(EXTENSIONS)})


async def model_metadata(state: State, request: Request) -> Response:
    """GET /v2/models/{name}[/versions/{version}]."""
    check_name(state, **request.path_params)
    return json_response(metadata(state, model_of(state)))


async def model_ready(state: State, request: Request) -> Response:
    """GET /v2/models/{name}[/versions/{version}]/ready."""
    check_name(state, **request.path_params)
    return json_response({"name": state.name, "ready": state.ready}, 200 if state.ready else 503)


async def infer(state: State, request: Request) -> Response:
    """POST /v2/models/{name}[/versions/{version}]/infer."""
    check_name(state, **request.path_params)
    model = model_of(state)
    async with body_of(state, request) as body:
        try:
            text, rest = binary.split(body, request.headers.get(binary.HEADER))
            given = parse(InferenceRequest, text)
            inputs = _inputs(given.inputs, rest, declared=binary.HEADER in request.headers)
        except binary.BinaryError as error:
            refuse(str(error))
        check_name(state, given.model_name or state.name, given.model_version or "")
        parameters = given.parameters or RequestParameters()
        asked = Asked(inputs, [output.name for output in given.outputs or ()], truncate=parameters.truncate)
        specs = wanted(model, asked)
        rows = await to_rows(state, model, asked)
        seconds = left(state, request)
        if parameters.timeout is not None:
            seconds = min(seconds, parameters.timeout / 1e6)
        results = await compute(state, request, model, rows, "inputs", seconds)
        outputs = to_outputs(specs, rows, results)
        if asked.by_text and any(map(has_sequence, specs)):
            outputs.append(mask_output(rows))
        answer: dict[str, Any] = {"model_name": state.name, "model_version": state.version}
        if given.id is not None:
            answer["id"] = given.id
        return await _respond(state, answer, outputs, _as_bytes(given, parameters))


def _inputs(tensors: Sequence[Tensor], rest: memoryview, *, declared: bool) -> list[Given]:
    """Values from the JSON or from the bytes behind it. Raises ApiError 400 and BinaryError."""
    sizes = [tensor.parameters.binary_data_size if tensor.parameters else None for tensor in tensors]
    if not declared and any(size is not None for size in sizes):
        refuse(f"{binary.SIZE} needs the header Inference-Header-Content-Length")
    pieces = iter(binary.cut(rest, [size for size in sizes if size is not None]))
    found = []
    for tensor, size in zip(tensors, sizes, strict=True):
        if any(length < 0 for length in tensor.shape):
            refuse(f"input {tensor.name!r} must have a shape of two sizes, batch and sequence, none of them negative")
        if (tensor.data is None) == (size is None):
            refuse(f"input {tensor.name!r} must have either data or the parameter {binary.SIZE}")
        values: Any = tensor.data
        if tensor.data is None:
            raw = next(pieces)
            values = (
                binary.texts(raw, tensor.shape)
                if tensor.datatype == BYTES
                else binary.numbers(raw, tensor.datatype, tensor.shape)
            )
        elif tensor.datatype == BYTES:
            values = [one for value in tensor.data for one in (value if isinstance(value, list) else [value])]
        else:
            try:
                values = np.array(tensor.data)
            except ValueError:
                refuse(f"input {tensor.name!r}: data is ragged")
        found.append(Given(tensor.name, tensor.datatype, tuple(tensor.shape), values))
    return found


def _as_bytes(given: InferenceRequest, parameters: RequestParameters) -> dict[str, bool]:
    """Output name to whether it goes as bytes; under "" what holds for outputs that say nothing."""
    chosen = {
        output.name: output.parameters.binary_data
        for output in given.outputs or ()
        if output.parameters and output.parameters.binary_data is not None
    }
    return {"": parameters.binary_data_output, **chosen}


async def _respond(
    state: State, answer: dict[str, Any], outputs: Sequence[Output], as_bytes: dict[str, bool]
) -> Response:
    described, pieces, numbers = [], [], 0
    for output in outputs:
        one: dict[str, Any] = {
            "name": output.name,
            "shape": list(output.array.shape),
            "datatype": output.datatype,
        }
        if as_bytes.get(output.name, as_bytes[""]):
            pieces.append(binary.encode_numbers(output.array, output.datatype))
            one["parameters"] = {binary.SIZE: len(pieces[-1])}
        else:
            one["data"] = output.array.reshape(-1)
            numbers += output.array.size
        described.append(one)
    answer["outputs"] = described
    if not pieces:
        return await numbers_response(state, answer, numbers)
    head = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(b"".join([head, *pieces]), headers={binary.HEADER: str(len(head))}, media_type=OCTETS)
