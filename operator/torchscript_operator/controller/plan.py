"""The whole decision about a model: (spec, status, live children, time) to what is created, applied, deleted and said.

No I/O and no clock of its own, so that tables and properties can test it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from torchscript_operator.api import conditions
from torchscript_operator.api.v1alpha1.status import (
    Condition,
    ServingStatus,
    TorchScriptModelStatus,
)
from torchscript_operator.controller import (
    deletion,
    export_plan,
    history,
    jobs,
    recovery,
    rollout_plan,
    scaling,
    serving,
    summary,
)
from torchscript_operator.controller.drift import drifted
from torchscript_operator.controller.export_plan import ExportPlan
from torchscript_operator.controller.model import TARGET_LABEL, Json, Model
from torchscript_operator.controller.observed import Observed, ended, foreign, label, left_behind, owned
from torchscript_operator.controller.rollout_plan import RolloutPlan
from torchscript_operator.controller.settings import Settings

REJECTED_SECONDS = 60.0
"""Time to another try after the API server refused a child, or while a child's name is another object's: an event of an
object that does not bear our label is not heard."""


@dataclass(frozen=True)
class Plan:
    """What one pass does, in this order: deletions, creations, applications, then one status write, then events."""

    status: TorchScriptModelStatus
    create: tuple[Json, ...] = ()
    apply: tuple[Json, ...] = ()
    delete: tuple[Json, ...] = ()
    requeue_seconds: float | None = None
    look_closer: bool = False
    """Pods of a rollout should be Ready by now: those that do not start, which a pass leaves out, may say why."""
    look_for_events: tuple[str, ...] = ()
    """Names of objects whose Warning events say what else nothing says."""


def obsolete(model: Model, rollouts: Iterable[RolloutPlan], observed: Observed) -> tuple[Json, ...]:
    """Deployments of targets that are no longer served, once what is served answers."""
    if model.spec.suspend or not all(rollout.answering for rollout in rollouts):
        return ()
    # By name: a label is soon lost, and put right.
    served = {serving.deployment_name(model, name) for name in model.served}
    return tuple(
        item for item in observed.deployments if owned(item, model.uid) and item["metadata"]["name"] not in served
    )


def _orphaned(model: Model, exports: Iterable[ExportPlan], observed: Observed) -> tuple[Json, ...]:
    """Jobs that still run for targets that the spec no longer has."""
    if model.spec.suspend:
        return ()
    targets = {target.name for target in model.spec.targets}
    # One that is waited for has maybe lost its label.
    wanted = {export.awaited for export in exports}
    return tuple(
        job
        for job in observed.jobs
        if owned(job, model.uid)
        and label(job, TARGET_LABEL) not in targets
        and job["metadata"]["name"] not in wanted
        and not ended(job)
    )


def _departing(model: Model, observed: Observed, gone: Iterable[Json]) -> list[RolloutPlan]:
    """Deployments of targets that are no longer served and that go on until their successors answer.

    While they are in the status, nobody removes the artifacts that they serve.
    """
    going = {item["metadata"]["uid"] for item in gone}
    found = []
    for known in model.status.serving.targets if model.status.serving else ():
        live = observed.deployment(known.deployment)
        if known.name in model.served or live is None or not owned(live, model.uid) or live["metadata"]["uid"] in going:
            continue
        status = live.get("status", {})
        counts = {"replicas": status.get("replicas", 0), "ready_replicas": status.get("readyReplicas", 0)}
        found.append(
            RolloutPlan(
                known.model_copy(update={**counts, "rolling_to": None, "last_failure": None}),
                answering=status.get("availableReplicas", 0) > 0,
                message=f"Deployment {known.deployment} serves until what takes its place does.",
            )
        )
    return found


def _service_conflict(model: Model, observed: Observed) -> str | None:
    """What is wrong with the Service that bears the model's name."""
    if not model.served or observed.service is None or not foreign(observed.service, model):
        return None
    return summary.SERVICE_LEFT_BEHIND if left_behind(observed.service, model) else summary.SERVICE_CONFLICT


def _serving_status(model: Model, settings: Settings, rollouts: list[RolloutPlan]) -> ServingStatus | None:
    targets = tuple(rollout.status for rollout in rollouts if rollout.status is not None)
    if not (model.served or targets):
        return None
    return ServingStatus(
        url=serving.url(model, settings),
        replicas=sum(target.replicas for target in targets),
        ready_replicas=sum(target.ready_replicas for target in targets),
        selector=serving.selector_text(model),
        targets=targets,
    )


def _exports(model: Model, settings: Settings, observed: Observed, now: datetime) -> list[ExportPlan]:
    """The next step of each target; where nothing can be exported, what is proven is served as before."""
    try:
        exports = [export_plan.plan(model, target, settings, observed, now) for target in model.spec.targets]
    except jobs.NoArtifactStoreError:
        message = "Neither spec.artifact nor the operator's artifactStore setting names a store. Set one of them."
        return _unable(model, conditions.NO_ARTIFACT_STORE, message)
    except jobs.NotTrustedError as error:
        message = (
            f"spec.source.trust asks for {error}, which the operator's setting trust does not allow: it can run code "
            "of the model's author. Remove it, take a model without, or have whoever runs the operator allow it."
        )
        return _unable(model, conditions.NOT_TRUSTED, message)
    if len(exports) > 1:
        exports = [replace(export, message=f"{export.status.name}: {export.message}") for export in exports]
    return exports


def _unable(model: Model, reason: str, message: str) -> list[ExportPlan]:
    known = (model.target_status(target.name) for target in model.spec.targets)
    return [ExportPlan(it.model_copy(update={"state": "Failed"}), reason=reason, message=message) for it in known]


def plan(model: Model, settings: Settings, observed: Observed, now: datetime) -> Plan:
    """Decide one pass."""
    model = recovery.mark(model, observed)
    exports = _exports(model, settings, observed, now)
    exports = [replace(export, status=history.carry(model, export.status, observed, now)) for export in exports]
    by_name = {export.status.name: export.status for export in exports}
    pins, unfollowed = history.pins(model, by_name, settings)
    served = [target for target in model.spec.targets if target.name in model.served]
    rollouts = [
        rollout_plan.plan(model, target, settings, by_name[target.name], observed, now, pins.get(target.name))
        for target in served
    ]
    rollouts = [recovery.soften(rollout, by_name[it.name]) for it, rollout in zip(served, rollouts, strict=True)]
    # What served until this pass may be beyond the history's limit now.
    serving_now = {rollout.status.name: rollout.status for rollout in rollouts if rollout.status is not None}
    exports = [replace(it, status=history.trimmed(model, it.status, serving_now.get(it.status.name))) for it in exports]
    apply = [rollout.apply for rollout in rollouts if rollout.apply is not None]
    obsolete_now = obsolete(model, rollouts, observed)
    departing = _departing(model, observed, obsolete_now)
    proven = any(rollout.status is not None for rollout in (*rollouts, *departing))
    delete = [job for export in exports for job in export.delete]
    delete += _orphaned(model, exports, observed)
    conflict = _service_conflict(model, observed)
    if model.served and proven and not model.spec.suspend and not conflict:
        wanted = serving.service(model)
        apply += [wanted] if drifted(observed.service, wanted) else []
    delete += obsolete_now
    if not model.served and observed.service is not None and not model.spec.suspend:
        delete += [observed.service] if owned(observed.service, model.uid) else []
    by_target = {target.name: rollout for target, rollout in zip(served, rollouts, strict=True)}
    scaled = scaling.plan(model, by_target, observed, retire=all(rollout.answering for rollout in rollouts))
    # Deleted before the Deployment loses its mark, applied after the Deployment is there.
    delete = [*scaled.delete, *delete]
    apply += scaled.apply
    wanted_conditions = summary.conditions_of(
        model, exports, rollouts, now, departing=departing, service_conflict=conflict
    )
    if scaled.conflict:
        told = summary.overlay(wanted_conditions, conditions.NAME_CONFLICT, scaled.conflict, model, now)
        wanted_conditions = told
    elif unfollowed:
        told = summary.overlay(wanted_conditions, conditions.ROLLBACK_UNKNOWN, unfollowed, model, now)
        wanted_conditions = told
    status = TorchScriptModelStatus(
        observed_generation=model.generation,
        conditions=conditions.transition(model.status.conditions, wanted_conditions),
        targets=tuple(export.status for export in exports),
        serving=_serving_status(model, settings, [*rollouts, *departing]),
        deletion_policy=deletion.effective(model, settings),
        deletion_policy_message=deletion.retained_because(model, settings),
    )
    status = status.model_copy(update={"retired": deletion.retired(model, settings, status)})
    steps: list[ExportPlan | RolloutPlan] = [*exports, *rollouts]
    requeues = [step.requeue_seconds for step in steps if step.requeue_seconds is not None]
    if conflict or scaled.conflict or any(rollout.reason == conditions.NAME_CONFLICT for rollout in rollouts):
        requeues.append(REJECTED_SECONDS)
    return Plan(
        status=status,
        create=tuple(export.create for export in exports if export.create is not None),
        apply=tuple(apply),
        delete=tuple(delete),
        requeue_seconds=min(requeues, default=None),
        look_closer=any(rollout.look_closer for rollout in rollouts),
        look_for_events=tuple(name for step in steps for name in step.look_for_events),
    )


def _answers(model: Model, observed: Observed) -> bool | None:
    """Whether all Deployments answer that the status knows of; None where it knows of none."""
    known = model.status.serving.targets if model.status.serving else ()
    live = [observed.deployment(target.deployment) for target in known]
    if not live:
        return None
    return all(
        it is not None and (it.get("status", {}).get("availableReplicas", 0) > 0 or it["spec"].get("replicas") == 0)
        for it in live
    )


def stalled(model: Model, reason: str, message: str, now: datetime, observed: Observed) -> Plan:
    """A pass that can do nothing but say why, and whether what serves goes on."""
    wanted = summary.stalled(model, reason, message, now, answers=_answers(model, observed))
    status = model.status.model_copy(
        update={
            "observed_generation": model.generation,
            "conditions": conditions.transition(model.status.conditions, wanted),
        }
    )
    return Plan(status=status)


def rejected(model: Model, planned: Plan, message: str, now: datetime) -> Plan:
    """A pass whose child was refused for good: the plan's findings, with the refusal on top."""
    text = f"{message.rstrip('. ')}. Change what refuses it; it is tried again every minute."
    told: tuple[Condition, ...] = summary.overlay(planned.status.conditions, conditions.REJECTED, text, model, now)
    status = planned.status.model_copy(update={"conditions": conditions.transition(model.status.conditions, told)})
    # What refused it, such as a quota, is no child of ours: nothing tells when it has changed.
    return Plan(status=status, requeue_seconds=REJECTED_SECONDS)


__all__ = ["ExportPlan", "Plan", "plan", "rejected", "stalled"]
