"""The manifest of an artifact: what it holds, where it came from, and the proof that it computes the same as eager.

Layout below `<prefix>/<key>/`: each file lies at `<sha256>/<name>`, so that two writers of one key never mix their
files; the manifest lies at `<sha256>/manifest.json`, where pods look it up by digest, and last at `manifest.json`,
whose presence says that the key is complete.
"""

from typing import Literal

from pydantic import Field

from torchscript_operator.artifact import digest
from torchscript_operator.artifact.contract import Document
from torchscript_operator.artifact.request import Compilation, Shape, Tolerances

MANIFEST_NAME = "manifest.json"
Agreement = Literal["class", "position", "span", "choice", "token"]
"""What has to be the same beside the values: the best class of a row, the best token of a text, the best span of a
text (reported with its ends), the best row of a batch, or every token of a generated sequence."""


class Axis(Document):
    """One dimension of a tensor."""

    name: Literal["batch", "sequence", "target", "feature"]
    """`sequence` counts tokens that are read, `target` tokens that are written."""
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
    agreement: Agreement | None = None
    """Of an output: what parity and the replay compare beside its values."""


class Part(Document):
    """One of several compiled modules of an artifact, such as a translation model's encoder."""

    name: str
    """As in FileEntry.part."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Generation(Document):
    """How sequences are written, as the model's generation config says."""

    start_token: int
    """The first token that the decoder reads."""
    end_tokens: tuple[int, ...]
    pad_token: int
    beams: int
    """Hypotheses kept at a time; 1 is greedy."""
    maximum_length: int
    """Tokens of a sequence, its start token included."""
    length_penalty: str
    """Exponent of the length by which a hypothesis' score is divided; a decimal string."""
    early_stopping: Literal["never", "heuristic", "always"]
    """Transformers' "never", False and True."""
    suppressed_tokens: tuple[int, ...] = ()
    """Tokens that are never written."""
    forced_first_token: int | None = None
    forced_last_tokens: tuple[int, ...] = ()
    """What stands at the maximum length."""
    renormalize: bool = False
    """Scores are made probabilities again after tokens were suppressed."""
    replay_length: int
    """Maximum length of the golden sequences, so that a replay stays short."""


class FileEntry(Document):
    """A file of the artifact."""

    name: str
    """Plain file name, such as model.pt."""
    role: Literal["model", "tokenizer", "config", "golden", "report"]
    sha256: str
    size_bytes: int
    shape: Shape | None = None
    """The bucket that a model file was made for; absent when one file serves all shapes."""
    part: str | None = None
    """Which of the manifest's parts a model file is; absent when the artifact is one module."""

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
    """Share of decisions that are the same, for outputs that decide something: see Agreement."""
    non_finite: int = 0
    """NaN and infinite values in the compiled output."""
    passed: bool


class Parity(Document):
    """The verdict over all outputs and shapes."""

    verdict: Literal["Passed", "Failed"]
    tolerances: Tolerances
    outputs: tuple[OutputParity, ...]


class CompilerReport(Document):
    """What a compiler that works in parts says it did with one model file, read from its log."""

    shape: str
    """Shape.name of the bucket."""
    part: str | None = None
    """Which of the manifest's parts it is about; absent when the artifact is one module."""
    subgraphs: int
    """Parts of the model, all of them compiled: one that is not fails the export."""
    operators: int | None = None
    """Arithmetic operators of the model, where the log tells."""
    compiled_operators: int | None = None
    """How many of them run on the device; 548 of 565 is the usual figure of BERT, whose embeddings do not."""
    cpu_operators: dict[str, int] = Field(default_factory=dict)
    """Operators left on the CPU and how often each occurs, such as aten::embedding."""


class Candidate(Document):
    """One form of the model that the search for a precision looked at. Figures are the worst of all outputs and shapes.

    Speeds differ from run to run, so that two searches of one key can end in manifests with different digests.
    """

    precision: Literal["float32", "bfloat16", "int8"]
    frozen: bool
    """Weights were folded into the graph (torch.jit.freeze) before the file was saved."""
    packed: bool = False
    """Weights of linear layers are laid out for oneDNN once, by the file itself as it is loaded."""
    kept_layers: tuple[str, ...] = ()
    """int8: linear layers left in float32, since parity does not hold with them quantised."""
    quantized_layers: int = 0
    """int8: linear layers that compute in 8 bits."""
    threads: int | None = None
    """Compute threads that the speed was measured with."""
    texts_per_second: str | None = None
    """Median over the repeats, each one pass at every declared shape; absent where it was not measured."""
    maximum_absolute_difference: str | None = None
    minimum_cosine_similarity: str | None = None
    agreement: str | None = None
    verdict: Literal["Passed", "Failed", "NotAvailable", "NotMeasured"]
    """Failed: refused by the gate. NotAvailable: this node's processor lacks it. NotMeasured: the budget was spent."""
    reason: str | None = None
    """Why it was not taken."""
    chosen: bool = False


class SourceIdentity(Document):
    """What the weights were, independent of where they lay."""

    location: str
    """For people: hf://repository@revision, s3://…, or a path."""
    revision: str | None = None
    """The resolved commit of a Hub repository."""
    files_digest: str
    """SHA-256 of the canonical JSON of {file name: sha256} over all files that the export read."""


class Manifest(Document):
    """manifest.json. Holds no time, so that two runs of one key on one machine agree, but for speeds of candidates."""

    schema_version: Literal[1] = 1
    key: str
    source: SourceIdentity
    task: str
    architecture: str
    """The model class, such as BertModel."""
    compilation: Compilation
    precision: str
    """The precision kept; differs from compilation.precision when that was auto."""
    frozen: bool = False
    """The files were saved after torch.jit.freeze: what parity proved is what a pod loads, with nothing done to it."""
    packed: bool = False
    """torch.jit.load has oneDNN lay out the weights of linear layers once, as the code in the file says: what parity
    proved was loaded so, too. Absent from manifests of before there was such a form."""
    kept_layers: tuple[str, ...] = ()
    """int8: linear layers left in float32."""
    threads: int | None = None
    """Advice: the compute threads that gave the most texts a second on the exporting node; absent if not measured."""
    candidates: tuple[Candidate, ...] = ()
    """All forms that were looked at for precision int8 and auto, the chosen one first."""
    shapes: tuple[Shape, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    pooling: Pooling | None = None
    parts: tuple[Part, ...] = ()
    """Modules that are run in turns, where the artifact is more than one; inputs and outputs are then the whole's."""
    generation: Generation | None = None
    """For tasks that write text."""
    maximum_sequence: int
    """Longest sequence that the model's positions and the shapes allow, in tokens."""
    untied_weights: int
    """Shared tensors that were cloned before tracing, as the guide's torchscript flag does."""
    compiler_reports: tuple[CompilerReport, ...] | None = None
    """One for each model file, from compilers that may leave operators on the CPU (neuron)."""
    files: tuple[FileEntry, ...]
    versions: dict[str, str]
    """torch, transformers, tokenizers, python, compiler, worker image."""
    parity: Parity

    def encode(self) -> bytes:
        """The bytes that are stored and whose SHA-256 is the artifact's digest."""
        return digest.canonical_json(self.model_dump(mode="json", by_alias=True, exclude_none=True))
