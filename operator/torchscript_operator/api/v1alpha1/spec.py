"""What a user writes. Fields that a later release acts on are here already, and refused with a message until then."""

from typing import Annotated, Any, Literal

from pydantic import Field

from torchscript_operator.api.v1alpha1.base import (
    ApiModel,
    DnsSubdomain,
    Quantity,
    S3Uri,
    Share,
    Tolerance,
    Url,
    opaque,
    rule,
    rules,
)
from torchscript_operator.api.v1alpha1.pods import Image, NodeSelector, Resources, SecretKey, Tolerations
from torchscript_operator.api.v1alpha1.serving import Serving

Task = Literal[
    "feature-extraction",
    "fill-mask",
    "text-classification",
    "token-classification",
    "question-answering",
    "multiple-choice",
    "text2text-generation",
]
Compiler = Literal["torchscript", "neuron", "neuronx"]
Precision = Literal["float32", "bfloat16", "int8", "auto"]
Trust = Literal["RemoteCode", "PickleWeights"]


class SecretReference(ApiModel):
    """A Secret in the model's namespace."""

    name: DnsSubdomain
    """Name of a Secret with the keys AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, where needed, AWS_SESSION_TOKEN."""


class HuggingFaceSource(ApiModel):
    """A repository on the Hugging Face Hub, or on a mirror that speaks its API."""

    repository: Annotated[str, Field(max_length=200, pattern=r"^[\w.-]+(/[\w.-]+)?$")]
    """Repository id, such as sentence-transformers/all-MiniLM-L6-v2."""
    revision: Annotated[str, Field(max_length=200, min_length=1)] = "main"
    """Branch, tag or commit. Name a commit to make the model reproducible; the status records what it resolved to."""
    endpoint: Url | None = None
    """Base URL of a mirror; the public Hub when absent."""
    token_secret: SecretKey | None = None
    """Access token for private and gated repositories."""


class S3Source(ApiModel):
    """A model folder (config.json, tokenizer.json, model.safetensors) below an S3 prefix."""

    uri: S3Uri
    """s3://bucket/prefix of the folder."""
    endpoint: Url | None = None
    """URL of an S3-compatible server; AWS when absent."""
    region: Annotated[str, Field(max_length=64)] | None = None
    """AWS region of the bucket."""
    credentials_secret: SecretReference | None = None
    """Credentials that may read; without it the worker's own identity is used (IRSA, Pod Identity)."""


class VolumeSource(ApiModel):
    """A model folder on a volume."""

    claim_name: DnsSubdomain
    """PersistentVolumeClaim in the model's namespace, mounted read-only."""
    path: Annotated[str, Field(max_length=1024, pattern=r"^[^/].*$|^$")] = ""
    """Folder inside the volume, relative to its root."""


class Source(ApiModel):
    """Where the model comes from: exactly one of the three."""

    model_config = rules(
        rule(
            "[has(self.huggingFace), has(self.s3), has(self.persistentVolumeClaim)].filter(given, given).size() == 1",
            "spec.source takes exactly one of huggingFace, s3 and persistentVolumeClaim",
        ),
        rule(
            "!has(self.persistentVolumeClaim) || !self.persistentVolumeClaim.path.contains('..')",
            "spec.source.persistentVolumeClaim.path must not contain '..'",
        ),
    )

    hugging_face: HuggingFaceSource | None = None
    s3: S3Source | None = None
    persistent_volume_claim: VolumeSource | None = None
    trust: Annotated[tuple[Trust, ...] | None, Field(max_length=2)] = None
    """What may run code of the source's author in the export Job: RemoteCode (Python files beside the model) and
    PickleWeights (where there are no safetensors). The operator's settings have to allow the same."""


class Shape(ApiModel):
    """A bucket of input sizes that is compiled, proven, padded to and warmed up."""

    batch: Annotated[int, Field(ge=1, le=1024)]
    """Texts in one forward pass."""
    sequence: Annotated[int, Field(ge=1, le=32768)]
    """Tokens in each text, padding included."""


class ConfigMapKey(ApiModel):
    """One key of a ConfigMap in the model's namespace."""

    name: DnsSubdomain
    """Name of the ConfigMap."""
    key: Annotated[str, Field(max_length=253, min_length=1)]
    """Key whose value holds one text a line, at most 100 KiB."""


class Samples(ApiModel):
    """Texts of the user's own that parity is measured on, beside built-in sentences and synthetic inputs."""

    model_config = rules(
        rule("has(self.texts) != has(self.configMap)", "spec.inputs.samples takes exactly one of texts and configMap")
    )

    texts: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=4096)], ...] | None, Field(min_length=1, max_length=64)
    ] = None
    """The texts themselves, some 120 KiB at most; what is longer is refused before an export starts."""
    config_map: ConfigMapKey | None = None
    """A ConfigMap that holds the texts. A change of its name starts an export, a change of its content does not."""


class Inputs(ApiModel):
    """What the model is compiled for and proven on."""

    shapes: Annotated[tuple[Shape, ...], Field(min_length=1, max_length=16)] = (
        Shape(batch=1, sequence=128),
        Shape(batch=8, sequence=128),
    )
    """Buckets; the largest sequence bounds what the server takes."""
    samples: Samples | None = None
    """The user's own texts."""


class Parity(ApiModel):
    """The gate: how far compiled outputs may lie from eager ones. A bound that is given holds for every precision."""

    absolute_tolerance: Tolerance | None = None
    """Largest absolute difference of an element where eager's value is zero. Absent: 1e-4 for float32 on a CPU (fused
    kernels stay below 1e-5), 1e-3 on Neuron, 0.25 for bfloat16, 0.5 for int8, whose gate is the cosine similarity."""
    relative_tolerance: Tolerance | None = None
    """Allowed difference in proportion to eager's value, added to the absolute tolerance. Absent: 1e-4 for float32 on
    a CPU, 1e-3 on Neuron, 0.05 for bfloat16, 0.1 for int8."""
    minimum_cosine_similarity: Share | None = None
    """Smallest cosine similarity between a compiled and an eager row. Absent: 0.999."""
    minimum_agreement: Share | None = None
    """Smallest share of rows whose best-scored class is the same, for tasks with classes. Absent: 1 for float32, 0.99
    for bfloat16 and int8."""
    policy: Literal["Enforce", "Warn"] = "Enforce"
    """Enforce: an artifact that fails is never served. Warn: it is served, and ParityVerified says False."""


class ArtifactVolume(ApiModel):
    """A volume as the artifact store."""

    claim_name: DnsSubdomain
    """PersistentVolumeClaim in the model's namespace; several nodes need ReadWriteMany."""
    path: Annotated[str, Field(max_length=1024, pattern=r"^[^/].*$|^$")] = ""
    """Folder inside the volume, relative to its root."""


class Artifact(ApiModel):
    """Where artifacts are stored; the chart's default store when absent."""

    model_config = rules(
        rule(
            "has(self.uri) != has(self.persistentVolumeClaim)",
            "spec.artifact takes exactly one of uri and persistentVolumeClaim",
        ),
        rule(
            "has(self.uri) || !(has(self.endpoint) || has(self.region) || has(self.credentialsSecret))",
            "spec.artifact.endpoint, region and credentialsSecret go with uri",
        ),
        rule(
            "!has(self.persistentVolumeClaim) || !self.persistentVolumeClaim.path.contains('..')",
            "spec.artifact.persistentVolumeClaim.path must not contain '..'",
        ),
    )

    uri: S3Uri | None = None
    """s3://bucket/prefix below which every artifact lies under its key."""
    endpoint: Url | None = None
    """URL of an S3-compatible server; AWS when absent."""
    region: Annotated[str, Field(max_length=64)] | None = None
    """AWS region of the bucket."""
    credentials_secret: SecretReference | None = None
    """Credentials that may read and write; without it the worker's own identity is used (IRSA, Pod Identity)."""
    persistent_volume_claim: ArtifactVolume | None = None
    """A volume in place of S3."""
    deletion_policy: Literal["Retain", "Delete"] = "Retain"
    """What becomes of artifacts when the model is deleted. Delete: a Job removes those that its status names and no
    other model's does; where it cannot, an Event says what stays. An operator that watches a list of namespaces retains
    them, as status.deletionPolicy says: it could lose its rights before its finalizer."""


class JobTemplate(ApiModel):
    """How and where a target's export runs; the chart's values give the defaults per compiler."""

    node_selector: NodeSelector | None = None
    """Labels a node must have. Given, it replaces the compiler's default."""
    tolerations: Tolerations | None = None
    """Taints the Job accepts. Given, they replace the compiler's default."""
    affinity: Annotated[dict[str, Any] | None, opaque("Affinity as in a pod.")] = None
    resources: Resources | None = None
    """Given, they replace the compiler's default."""
    retry_memory: Quantity | None = None
    """Memory, as request and limit, of one more try of an export that was killed for want of memory; absent, there is
    none."""
    image: Image | None = None
    """Worker image. Part of the artifact's key: pin it by digest."""
    active_deadline_seconds: Annotated[int, Field(ge=60, le=604800)] | None = None
    """Seconds after which an export is stopped, retries included."""
    backoff_limit: Annotated[int, Field(ge=0, le=10)] | None = None
    """Retries after failures that can pass by themselves; the others are never retried."""


class Verify(ApiModel):
    """Where parity is checked, when not by the Job that compiled. Empty, it takes the compiler's defaults."""

    node_selector: NodeSelector | None = None
    """Labels a node must have. Given, it replaces the compiler's default."""
    tolerations: Tolerations | None = None
    """Taints the Job accepts. Given, they replace the compiler's default; those of the accelerator are always added."""
    affinity: Annotated[dict[str, Any] | None, opaque("Affinity as in a pod.")] = None
    resources: Resources | None = None
    """Given, they replace the compiler's default; one accelerator is added where they name none."""
    retry_memory: Quantity | None = None
    """As in spec.targets[].job, for the Job that proves."""


class Target(ApiModel):
    """One compiled form of the model."""

    model_config = rules(
        rule(
            "self.compiler == 'torchscript' || self.precision in ['float32', 'bfloat16']",
            "precisions int8 and auto go with the compiler torchscript; neuron and neuronx take float32 and bfloat16",
        ),
        rule(
            "!has(self.verify) || self.precision in ['float32', 'bfloat16']",
            "verify goes with precisions float32 and bfloat16; int8 and auto are measured and proven by one Job",
        ),
        rule(
            "!has(self.compilerArguments) || self.compiler != 'torchscript'",
            "compilerArguments go with neuron and neuronx; torch.jit.trace takes none",
        ),
    )

    name: Annotated[str, Field(max_length=20, min_length=1, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    """Unique within the model; part of child objects' names."""
    compiler: Compiler = "torchscript"
    """torchscript: any CPU. neuron: inf1. neuronx: inf2 and trn1."""
    precision: Precision = "float32"
    """auto: the fastest form measured on the Job's node that passes parity. int8: linear layers in 8 bits but for those
    that break parity."""
    precision_search_seconds: Annotated[int, Field(ge=10, le=86400)] = 120
    """How long int8 and auto may measure; the float32 form is always made. A form that is begun is finished."""
    compiler_arguments: Annotated[
        tuple[Annotated[str, Field(max_length=256)], ...] | None, Field(min_length=1, max_length=32)
    ] = None
    """Arguments for the Neuron compiler."""
    job: JobTemplate = JobTemplate()
    """The export Job."""
    verify: Verify | None = None
    """Given: one Job compiles, on nodes that need no accelerator; a second, short one proves the result on these nodes.
    Until it has, ParityVerified is Unknown and nothing is served. Absent: one Job does both, on the accelerator."""


class TorchScriptModelSpec(ApiModel):
    """The wanted state of a model."""

    model_config = rules(
        rule(
            "!has(self.serving.targets)"
            " || self.serving.targets.all(name, self.targets.exists(target, target.name == name))",
            "spec.serving.targets names a target that spec.targets does not have",
        ),
    )

    source: Source
    """Where the model comes from."""
    task: Task
    """Transformers' name of the task; the model must have the head for it."""
    inputs: Inputs = Inputs()
    """Shapes and samples."""
    parity: Parity = Parity()
    """The gate between an export and a rollout."""
    artifact: Artifact | None = None
    """Where artifacts are stored."""
    targets: Annotated[tuple[Target, ...], Field(min_length=1, max_length=8)] = (Target(name="cpu"),)
    """What the model is compiled for."""
    serving: Serving = Serving()
    """How proven artifacts are served."""
    revision_history_limit: Annotated[int, Field(ge=0, le=20)] = 3
    """Earlier proven artifacts that each target's status goes on naming, for torchscript.dev/rollback-to. What a status
    names is not removed when another model is deleted."""
    suspend: bool = False
    """Start no new export and no new rollout; what runs goes on."""
