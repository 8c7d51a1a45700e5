"""What to do about one target's Deployment: a rollout follows proof, and one that fails goes back. All pure."""

from dataclasses import dataclass
from datetime import datetime

from torchscript_operator.api import conditions
from torchscript_operator.api.v1alpha1.spec import Target
from torchscript_operator.api.v1alpha1.status import ServedArtifact, ServingTargetStatus, TargetStatus
from torchscript_operator.artifact.failures import CLASSES, FailureReason
from torchscript_operator.controller import diagnose, serving
from torchscript_operator.controller.diagnose import Finding
from torchscript_operator.controller.drift import drifted
from torchscript_operator.controller.export_plan import failure_status
from torchscript_operator.controller.model import Json, Model
from torchscript_operator.controller.observed import (
    Observed,
    condition,
    is_true,
    owned,
    past_deadline,
    rolled_digest,
    settled,
)
from torchscript_operator.controller.settings import Settings

HOPELESS = frozenset(
    CLASSES[reason].exit_code
    for reason in (FailureReason.REPLAY_FAILED, FailureReason.DIGEST_MISMATCH, FailureReason.ARTIFACT_NOT_FOUND)
)
"""Exit codes of a serving pod that another try on the same artifact cannot change."""


@dataclass(frozen=True)
class RolloutPlan:
    """The next step of one Deployment."""

    status: ServingTargetStatus | None
    apply: Json | None = None
    answering: bool = False
    """A proven artifact answers requests."""
    available: bool = False
    """All pods wanted are Ready."""
    reason: str = conditions.SERVING
    message: str = ""
    rolled_back: bool = False
    busy: bool = True
    """A rollout is under way, or its children are about to change."""


def _known(model: Model, name: str) -> ServingTargetStatus:
    listed = model.status.serving.targets if model.status.serving else ()
    fresh = ServingTargetStatus(name=name, deployment=serving.deployment_name(model, name))
    return next((known for known in listed if known.name == name), fresh)


def _trouble(target: str, digest: str, observed: Observed) -> Finding | None:
    findings = (diagnose.pod_trouble(pod, diagnose.SERVING_FIELDS) for pod in observed.serving_pods(target, digest))
    return next((finding for finding in findings if finding is not None), None)


def _refused(deployment: Json) -> Finding | None:
    """The API server refused the Deployment's pods: quota, Pod Security."""
    if not is_true(deployment, "ReplicaFailure"):
        return None
    said = (condition(deployment, "ReplicaFailure") or {}).get("message", "")
    return Finding("schedule", conditions.POD_REJECTED, f"The Deployment's pods were refused: {said}")


def choose(newest: ServedArtifact, known: ServingTargetStatus, attempt: str | None) -> ServedArtifact:
    """The artifact to serve: the newest proven one, unless its pods have failed already and an older one works."""
    spent = known.failed_digest == newest.artifact.digest and known.failed_attempt == attempt
    return known.active if spent and known.active is not None else newest


def plan(
    model: Model, target: Target, settings: Settings, export: TargetStatus, observed: Observed, now: datetime
) -> RolloutPlan:
    """Decide one Deployment's next step."""
    known = _known(model, target.name)
    if export.artifact is None or export.worker_image is None:
        return RolloutPlan(None, reason=conditions.PENDING, message="No artifact is proven yet.", busy=False)
    newest = ServedArtifact(artifact=export.artifact, worker_image=export.worker_image)
    live = observed.deployment(known.deployment)
    if live is not None and not owned(live, model.uid):
        message = f"Deployment {known.deployment} belongs to another object; rename the model or delete it."
        return RolloutPlan(known, reason=conditions.NAME_CONFLICT, message=message, busy=False)
    digest = newest.artifact.digest
    running = live and rolled_digest(live)
    trouble = (_trouble(target.name, running, observed) if running else None) or (_refused(live) if live else None)
    failed_now = (
        running == digest
        and live is not None
        and known.active is not None
        and known.active.artifact.digest != digest
        and (past_deadline(live) or (trouble is not None and trouble.exit_code in HOPELESS))
    )
    if failed_now:
        late = f"Its pods were not Ready within {model.spec.serving.progress_deadline_seconds} s."
        cause = trouble or Finding("rollout", conditions.PODS_NOT_READY, late)
        known = known.model_copy(
            update={
                "failed_digest": digest,
                "failed_attempt": export.attempt,
                "last_failure": failure_status(cause, export.attempt, now),
            }
        )
    chosen = choose(newest, known, export.attempt)
    rolled_back = chosen is not newest
    body = serving.deployment(model, target, settings, chosen)
    apply = None if model.spec.suspend or not drifted(live, body) else body
    status = live.get("status", {}) if live else {}
    complete = live is not None and apply is None and running == chosen.artifact.digest and settled(live)
    update: dict[str, object] = {
        "replicas": status.get("replicas", 0),
        "ready_replicas": status.get("readyReplicas", 0),
        "rolling_to": None if complete else chosen.artifact.digest,
    }
    if complete:
        update["active"] = chosen
    if complete and not rolled_back:
        update |= {"last_failure": None, "failed_digest": None, "failed_attempt": None}
    elif trouble is not None and not rolled_back:
        same = known.last_failure is not None and known.last_failure.message == trouble.message
        update["last_failure"] = known.last_failure if same else failure_status(trouble, export.attempt, now)
    known = known.model_copy(update=update)
    reason, message = _say(known, chosen, trouble, complete=complete, rolled_back=rolled_back, live=live)
    return RolloutPlan(
        status=known,
        apply=apply,
        answering=status.get("availableReplicas", 0) > 0 or model.spec.serving.replicas == 0,
        available=complete,
        reason=reason,
        message=message,
        rolled_back=rolled_back,
        busy=not complete and not (model.spec.suspend and not drifted(live, body)),
    )


def _say(
    known: ServingTargetStatus,
    chosen: ServedArtifact,
    trouble: Finding | None,
    *,
    complete: bool,
    rolled_back: bool,
    live: Json | None,
) -> tuple[str, str]:
    short = chosen.artifact.digest[:19]
    if rolled_back and known.last_failure is not None:
        failed = (known.failed_digest or "")[:19]
        return (
            conditions.ROLLED_BACK,
            f"Deployment {known.deployment} went back to {short} since {failed} failed: {known.last_failure.message}",
        )
    if complete:
        return conditions.SERVING, f"Deployment {known.deployment} serves {short}."
    if trouble is not None:
        return trouble.reason, f"Deployment {known.deployment}: {trouble.message}"
    if live is not None and past_deadline(live):
        return conditions.PODS_NOT_READY, f"Pods of Deployment {known.deployment} are not Ready in time."
    return conditions.ROLLING_OUT, f"Deployment {known.deployment} rolls out {short}."
