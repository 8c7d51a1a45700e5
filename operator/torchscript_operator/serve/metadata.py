"""What the Open Inference Protocol says about server and model, the same over REST and gRPC."""

from typing import Any

from torchscript_operator.artifact.manifest import TensorSpec
from torchscript_operator.serve.errors import ApiError
from torchscript_operator.serve.state import Model, State
from torchscript_operator.serve.tensors import BYTES, TEXT, output_datatype

PLATFORM = "pytorch_torchscript"
"""The metadata's platform."""
EXTENSIONS = ("binary_tensor_data",)
"""What this server does beyond the protocol's core."""


def check_name(state: State, name: str, version: str = "") -> None:
    """Raise ApiError 404 for another model or version; no version is any."""
    if name != state.name:
        raise ApiError(404, f"unknown model {name!r}")
    if version not in {"", state.version}:
        raise ApiError(404, f"unknown version {version!r} of the model {name!r}")


def metadata(state: State, model: Model) -> dict[str, Any]:
    """The model's metadata: tensors with -1 where a size is free, and what the artifact is under `parameters`."""
    manifest = model.manifest
    return {
        "name": state.name,
        "versions": [state.version],
        "platform": PLATFORM,
        "inputs": [{"name": spec.name, "datatype": spec.dtype, "shape": _free_shape(spec)} for spec in manifest.inputs],
        "outputs": [
            {"name": spec.name, "datatype": output_datatype(spec), "shape": _free_shape(spec)}
            for spec in manifest.outputs
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
            "textInput": ({"name": TEXT, "datatype": BYTES, "shape": [-1]} if model.tokenizing.available else None),
            **model.task.describe(),
        },
    }


def _free_shape(spec: TensorSpec) -> list[int]:
    """-1 where the client chooses: rows are padded to the buckets and cut back, batches are split and joined."""
    return [axis.size if axis.name == "feature" and axis.size is not None else -1 for axis in spec.axes]
