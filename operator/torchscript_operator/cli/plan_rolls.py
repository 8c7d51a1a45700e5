"""What becomes of a model's Deployments and what stands beside them: now, and once a proof is there."""

from collections.abc import Iterable, Iterator

from torchscript_operator.cli import plan_changes
from torchscript_operator.cli.cluster.access import Json
from torchscript_operator.cli.plan_base import GROUPS
from torchscript_operator.cli.plan_facts import STARTED, RollPlan, TargetPlan
from torchscript_operator.controller import replicas
from torchscript_operator.controller.model import DIGEST_ANNOTATION, Model
from torchscript_operator.controller.observed import Observed
from torchscript_operator.controller.plan import Plan
from torchscript_operator.controller.serving import deployment_name


def rolls(model: Model, observed: Observed, planned: Plan, targets: Iterable[TargetPlan]) -> Iterator[RollPlan]:
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
    live = observed.deployment(name)
    count = replicas.replicas(model.spec.serving, live)
    if count is None and live is not None:
        # An autoscaler has set it, and keeps it.
        count = live["spec"].get("replicas", 1)
    pods = "1 pod" if count == 1 else f"{count} pods"
    why = f"{pods} once the artifact is proven"
    if live is not None:
        why = f"{pods}, one after the other, once the artifact is proven; the present one serves until then"
    return RollPlan("Deployment", name, "after proof", why)


def _live(observed: Observed, body: Json) -> Json | None:
    name = body["metadata"]["name"]
    if body["kind"] == "Service":
        return observed.service
    listed: tuple[Json, ...] = getattr(observed, GROUPS[body["kind"]])
    return next((item for item in listed if item["metadata"]["name"] == name), None)


def _applied(body: Json, live: Json | None) -> RollPlan:
    kind, name = body["kind"], body["metadata"]["name"]
    if live is None:
        return RollPlan(kind, name, "create", "it is not there yet")
    changes = plan_changes.applied(live.get("spec", {}), body.get("spec", {}))
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
