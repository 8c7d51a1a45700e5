"""What the operator reports. Numbers that are not integers are strings."""

from typing import Annotated, Literal

from pydantic import Field

from torchscript_operator.api.v1alpha1.base import StatusModel, map_by

TargetState = Literal["Pending", "Exporting", "Verifying", "Proven", "Failed", "Suspended"]


class Condition(StatusModel):
    """metav1.Condition."""

    type: Annotated[str, Field(max_length=316)]
    status: Literal["True", "False", "Unknown"]
    observed_generation: int | None = None
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    reason: Annotated[str, Field(max_length=1024, min_length=1)]
    message: Annotated[str, Field(max_length=32768)]


class StoreStatus(StatusModel):
    """How to reach the store that an artifact lies in; kept so that a changed spec.artifact leaves serving alone."""

    endpoint: str | None = None
    region: str | None = None
    credentials_secret: str | None = None
    """Name of the Secret."""
    claim_name: str | None = None
    """PersistentVolumeClaim, for artifacts on a volume."""


class ArtifactStatus(StatusModel):
    """A stored artifact."""

    uri: str
    """Where it lies: the store, then the key."""
    store: StoreStatus = StoreStatus()
    digest: str
    """sha256:<hex> of its manifest, which holds the digest of every file."""
    size_bytes: int
    """All files together."""


class OutputParityStatus(StatusModel):
    """Compiled against eager for one output at one shape."""

    output: str
    shape: str
    rows: int
    """Rows compared."""
    maximum_absolute_difference: str
    maximum_relative_difference: str
    minimum_cosine_similarity: str
    agreement: str | None = None
    """Share of rows with the same best-scored class."""
    non_finite: int = 0
    """NaN and infinite values."""
    passed: bool


class ParityStatus(StatusModel):
    """The parity of an artifact."""

    verdict: Literal["Passed", "Failed"]
    report: str | None = None
    """URI of the report."""
    outputs: Annotated[tuple[OutputParityStatus, ...], Field(max_length=64)] = ()
    """Figures, the worst first."""
    omitted: int = 0
    """Figures left out for want of room; the report has them."""


class CandidateStatus(StatusModel):
    """One form that the search for a precision looked at; the report has all figures."""

    precision: str
    frozen: bool = False
    """Weights were folded into the graph."""
    packed: bool = False
    """Weights of linear layers are laid out for oneDNN once, as the file is loaded."""
    kept_layers: int = 0
    """int8: linear layers left in float32."""
    threads: int | None = None
    """Compute threads that the speed was measured with."""
    texts_per_second: str | None = None
    """Absent where it was not measured."""
    minimum_cosine_similarity: str | None = None
    verdict: str
    """Passed, Failed, NotAvailable on the Job's node, or NotMeasured within the budget."""
    chosen: bool = False


class FailureStatus(StatusModel):
    """The last failure and what to do about it."""

    attempt: str | None = None
    """The attempt that failed; another attempt starts when the spec or the annotation torchscript.dev/retry changes."""
    stage: str
    """Where it failed: schedule, start, resolve, load, trace, parity, upload, replay, rollout, …"""
    reason: str
    message: str
    exit_code: int | None = None
    log_tail: Annotated[str | None, Field(max_length=4096)] = None
    """End of the container's log, when it left no report of its own."""
    time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class PendingStatus(StatusModel):
    """A compiled model that a Job on the accelerator has yet to prove; nothing serves it."""

    attempt: str
    """The attempt that compiled it."""
    key: str
    """Content address of the artifact to be."""
    digest: str
    """sha256:<hex> of what the Job that proves is given."""
    uri: str | None = None
    """Where it lies: the store, then the key."""
    store: StoreStatus = StoreStatus()
    size_bytes: int = 0
    """All files together."""
    source_revision: str | None = None
    """Commit, or digest of the source's files, that was compiled."""


class HistoryStatus(StatusModel):
    """An artifact that was proven before the newest one; the annotation torchscript.dev/rollback-to serves it again."""

    key: str | None = None
    """Content address."""
    artifact: ArtifactStatus
    worker_image: str
    """Image that made the artifact, and that serves it."""
    source_revision: str | None = None
    precision: str | None = None
    verdict: Literal["Passed", "Failed"] | None = None
    """Of its parity; Failed only where spec.parity.policy was Warn."""
    proven_time: Annotated[str | None, Field(json_schema_extra={"format": "date-time"})] = None


class LossStatus(StatusModel):
    """An artifact that serving pods no longer found in its store, and that was therefore exported again."""

    digest: str
    request: str
    """Digest of the request that it was made for."""
    times: int = 1
    """Losses of artifacts of that request; after the third a person has to look."""


class TargetStatus(StatusModel):
    """A target: its newest proven artifact, and the attempt under way or failed."""

    name: str
    state: TargetState
    """Of the attempt that the present spec asks for."""
    job: str | None = None
    """Job of the present attempt."""
    attempt: str | None = None
    """The attempt that made the artifact below."""
    request: str | None = None
    """Digest of the request that made it and of its volumes: unchanged, the present spec asks for the same."""
    retry: str | None = None
    """The value that the annotation torchscript.dev/retry had then: unchanged, it has been followed."""
    key: str | None = None
    """Content address of the artifact."""
    artifact: ArtifactStatus | None = None
    pending: PendingStatus | None = None
    """Compiled, not proven yet (spec.targets[].verify)."""
    source_revision: str | None = None
    """Commit, or digest of the source's files, that was exported."""
    precision: str | None = None
    """The precision of the artifact."""
    candidates: Annotated[tuple[CandidateStatus, ...], Field(max_length=32)] = ()
    """What precision int8 or auto was chosen from, the chosen form first."""
    parity: ParityStatus | None = None
    versions: dict[str, str] | None = None
    """torch, transformers, compiler and the like."""
    worker_image: str | None = None
    """Image that made the artifact, and that serves it."""
    proven_time: Annotated[str | None, Field(json_schema_extra={"format": "date-time"})] = None
    """When the Job that proved it ended."""
    duration_seconds: int | None = None
    """Seconds that this Job took, of which few where the store had the artifact already."""
    history: Annotated[tuple[HistoryStatus, ...], Field(max_length=128)] = ()
    """Artifacts proven before, the newest first: spec.revisionHistoryLimit of them, and the one that serves."""
    lost: LossStatus | None = None
    last_failure: FailureStatus | None = None


class PinStatus(StatusModel):
    """What the annotation torchscript.dev/rollback-to does."""

    to: str
    """Its value."""
    request: str
    """Digest of what the spec asked for when it was first seen."""
    ended: bool = False
    """An artifact of another spec has been proven since, so the annotation no longer counts; remove or change it."""
    failed_digest: str | None = None
    """As the target's own, about the artifact that it names: what is known of the newest one stays beside it."""
    failed_attempt: str | None = None
    last_failure: FailureStatus | None = None


class ServedArtifact(StatusModel):
    """What a Deployment runs, all that is needed to put it back."""

    artifact: ArtifactStatus
    worker_image: str


class ServingTargetStatus(StatusModel):
    """A Deployment."""

    name: str
    """The target."""
    deployment: str
    active: ServedArtifact | None = None
    """Last artifact that all pods were Ready with."""
    rolling_to: str | None = None
    """Digest that pods are being replaced for."""
    failed_digest: str | None = None
    """Digest whose pods did not become Ready; not tried again until the spec or torchscript.dev/retry changes."""
    pinned: PinStatus | None = None
    """The artifact is the one that the annotation torchscript.dev/rollback-to names."""
    failed_attempt: str | None = None
    """The rollout that failed: digest of the attempt and of the Deployment, replicas left out."""
    replicas: int = 0
    ready_replicas: int = 0
    last_failure: FailureStatus | None = None


class ServingStatus(StatusModel):
    """What answers requests."""

    url: str | None = None
    """Base URL inside the cluster."""
    replicas: int = 0
    """Pods of all Deployments."""
    ready_replicas: int = 0
    selector: str | None = None
    """Label selector of the pods, for the scale subresource."""
    targets: Annotated[tuple[ServingTargetStatus, ...], map_by("name")] = ()


class TorchScriptModelStatus(StatusModel):
    """The seen state of a model."""

    observed_generation: int | None = None
    """The generation of the spec that all of this is about."""
    conditions: Annotated[
        tuple[Condition, ...],
        map_by("type"),
    ] = ()
    """Ready, SourceResolved, Compiled, ParityVerified, Available, and kstatus's Reconciling and Stalled, all written at
    once. Ready is about what answers now and stays True while an update is prepared or has failed. That the present
    spec is carried out is Ready=True, Reconciling=False and Stalled=False with observedGeneration equal to
    metadata.generation: kstatus's Current. A failed update is Stalled=True (kstatus: Failed), with Ready=True for what
    still serves."""
    targets: Annotated[
        tuple[TargetStatus, ...],
        map_by("name"),
    ] = ()
    serving: ServingStatus | None = None
    deletion_policy: Literal["Retain", "Delete"] | None = None
    """What becomes of artifacts when the model is deleted, for a model that asks for Delete."""
    deletion_policy_message: str | None = None
    """Why artifacts stay although the model asks for Delete."""
    retired: Annotated[tuple[ArtifactStatus, ...], Field(max_length=256)] = ()
    """With deletionPolicy Delete: artifacts that nothing above names any more, to be removed with the model, the newest
    first. An older one than there is room for stays in its store."""
