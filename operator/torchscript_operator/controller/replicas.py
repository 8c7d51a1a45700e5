"""How many pods a Deployment is to have, and who says so. All pure."""

from torchscript_operator.api.v1alpha1.serving import Serving
from torchscript_operator.controller.model import MANAGER, SCALING_ANNOTATION, Json


def has_autoscaler(serving: Serving) -> bool:
    """Whether the Deployments are scaled by autoscalers."""
    return serving.autoscaling is not None


def has_budget(serving: Serving) -> bool:
    """Whether a Deployment can have more than one pod; a budget for a single one has nothing to keep apart."""
    most = serving.replicas if serving.autoscaling is None else serving.autoscaling.max_replicas
    return most > 1 and serving.replicas > 0


def _owned_by_others(live: Json) -> bool:
    """Whether anybody but our own applications has set a Deployment's replicas."""
    return any(
        "f:replicas" in entry.get("fieldsV1", {}).get("f:spec", {})
        for entry in live["metadata"].get("managedFields") or []
        if not (entry.get("manager") == MANAGER and entry.get("operation") == "Apply")
    )


def replicas(serving: Serving, live: Json | None) -> int | None:
    """What a Deployment is applied with; None leaves the field to whom it belongs.

    A field that its only owner no longer applies falls back to 1, so under an autoscaler the number that is there
    is held until the autoscaler has set one of its own. One that is 0 is raised: an autoscaler leaves 0 alone.
    """
    scaled = serving.autoscaling
    if scaled is None or serving.replicas == 0:
        return serving.replicas
    present = 0 if live is None else live["spec"].get("replicas", 1)
    if live is not None and present > 0 and _owned_by_others(live):
        return None
    return int(min(max(present, scaled.min_replicas), scaled.max_replicas))


def least_available(serving: Serving) -> int | None:
    """Pods that have to be available under an autoscaler; None where it is all that are wanted."""
    return None if serving.autoscaling is None else serving.autoscaling.min_replicas


def is_accompanied(serving: Serving) -> bool:
    """Whether an autoscaler or a budget stands beside each Deployment."""
    return has_autoscaler(serving) or has_budget(serving)


def marks(serving: Serving) -> dict[str, str]:
    """Annotations of a Deployment beside which an autoscaler or a budget is to be looked for."""
    return {SCALING_ANNOTATION: "true"} if is_accompanied(serving) else {}
