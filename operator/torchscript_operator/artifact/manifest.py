"""The manifest of an artifact: what it holds, where it came from, and the proof that it computes the same as eager.

Layout below `<prefix>/<key>/`: each file lies at `<sha256>/<name>`, so that two writers of one key never mix their
files; the manifest lies at `<sha256>/manifest.json`, where pods look it up by digest, and last at `manifest.json`,
whose presence says that the key is complete.
"""

from typing import Literal

from torchscript_operator.artifact import digest
from torchscript_operator.artifact.contract import Document
from torchscript_operator.artifact.request import Compilation, Shape, Tolerances

MANIFEST_NAME = "manifest.json"


class Axis(Document):
    """One dimension of a tensor."""

    name: Literal["batch", "sequence", "feature"]
    kind: Literal["fixed", "dynamic"]
    """Dynamic only when the saved file was run at other sizes and gave eager's values there."""
    size: int | None = None
    """Size of a fixed axis that is the same in all shapes, such as the hidden width."""


class TensorSpec(Document):
    """One input or output, in call order."""

    name: str
    dtype: str
    """Open Inference Protocol datatype: INT64, FP32, BF16."""
    axes: tuple[Axis, ...]


class FileEntry(Document):
    """A file of the artifact."""

    name: str
    """Plain file name, such as model.pt."""
    role: Literal["model", "tokenizer", "config", "golden", "report"]
    sha256: str
    size_bytes: int
    shape: Shape | None = None
    """The bucket that a model file was made for; absent when one file serves all shapes."""

    @property
    def path(self) -> str:
        """Path below the artifact's key."""
        return f"{self.sha256}/{self.name}"


class Pooling(Document):
    """How token vectors become one vector a text (feature extraction)."""

    mode: Literal["mean", "cls", "max", "none"]
    normalize: bool
    """Divide by the L2 norm."""
    origin: Literal["sentence-transformers", "default"]


class OutputParity(Document):
    """Compiled against eager for one output at one shape. Figures are decimal strings of three significant digits."""

    output: str
    shape: str
    """Shape.name of the bucket, or "golden" in a replay."""
    rows: int
    """Rows compared, padding left out; zero never passes."""
    maximum_absolute_difference: str
    maximum_relative_difference: str
    minimum_cosine_similarity: str
    agreement: str | None = None
    """Share of rows whose top-1 class is the same, for outputs that are scores."""
    non_finite: int = 0
    """NaN and infinite values in the compiled output."""
    passed: bool


class Parity(Document):
    """The verdict over all outputs and shapes."""

    verdict: Literal["Passed", "Failed"]
    tolerances: Tolerances
    outputs: tuple[OutputParity, ...]


class SourceIdentity(Document):
    """What the weights were, independent of where they lay."""

    location: str
    """For people: hf://repository@revision, s3://…, or a path."""
    revision: str | None = None
    """The resolved commit of a Hub repository."""
    files_digest: str
    """SHA-256 of the canonical JSON of {file name: sha256} over all files that the export read."""


class Manifest(Document):
    """manifest.json. Holds nothing that differs between two runs of one key on one machine, so no time."""

    schema_version: Literal[1] = 1
    key: str
    source: SourceIdentity
    task: str
    architecture: str
    """The model class, such as BertModel."""
    compilation: Compilation
    precision: str
    """The precision kept; differs from compilation.precision when that was auto."""
    shapes: tuple[Shape, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    pooling: Pooling | None = None
    maximum_sequence: int
    """Longest sequence that the model's positions and the shapes allow, in tokens."""
    untied_weights: int
    """Shared tensors that were cloned before tracing, as the guide's torchscript flag does."""
    files: tuple[FileEntry, ...]
    versions: dict[str, str]
    """torch, transformers, tokenizers, python, compiler, worker image."""
    parity: Parity

    def encode(self) -> bytes:
        """The bytes that are stored and whose SHA-256 is the artifact's digest."""
        return digest.canonical_json(self.model_dump(mode="json", by_alias=True, exclude_none=True))
