"""The protocol's messages over gRPC: what a request holds, and outputs into an answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchscript_operator.serve import binary
from torchscript_operator.serve.errors import refuse
from torchscript_operator.serve.openinference import open_inference_pb2 as messages
from torchscript_operator.serve.tensors import BYTES, Given, Output


@dataclass(frozen=True)
class Options:
    """Parameters of an inference."""

    truncate: bool = False
    raw: bool = False
    seconds: float = float("inf")


def options_of(request: messages.ModelInferRequest) -> Options:
    """What a request asks for beside its tensors. Raises ApiError 400 for what nothing acts on, as REST does."""
    given = [(tensor.name, tensor.parameters) for tensor in request.inputs]
    given += [(output.name, output.parameters) for output in request.outputs]
    for tensor_name, parameters in given:
        unknown = set(parameters) - {"binary_data", "binary_data_size"}
        if unknown:
            refuse(f"unknown parameter {min(unknown)!r} of the tensor {tensor_name!r}")
    found: dict[str, Any] = {}
    for name, parameter in request.parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        value = getattr(parameter, kind) if kind else None
        if name in {"truncate", "binary_data_output"} and isinstance(value, bool):
            found["truncate" if name == "truncate" else "raw"] = value
        elif name == "timeout" and isinstance(value, int) and not isinstance(value, bool) and value > 0:
            found["seconds"] = value / 1e6
        else:
            refuse(
                f"unknown parameter {name!r} or a value of another type; known: truncate, binary_data_output, timeout"
            )
    return Options(**found)


def inputs_of(request: messages.ModelInferRequest) -> list[Given]:
    """The tensors of a request. Raises ApiError 400 for values that do not fit what is said of them."""
    raws: Sequence[bytes | None] = request.raw_input_contents or [None] * len(request.inputs)
    if len(raws) != len(request.inputs):
        refuse(f"{len(raws)} raw_input_contents do not fit {len(request.inputs)} inputs")
    found = []
    for tensor, raw in zip(request.inputs, raws, strict=True):
        shape = tuple(tensor.shape)
        if any(size < 0 for size in shape):
            refuse(f"input {tensor.name!r} must have a shape of two sizes, batch and sequence, none of them negative")
        if raw is not None and tensor.HasField("contents"):
            refuse(f"input {tensor.name!r} has both contents and raw_input_contents")
        try:
            found.append(Given(tensor.name, tensor.datatype, shape, _values(tensor, raw, shape)))
        except binary.BinaryError as error:
            refuse(f"input {tensor.name!r}: {error}")
    return found


def _values(tensor: messages.ModelInferRequest.InferInputTensor, raw: bytes | None, shape: tuple[int, ...]) -> Any:
    if tensor.datatype == BYTES:
        return list(tensor.contents.bytes_contents) if raw is None else binary.texts(raw, shape)
    if raw is not None:
        return binary.numbers(raw, tensor.datatype, shape)
    # Inputs are INT64; of any other datatype the checks that follow say so.
    return np.array(tensor.contents.int64_contents, dtype=np.int64)


def fill(answer: messages.ModelInferResponse, outputs: Sequence[Output], *, as_bytes: bool) -> None:
    """Put outputs into an answer, as raw bytes or as numbers of their own."""
    (_fill_raw if as_bytes else _fill_numbers)(answer, outputs)


def _fill_raw(answer: messages.ModelInferResponse, outputs: Sequence[Output]) -> None:
    for output in outputs:
        answer.outputs.add(name=output.name, datatype=output.datatype, shape=output.array.shape)
        answer.raw_output_contents.append(binary.encode_numbers(output.array, output.datatype))


def _fill_numbers(answer: messages.ModelInferResponse, outputs: Sequence[Output]) -> None:
    for output in outputs:
        tensor = answer.outputs.add(name=output.name, datatype=output.datatype, shape=output.array.shape)
        contents = tensor.contents
        field = contents.int64_contents if output.datatype == "INT64" else contents.fp32_contents
        field.extend(output.array.reshape(-1).tolist())
