"""The live children of a model, and the few questions the planner asks of them. All pure."""

from dataclasses import dataclass

from torchscript_operator.api.v1alpha1 import KIND
from torchscript_operator.controller.model import (
    COMPONENT_LABEL,
    DIGEST_ANNOTATION,
    MODEL_LABEL,
    SERVING,
    TARGET_LABEL,
    Json,
    Model,
)


def label(item: Json, name: str) -> str | None:
    """A label of an object."""
    value: str | None = item["metadata"].get("labels", {}).get(name)
    return value


def owned(item: Json, uid: str) -> bool:
    """Whether an object's controller is the one with this uid."""
    return any(owner["uid"] == uid and owner.get("controller") for owner in item["metadata"].get("ownerReferences", []))


def foreign(item: Json, model: Model) -> bool:
    """Whether an object is somebody else's: another controller's, or nobody's and not labelled as this model's.

    A child whose owner reference was taken away (kubectl delete --cascade=orphan) is ours to take back.
    """
    if owned(item, model.uid):
        return False
    controlled = any(owner.get("controller") for owner in item["metadata"].get("ownerReferences", []))
    return controlled or label(item, MODEL_LABEL) != model.name


def left_behind(item: Json, model: Model) -> bool:
    """Whether an object is that of a model of the same name, which is deleted: the garbage collector takes it."""
    owners = item["metadata"].get("ownerReferences", [])
    named = {"kind": KIND, "name": model.name, "controller": True}
    return not owned(item, model.uid) and any(named.items() <= owner.items() for owner in owners)


def condition(item: Json, kind: str) -> Json | None:
    """A condition of an object's status that is True or False, by type."""
    conditions = item.get("status", {}).get("conditions") or []
    return next((found for found in conditions if found["type"] == kind), None)


def is_true(item: Json, kind: str) -> bool:
    """Whether a condition holds."""
    found = condition(item, kind)
    return found is not None and found["status"] == "True"


@dataclass(frozen=True)
class Observed:
    """Everything below one model, read live at the beginning of a pass."""

    jobs: tuple[Json, ...] = ()
    pods: tuple[Json, ...] = ()
    deployments: tuple[Json, ...] = ()
    service: Json | None = None
    autoscalers: tuple[Json, ...] = ()
    """HorizontalPodAutoscalers that bear a Deployment's name; read only where there may be one."""
    budgets: tuple[Json, ...] = ()
    """PodDisruptionBudgets, the same."""
    events: tuple[Json, ...] = ()
    """Warning events about Jobs that have no pod, and about pods that do not start."""

    def job(self, name: str) -> Json | None:
        """A Job by name."""
        return next((job for job in self.jobs if job["metadata"]["name"] == name), None)

    def jobs_of(self, model: Model, target: str) -> tuple[Json, ...]:
        """All Jobs of a target that belong to this very model."""
        return tuple(job for job in self.jobs if label(job, TARGET_LABEL) == target and owned(job, model.uid))

    def job_pods(self, job: Json) -> tuple[Json, ...]:
        """Pods of a Job, oldest first."""
        mine = [
            pod for pod in self.pods if label(pod, COMPONENT_LABEL) != SERVING and owned(pod, job["metadata"]["uid"])
        ]
        return tuple(sorted(mine, key=lambda pod: pod["metadata"].get("creationTimestamp") or ""))

    def lacks_pods(self, job: Json) -> bool:
        """Whether a Job counts more pods that have ended than are here."""
        status = job.get("status", {})
        return len(self.job_pods(job)) < int(status.get("succeeded", 0)) + int(status.get("failed", 0))

    def deployment(self, name: str) -> Json | None:
        """A Deployment by name."""
        return next((item for item in self.deployments if item["metadata"]["name"] == name), None)

    def lacks(self, body: Json) -> bool:
        """Whether nothing is known of a Deployment or Service that is to be applied."""
        if body["kind"] == "Deployment":
            return self.deployment(body["metadata"]["name"]) is None
        return body["kind"] == "Service" and self.service is None

    def serving_pods(self, target: str, digest: str) -> tuple[Json, ...]:
        """Pods of a target that load one artifact."""
        return tuple(
            pod
            for pod in self.pods
            if label(pod, COMPONENT_LABEL) == SERVING
            and label(pod, TARGET_LABEL) == target
            and pod["metadata"].get("annotations", {}).get(DIGEST_ANNOTATION) == digest
            and "deletionTimestamp" not in pod["metadata"]
        )


def ended(job: Json) -> bool:
    """Whether a Job has run to its end, good or bad."""
    return is_true(job, "Complete") or is_true(job, "Failed")


def has_advanced(observed: Observed, live: Json) -> bool:
    """Whether a Job's or a Deployment's controller has written its status since it was observed."""
    find = {"Job": observed.job, "Deployment": observed.deployment}.get(live["kind"])
    if find is None:
        return False
    before = find(live["metadata"]["name"]) or {}
    return bool(before.get("status", {}) != live.get("status", {}))


def is_unmoved(observed: Observed, live: Json) -> bool:
    """Whether a Deployment was applied that asks for nothing else than before: its controller will not write either."""
    before = observed.deployment(live["metadata"]["name"]) if live["kind"] == "Deployment" else None
    return before is not None and bool(before["metadata"]["generation"] == live["metadata"]["generation"])


def halted(job: Json) -> bool:
    """Whether somebody keeps a Job from having pods; this operator never does."""
    return bool(job["spec"].get("suspend")) or job["spec"].get("parallelism") == 0


def rolled_digest(deployment: Json) -> str | None:
    """The digest in a Deployment's pod template."""
    metadata = deployment["spec"]["template"]["metadata"]
    value: str | None = metadata.get("annotations", {}).get(DIGEST_ANNOTATION)
    return value


def settled(deployment: Json, least: int | None = None) -> bool:
    """Whether all pods of a Deployment run its present template and are available.

    Under an autoscaler `least` of them suffice: that it adds pods is no rollout.
    """
    status = deployment.get("status", {})
    wanted: int = deployment["spec"].get("replicas", 1)
    if least is not None and wanted > 0:
        present: int = status.get("replicas", 0)
        return bool(
            status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
            and status.get("updatedReplicas", 0) == present
            and status.get("availableReplicas", 0) >= min(least, wanted)
        )
    return bool(
        status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
        and status.get("updatedReplicas", 0) == wanted
        and status.get("replicas", 0) == wanted
        and status.get("availableReplicas", 0) == wanted
    )


def past_deadline(deployment: Json) -> bool:
    """Whether the present template's rollout ran out of time."""
    progressing = condition(deployment, "Progressing")
    return (
        deployment.get("status", {}).get("observedGeneration", 0) >= deployment["metadata"]["generation"]
        and progressing is not None
        and progressing["status"] == "False"
        and progressing.get("reason") == "ProgressDeadlineExceeded"
    )
