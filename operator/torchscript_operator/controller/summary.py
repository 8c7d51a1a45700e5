"""Conditions: what the next steps of all targets and Deployments amount to for whoever looks at the model. All pure."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal

from torchscript_operator.api import conditions
from torchscript_operator.api.v1alpha1.status import Condition
from torchscript_operator.artifact.failures import FailureReason
from torchscript_operator.controller.export_plan import ExportPlan, is_source_failure, stamp
from torchscript_operator.controller.model import Model
from torchscript_operator.controller.rollout_plan import RolloutPlan

Status = Literal["True", "False", "Unknown"]
MOVING = {"Exporting": conditions.EXPORTING, "Verifying": conditions.VERIFYING}
"""States of a target that a Job works on, and what that is called."""
SERVICE_LEFT_BEHIND = "The Service of a deleted model of this name is in the way; it is about to go."
SERVICE_CONFLICT = "A Service of the model's name belongs to another object; rename the model or delete the Service."


class _Writer:
    """Collects conditions of one model at one time."""

    def __init__(self, model: Model, now: datetime) -> None:
        self.generation = model.generation
        self.time = stamp(now)
        self.written: list[Condition] = []

    def say(self, kind: str, status: Status, reason: str, message: str) -> None:
        self.written.append(
            Condition(
                type=kind,
                status=status,
                observed_generation=self.generation,
                last_transition_time=self.time,
                reason=reason,
                message=message,
            )
        )


def _joined(parts: Iterable[str]) -> str:
    return " ".join(dict.fromkeys(part for part in parts if part))


def _source(writer: _Writer, exports: Sequence[ExportPlan]) -> None:
    for export in exports:
        if is_source_failure(export.reason):
            writer.say(conditions.SOURCE_RESOLVED, "False", export.reason, export.message)
            return
    for export in exports:
        if export.compiled:
            pending = export.status.pending if export.verifying else None
            revision = (pending or export.status).source_revision or "the files' digest"
            writer.say(conditions.SOURCE_RESOLVED, "True", conditions.SUCCEEDED, f"The source resolved to {revision}.")
            return
    writer.say(conditions.SOURCE_RESOLVED, "Unknown", exports[0].reason, "The export Job has not reported the source.")


def _compiled(writer: _Writer, exports: Sequence[ExportPlan]) -> None:
    open_ = [export for export in exports if not export.compiled]
    if not open_:
        told = [
            f"{export.status.pending.key} is compiled."
            if export.verifying and export.status.pending
            else export.message
            for export in exports
        ]
        writer.say(conditions.COMPILED, "True", conditions.SUCCEEDED, _joined(told))
    else:
        failed = [export for export in open_ if export.status.state == "Failed"]
        first = (failed or open_)[0]
        writer.say(conditions.COMPILED, "False", first.reason, _joined(export.message for export in failed or open_))


def _parity(writer: _Writer, exports: Sequence[ExportPlan]) -> None:
    refused = [export for export in exports if export.reason == FailureReason.PARITY_FAILED.value]
    warned = [
        export
        for export in exports
        if export.status.state == "Proven" and export.status.parity and export.status.parity.verdict == "Failed"
    ]
    if refused:
        message = _joined(export.message for export in refused)
        writer.say(conditions.PARITY_VERIFIED, "False", FailureReason.PARITY_FAILED.value, message)
    elif warned:
        names = ", ".join(export.status.name for export in warned)
        message = f"Parity failed for {names} and spec.parity.policy is Warn: see status.targets[].parity."
        writer.say(conditions.PARITY_VERIFIED, "False", conditions.WARNED, message)
    elif all(export.status.state == "Proven" for export in exports):
        message = "Compiled outputs match eager ones within spec.parity, for every target, shape and output."
        writer.say(conditions.PARITY_VERIFIED, "True", conditions.SUCCEEDED, message)
    else:
        first = next(export for export in exports if export.status.state != "Proven")
        message = "No artifact of the present spec has been measured."
        if first.verifying:
            message = f"The model is compiled, but not yet compared with eager on the accelerator. {first.message}"
        writer.say(conditions.PARITY_VERIFIED, "Unknown", first.reason, message)


def _available(writer: _Writer, model: Model, rollouts: Sequence[RolloutPlan]) -> None:
    if not model.served:
        writer.say(conditions.AVAILABLE, "False", conditions.NOT_SERVED, "spec.serving.targets is empty.")
        return
    short = [rollout for rollout in rollouts if not rollout.available]
    message = _joined(rollout.message for rollout in (short or rollouts))
    reason = (short or rollouts)[0].reason
    writer.say(conditions.AVAILABLE, "False" if short else "True", reason, message)


def _counted(model: Model, rollouts: Sequence[RolloutPlan], departing: Sequence[RolloutPlan]) -> Sequence[RolloutPlan]:
    """Deployments that have to answer: all, but in what is Ready already no target that is only about to be served."""
    ready = conditions.holds(model.status.conditions, conditions.READY)
    if not (ready and any(rollout.answering for rollout in (*rollouts, *departing))):
        return rollouts
    return [rollout for rollout in rollouts if rollout.status is not None and rollout.status.active is not None]


def _ready(
    writer: _Writer,
    model: Model,
    exports: Sequence[ExportPlan],
    rollouts: Sequence[RolloutPlan],
    departing: Sequence[RolloutPlan],
    *,
    service_conflict: str | None,
) -> None:
    unproven = next((export for export in exports if export.status.state != "Proven"), None)
    if not model.served:
        if unproven is None:
            writer.say(conditions.READY, "True", conditions.SUCCEEDED, "Every target is exported and proven.")
        else:
            writer.say(conditions.READY, "False", unproven.reason, unproven.message)
        return
    silent = next((rollout for rollout in _counted(model, rollouts, departing) if not rollout.answering), None)
    if service_conflict and (silent is None or service_conflict != SERVICE_LEFT_BEHIND):
        writer.say(conditions.READY, "False", conditions.NAME_CONFLICT, service_conflict)
    elif silent is None:
        message = _joined(rollout.message for rollout in (*rollouts, *departing) if rollout.answering)
        writer.say(conditions.READY, "True", conditions.SERVING, message)
    elif silent.status is None and unproven is not None:
        writer.say(conditions.READY, "False", unproven.reason, unproven.message)
    else:
        writer.say(conditions.READY, "False", silent.reason, silent.message)


def _progress(
    writer: _Writer, exports: Sequence[ExportPlan], rollouts: Sequence[RolloutPlan], *, service_conflict: str | None
) -> None:
    """kstatus: Reconciling while something is under way, Stalled when only a person can help."""
    moving = [export.message for export in exports if export.status.state in MOVING]
    moving += [rollout.message for rollout in rollouts if rollout.busy]
    stuck = [(export.reason, export.message) for export in exports if export.status.state == "Failed"]
    stuck += [(rollout.reason, rollout.message) for rollout in rollouts if rollout.stuck]
    if service_conflict == SERVICE_LEFT_BEHIND:
        moving.append(service_conflict)
    elif service_conflict:
        stuck.append((conditions.NAME_CONFLICT, service_conflict))
    if moving and not stuck:
        states = [export.status.state for export in exports]
        reason = next((MOVING[state] for state in MOVING if state in states), conditions.ROLLING_OUT)
        writer.say(conditions.RECONCILING, "True", reason, _joined(moving))
    else:
        writer.say(conditions.RECONCILING, "False", conditions.SUCCEEDED, "Nothing is under way.")
    if stuck:
        writer.say(conditions.STALLED, "True", stuck[0][0], _joined(message for _, message in stuck))
    else:
        writer.say(conditions.STALLED, "False", conditions.SUCCEEDED, "Nothing needs a person.")


def conditions_of(
    model: Model,
    exports: Sequence[ExportPlan],
    rollouts: Sequence[RolloutPlan],
    now: datetime,
    *,
    departing: Sequence[RolloutPlan] = (),
    service_conflict: str | None,
) -> tuple[Condition, ...]:
    """All conditions of a pass; departing: Deployments of targets that are no longer served and not gone yet."""
    writer = _Writer(model, now)
    _ready(writer, model, exports, rollouts, departing, service_conflict=service_conflict)
    _source(writer, exports)
    _compiled(writer, exports)
    _parity(writer, exports)
    _available(writer, model, rollouts)
    _progress(writer, exports, rollouts, service_conflict=service_conflict)
    return tuple(writer.written)


def overlay(
    present: Iterable[Condition], reason: str, message: str, model: Model, now: datetime
) -> tuple[Condition, ...]:
    """Put a stall on top of conditions: Stalled says it, Reconciling ends, Ready says it unless something serves."""
    writer = _Writer(model, now)
    for condition in present:
        if condition.type in {conditions.STALLED, conditions.RECONCILING}:
            continue
        if condition.type != conditions.READY:
            writer.written.append(condition)
        elif condition.status == "True":
            writer.written.append(condition.model_copy(update={"observed_generation": model.generation}))
    if not any(condition.type == conditions.READY for condition in writer.written):
        writer.say(conditions.READY, "False", reason, message)
    writer.say(conditions.RECONCILING, "False", reason, "Nothing is under way.")
    writer.say(conditions.STALLED, "True", reason, message)
    return tuple(writer.written)


def stalled(
    model: Model, reason: str, message: str, now: datetime, *, answers: bool | None = None
) -> tuple[Condition, ...]:
    """Conditions of a model that cannot be acted on at all; answers: whether what was rolled out before still does."""
    present = [it for it in model.status.conditions if answers is None or it.type != conditions.READY]
    if answers:
        writer = _Writer(model, now)
        writer.say(conditions.READY, "True", conditions.SERVING, "What was rolled out before still answers.")
        present = [*writer.written, *present]
    return overlay(present, reason, message, model, now)
