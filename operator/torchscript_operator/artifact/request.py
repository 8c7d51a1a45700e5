"""What the operator asks of a worker. Holds no secret: credentials reach the worker by environment variables alone.

A request travels as JSON in one environment variable of the container, so that a Job says by itself what it does.
"""

from typing import Annotated, Literal

from pydantic import Field

from torchscript_operator.artifact import digest
from torchscript_operator.artifact.contract import Document

EXPORT_VARIABLE = "TSM_EXPORT_REQUEST"
"""Environment variable that carries an ExportRequest."""
SERVE_VARIABLE = "TSM_SERVE_REQUEST"
"""Environment variable that carries a ServeRequest."""
REMOVE_VARIABLE = "TSM_REMOVE_REQUEST"
"""Environment variable that carries a RemoveRequest."""
TERMINATION_LOG_VARIABLE = "TSM_TERMINATION_LOG"
"""Environment variable that moves the termination message; Kubernetes' own default is /dev/termination-log."""
HUB_TOKEN_VARIABLE = "HF_TOKEN"  # noqa: S105 - the name of a variable
"""Environment variable with the Hugging Face token, as huggingface_hub itself reads it."""
HUB_ENDPOINT_VARIABLE = "HF_ENDPOINT"
"""Environment variable with the mirror that serves sources without an endpoint of their own."""
HUB_TELEMETRY_VARIABLE = "HF_HUB_DISABLE_TELEMETRY"
"""Environment variable that keeps huggingface_hub from telling which libraries are used."""
HUB_PLAIN_VARIABLE = "HF_HUB_DISABLE_XET"
"""Environment variable that makes huggingface_hub download by plain HTTPS."""
SOURCE_CREDENTIALS_PREFIX = "TSM_SOURCE_"
"""Prefix before AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN for the source's S3."""
ARTIFACT_CREDENTIALS_PREFIX = "TSM_ARTIFACT_"
"""The same for the artifact store. Without these variables boto3's own chain is used (IRSA, Pod Identity)."""
SCRATCH_PATH = "/var/lib/torchscript"
"""Writable emptyDir of every worker container: downloads, traces, caches."""
SCRATCH_VARIABLE = "TSM_SCRATCH_PATH"
"""Environment variable that moves SCRATCH_PATH, for workers outside of a pod."""
SOURCE_CACHE_VARIABLE = "TSM_SOURCE_CACHE"
"""Environment variable with a folder that keeps what was downloaded of the Hub, for workers that run again and again on
one machine. Files are digested each time, as they are after a download."""
SOURCE_MOUNT = "/mnt/source"
"""Where a source volume is mounted, read only."""
ARTIFACT_MOUNT = "/mnt/artifacts"
"""Where an artifact volume is mounted; read only in serving pods."""
COMPILER_TIMEOUT_VARIABLE = "TSM_COMPILER_TIMEOUT_SECONDS"
"""Environment variable with the seconds that one call of a Neuron compiler may take; not part of the artifact's key."""
SERVE_PORT = 8080
"""Where a serving pod answers HTTP."""
SERVE_GRPC_PORT = 9000
"""Where it answers the Open Inference Protocol over gRPC."""
SERVE_HEALTH_PORT = 8081
"""Where a serving pod with tokens or TLS answers probes and metrics, in plain text and without either."""
SERVE_HEALTH_PORT_VARIABLE = "TSM_SERVE_HEALTH_PORT"
"""Environment variable with that port; none is opened without it."""
SERVE_TOKEN_FILE_VARIABLE = "TSM_SERVE_TOKEN_FILE"  # noqa: S105 - the name of a variable
"""Environment variable with the path of the clients' tokens, one a line."""
SERVE_TLS_CERTIFICATE_VARIABLE = "TSM_SERVE_TLS_CERTIFICATE_FILE"
"""Environment variable with the path of the server's certificate chain."""
SERVE_TLS_KEY_VARIABLE = "TSM_SERVE_TLS_KEY_FILE"
"""Environment variable with the path of its key."""
SERVE_TLS_CLIENT_AUTHORITY_VARIABLE = "TSM_SERVE_TLS_CLIENT_AUTHORITY_FILE"
"""Environment variable with the path of the authorities of clients' certificates."""
SERVE_ACCESS_LOG_VARIABLE = "TSM_SERVE_ACCESS_LOG"
"""Environment variable that is `true` for a line of log for each request."""
SERVE_SECRETS_MOUNT = "/etc/torchscript"
"""Folder below which a serving pod's Secrets are mounted, read only."""
SAMPLES_VARIABLE = "TSM_SAMPLES"
"""Environment variable with sample texts, one a line, that the operator takes from a ConfigMap without reading it."""


class HuggingFaceSource(Document):
    """A repository on the Hugging Face Hub or on a mirror that speaks its API."""

    kind: Literal["HuggingFace"] = "HuggingFace"
    repository: str
    revision: str = "main"
    endpoint: str | None = None


class S3Source(Document):
    """A model folder below an S3 prefix."""

    kind: Literal["S3"] = "S3"
    uri: str
    """s3://bucket/prefix"""
    endpoint: str | None = None
    region: str | None = None


class FolderSource(Document):
    """A model folder on a mounted volume (or, without a cluster, on this machine)."""

    kind: Literal["Folder"] = "Folder"
    path: str
    """Absolute path inside the worker."""


Source = Annotated[HuggingFaceSource | S3Source | FolderSource, Field(discriminator="kind")]


Trust = Literal["RemoteCode", "PickleWeights"]
"""What of a source can run code in the export's process: Python files beside the model, and weights in pickles."""


class Shape(Document):
    """A bucket of input sizes: compile, parity, padding and warm-up follow it."""

    batch: int = Field(ge=1)
    sequence: int = Field(ge=1)

    @property
    def name(self) -> str:
        """Short form for file names and figures, such as b8-s128."""
        return f"b{self.batch}-s{self.sequence}"


class Samples(Document):
    """The user's own texts that parity is measured on, beside built-in and synthetic inputs."""

    texts: tuple[str, ...] = ()
    path: str | None = None
    """Absolute path of a UTF-8 text file with one text a line."""
    reference: str | None = None
    """Name of a ConfigMap and its key; the texts themselves are in the environment."""


class RequestedTolerances(Document):
    """Bounds of the parity gate as the user gave them; tolerances.py has the default of each that is absent."""

    absolute_tolerance: str | None = None
    relative_tolerance: str | None = None
    minimum_cosine_similarity: str | None = None
    minimum_agreement: str | None = None
    policy: Literal["Enforce", "Warn"] = "Enforce"


class Tolerances(Document):
    """Bounds of the parity gate, all of them; decimal strings, since Kubernetes API objects hold no floats."""

    absolute_tolerance: str
    relative_tolerance: str
    minimum_cosine_similarity: str
    minimum_agreement: str
    policy: Literal["Enforce", "Warn"] = "Enforce"


class StoreLocation(Document):
    """The place below which artifacts lie, each under its key."""

    uri: str
    """s3://bucket/prefix or file:///absolute/path"""
    endpoint: str | None = None
    region: str | None = None


class Compilation(Document):
    """How the model is compiled."""

    compiler: Literal["torchscript", "neuron", "neuronx"] = "torchscript"
    arguments: tuple[str, ...] = ()
    precision: Literal["float32", "bfloat16", "int8", "auto"] = "float32"
    """int8: with layers left in float32 where parity needs it. auto: the fastest form measured that passes parity."""
    search_seconds: int | None = Field(default=None, ge=1)
    """Budget for measuring forms of int8 and auto; absent for a fixed precision."""


class PendingLocation(Document):
    """A compiled model that waits for its proof."""

    key: str
    digest: str
    """sha256:<hex> of pending.json."""


class ExportRequest(Document):
    """All that an export depends on, but for the source's content and the worker's versions."""

    schema_version: Literal[1] = 1
    model: str
    """namespace/name of the TorchScriptModel, for logs only: not part of the artifact's key."""
    target: str
    """The target's name, for logs only."""
    source: Source
    trust: tuple[Trust, ...] | None = None
    """What is read of the source although it can run code; the operator's settings have allowed it."""
    task: str
    shapes: tuple[Shape, ...] = Field(min_length=1)
    samples: Samples = Samples()
    parity: RequestedTolerances = RequestedTolerances()
    store: StoreLocation
    compilation: Compilation = Compilation()
    worker_image: str = ""
    """The worker image's reference, by digest where the user pinned it."""
    proof: Literal["Deferred"] | None = None
    """Deferred: one Job compiles, on a node without the device; another proves and publishes, where the device is."""
    pending: PendingLocation | None = None
    """Given: compile nothing; prove what lies there, and publish it when it passes."""

    def digest(self) -> str:
        """Hexadecimal SHA-256 of the request: the Job's identity, known before the source is read."""
        return digest.of_value(self.model_dump(mode="json", by_alias=True, exclude_none=True))


class RemoveRequest(Document):
    """Artifacts that are to be removed from one store."""

    schema_version: Literal[1] = 1
    model: str
    """namespace/name of the TorchScriptModel, for logs only."""
    store: StoreLocation
    keys: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...] = Field(min_length=1)


class Batching(Document):
    """How a pod gathers waiting requests into one forward pass."""

    maximum_batch_size: int = Field(default=32, ge=1, le=1024)
    """Texts in one forward pass; more of them queue."""
    maximum_delay_milliseconds: int = Field(default=0, ge=0, le=1000)
    """How long an idle pod waits for company; 0 computes at once and gathers only what arrives meanwhile."""


class ServeRequest(Document):
    """What a serving pod loads and how it answers."""

    schema_version: Literal[1] = 1
    model: str
    """namespace/name of the TorchScriptModel."""
    target: str
    artifact: StoreLocation
    """Where this one artifact lies: its uri ends in the artifact's key."""
    digest: str
    """sha256:<hex> of the manifest that the operator saw proven; nothing else is ever loaded."""
    batching: Batching = Batching()

    @property
    def name(self) -> str:
        """The model's name in URLs: the custom resource's name."""
        return self.model.rpartition("/")[2]
