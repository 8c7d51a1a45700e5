"""What stands beside a Deployment: its HorizontalPodAutoscaler and its PodDisruptionBudget. All pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torchscript_operator.api.v1alpha1.serving import Autoscaling
from torchscript_operator.controller import replicas
from torchscript_operator.controller.drift import drifted
from torchscript_operator.controller.model import SCALING_ANNOTATION, SERVING, TARGET_LABEL, Json, Model
from torchscript_operator.controller.observed import Observed, foreign, left_behind, owned
from torchscript_operator.controller.rollout_plan import RolloutPlan
from torchscript_operator.controller.serving import deployment_name, sealed, selector

CPU_UTILIZATION = 70
"""Per cent of the CPU that pods request, which an autoscaler without metrics of its own aims at."""


@dataclass(frozen=True)
class ScalingPlan:
    """What becomes of autoscalers and budgets."""

    apply: tuple[Json, ...] = ()
    delete: tuple[Json, ...] = ()
    conflict: str | None = None
    """An object of a name that ours should have belongs to somebody else."""


def looked_for(model: Model, deployments: tuple[Json, ...]) -> tuple[str, ...]:
    """Names under which an autoscaler or a budget is wanted or may have been left; none for most models."""
    live = {item["metadata"]["name"]: item for item in deployments if not foreign(item, model)}
    marked = {name for name, item in live.items() if SCALING_ANNOTATION in item["metadata"].get("annotations", {})}
    known = {target.deployment for target in model.status.serving.targets} if model.status.serving else set()
    wanted = (
        {deployment_name(model, target) for target in model.served}
        if replicas.is_accompanied(model.spec.serving)
        else set()
    )
    # A Deployment that is gone took its mark along.
    return tuple(sorted(marked | (known - live.keys()) | wanted))


def _metadata(model: Model, target: str) -> Json:
    return {
        "name": deployment_name(model, target),
        "namespace": model.namespace,
        "labels": model.labels(SERVING, target),
        "ownerReferences": [model.owner_reference],
    }


def _metrics(autoscaling: Autoscaling) -> list[Json]:
    if autoscaling.metrics:
        return list(autoscaling.metrics)
    target = {"type": "Utilization", "averageUtilization": CPU_UTILIZATION}
    return [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]


def autoscaler(model: Model, target: str) -> Json | None:
    """The autoscaler of a target's Deployment."""
    given = model.spec.serving.autoscaling
    if given is None:
        return None
    return sealed(
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": _metadata(model, target),
            "spec": {
                "scaleTargetRef": {
                    "apiVersion": "apps/v1",
                    "kind": "Deployment",
                    "name": deployment_name(model, target),
                },
                "minReplicas": given.min_replicas,
                "maxReplicas": given.max_replicas,
                "metrics": _metrics(given),
            },
        }
    )


def budget(model: Model, target: str) -> Json | None:
    """What keeps drains from taking more than one of a target's pods at a time."""
    if not replicas.has_budget(model.spec.serving):
        return None
    return sealed(
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": _metadata(model, target),
            "spec": {
                "maxUnavailable": 1,
                "selector": {"matchLabels": {**selector(model), TARGET_LABEL: target}},
                # A pod that cannot get Ready must not hold up the drain of its node.
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
            },
        }
    )


def plan(model: Model, rollouts: Mapping[str, RolloutPlan], observed: Observed, *, retire: bool) -> ScalingPlan:
    """Decide on autoscalers and budgets; `retire` says that targets which are no longer served may lose theirs."""
    if model.spec.suspend:
        return ScalingPlan()
    deployed = [target for target, rollout in rollouts.items() if _is_deployed(model, target, rollout, observed)]
    # By name: a label is soon lost, and put right.
    targets = {deployment_name(model, target): target for target in rollouts}
    kinds: tuple[tuple[Callable[[Model, str], Json | None], tuple[Json, ...]], ...] = (
        (autoscaler, observed.autoscalers),
        (budget, observed.budgets),
    )
    apply: list[Json] = []
    delete: list[Json] = []
    conflict = None
    for build, found in kinds:
        by_name = {item["metadata"]["name"]: item for item in found}
        for body in (build(model, target) for target in deployed):
            if body is None:
                continue
            name = body["metadata"]["name"]
            live = by_name.get(name)
            if live is not None and left_behind(live, model):
                continue
            if live is not None and foreign(live, model):
                conflict = f"{body['kind']} {name} belongs to another object; delete it or rename the model."
            elif drifted(live, body):
                apply.append(body)
        for item in found:
            wanted = targets.get(item["metadata"]["name"])
            gone = retire if wanted is None else build(model, wanted) is None
            if owned(item, model.uid) and gone:
                delete.append(item)
    return ScalingPlan(tuple(apply), tuple(delete), conflict)


def _is_deployed(model: Model, target: str, rollout: RolloutPlan, observed: Observed) -> bool:
    live = observed.deployment(deployment_name(model, target))
    if live is not None:
        return not foreign(live, model)
    return rollout.apply is not None
