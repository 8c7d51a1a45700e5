"""tsm plan: what the operator would do about a file, decided by the operator's own planner. All pure.

The file's spec is put in the place of the live one, with the live status and children; without a cluster, in the place
of a base that is taken to be rolled out. What the planner then creates, applies and deletes is the plan.
"""

import json
from dataclasses import dataclass, field, replace
from datetime import datetime

from torchscript_operator.api import conditions
from torchscript_operator.api.v1alpha1.spec import Target
from torchscript_operator.api.v1alpha1.status import TargetStatus
from torchscript_operator.cli.cluster import nodes as cluster_nodes
from torchscript_operator.cli.cluster.access import Json
from torchscript_operator.cli.cluster.nodes import Fit
from torchscript_operator.cli.cluster.read import ModelView
from torchscript_operator.cli.plan_changes import differences, inputs, named
from torchscript_operator.cli.plan_facts import Change, ModelPlan, Placing, TargetPlan
from torchscript_operator.cli.plan_rolls import rolls
from torchscript_operator.controller import jobs, placement
from torchscript_operator.controller import plan as planner
from torchscript_operator.controller.model import TARGET_LABEL, Model
from torchscript_operator.controller.observed import Observed, label
from torchscript_operator.controller.plan import Plan
from torchscript_operator.controller.settings import Settings

PROBLEMS = frozenset(
    {conditions.NO_ARTIFACT_STORE, conditions.NAME_CONFLICT, conditions.INCOMPATIBLE_NODE, conditions.ROLLBACK_UNKNOWN}
)
"""Reasons of a stall that the file itself, or what is there already, gives."""


@dataclass(frozen=True)
class Surroundings:
    """What a file is planned against."""

    settings: Settings
    others: tuple[ModelView, ...] = ()
    """Other models, whose artifacts a target may find in the store."""
    nodes: tuple[Json, ...] | None = None
    notes: tuple[str, ...] = field(default=())


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
    stalled = [it for it in planned.status.conditions if it.type == conditions.STALLED and it.status == "True"]
    problems = [it.message for it in stalled if it.reason in PROBLEMS]
    return ModelPlan(
        namespace=model.namespace,
        name=model.name,
        new=before is None,
        spec_changes=changes,
        targets=targets,
        rolls=tuple(rolls(model, observed, planned, targets)),
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
