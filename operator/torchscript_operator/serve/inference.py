"""Open Inference Protocol version 2 over REST: metadata, and inference with tensors as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from torchscript_operator import __version__
from torchscript_operator.artifact.manifest import TensorSpec
from torchscript_operator.serve.errors import ApiError, refuse
from torchscript_operator.serve.exchange import compute, json_body, json_response, model_of, numbers_response
from torchscript_operator.serve.rows import ATTENTION_MASK, INPUT_IDS, Row
from torchscript_operator.serve.state import Model, State

PLATFORM = "pytorch_torchscript"
"""The metadata's platform."""
OUTPUT_DATATYPE = "FP32"
"""What every output is sent as; narrower floats have no JSON form and widen without loss."""
AXES = 2
"""Inputs are (batch, sequence)."""


class Tensor(BaseModel):
    """One input of an inference request."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: list[Any]
    """Row-major, flat or nested."""


class RequestedOutput(BaseModel):
    """An output that the client wants."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: str
    parameters: dict[str, Any] | None = None


class InferenceRequest(BaseModel):
    """The body of POST /v2/models/{name}/infer."""

    model_config = ConfigDict(strict=True, extra="forbid")

    id: str | None = None
    parameters: dict[str, Any] | None = None
    inputs: list[Tensor] = Field(min_length=1)
    outputs: list[RequestedOutput] | None = None


async def server(_state: State, _request: Request) -> Response:
    """GET /v2."""
    return json_response({"name": "torchscript-operator", "version": __version__, "extensions": []})


async def model_metadata(state: State, request: Request) -> Response:
    """GET /v2/models/{name}[/versions/{version}]."""
    _check_name(state, request)
    return json_response(metadata(state, model_of(state)))


async def model_ready(state: State, request: Request) -> Response:
    """GET /v2/models/{name}[/versions/{version}]/ready."""
    _check_name(state, request)
    return json_response({"name": state.name, "ready": state.ready}, 200 if state.ready else 503)


async def infer(state: State, request: Request) -> Response:
    """POST /v2/models/{name}[/versions/{version}]/infer."""
    _check_name(state, request)
    model = model_of(state)
    async with json_body(state, request) as body:
        asked = _parse(body)
        wanted = _wanted(model, asked)
        arrays = tensors(model, asked.inputs)
        rows = to_rows(arrays)
        results = await compute(state, request, model, rows, "inputs")
        outputs = [(spec, np.stack([result[spec.name] for result in results])) for spec in wanted]
        for spec, array in outputs:
            if not np.isfinite(array).all():
                raise ApiError(500, f"output {spec.name!r} holds NaN or infinite values, which JSON cannot express")
        answer: dict[str, Any] = {"model_name": state.name, "model_version": state.version}
        if asked.id is not None:
            answer["id"] = asked.id
        answer["outputs"] = [
            {"name": spec.name, "shape": list(array.shape), "datatype": OUTPUT_DATATYPE, "data": array.reshape(-1)}
            for spec, array in outputs
        ]
        return await numbers_response(state, answer, sum(array.size for _, array in outputs))


def metadata(state: State, model: Model) -> dict[str, Any]:
    """The model's metadata: tensors with -1 where a size is free, and what the artifact is under `parameters`."""
    manifest = model.manifest
    return {
        "name": state.name,
        "versions": [state.version],
        "platform": PLATFORM,
        "inputs": [{"name": spec.name, "datatype": spec.dtype, "shape": _free_shape(spec)} for spec in manifest.inputs],
        "outputs": [
            {"name": spec.name, "datatype": OUTPUT_DATATYPE, "shape": _free_shape(spec)} for spec in manifest.outputs
        ],
        "parameters": {
            "digest": state.request.digest,
            "key": manifest.key,
            "compiler": manifest.compilation.compiler,
            "precision": manifest.precision,
            "parity": manifest.parity.verdict,
            "buckets": [shape.name for shape in manifest.shapes],
            "dynamicAxes": [
                name
                for name, dynamic in (
                    ("batch", model.buckets.dynamic_batch),
                    ("sequence", model.buckets.dynamic_sequence),
                )
                if dynamic
            ],
            "maximumSequence": model.buckets.longest,
            **model.task.describe(),
        },
    }


def tensors(model: Model, given: Sequence[Tensor]) -> dict[str, NDArray[np.int64]]:
    """Input name to array of shape (batch, sequence).

    Raises ApiError 400 that names the input for anything that the manifest does not allow.
    """
    specs = {spec.name: spec for spec in model.manifest.inputs}
    arrays: dict[str, NDArray[np.int64]] = {}
    for tensor in given:
        if tensor.name not in specs:
            refuse(f"unknown input {tensor.name!r}; the model takes {', '.join(specs)}")
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


def to_rows(arrays: Mapping[str, NDArray[np.int64]]) -> list[Row]:
    """One row for each row of the client's tensors, at the client's own length and with its own mask."""
    batch, sequence = arrays[INPUT_IDS].shape
    return [Row({name: array[index] for name, array in arrays.items()}, sequence, "outputs") for index in range(batch)]


def _array(tensor: Tensor, spec: TensorSpec) -> NDArray[np.int64]:
    name = repr(tensor.name)
    if tensor.datatype != spec.dtype:
        refuse(f"input {name} must have the datatype {spec.dtype}, not {tensor.datatype!r}")
    if len(tensor.shape) != AXES or any(size < 0 for size in tensor.shape):
        refuse(f"input {name} must have a shape of two sizes, batch and sequence")
    if 0 in tensor.shape:
        refuse(f"input {name} is empty")
    try:
        values = np.array(tensor.data)
    except ValueError:
        refuse(f"input {name}: data is ragged")
    if values.dtype != np.int64:
        refuse(f"input {name}: data holds values that are not 64-bit integers")
    if values.shape != tuple(tensor.shape) and values.shape != (tensor.shape[0] * tensor.shape[1],):
        refuse(f"input {name}: data of shape {list(values.shape)} does not fit the shape {tensor.shape}")
    return values.reshape(tensor.shape)


def _check_values(model: Model, arrays: Mapping[str, NDArray[np.int64]]) -> None:
    for name, array in arrays.items():
        limit = model.tokenizing.limits.get(name)
        if array.min() < 0 or (limit is not None and array.max() >= limit):
            allowed = "0 or more" if limit is None else f"0 to {limit - 1}"
            refuse(f"input {name!r} holds values outside {allowed}")
    if ATTENTION_MASK in arrays and not arrays[ATTENTION_MASK].any(axis=1).all():
        refuse(f"input {ATTENTION_MASK!r} has a row without any 1: there is nothing to compute for it")


def _wanted(model: Model, asked: InferenceRequest) -> list[TensorSpec]:
    specs = {spec.name: spec for spec in model.manifest.outputs}
    if not asked.outputs:
        return list(specs.values())
    names = [output.name for output in asked.outputs]
    unknown = [name for name in names if name not in specs]
    if unknown:
        refuse(f"unknown output {unknown[0]!r}; the model gives {', '.join(specs)}")
    if len(set(names)) < len(names):
        refuse("an output is asked for twice")
    return [specs[name] for name in names]


def _parse(body: Any) -> InferenceRequest:
    try:
        return InferenceRequest.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        refuse(f"{'.'.join(str(part) for part in first['loc']) or 'body'}: {first['msg']}")


def _check_name(state: State, request: Request) -> None:
    name = request.path_params["name"]
    if name != state.name:
        raise ApiError(404, f"unknown model {name!r}")
    version = request.path_params.get("version", state.version)
    if version != state.version:
        raise ApiError(404, f"unknown version {version!r} of the model {name!r}")


def _free_shape(spec: TensorSpec) -> list[int]:
    """-1 where the client chooses: rows are padded to the buckets and cut back, batches are split and joined."""
    return [axis.size if axis.name == "feature" and axis.size is not None else -1 for axis in spec.axes]
