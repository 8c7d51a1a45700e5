"""The artifact's key: everything that can change what an export writes, and nothing else."""

import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

from torchscript_operator.artifact import digest
from torchscript_operator.artifact.request import ExportRequest
from torchscript_operator.artifact.threads import available_threads
from torchscript_operator.export.precision import processor_features

KEY_VERSION = 2
"""Raise when the export itself changes what it writes for the same request."""
SEARCHED = frozenset({"auto", "int8"})
"""Precisions whose form, layers and threads are found by measuring."""
DISTRIBUTIONS = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
"""Libraries whose versions enter the key."""


def versions(worker_image: str, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Versions of what computes the artifact, read without importing it; `extra` is the compiler's own."""
    found = {name: importlib.metadata.version(name) for name in DISTRIBUTIONS}
    found["python"] = ".".join(platform.python_version_tuple()[:2])
    if worker_image:
        found["workerImage"] = worker_image
    return found | dict(extra or {})


def of_export(request: ExportRequest, files_digest: str, samples_digest: str, known_versions: Mapping[str, str]) -> str:
    """The key of what a request makes of a source with this digest.

    Tolerances, policy and samples are in it: the manifest records the verdict that they led to, so that a looser gate
    never finds the artifact of a stricter one or the reverse. Locations and names are not: the same files give the
    same artifact wherever they lie.
    """
    shapes = sorted({(shape.batch, shape.sequence) for shape in request.shapes})
    value: dict[str, Any] = {
        "keyVersion": KEY_VERSION,
        "schemaVersion": request.schema_version,
        "source": files_digest,
        "task": request.task,
        "shapes": [list(shape) for shape in shapes],
        "compilation": request.compilation.model_dump(mode="json", by_alias=True),
        "parity": request.parity.model_dump(mode="json", by_alias=True),
        "samples": samples_digest,
        "versions": dict(known_versions),
        "machine": platform.machine(),
    }
    if request.compilation.precision in SEARCHED:
        # What is fastest, and what can be had at all, is the processor's to say, and its share that a Job may use.
        value["processor"] = list(processor_features())
        value["threads"] = available_threads()
    if request.trust:
        # What is read beside, and so run.
        value["trust"] = sorted(request.trust)
    if request.proof is not None:
        # A compiler that has no device may compile otherwise.
        value["proof"] = request.proof
    return digest.of_value(value)
