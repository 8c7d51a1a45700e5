"""Artifacts that a store has lost are exported again, without a person and without end. All pure."""

from dataclasses import replace

from torchscript_operator.api.v1alpha1.status import LossStatus, TargetStatus
from torchscript_operator.artifact.failures import CLASSES, FailureReason
from torchscript_operator.controller import diagnose
from torchscript_operator.controller.model import Model
from torchscript_operator.controller.observed import Observed, is_true
from torchscript_operator.controller.rollout_plan import RolloutPlan

LOSSES = 3
"""Artifacts of one request that are exported again by themselves; a store that loses more is no place for them."""
NOT_FOUND = FailureReason.ARTIFACT_NOT_FOUND


def _is_missed(target: str, digest: str, observed: Observed) -> bool:
    """Whether a serving pod has ended for want of an artifact."""
    pods = [pod for pod in observed.serving_pods(target, digest) if not is_true(pod, "Ready")]
    found = [diagnose.pod_trouble(pod, diagnose.SERVING_FIELDS) for pod in pods]
    return any(finding is not None and finding.exit_code == CLASSES[NOT_FOUND].exit_code for finding in found)


def _marked(status: TargetStatus, observed: Observed) -> TargetStatus:
    if status.artifact is None or status.request is None:
        return status
    digest, lost = status.artifact.digest, status.lost
    times = lost.times if lost and lost.request == status.request else 0
    # Exported again and missed again: another export would not help either.
    if (lost and lost.digest == digest) or times >= LOSSES or not _is_missed(status.name, digest, observed):
        return status
    return status.model_copy(update={"lost": LossStatus(digest=digest, request=status.request, times=times + 1)})


def mark(model: Model, observed: Observed) -> Model:
    """Note which of a model's newest artifacts its store has lost; what is noted makes another attempt."""
    if model.spec.suspend:
        return model
    targets = tuple(_marked(status, observed) for status in model.status.targets)
    return replace(model, status=model.status.model_copy(update={"targets": targets}))


def soften(rollout: RolloutPlan, export: TargetStatus) -> RolloutPlan:
    """A rollout that lacks an artifact waits for the export that brings it back, not for a person."""
    waits = rollout.stuck and rollout.reason == NOT_FOUND.value and export.state in {"Exporting", "Verifying"}
    return replace(rollout, stuck=False, busy=True) if waits else rollout
