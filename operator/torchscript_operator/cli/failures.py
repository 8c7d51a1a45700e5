"""The last failures of a model, each with what to do next. All pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from torchscript_operator.api import conditions
from torchscript_operator.api.v1alpha1.status import FailureStatus, ServingTargetStatus
from torchscript_operator.artifact.failures import CLASSES, FailureReason
from torchscript_operator.cli import advice
from torchscript_operator.cli.cluster.read import ModelView
from torchscript_operator.controller.export_plan import RETRY_HINT

_BY_CLASS = {
    FailureReason.PARITY_FAILED: "Look at the figures: tsm report {name}.",
    FailureReason.INTERNAL_ERROR: "Read the log: tsm logs {name}.",
    FailureReason.COMPILATION_FAILED: "Read the compiler's message: tsm logs {name}.",
    FailureReason.ARTIFACT_NOT_FOUND: "Export it again: tsm retry {name}.",
}
"""The command that goes on where the class's own advice ends."""
_BY_REASON = {
    conditions.NO_ARTIFACT_STORE: "Set spec.artifact, or the chart's value artifactStore.",
    conditions.NAME_CONFLICT: "Rename the model, or delete the object that has its name.",
    conditions.UNSCHEDULABLE: "Change the constraint that the message names, or add such nodes (see tsm doctor).",
    conditions.SCHEDULING_GATED: "Ask whoever runs what has set the gates, such as a queue, why they stay.",
    conditions.INCOMPATIBLE_NODE: "Correct the compiler, or the node that the message names.",
    conditions.IMAGE_PULL_FAILED: "Correct the image or its pull secret; the pull is tried again by itself.",
    conditions.CONFIGURATION_MISSING: "Create what the message names in the model's namespace.",
    conditions.MOUNT_FAILED: "Check the volume that the message names; mounting it is tried again by itself.",
    conditions.POD_REJECTED: "Change the quota or the policy that the message names.",
    conditions.DEADLINE_EXCEEDED: "Raise spec.targets[].job.activeDeadlineSeconds.",
    conditions.PODS_NOT_READY: "See why its pods are not Ready: tsm logs {name}.",
    conditions.ROLLBACK_UNKNOWN: "See tsm history {name}, then choose one, or give up: tsm rollback {name} --undo.",
    conditions.INVALID_SPEC: "Install the CRD of the operator's release, then correct the spec.",
    conditions.REJECTED: "Change what the API server's message names; it is tried again every minute.",
}
TRIED_AGAIN = frozenset(
    {
        conditions.SCHEDULING_GATED,
        conditions.IMAGE_PULL_FAILED,
        conditions.CONFIGURATION_MISSING,
        conditions.MOUNT_FAILED,
        conditions.POD_REJECTED,
        conditions.REJECTED,
    }
)
"""Reasons for which nothing has to be said to the operator once the cause is gone."""


@dataclass(frozen=True)
class Trouble:
    """Something that failed."""

    where: str
    """target cpu, or Deployment minilm-cpu, or the model."""
    reason: str
    message: str
    """What was found, without what to do."""
    step: str
    """What to do next."""
    stage: str = ""
    exit_code: int | None = None
    time: str | None = None
    log_tail: str | None = None


def next_step(reason: str, name: str) -> str:
    """What to do about a reason, with the command that helps; empty for a reason that nothing is known of."""
    try:
        known = FailureReason(reason)
    except ValueError:
        return _BY_REASON.get(reason, "").format(name=name)
    more = _BY_CLASS.get(known, "").format(name=name)
    return f"{CLASSES[known].advice} {more}".strip()


def _named(view: ModelView) -> str:
    """The model as every command finds it, whatever namespace the context has."""
    return f"{view.model.name} -n {view.model.namespace}"


def _trouble(where: str, failure: FailureStatus, name: str) -> Trouble:
    message = failure.message
    if failure.reason in set(FailureReason):
        message = advice.found(message, FailureReason(failure.reason))
    step = next_step(failure.reason, name)
    if failure.attempt is not None and failure.reason not in TRIED_AGAIN:
        step = f"{step} Then change the spec, or: tsm retry {name}.".strip()
    return Trouble(
        where=where,
        reason=failure.reason,
        message=message,
        step=step,
        stage=failure.stage,
        exit_code=failure.exit_code,
        time=failure.time,
        log_tail=failure.log_tail,
    )


def of_model(view: ModelView) -> list[Trouble]:
    """Failures of targets, then of Deployments, then what stalls the model as a whole; nothing is told twice."""
    found = list(_of_parts(view))
    stalled = view.condition(conditions.STALLED)
    if stalled is not None and stalled.status == "True" and not any(it.reason == stalled.reason for it in found):
        deployments = view.model.status.serving.targets if view.model.status.serving else ()
        rolled_back = stalled.reason == conditions.ROLLED_BACK and any(map(_of_deployment, deployments))
        if not rolled_back:
            message = stalled.message.removesuffix(RETRY_HINT).rstrip()
            step = next_step(stalled.reason, _named(view))
            found.append(Trouble("model", stalled.reason, message, step, time=stalled.last_transition_time))
    if view.unreadable:
        message = f"This release of tsm does not read all of the spec: {view.unreadable}."
        found.append(Trouble("model", conditions.INVALID_SPEC, message, "Install the tsm of the operator's release."))
    return found


def _of_parts(view: ModelView) -> Iterator[Trouble]:
    name = _named(view)
    for target in view.model.status.targets:
        if target.last_failure is not None:
            yield _trouble(f"target {target.name}", target.last_failure, name)
    for serving in view.model.status.serving.targets if view.model.status.serving else ():
        for failure in _of_deployment(serving):
            yield _trouble(f"Deployment {serving.deployment}", failure, name)


def _of_deployment(serving: ServingTargetStatus) -> list[FailureStatus]:
    """What failed of the newest artifact, and of the pinned one."""
    told = (serving.last_failure, serving.pinned.last_failure if serving.pinned else None)
    return [failure for failure in told if failure is not None]
