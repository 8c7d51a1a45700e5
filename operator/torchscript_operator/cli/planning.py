"""tsm plan: what the operator would do about a file, decided by the operator's own planner. All pure.

The file's spec is put in the place of the live one, with the live status and children; without a cluster, in the place
of a base that is taken to be rolled out. What the planner then creates, applies and deletes is the plan.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from torchscript_operator.api import conditions
from torchscript_operator.api.v1alpha1.spec import Target
from torchscript_operator.api.v1alpha1.status import ArtifactStatus, TargetStatus, TorchScriptModelStatus
from torchscript_operator.cli.cluster import nodes as cluster_nodes
from torchscript_operator.cli.cluster.access import Json
from torchscript_operator.cli.cluster.nodes import Fit
from torchscript_operator.cli.cluster.read import ModelView
from torchscript_operator.controller import jobs, placement
from torchscript_operator.controller import plan as planner
from torchscript_operator.controller.drift import contains
from torchscript_operator.controller.model import DIGEST_ANNOTATION, TARGET_LABEL, Model
from torchscript_operator.controller.observed import Observed, label
from torchscript_operator.controller.plan import Plan
from torchscript_operator.controller.serving import deployment_name
from torchscript_operator.controller.settings import Settings

Action = Literal["unchanged", "cached", "export", "verify", "running", "failed", "suspended", "refused"]
Roll = Literal["create", "roll", "scale", "update", "delete", "after proof"]
CHANGING: frozenset[Action] = frozenset({"cached", "export", "verify"})
"""Actions that start something."""
STARTED: frozenset[Action] = frozenset({"export", "verify", "running"})
"""Actions whose artifact is still to come."""
PROBLEMS = frozenset(
    {conditions.NO_ARTIFACT_STORE, conditions.NAME_CONFLICT, conditions.INCOMPATIBLE_NODE, conditions.ROLLBACK_UNKNOWN}
)
"""Reasons of a stall that the file itself, or what is there already, gives."""
SETTLING_PASSES = 4
"""More than the planner needs from nothing to everything applied."""
RENAMED = {
    "compilation.arguments": "spec.targets[{target}].compilerArguments",
    "compilation.searchSeconds": "spec.targets[{target}].precisionSearchSeconds",
    "workerImage": "worker image",
    "proof": "spec.targets[{target}].verify",
}
NOT_INPUTS = ("model", "target", "schemaVersion", "pending")
"""Fields of a request that no artifact depends on."""


@dataclass(frozen=True)
class Change:
    """A value that differs."""

    path: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Placing:
    """Where the pods of one kind would go."""

    kind: str
    """export, verify or serving."""
    scheduling: Json
    resources: Json
    fit: Fit | None = None
    """None without a cluster, or without the right to list nodes."""


@dataclass(frozen=True)
class TargetPlan:
    """What becomes of a target."""

    name: str
    action: Action
    why: str
    """One sentence."""
    changes: tuple[Change, ...] = ()
    """Inputs of the export that differ from those that the present artifact was made from."""
    key: str | None = None
    """Of the artifact, where it is known before the export."""
    job: str | None = None
    places: tuple[Placing, ...] = ()


@dataclass(frozen=True)
class RollPlan:
    """What becomes of a child other than a Job."""

    kind: str
    name: str
    action: Roll
    why: str
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class ModelPlan:
    """What becomes of a model."""

    namespace: str
    name: str
    new: bool
    """There is no such model yet."""
    spec_changes: tuple[Change, ...]
    targets: tuple[TargetPlan, ...]
    rolls: tuple[RollPlan, ...]
    problems: tuple[str, ...] = ()
    """Why it could not be carried out; each says what to do."""
    notes: tuple[str, ...] = ()

    @property
    def changes(self) -> bool:
        """Whether applying the file changes anything."""
        acts = any(target.action in CHANGING for target in self.targets)
        return self.new or bool(self.spec_changes) or acts or bool(self.rolls)


@dataclass(frozen=True)
class Surroundings:
    """What a file is planned against."""

    settings: Settings
    others: tuple[ModelView, ...] = ()
    """Other models, whose artifacts a target may find in the store."""
    nodes: tuple[Json, ...] | None = None
    notes: tuple[str, ...] = field(default=())


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of an object by their paths; a list whose items have no names is a leaf."""
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from flat(item, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) and "name" in item for item in value):
        for item in value:
            rest = {name: inner for name, inner in item.items() if name != "name"}
            yield from flat(rest or None, f"{prefix}[{item['name']}]")
            yield f"{prefix}[{item['name']}].name", item["name"]
    elif value is not None:
        yield prefix, value


def differences(before: Any, after: Any) -> tuple[Change, ...]:
    """Leaves that differ, in the order of their paths."""
    old, new = dict(flat(before)), dict(flat(after))
    return tuple(
        Change(path, old.get(path), new.get(path))
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    )


def inputs(model: Model, target: Target, settings: Settings, image: str | None = None) -> Json:
    """What a target's artifact depends on, as far as a spec and the settings tell, by the request's names."""
    wanted = jobs.export_request(model, target, settings)
    if image is not None:
        wanted = wanted.model_copy(update={"worker_image": image})
    found = wanted.model_dump(mode="json", by_alias=True, exclude_none=True)
    kept = {name: value for name, value in found.items() if name not in NOT_INPUTS}
    source = model.spec.source.persistent_volume_claim
    volume = jobs.store_status(jobs.artifact_of(model, settings)).claim_name
    claims = {"source": source.claim_name if source else None, "artifact": volume}
    return {**kept, "claims": {name: claim for name, claim in claims.items() if claim}}


def named(change: Change, target: str) -> Change:
    """The same with the path that the user knows."""
    for inner, path in RENAMED.items():
        if change.path == inner or change.path.startswith(f"{inner}."):
            return replace(change, path=path.format(target=target))
    first, _, rest = change.path.partition(".")
    if first == "claims":
        return replace(change, path=f"spec.{rest}.persistentVolumeClaim.claimName")
    if first == "compilation":
        return replace(change, path=f"spec.targets[{target}].{rest}")
    if first in {"shapes", "samples"}:
        return replace(change, path=f"spec.inputs.{change.path}")
    if first == "store":
        return replace(change, path=f"spec.artifact.{rest}")
    return replace(change, path=f"spec.{change.path}")


def merged(wanted: Model, live: ModelView | None) -> Model:
    """The file's spec and annotations on the live object."""
    if live is None:
        return wanted
    same = wanted.spec == live.model.spec
    return replace(
        live.model,
        spec=wanted.spec,
        annotations={**live.model.annotations, **wanted.annotations},
        generation=live.model.generation + (0 if same else 1),
    )


def settled(base: Model, settings: Settings, now: datetime) -> tuple[Model, Observed]:
    """A model, and its children, as if its spec had been exported, proven and rolled out."""
    statuses = []
    for target in base.spec.targets:
        wanted = jobs.export_request(base, target, settings)
        identity = jobs.identity(base, settings, wanted)
        digest = f"sha256:{identity}"
        store = jobs.store_status(jobs.artifact_of(base, settings))
        artifact = ArtifactStatus(uri=f"{wanted.store.uri}/{identity}", digest=digest, size_bytes=0, store=store)
        statuses.append(
            TargetStatus(
                name=target.name,
                state="Proven",
                attempt=jobs.attempt(base, target, identity),
                request=identity,
                artifact=artifact,
                worker_image=wanted.worker_image,
            )
        )
    model = replace(base, status=TorchScriptModelStatus(observed_generation=1, targets=tuple(statuses)))
    observed = Observed()
    for _ in range(SETTLING_PASSES):
        planned = planner.plan(model, settings, observed, now)
        model = replace(model, status=planned.status)
        for body in planned.apply:
            observed = _with(observed, _stored(body))
    return model, observed


def _stored(body: Json) -> Json:
    """An applied child as the API server and its controller would have it once all is done."""
    metadata = {**body["metadata"], "uid": body["metadata"]["name"], "generation": 1}
    count = body.get("spec", {}).get("replicas", 1)
    status = {
        "observedGeneration": 1,
        **dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), count),
    }
    return {**body, "metadata": metadata, "status": status}


def _with(observed: Observed, body: Json) -> Observed:
    name = body["metadata"]["name"]
    if body["kind"] == "Service":
        return replace(observed, service=body)
    group = {
        "Deployment": "deployments",
        "HorizontalPodAutoscaler": "autoscalers",
        "PodDisruptionBudget": "budgets",
    }[body["kind"]]
    others = [item for item in getattr(observed, group) if item["metadata"]["name"] != name]
    changed: dict[str, Any] = {group: (*others, body)}
    return replace(observed, **changed)


def plan(wanted: Model, before: ModelView | None, around: Surroundings, now: datetime) -> ModelPlan:
    """Decide what the operator would do about a model; `before` is what is there, or a base taken to be there."""
    model = merged(wanted, before)
    observed = before.children if before else Observed()
    planned = planner.plan(model, around.settings, observed, now)
    changes = differences(_spec(before.model), _spec(wanted)) if before else ()
    changes = tuple(replace(change, path=f"spec.{change.path}") for change in changes)
    try:
        targets = tuple(_target(model, target, before, around, planned) for target in model.spec.targets)
    except jobs.NoArtifactStoreError:
        targets = ()
    rolls = tuple(_rolls(model, observed, planned, targets))
    stalled = [it for it in planned.status.conditions if it.type == conditions.STALLED and it.status == "True"]
    problems = [it.message for it in stalled if it.reason in PROBLEMS]
    return ModelPlan(
        namespace=model.namespace,
        name=model.name,
        new=before is None,
        spec_changes=changes,
        targets=targets,
        rolls=rolls,
        problems=tuple(problems),
        notes=around.notes,
    )


def _spec(model: Model) -> Json:
    dumped: Json = model.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    return dumped


def _target(model: Model, target: Target, before: ModelView | None, around: Surroundings, planned: Plan) -> TargetPlan:
    status = next((it for it in planned.status.targets if it.name == target.name), None)
    job = next((body["metadata"]["name"] for body in planned.create if label(body, TARGET_LABEL) == target.name), None)
    made = TargetPlan(
        name=target.name,
        action="refused",
        why="the model as a whole cannot be planned",
        changes=_why(model, target, before, around.settings),
        job=job or (status.job if status else None),
        places=_places(model, target, around),
    )
    if status is None:
        return made
    if job is None:
        return _without_job(made, model.target_status(target.name), status)
    if status.pending is not None:
        return replace(made, action="verify", key=status.pending.key, why="compiled already; a Job proves it")
    return _with_job(made, model, target, around)


def _without_job(made: TargetPlan, known: TargetStatus, status: TargetStatus) -> TargetPlan:
    """A target for which no Job would be created."""
    if status.state == "Proven" and _same(known, status):
        return replace(made, action="unchanged", key=status.key, why="its artifact is proven already", changes=())
    if status.state == "Proven":
        why = f"Job {status.job} has made it already: nothing is computed"
        return replace(made, action="cached", key=status.key, why=why)
    if status.state == "Suspended":
        return replace(made, action="suspended", why="spec.suspend is set: no export starts")
    failure = status.last_failure if status.state == "Failed" else None
    if failure is not None and failure.attempt is None:
        return replace(made, why=failure.message, job=None)
    if failure is not None:
        why = f"this very request has failed already ({failure.reason}); it is tried again after a change, or tsm retry"
        return replace(made, action="failed", why=why)
    return replace(made, action="running", why=f"Job {status.job} is at it")


def _with_job(made: TargetPlan, model: Model, target: Target, around: Surroundings) -> TargetPlan:
    """A target for which a Job would be created, to export it or to find it in the store."""
    other = _elsewhere(model, target, around)
    if other is not None:
        view, found = other
        why = f"a Job starts, and finds in the store what {view.model.namespace}/{view.model.name} has made"
        return replace(made, action="cached", key=found.key, why=_moving(model, why))
    why = "there is no artifact yet"
    if model.target_status(target.name).artifact is not None:
        retried = not made.changes and model.retry
        why = "the annotation torchscript.dev/retry asks for it" if retried else "other inputs than its artifact has"
    return replace(made, action="export", why=why)


def _same(known: TargetStatus, status: TargetStatus) -> bool:
    return bool(known.artifact and status.artifact and known.artifact.digest == status.artifact.digest)


def _moving(model: Model, why: str) -> str:
    hub = model.spec.source.hugging_face
    if hub is None or len(hub.revision) == 40:  # noqa: PLR2004 - digits of a commit
        return why
    return f"{why}, unless {hub.revision} of {hub.repository} has moved since"


def _why(model: Model, target: Target, before: ModelView | None, settings: Settings) -> tuple[Change, ...]:
    if before is None:
        return ()
    old = next((it for it in before.model.spec.targets if it.name == target.name), None)
    if old is None:
        return ()
    image = before.model.target_status(target.name).worker_image
    found = differences(inputs(before.model, old, settings, image), inputs(model, target, settings))
    return tuple(named(change, target.name) for change in found)


def _elsewhere(model: Model, target: Target, around: Surroundings) -> tuple[ModelView, TargetStatus] | None:
    """Another model's target that asks for the same, and has it."""
    mine = json.dumps(inputs(model, target, around.settings), sort_keys=True)
    for view in around.others:
        if view.unreadable or (view.model.namespace, view.model.name) == (model.namespace, model.name):
            continue
        for theirs in view.model.spec.targets:
            status = view.model.target_status(theirs.name)
            if status.state != "Proven" or status.artifact is None:
                continue
            if json.dumps(inputs(view.model, theirs, around.settings, status.worker_image), sort_keys=True) == mine:
                return view, status
    return None


def _places(model: Model, target: Target, around: Surroundings) -> tuple[Placing, ...]:
    found = [("export", placement.job(target, around.settings))]
    if target.verify is not None:
        found.append(("verify", placement.verify(target, around.settings)))
    if target.name in model.served:
        found.append(("serving", placement.serving(model, target, around.settings)))
    return tuple(
        Placing(kind, place.scheduling(), place.container_resources(), _fit(around.nodes, place))
        for kind, place in found
    )


def _fit(nodes: tuple[Json, ...] | None, place: placement.Place) -> Fit | None:
    return None if nodes is None else cluster_nodes.fit(nodes, place.scheduling(), place.container_resources())


def _rolls(model: Model, observed: Observed, planned: Plan, targets: Iterable[TargetPlan]) -> Iterator[RollPlan]:
    """What is applied or deleted now, and what a proof would set going."""
    for body in planned.apply:
        live = _live(observed, body)
        yield _applied(body, live)
    for body in planned.delete:
        kind, name = str(body.get("kind", "Object")), str(body["metadata"]["name"])
        why = "another attempt takes its place" if kind == "Job" else "the spec no longer asks for it"
        yield RollPlan(kind, name, "delete", why)
    for target in targets:
        if target.action in STARTED and target.name in model.served:
            yield _after_proof(model, target, observed)


def _after_proof(model: Model, target: TargetPlan, observed: Observed) -> RollPlan:
    """What becomes of a Deployment once the artifact under way is proven."""
    name = deployment_name(model, target.name)
    count = model.spec.serving.replicas
    pods = "1 pod" if count == 1 else f"{count} pods"
    why = f"{pods} once the artifact is proven"
    if observed.deployment(name) is not None:
        why = f"{pods}, one after the other, once the artifact is proven; the present one serves until then"
    return RollPlan("Deployment", name, "after proof", why)


def _live(observed: Observed, body: Json) -> Json | None:
    name = body["metadata"]["name"]
    if body["kind"] == "Service":
        return observed.service
    group = {"Deployment": observed.deployments, "HorizontalPodAutoscaler": observed.autoscalers}
    listed = group.get(body["kind"], observed.budgets)
    return next((item for item in listed if item["metadata"]["name"] == name), None)


def _applied(body: Json, live: Json | None) -> RollPlan:
    kind, name = body["kind"], body["metadata"]["name"]
    if live is None:
        return RollPlan(kind, name, "create", "it is not there yet")
    changes = _changed(live.get("spec", {}), body.get("spec", {}))
    if kind != "Deployment":
        return RollPlan(kind, name, "update", "its spec changes", changes)
    template = [change for change in changes if change.path.startswith("template.")]
    if template:
        count = body["spec"].get("replicas", live["spec"].get("replicas", 1))
        new = _digest(body) != _digest(live)
        why = "to another artifact" if new else "since its pods change"
        return RollPlan(kind, name, "roll", f"{count} pods, one after the other, {why}", changes)
    if any(change.path == "replicas" for change in changes):
        before, after = live["spec"].get("replicas", 1), body["spec"].get("replicas")
        return RollPlan(kind, name, "scale", f"from {before} to {after} pods", changes)
    return RollPlan(kind, name, "update", "no pod is replaced", changes)


def _digest(deployment: Json) -> str | None:
    metadata = deployment["spec"]["template"]["metadata"]
    found: str | None = (metadata.get("annotations") or {}).get(DIGEST_ANNOTATION)
    return found


def _changed(live: Any, wanted: Any) -> tuple[Change, ...]:
    """Leaves that are applied with another value than the live one; what others, or defaults, add is passed over."""
    old = dict(flat(live))
    return tuple(
        Change(path, old.get(path), value)
        for path, value in flat(wanted)
        if not contains(old.get(path), value, quantities="resources" in path)
    )
