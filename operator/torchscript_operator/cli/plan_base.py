"""A base that is taken to be rolled out: the model and the children that its spec ends in."""

from dataclasses import replace
from datetime import datetime
from typing import Any

from torchscript_operator.api.v1alpha1.status import ArtifactStatus, TargetStatus, TorchScriptModelStatus
from torchscript_operator.cli.cluster.access import Json
from torchscript_operator.controller import jobs
from torchscript_operator.controller import plan as planner
from torchscript_operator.controller.model import Model
from torchscript_operator.controller.observed import Observed
from torchscript_operator.controller.settings import Settings

SETTLING_PASSES = 4
"""More than the planner needs from nothing to everything applied."""
GROUPS = {
    "Deployment": "deployments",
    "HorizontalPodAutoscaler": "autoscalers",
    "PodDisruptionBudget": "budgets",
}
"""Kinds of applied children to the field of Observed that holds them; there is but one Service."""


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
    group = GROUPS[body["kind"]]
    others = [item for item in getattr(observed, group) if item["metadata"]["name"] != name]
    changed: dict[str, Any] = {group: (*others, body)}
    return replace(observed, **changed)
