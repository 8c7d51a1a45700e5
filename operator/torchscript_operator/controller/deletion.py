"""What happens to artifacts when a model is deleted that asks for their removal. All pure.

A Job removes what the model's status names, or an ended Job has reported since, and no other model's status names. The
Job has no owner: a model that is deleted in the foreground would otherwise take it along before it is done. Whatever
happens, the model goes in the end: a Job that fails for good, or that cannot be created, leaves artifacts behind and an
Event that says which.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from torchscript_operator.api.v1alpha1.status import ArtifactStatus, StoreStatus, TorchScriptModelStatus
from torchscript_operator.artifact import digest, request
from torchscript_operator.controller import diagnose, export_plan, jobs, pods
from torchscript_operator.controller.model import COMPONENT_LABEL, EXPORT, FINALIZER, REMOVE, Json, Model
from torchscript_operator.controller.observed import Observed, condition, ended, is_true, label, owned
from torchscript_operator.controller.settings import Settings

TRIES = 4
"""Pods of a removal Job, as long as what fails may pass by itself."""
DEADLINE_SECONDS = 900
"""For a removal Job, the time in which its pod finds no node included."""
GIVE_UP_SECONDS = 3600
"""After this time since the deletion a model goes, whatever it waits for."""
LOOK_SECONDS = 30.0
"""Time to the next look while something is waited for."""
RESOURCES = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}}
MOST_RETIRED = 256
"""Artifacts remembered for removal alone; the schema has room for no more."""
TERMINATING = "because it is being terminated"
"""What the API server says of a namespace in which nothing can be created any more."""

Place = tuple[str, StoreStatus]
"""A store: the uri above its keys, and how to reach it."""


@dataclass(frozen=True)
class Departure:
    """The next step of a model that is being deleted."""

    create: tuple[Json, ...] = ()
    delete: tuple[Json, ...] = ()
    look_for_others: bool = False
    """Whether something is removed depends on what all other models refer to."""
    release: bool = False
    """Nothing is left to do: the finalizer can go."""
    retained: str | None = None
    """Which artifacts stay although they were to go, and why."""


def effective(model: Model, settings: Settings) -> Literal["Retain", "Delete"] | None:
    """What becomes of a model's artifacts; None for one that does not ask for their removal."""
    store = model.spec.artifact or settings.artifact_store
    if store is None or store.deletion_policy == "Retain":
        return None
    # The RoleBinding that a scoped operator has in a namespace goes with that, maybe before the models do.
    return "Retain" if settings.watch_namespaces else "Delete"


def retained_because(model: Model, settings: Settings) -> str | None:
    """Why artifacts stay although a model asks for their removal."""
    if effective(model, settings) != "Retain":
        return None
    return (
        "The operator watches a list of namespaces and could lose its rights in one before its finalizer is gone: it "
        "sets none, so artifacts stay in their store when the model is deleted. Remove them by hand."
    )


def finalizers(model: Model, settings: Settings, present: Iterable[str]) -> list[str] | None:
    """Our finalizers that a live model is to have; None where it has them already."""
    wanted = [FINALIZER] if effective(model, settings) == "Delete" else []
    return None if [name for name in present if name == FINALIZER] == wanted else wanted


def _volume(namespace: str, store: Json) -> str:
    """A folder's uri is only unique together with its claim."""
    claim = store.get("claimName")
    return f"{namespace}/{claim}" if claim else ""


def references(body: Json) -> set[tuple[str, str]]:
    """Artifacts that a model's status names, as volume and uri. Endpoints are left out: better one spared too many."""
    namespace, status = body["metadata"]["namespace"], body.get("status") or {}
    holders = [entry for target in status.get("targets") or [] for entry in [target, *(target.get("history") or [])]]
    holders += [target.get("active") or {} for target in (status.get("serving") or {}).get("targets") or []]
    artifacts = [holder["artifact"] for holder in holders if holder.get("artifact")]
    return {(_volume(namespace, artifact.get("store") or {}), artifact["uri"]) for artifact in artifacts}


def pending_keys(body: Json) -> set[str]:
    """Keys that a model has compiled and is about to prove."""
    targets = (body.get("status") or {}).get("targets") or []
    return {target["pending"]["key"] for target in targets if target.get("pending")}


def _named(status: TorchScriptModelStatus) -> list[ArtifactStatus]:
    """Artifacts that a status can still serve."""
    found = [target.artifact for target in status.targets if target.artifact]
    found += [entry.artifact for target in status.targets for entry in target.history]
    if status.serving is not None:
        found += [target.active.artifact for target in status.serving.targets if target.active]
    return found


def _unproven(status: TorchScriptModelStatus) -> list[ArtifactStatus]:
    """What a status holds as compiled and not proven, so far as it says where that lies."""
    pending = [target.pending for target in status.targets if target.pending]
    return [
        ArtifactStatus(uri=it.uri, store=it.store, digest=it.digest, size_bytes=it.size_bytes)
        for it in pending
        if it.uri is not None
    ]


def retired(model: Model, settings: Settings, status: TorchScriptModelStatus) -> tuple[ArtifactStatus, ...]:
    """Artifacts, proven or not, that a model has had and its new status no longer names; none where they all stay."""
    if (model.spec.artifact or settings.artifact_store) is None:
        # Until somebody says again where artifacts lie and whether they stay.
        return model.status.retired
    if effective(model, settings) != "Delete":
        return ()
    named = {(it.uri, it.store.claim_name) for it in (*_named(status), *_unproven(status))}
    before = (*_named(model.status), *_unproven(model.status), *model.status.retired)
    had = {(it.uri, it.store.claim_name): it for it in before}
    return tuple(it for place, it in had.items() if place not in named)[:MOST_RETIRED]


def keys(model: Model, settings: Settings) -> dict[Place, list[str]]:
    """All that a model's status names, by store."""
    found: list[tuple[str, str, StoreStatus]] = []
    for artifact in (*_named(model.status), *_unproven(model.status), *model.status.retired):
        uri, _, key = artifact.uri.rpartition("/")
        found.append((uri, key, artifact.store))
    pending = [it.pending.key for it in model.status.targets if it.pending and it.pending.uri is None]
    if pending:
        chosen = jobs.artifact_of(model, settings)
        found += [(jobs.store_location(chosen).uri, key, jobs.store_status(chosen)) for key in pending]
    # Of several ways to reach one store the first is the newest.
    reach: dict[tuple[str, str | None], StoreStatus] = {}
    named: dict[Place, set[str]] = {}
    for uri, key, store in found:
        named.setdefault((uri, reach.setdefault((uri, store.claim_name), store)), set()).add(key)
    return {place: sorted(names) for place, names in named.items()}


def job_name(model: Model, place: Place) -> str:
    """Name of the Job that removes a model's artifacts from one store, at most 58 characters."""
    uri, store = place
    identity = digest.of_value([model.uid, uri, store.model_dump(mode="json")])
    return f"{model.name}-{REMOVE}-{identity[: jobs.ATTEMPT_DIGITS]}"


def build(model: Model, settings: Settings, place: Place, removed: list[str]) -> Json:
    """The Job that removes artifacts from one store."""
    uri, store = place
    labels = model.labels(REMOVE)
    location = request.StoreLocation(uri=uri, endpoint=store.endpoint, region=store.region)
    asked = request.RemoveRequest(model=f"{model.namespace}/{model.name}", store=location, keys=tuple(removed))
    parts = pods.PodParts()
    parts.set(request.REMOVE_VARIABLE, asked.to_json())
    parts.artifact_store(store, read_only=False)
    defaults = settings.defaults("torchscript")
    container = {
        "name": jobs.CONTAINER,
        "image": defaults.image or settings.worker_image,
        "command": ["python", "-m", "torchscript_operator.export.remove"],
        "resources": RESOURCES,
    }
    scheduling = pods.placement(defaults.job.node_selector, defaults.job.tolerations, None)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": job_name(model, place), "namespace": model.namespace, "labels": labels},
        "spec": {
            "backoffLimit": TRIES - 1,
            "activeDeadlineSeconds": DEADLINE_SECONDS,
            "ttlSecondsAfterFinished": settings.job_history_seconds,
            "podFailurePolicy": jobs.failure_policy(),
            "template": {
                "metadata": {"labels": labels},
                "spec": pods.job_pod_spec(settings, model.namespace, container, parts, scheduling),
            },
        },
    }


def _writing(model: Model, observed: Observed) -> bool:
    """Whether an export of the model may still upload something."""
    return any(
        label(pod, COMPONENT_LABEL) == EXPORT and pod.get("status", {}).get("phase") not in {"Succeeded", "Failed"}
        for pod in observed.pods
    ) or any(owned(job, model.uid) and not ended(job) for job in observed.jobs)


def _failure(job: Json, observed: Observed) -> str:
    failed = condition(job, "Failed") or {}
    tries = observed.job_pods(job)
    if failed.get("reason") == "DeadlineExceeded":
        trouble = diagnose.pod_trouble(tries[-1], diagnose.JOB_FIELDS) if tries else None
        because = f" Last seen: {trouble.message}" if trouble else ""
        return f"the Job took longer than {DEADLINE_SECONDS} s.{because}"
    return diagnose.job_failure(job, tries).message


def overdue(deleted: str, now: datetime) -> bool:
    """Whether a model that was deleted at a time has waited long enough."""
    return diagnose.seconds_since(deleted, now) > GIVE_UP_SECONDS


def _taken_in(model: Model, settings: Settings, observed: Observed, now: datetime) -> Model:
    """A model with what its Jobs have reported and its status does not hold yet."""
    try:
        told = [export_plan.plan(model, target, settings, observed, now).status for target in model.spec.targets]
    except jobs.NotTrustedError:
        return model
    return replace(model, status=model.status.model_copy(update={"targets": (*model.status.targets, *told)}))


def plan(
    model: Model, settings: Settings, observed: Observed, others: Iterable[Json] | None, deleted: str, now: datetime
) -> Departure:
    """Decide the next step; `others` are all other models that are there to stay, None when not looked for yet."""
    removes = effective(model, settings) == "Delete"
    wanted = keys(_taken_in(model, settings, observed, now), settings) if removes else {}
    if not wanted:
        return Departure(release=True)
    if overdue(deleted, now):
        return Departure(release=True, retained=_told(wanted, f"waited for more than {GIVE_UP_SECONDS} s."))
    if _writing(model, observed):
        return Departure(delete=tuple(job for job in observed.jobs if owned(job, model.uid) and not ended(job)))
    todo = [place for place in wanted if observed.job(job_name(model, place)) is None]
    if todo and others is None:
        return Departure(look_for_others=True)
    create = _jobs(model, settings, {place: wanted[place] for place in todo}, list(others or ()))
    started = [observed.job(job_name(model, place)) for place in wanted if place not in todo]
    if create or any(job is not None and not ended(job) for job in started):
        return Departure(create=create)
    failed = [job for job in started if job is not None and is_true(job, "Failed")]
    because = " ".join(dict.fromkeys(_failure(job, observed) for job in failed))
    return Departure(release=True, retained=_told(wanted, because) if failed else None)


def _jobs(model: Model, settings: Settings, wanted: dict[Place, list[str]], others: list[Json]) -> tuple[Json, ...]:
    """Jobs that remove what no other model refers to."""
    used = set().union(*(references(body) for body in others))
    compiled = set().union(*(pending_keys(body) for body in others))
    found = []
    for (uri, store), names in wanted.items():
        volume = _volume(model.namespace, {"claimName": store.claim_name})
        removed = [key for key in names if (volume, f"{uri}/{key}") not in used and key not in compiled]
        if removed:
            found.append(build(model, settings, (uri, store), removed))
    return tuple(found)


def _told(wanted: dict[Place, list[str]], because: str) -> str:
    named = ", ".join(f"{uri}/{key}" for (uri, _), names in wanted.items() for key in names)
    return f"Remove by hand what no other model uses of {named}: {because}"
