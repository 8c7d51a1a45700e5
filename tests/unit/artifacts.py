"""Documents of the contract, small but whole, for tests."""

from pathlib import Path
from typing import Any

from torchscript_operator.artifact import digest
from torchscript_operator.artifact.manifest import Axis, FileEntry, Manifest, OutputParity, Parity, TensorSpec
from torchscript_operator.artifact.manifest import SourceIdentity as Identity
from torchscript_operator.artifact.request import Compilation, ExportRequest, Shape, Tolerances

TOLERANCES = Tolerances(
    absolute_tolerance="1e-4", relative_tolerance="1e-4", minimum_cosine_similarity="0.999", minimum_agreement="1"
)
FILES = {"model.pt": b"weights" * 1000, "config.json": b"{}"}


def figure(output: str = "logits", shape: str = "b1-s8", *, passed: bool = True) -> OutputParity:
    return OutputParity(
        output=output,
        shape=shape,
        rows=8,
        maximum_absolute_difference="1e-06" if passed else "0.5",
        maximum_relative_difference="1e-06",
        minimum_cosine_similarity="0.9999",
        passed=passed,
    )


def write_files(folder: Path) -> tuple[FileEntry, ...]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return tuple(
        FileEntry(
            name=name,
            role="model" if name == "model.pt" else "config",
            sha256=digest.of_bytes(content),
            size_bytes=len(content),
        )
        for name, content in FILES.items()
    )


def manifest(files: tuple[FileEntry, ...] = (), key: str = "k" * 64, **changes: Any) -> Manifest:
    axes = (Axis(name="batch", kind="dynamic"), Axis(name="sequence", kind="fixed", size=8))
    found = Manifest(
        key=key,
        source=Identity(location="s3://models/tiny", files_digest="f" * 64),
        task="feature-extraction",
        architecture="BertModel",
        compilation=Compilation(),
        precision="float32",
        shapes=(Shape(batch=1, sequence=8),),
        inputs=(TensorSpec(name="input_ids", dtype="INT64", axes=axes),),
        outputs=(TensorSpec(name="logits", dtype="FP32", axes=axes),),
        maximum_sequence=8,
        untied_weights=0,
        files=files,
        versions={"torch": "2.13.0"},
        parity=Parity(verdict="Passed", tolerances=TOLERANCES, outputs=(figure(),)),
    )
    return found.model_copy(update=changes)


def export_request(**changes: Any) -> ExportRequest:
    value: dict[str, Any] = {
        "model": "default/minilm",
        "target": "cpu",
        "source": {"kind": "HuggingFace", "repository": "owner/name"},
        "task": "feature-extraction",
        "shapes": [{"batch": 1, "sequence": 128}],
        "parity": TOLERANCES.model_dump(by_alias=True),
        "store": {"uri": "s3://models/prefix"},
    }
    return ExportRequest.model_validate(value | changes)
