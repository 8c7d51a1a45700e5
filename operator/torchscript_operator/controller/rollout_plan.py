"""What to do about one target's Deployment: a rollout follows proof, and one that fails goes back. All pure."""

from dataclasses import dataclass, replace
from datetime import datetime

from torchscript_operator.api import conditions
from torchscript_operator.api.v1alpha1.spec import Target
from torchscript_operator.api.v1alpha1.status import (
    FailureStatus,
    ServedArtifact,
    ServingTargetStatus,
    TargetStatus,
)
from torchscript_operator.artifact import digest
from torchscript_operator.artifact.failures import CLASSES, FailureReason
from torchscript_operator.controller import diagnose, jobs, placement, replicas, serving, starting
from torchscript_operator.controller.diagnose import Finding
from torchscript_operator.controller.drift import drifted
from torchscript_operator.controller.export_plan import failure_status
from torchscript_operator.controller.history import Pin
from torchscript_operator.controller.model import ROLLBACK_ANNOTATION, Json, Model
from torchscript_operator.controller.observed import (
    Observed,
    condition,
    foreign,
    is_true,
    left_behind,
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
    stuck: bool = False
    """Nothing more happens until somebody changes something."""
    busy: bool = True
    """A rollout is under way, or its children are about to change."""
    requeue_seconds: float | None = None
    look_closer: bool = False
    """Its pods should be Ready by now, and nothing that was read says why they are not."""
    look_for_events: tuple[str, ...] = ()
    """Names of pods that do not start."""


def _known(model: Model, name: str) -> ServingTargetStatus:
    listed = model.status.serving.targets if model.status.serving else ()
    fresh = ServingTargetStatus(name=name, deployment=serving.deployment_name(model, name))
    return next((known for known in listed if known.name == name), fresh)


def _is_hopeless(finding: Finding | None) -> bool:
    return finding is not None and finding.exit_code in HOPELESS


def _trouble(target: str, running: str, observed: Observed) -> Finding | None:
    """What keeps pods from being Ready: first what no other try can change."""
    pods = [pod for pod in observed.serving_pods(target, running) if not is_true(pod, "Ready")]
    found = [finding for pod in pods if (finding := diagnose.pod_trouble(pod, diagnose.SERVING_FIELDS)) is not None]
    return next(filter(_is_hopeless, found), next(iter(found), None))


def _unstarted(target: str, running: str, observed: Observed) -> Finding | None:
    """What the events say about pods that do not start."""
    pods = observed.serving_pods(target, running)
    found = (starting.trouble(pod, observed.events, diagnose.SERVING_FIELDS) for pod in pods)
    return next((finding for finding in found if finding is not None), None)


def _looks(live: Json, pods: tuple[Json, ...], now: datetime, *, silent: bool) -> Json:
    """When to look again at pods that are not Ready, and at what else; silent: nothing read says why they are not."""
    begun = [when for pod in pods if (when := starting.since(pod)) is not None]
    progressing = condition(live, "Progressing") or {}
    moved = progressing.get("lastUpdateTime") or live["metadata"]["creationTimestamp"]
    late = diagnose.seconds_since(moved, now) >= starting.SLOW_SECONDS
    looks = [starting.next_look(when, now) for when in begun]
    if not late:
        looks.append(starting.next_look(moved, now))
    return {
        "requeue_seconds": min(looks, default=None),
        "look_closer": late and silent,
        "look_for_events": starting.slow(pods, now),
    }


def _refused(deployment: Json) -> Finding | None:
    """The API server refused the Deployment's pods: quota, Pod Security."""
    if not is_true(deployment, "ReplicaFailure"):
        return None
    said = (condition(deployment, "ReplicaFailure") or {}).get("message", "")
    return diagnose.no_replica(said, diagnose.SERVING_FIELDS)


def _misplaced(
    known: ServingTargetStatus, finding: Finding, live: Json | None, export: TargetStatus, now: datetime
) -> RolloutPlan:
    """Files that cannot run where the spec wants them are not put there; what serves elsewhere goes on."""
    failure, before = failure_status(finding, export.attempt, now), known.last_failure
    same = before is not None and before.message == failure.message
    status = (live or {}).get("status", {})
    update = {
        "last_failure": before if same else failure,
        "replicas": status.get("replicas", 0),
        "ready_replicas": status.get("readyReplicas", 0),
    }
    return RolloutPlan(
        known.model_copy(update=update),
        answering=status.get("availableReplicas", 0) > 0,
        reason=finding.reason,
        message=finding.message,
        busy=False,
        stuck=True,
    )


def rollout_name(export: TargetStatus, body: Json) -> str:
    """Name one try to roll an artifact out: another attempt or another pod template makes another try."""
    spec = {key: value for key, value in body["spec"].items() if key not in {"replicas", "paused"}}
    return digest.of_value([export.attempt, spec])[: jobs.ATTEMPT_DIGITS]


def is_spent(newest: ServedArtifact, known: ServingTargetStatus, rollout: str, *, pinned: bool) -> bool:
    """Whether the status says that a try at rolling out an artifact, or the pinned one in its place, has failed."""
    if pinned:
        return known.pinned is not None and known.pinned.failed_attempt == rollout
    return known.failed_digest == newest.artifact.digest and known.failed_attempt == rollout


def _noted(known: ServingTargetStatus, *, pinned: bool, **failure: object) -> ServingTargetStatus:
    """Note what failed; what is known of the newest artifact outlives a pin, which ends one day."""
    if pinned and known.pinned is not None:
        failure = {"pinned": known.pinned.model_copy(update=failure)}
    return known.model_copy(update=failure)


def plan(
    model: Model,
    target: Target,
    settings: Settings,
    export: TargetStatus,
    observed: Observed,
    now: datetime,
    pin: Pin | None = None,
) -> RolloutPlan:
    """Decide one Deployment's next step; a pin serves another artifact in place of the newest."""
    known = _known(model, target.name)
    pins = pin is not None and pin.served is not None and known.pinned != pin.status
    known = known.model_copy(update={"pinned": pin.status if pin else None})
    if export.artifact is None or export.worker_image is None:
        return RolloutPlan(None, reason=conditions.PENDING, message="No artifact is proven yet.", busy=False)
    proven = ServedArtifact(artifact=export.artifact, worker_image=export.worker_image)
    newest = pin.served if pin and pin.served else proven
    pinned = newest is not proven
    live = observed.deployment(known.deployment)
    if (finding := placement.serving(model, target, settings).problem(target)) is not None:
        return _misplaced(known, finding, live, export, now)
    if live is not None and foreign(live, model):
        goes = left_behind(live, model)
        message = f"Deployment {known.deployment} belongs to another object; rename the model or delete it."
        if goes:
            message = f"Deployment {known.deployment} belongs to a deleted model of this name; it is about to go."
        return RolloutPlan(known, reason=conditions.NAME_CONFLICT, message=message, busy=goes, stuck=not goes)
    running = rolled_digest(live) if live else None
    trouble = (_trouble(target.name, running, observed) if running else None) or (_refused(live) if live else None)
    silent = trouble is None
    trouble = trouble or (_unstarted(target.name, running, observed) if running else None)
    late = live is not None and past_deadline(live)
    if late and trouble is None:
        message = (
            f"Its pods were not Ready within {model.spec.serving.progress_deadline_seconds} s. Read their logs; where "
            "they only need longer, raise spec.serving.progressDeadlineSeconds."
        )
        trouble = Finding("rollout", conditions.PODS_NOT_READY, message)
    spent = late or _is_hopeless(trouble)

    body = serving.deployment(model, target, settings, newest, live)
    rollout = rollout_name(export, body)
    replaces = known.active is not None and known.active.artifact.digest != newest.artifact.digest
    # Only what was applied as it is now wanted has had its try.
    had = spent and replaces and running == newest.artifact.digest and not drifted(live, body)
    failed = is_spent(newest, known, rollout, pinned=pinned)
    fails = had and not failed
    if fails and trouble is not None:
        failure = failure_status(trouble, export.attempt, now)
        what: Json = {"failed_digest": newest.artifact.digest, "failed_attempt": rollout, "last_failure": failure}
        known = _noted(known, pinned=pinned, **what)
    # The newest proven one, unless its pods have failed already and an older one works.
    chosen = known.active if (fails or failed) and known.active is not None else newest
    step = _Step(model, known, newest, chosen, live, trouble, pinned=pinned, spent=spent)
    planned = step.plan(
        body if chosen is newest else serving.deployment(model, target, settings, chosen, live), export, now
    )
    if (fails or pins) and planned.apply is not None:
        # First the status says why, which what is put back tells no one: should the operator die in between, or the
        # spec change as soon as an older artifact is seen to serve, it would be lost what failed or what was pinned.
        return replace(planned, apply=None, requeue_seconds=0.0)
    if live is None or running is None or planned.apply is not None or not (planned.busy or planned.stuck):
        return planned
    looks = _looks(live, observed.serving_pods(target.name, running), now, silent=silent)
    return replace(planned, **looks)


@dataclass(frozen=True)
class _Step:
    """One Deployment in one pass, the artifact to serve being chosen."""

    model: Model
    known: ServingTargetStatus
    newest: ServedArtifact
    """What is to be served: what was proven last, or what the annotation names."""
    chosen: ServedArtifact
    """What is served: this, or what served before."""
    live: Json | None
    trouble: Finding | None
    pinned: bool
    """The annotation says what is to be served."""
    spent: bool
    """The live pods cannot get Ready any more."""

    @property
    def rolled_back(self) -> bool:
        return self.chosen is not self.newest

    @property
    def last_failure(self) -> FailureStatus | None:
        return self.known.pinned.last_failure if self.pinned and self.known.pinned else self.known.last_failure

    def plan(self, body: Json, export: TargetStatus, now: datetime) -> RolloutPlan:
        changing = drifted(self.live, body)
        held = changing and self.model.spec.suspend
        steady = self.live is not None and settled(self.live, replicas.least_available(self.model.spec.serving))
        complete = steady and not changing
        status = self.live.get("status", {}) if self.live else {}
        stuck = self.rolled_back or (self.spent and not changing and not complete)
        update: dict[str, object] = {
            "replicas": status.get("replicas", 0),
            "ready_replicas": status.get("readyReplicas", 0),
            "rolling_to": None if complete or held else self.chosen.artifact.digest,
        }
        if complete:
            update["active"] = self.chosen
        known = self.known.model_copy(update=update)
        if complete and not self.rolled_back:
            nothing = {"failed_digest": None, "failed_attempt": None, "last_failure": None}
            known = _noted(known, pinned=self.pinned, **nothing)
            # The artifact that a pin stands in for is not to be tried again if its pods have failed.
            known = known if known.failed_digest else _noted(known, pinned=False, **nothing)
        elif self.trouble is not None and not self.rolled_back:
            last = self.last_failure
            same = last is not None and last.message == self.trouble.message
            failure = last if same else failure_status(self.trouble, export.attempt, now)
            known = _noted(known, pinned=self.pinned, last_failure=failure)
        reason, message = self.say(known, complete=complete, held=held)
        return RolloutPlan(
            status=known,
            apply=body if changing and not held else None,
            answering=status.get("availableReplicas", 0) > 0 or self.model.spec.serving.replicas == 0,
            available=complete or (held and steady),
            reason=reason,
            message=message,
            rolled_back=self.rolled_back,
            stuck=stuck,
            busy=not (complete or stuck or (held and (steady or self.live is None))),
        )

    def say(self, known: ServingTargetStatus, *, complete: bool, held: bool) -> tuple[str, str]:
        name, short = known.deployment, self.chosen.artifact.digest[:19]
        if held:
            return conditions.SUSPENDED, f"spec.suspend is set: Deployment {name} is not changed to {short}."
        if self.rolled_back and self.last_failure is not None:
            failed = self.newest.artifact.digest[:19]
            said = f"Deployment {name} went back to {short} since {failed} failed: {self.last_failure.message}"
            return conditions.ROLLED_BACK, said
        if complete and self.pinned:
            said = f"Deployment {name} serves {short}, as the annotation {ROLLBACK_ANNOTATION} asks."
            return conditions.PINNED, said
        if complete:
            return conditions.SERVING, f"Deployment {name} serves {short}."
        if self.trouble is not None:
            return self.trouble.reason, f"Deployment {name}: {self.trouble.message}"
        return conditions.ROLLING_OUT, f"Deployment {name} rolls out {short}."
