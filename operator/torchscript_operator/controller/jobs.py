"""Export and verify Jobs: what a target asks for, the attempt it amounts to, and the Job for it. All pure."""

from torchscript_operator.api.v1alpha1.spec import Artifact, HuggingFaceSource, Target
from torchscript_operator.api.v1alpha1.status import PendingStatus, StoreStatus
from torchscript_operator.artifact import digest, request
from torchscript_operator.artifact.failures import CLASSES
from torchscript_operator.controller import placement, pods
from torchscript_operator.controller.model import ATTEMPT_LABEL, EXPORT, VERIFY, Json, Model
from torchscript_operator.controller.placement import Place
from torchscript_operator.controller.settings import Settings

CONTAINER = "export"
ATTEMPT_DIGITS = 10
"""Hexadecimal digits of an attempt; enough that a model never sees two alike."""
COMPILER_SHARE = 0.9
"""Of a Job's deadline, what one call of a compiler may take: it then has time to say that it was too long."""
SEARCHED = ("int8", "auto")
"""Precisions whose form is found by measuring; only for these does the budget belong to the request."""


VARIABLE_BYTES = 128 * 1024
"""Linux takes no environment variable of so many bytes, its name included (MAX_ARG_STRLEN in execve(2))."""
MARGIN_BYTES = 1024
"""For the variable's name, and for what the request of a second step has more."""


class NoArtifactStoreError(Exception):
    """Neither the model nor the operator's settings name a store."""


class NotTrustedError(Exception):
    """A model asks for more trust than the operator's settings allow; the text names what."""


def trust_of(model: Model, settings: Settings) -> tuple[request.Trust, ...]:
    """What both the model and the settings trust. Raises NotTrustedError when the model asks for more."""
    asked = tuple(sorted(set(model.spec.source.trust or ())))
    refused = [name for name in asked if name not in settings.trust]
    if refused:
        raise NotTrustedError(", ".join(refused))
    return asked


def worker_image(target: Target, settings: Settings) -> str:
    """The image that exports a target: the model's, the compiler's or the general one."""
    return target.job.image or settings.defaults(target.compiler).image or settings.worker_image


def artifact_of(model: Model, settings: Settings) -> Artifact:
    """The store of a model's artifacts. Raises NoArtifactStoreError."""
    chosen = model.spec.artifact or settings.artifact_store
    if chosen is None:
        raise NoArtifactStoreError
    return chosen


def store_status(artifact: Artifact) -> StoreStatus:
    """How to reach a store, as it is remembered beside an artifact."""
    return StoreStatus(
        endpoint=artifact.endpoint,
        region=artifact.region,
        credentials_secret=artifact.credentials_secret.name if artifact.credentials_secret else None,
        claim_name=artifact.persistent_volume_claim.claim_name if artifact.persistent_volume_claim else None,
    )


def store_location(artifact: Artifact) -> request.StoreLocation:
    """Where the worker writes."""
    if artifact.persistent_volume_claim is not None:
        return request.StoreLocation(uri=pods.folder_uri(artifact.persistent_volume_claim.path))
    if artifact.uri is None:
        raise NoArtifactStoreError
    return request.StoreLocation(uri=artifact.uri.rstrip("/"), endpoint=artifact.endpoint, region=artifact.region)


def source_of(model: Model) -> request.Source:
    """The worker's view of the source."""
    source = model.spec.source
    if source.hugging_face is not None:
        hub = source.hugging_face
        return request.HuggingFaceSource(repository=hub.repository, revision=hub.revision, endpoint=hub.endpoint)
    if source.s3 is not None:
        return request.S3Source(uri=source.s3.uri, endpoint=source.s3.endpoint, region=source.s3.region)
    if source.persistent_volume_claim is not None:
        return request.FolderSource(path=f"{request.SOURCE_MOUNT}/{source.persistent_volume_claim.path}".rstrip("/"))
    msg = "the API server lets no source pass that names none of the three kinds"
    raise ValueError(msg)


def samples_of(model: Model) -> request.Samples:
    """The user's texts, or the name of the ConfigMap that holds them."""
    samples = model.spec.inputs.samples
    if samples is None:
        return request.Samples()
    if samples.config_map is not None:
        return request.Samples(reference=f"{samples.config_map.name}/{samples.config_map.key}")
    return request.Samples(texts=samples.texts or ())


def export_request(model: Model, target: Target, settings: Settings) -> request.ExportRequest:
    """Everything a target's export depends on. Raises NoArtifactStoreError and NotTrustedError."""
    spec = model.spec
    return request.ExportRequest(
        model=f"{model.namespace}/{model.name}",
        target=target.name,
        source=source_of(model),
        trust=trust_of(model, settings) or None,
        task=spec.task,
        shapes=tuple(request.Shape(batch=shape.batch, sequence=shape.sequence) for shape in spec.inputs.shapes),
        samples=samples_of(model),
        parity=request.RequestedTolerances(**spec.parity.model_dump()),
        store=store_location(artifact_of(model, settings)),
        compilation=request.Compilation(
            compiler=target.compiler,
            arguments=placement.arguments(target, settings),
            precision=target.precision,
            search_seconds=target.precision_search_seconds if target.precision in SEARCHED else None,
        ),
        worker_image=worker_image(target, settings),
        proof=None if target.verify is None else "Deferred",
    )


def oversized(wanted: request.ExportRequest) -> str | None:
    """Why no container would start with a request; None for one that fits."""
    size, most = len(wanted.to_json().encode()), VARIABLE_BYTES - MARGIN_BYTES
    if size <= most:
        return None
    return (
        f"The request to the worker has {size} bytes and an environment variable holds {most}. Give fewer or shorter "
        "texts in spec.inputs.samples.texts, or put 100 KiB of them into a ConfigMap (spec.inputs.samples.configMap)."
    )


def identity(model: Model, settings: Settings, wanted: request.ExportRequest) -> str:
    """Digest of what an artifact depends on: the request, and the volumes, which the request knows by path alone."""
    source = model.spec.source.persistent_volume_claim
    claims = [source.claim_name if source else None, store_status(artifact_of(model, settings)).claim_name]
    return digest.of_value([wanted.digest(), claims])


def attempt(model: Model, target: Target, wanted_identity: str) -> str:
    """Name one try at one request: another credential, placement or retry annotation, or a loss, makes another try."""
    store = model.spec.artifact
    references: list[object] = [
        # Without what is absent, so that a field that a later release adds starts nothing anew.
        model.spec.source.model_dump(mode="json", exclude_none=True),
        store.model_dump(mode="json", exclude_none=True) if store else None,
        target.job.model_dump(mode="json", exclude={"retry_memory"}),
        model.retry,
    ]
    lost = model.target_status(target.name).lost
    if lost is not None and lost.request == wanted_identity:
        references.append([lost.digest, lost.times])
    return digest.of_value([wanted_identity, references])[:ATTEMPT_DIGITS]


def verify_attempt(target: Target, export_attempt: str, pending: PendingStatus) -> str:
    """Name one try at proving what an attempt compiled: another placement makes another try, and compiles nothing."""
    where = target.verify.model_dump(mode="json", exclude={"retry_memory"}) if target.verify else None
    return digest.of_value([export_attempt, pending.digest, where])[:ATTEMPT_DIGITS]


def larger_attempt(first: str, memory: str) -> str:
    """Name the second try at what was killed for want of memory in a first one."""
    return digest.of_value([first, memory])[:ATTEMPT_DIGITS]


def memory_limit(target: Target, settings: Settings, *, verifying: bool) -> str | None:
    """The memory that a first try may use; None where nothing limits it."""
    place = placement.verify(target, settings) if verifying else placement.job(target, settings)
    found: str | None = place.container_resources().get("limits", {}).get("memory")
    return found


def verify_name(model: Model, attempt_id: str) -> str:
    """Name of the Job of a try at proving, at most 58 characters."""
    return f"{model.name}-{VERIFY}-{attempt_id}"


def job_name(model: Model, attempt_id: str) -> str:
    """Name of an attempt's Job, at most 58 characters."""
    return f"{model.name}-{EXPORT}-{attempt_id}"


def failure_policy() -> Json:
    """Retry what can pass by itself; stop at once on what cannot; a disrupted pod is no failure at all."""
    permanent = sorted({known.exit_code for known in CLASSES.values() if not known.transient})
    return {
        "rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {
                "action": "FailJob",
                "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": permanent},
            },
        ]
    }


def build(
    model: Model,
    target: Target,
    settings: Settings,
    wanted: request.ExportRequest,
    attempt_id: str,
    memory: str | None = None,
) -> Json:
    """The Job of an attempt, with another amount of memory where one is given."""
    return _build(model, target, settings, wanted, (job_name(model, attempt_id), attempt_id), memory)


def build_verify(
    model: Model,
    target: Target,
    settings: Settings,
    wanted: request.ExportRequest,
    attempt_id: str,
    pending: PendingStatus,
    memory: str | None = None,
) -> Json:
    """The Job of a try at proving what lies under a key, with another amount of memory where one is given."""
    location = request.PendingLocation(key=pending.key, digest=pending.digest)
    asked = wanted.model_copy(update={"pending": location})
    return _build(model, target, settings, asked, (verify_name(model, attempt_id), attempt_id), memory)


def _place(target: Target, settings: Settings, wanted: request.ExportRequest) -> Place:
    return placement.job(target, settings) if wanted.pending is None else placement.verify(target, settings)


def _with_memory(resources: Json, memory: str | None) -> Json:
    if memory is None:
        return resources
    return {side: {**resources.get(side, {}), "memory": memory} for side in ("requests", "limits")}


def _reach_the_hub(parts: pods.PodParts, hub: HuggingFaceSource, settings: Settings) -> None:
    """Add the token, the mirror, and no telemetry, whatever the image says."""
    parts.set(request.HUB_TELEMETRY_VARIABLE, "1")
    if hub.token_secret is not None:
        parts.secret(request.HUB_TOKEN_VARIABLE, hub.token_secret.name, hub.token_secret.key)
    if hub.endpoint is None and settings.hugging_face_endpoint is not None:
        parts.set(request.HUB_ENDPOINT_VARIABLE, settings.hugging_face_endpoint)
    if settings.ca_bundle is not None:
        # The Hub's binary protocol has TLS code of its own; plain HTTPS is what the certificates are known to work for.
        parts.set(request.HUB_PLAIN_VARIABLE, "1")


def _build(
    model: Model,
    target: Target,
    settings: Settings,
    wanted: request.ExportRequest,
    name_and_attempt: tuple[str, str],
    memory: str | None,
) -> Json:
    name, attempt_id = name_and_attempt
    defaults = settings.defaults(target.compiler)
    deadline = target.job.active_deadline_seconds or defaults.active_deadline_seconds
    place = _place(target, settings, wanted)
    labels = {**model.labels(EXPORT, target.name), ATTEMPT_LABEL: attempt_id}
    parts = pods.PodParts()
    parts.set(request.EXPORT_VARIABLE, wanted.to_json())
    if target.compiler == "neuron" and wanted.pending is None:
        parts.set(request.COMPILER_TIMEOUT_VARIABLE, str(int(deadline * COMPILER_SHARE)))
    source = model.spec.source
    if source.hugging_face is not None:
        _reach_the_hub(parts, source.hugging_face, settings)
    if source.s3 is not None and source.s3.credentials_secret is not None:
        parts.credentials(request.SOURCE_CREDENTIALS_PREFIX, source.s3.credentials_secret.name)
    if source.persistent_volume_claim is not None:
        claim = source.persistent_volume_claim.claim_name
        parts.claim("source", claim, request.SOURCE_MOUNT, read_only=True)
    samples = model.spec.inputs.samples
    if samples is not None and samples.config_map is not None:
        reference = {"name": samples.config_map.name, "key": samples.config_map.key}
        parts.environment.append({"name": request.SAMPLES_VARIABLE, "valueFrom": {"configMapKeyRef": reference}})
    parts.artifact_store(store_status(artifact_of(model, settings)), read_only=False)
    container = {
        "name": CONTAINER,
        "image": wanted.worker_image,
        "command": ["python", "-m", "torchscript_operator.export"],
        "resources": _with_memory(place.container_resources(), memory),
    }
    limit = target.job.backoff_limit
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": model.namespace,
            "labels": labels,
            "ownerReferences": [model.owner_reference],
        },
        "spec": {
            "backoffLimit": defaults.backoff_limit if limit is None else limit,
            "activeDeadlineSeconds": deadline,
            "ttlSecondsAfterFinished": settings.job_history_seconds,
            "podFailurePolicy": failure_policy(),
            # A pod that is still ending must not race its replacement for the node's memory.
            "podReplacementPolicy": "Failed",
            "template": {
                "metadata": {"labels": labels},
                "spec": pods.job_pod_spec(settings, model.namespace, container, parts, place.scheduling()),
            },
        },
    }
