"""What to do about one target's export: nothing, start a Job, wait for it, or take in how it ended. All pure.

Where the spec asks for two steps, a first Job compiles and a second proves; the same code looks after both.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from kubernetes.utils.quantity import parse_quantity

from torchscript_operator.api import conditions
from torchscript_operator.api.v1alpha1.spec import Target
from torchscript_operator.api.v1alpha1.status import (
    FailureStatus,
    PendingStatus,
    TargetStatus,
)
from torchscript_operator.artifact.failures import CLASSES, FailureReason, reason_of_exit_code
from torchscript_operator.artifact.request import ExportRequest
from torchscript_operator.controller import diagnose, export_report, jobs, placement, starting
from torchscript_operator.controller.diagnose import Finding
from torchscript_operator.controller.model import RETRY_ANNOTATION, Json, Model
from torchscript_operator.controller.observed import Observed, ended, halted, is_true, owned
from torchscript_operator.controller.settings import Settings

MOST_NO_POD_SECONDS = 60
"""The longest time between two looks at a Job that its controller does not take up."""
NO_POD_SECONDS = 5
"""A Job without a pod for longer than this has been refused something."""
REPORT_SECONDS = 15
"""A finished Job whose pod's report has not been seen for this long has lost it."""
RETRY_HINT = f"A new attempt starts when the spec or the annotation {RETRY_ANNOTATION} changes."


@dataclass(frozen=True)
class ExportPlan:
    """The next step of one target."""

    status: TargetStatus
    create: Json | None = None
    delete: tuple[Json, ...] = ()
    reason: str = conditions.SUCCEEDED
    message: str = ""
    trouble: Finding | None = None
    """What holds up an export that still runs."""
    requeue_seconds: float | None = None
    look_for_events: tuple[str, ...] = ()
    """Names of a Job that has no pod, or of a pod that does not start: only events say why."""
    verifying: bool = False
    """The present spec's model is compiled; proving it is what is left."""

    @property
    def compiled(self) -> bool:
        """Whether the present spec's model is compiled, proven or not."""
        return self.verifying or self.status.state == "Proven"

    @property
    def awaited(self) -> str | None:
        """Name of the Job that is waited for."""
        return self.status.job if self.status.state in {"Exporting", "Verifying"} else None


def exceeds(more: str, limit: str) -> bool:
    """Whether one amount of memory is more than another."""
    return bool(parse_quantity(more) > parse_quantity(limit))  # type: ignore[no-untyped-call]


def stamp(now: datetime) -> str:
    """A time as Kubernetes writes it."""
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def failure_status(finding: Finding, attempt: str | None, now: datetime) -> FailureStatus:
    """A finding as the status holds it."""
    return FailureStatus(
        attempt=attempt,
        stage=finding.stage,
        reason=finding.reason,
        message=finding.message,
        exit_code=finding.exit_code,
        log_tail=finding.log_tail,
        time=stamp(now),
    )


@dataclass(frozen=True)
class _Target:
    """One target in one pass, in one of its two steps."""

    model: Model
    target: Target
    settings: Settings
    observed: Observed
    now: datetime
    known: TargetStatus
    wanted: ExportRequest
    attempt: str
    """Of the export, which stands for the artifact."""
    pending: PendingStatus | None = None
    """What that attempt has compiled and a verify Job is to prove; None while it compiles."""

    @property
    def first_try(self) -> str:
        """The first try at this step."""
        if self.pending is None:
            return self.attempt
        return jobs.verify_attempt(self.target, self.attempt, self.pending)

    @property
    def memory(self) -> str | None:
        """Memory of the try at this step, where the first one was killed for want of it and the spec allows more."""
        more, failure = self.larger, self.known.last_failure
        if more is None or failure is None:
            return None
        killed = failure.attempt == self.first_try and failure.reason == FailureReason.OUT_OF_MEMORY.value
        return more if killed or failure.attempt == jobs.larger_attempt(self.first_try, more) else None

    @property
    def larger(self) -> str | None:
        """The memory that the spec allows for a second try, where it is more than what a first one may use."""
        given = self.target.job if self.pending is None else self.target.verify
        more = given.retry_memory if given else None
        limit = jobs.memory_limit(self.target, self.settings, verifying=self.pending is not None)
        if more is None or (limit is not None and not exceeds(str(more), limit)):
            return None
        return str(more)

    @property
    def try_name(self) -> str:
        """The try at this step."""
        return self.first_try if self.memory is None else jobs.larger_attempt(self.first_try, self.memory)

    @property
    def job_name(self) -> str:
        name = jobs.job_name if self.pending is None else jobs.verify_name
        return name(self.model, self.try_name)

    @property
    def doing(self) -> str:
        """What is waited for, in the same words from the Job's creation to its end: each change of them is a write."""
        what = "exports the model" if self.pending is None else "proves on the accelerator what was compiled"
        return f"Waiting for Job {self.job_name}, which {what}."

    @property
    def fields(self) -> diagnose.Fields:
        return diagnose.JOB_FIELDS if self.pending is None else diagnose.VERIFY_FIELDS

    def body(self) -> Json:
        if self.pending is None:
            return jobs.build(self.model, self.target, self.settings, self.wanted, self.try_name, self.memory)
        return jobs.build_verify(
            self.model, self.target, self.settings, self.wanted, self.try_name, self.pending, self.memory
        )

    def failed(self, finding: Finding) -> ExportPlan:
        verifying = self.pending is not None
        if verifying:
            finding = replace(finding, stage=f"verify/{finding.stage}")
        if self.memory is not None:
            finding = replace(finding, message=f"With {self.memory} of memory, in a second try: {finding.message}")
        failure = failure_status(finding, self.try_name, self.now)
        update = {"state": "Failed", "job": self.job_name, "last_failure": failure}
        status = self.known.model_copy(update=update)
        again = replace(self, known=status)
        if self.memory is None and again.memory is not None:
            # The failure stays in the status: it is what the second try rests on.
            return again.step()
        message = f"{finding.message} {RETRY_HINT}"
        return ExportPlan(status, reason=finding.reason, message=message, verifying=verifying)

    def exporting(self, message: str, **fields: object) -> ExportPlan:
        verifying = self.pending is not None
        state = "Verifying" if verifying else "Exporting"
        reason = conditions.VERIFYING if verifying else conditions.EXPORTING
        kept = None
        if self.memory is not None:
            # A reason of its own, so that an event tells of the failure.
            kept, reason = self.known.last_failure, conditions.RETRYING_WITH_MEMORY
            message += f" It has {self.memory} of memory, since a first try was killed for want of it."
        status = self.known.model_copy(update={"state": state, "job": self.job_name, "last_failure": kept})
        plan = ExportPlan(status, reason=reason, message=message, verifying=verifying)
        return replace(plan, **fields)  # type: ignore[arg-type]

    def suspended(self) -> ExportPlan:
        kept = None if self.memory is None else self.known.last_failure
        status = self.known.model_copy(update={"state": "Suspended", "last_failure": kept})
        message = "spec.suspend is set: no export starts."
        return ExportPlan(status, reason=conditions.SUSPENDED, message=message, verifying=self.pending is not None)

    def running(self, job: Json) -> ExportPlan:
        """A Job that has not ended: say how far it is, or what holds it up."""
        name = job["metadata"]["name"]
        pods = self.observed.job_pods(job)
        if halted(job):
            # By somebody who has reasons, such as a queue that admits Jobs one after the other. Its pods are to go.
            message = f"Job {name} is suspended, though not by this operator; it goes on once somebody resumes it."
            return self.exporting(message)
        if not pods:
            age = diagnose.seconds_since(job["metadata"]["creationTimestamp"], self.now)
            # Before its controller has taken a Job up, no event says anything about it.
            status = job.get("status", {})
            if age < NO_POD_SECONDS or status.get("active") or "startTime" not in status:
                # The Job counts those of its pods that run; such a pod has nothing to say and need not be read.
                later = None if status.get("ready") else min(max(age, NO_POD_SECONDS), MOST_NO_POD_SECONDS)
                return self.exporting(self.doing, requeue_seconds=later)
            trouble = diagnose.no_pod(job, self.observed.events, self.fields)
            waiting = self.exporting(
                f"Job {name} has no pod yet.", requeue_seconds=NO_POD_SECONDS, look_for_events=(name,)
            )
            return (
                replace(waiting, reason=trouble.reason, message=trouble.message, trouble=trouble)
                if trouble
                else waiting
            )
        begun = starting.since(pods[-1])
        looks: Json = {}
        if begun is not None:
            looks = {
                "requeue_seconds": starting.next_look(begun, self.now),
                "look_for_events": starting.slow(pods[-1:], self.now),
            }
        trouble = diagnose.pod_trouble(pods[-1], self.fields)
        trouble = trouble or starting.trouble(pods[-1], self.observed.events, self.fields)
        if trouble is None:
            return self.exporting(self.doing, **looks)
        message = f"Job {name}: {trouble.message}"
        if trouble.exit_code is not None and CLASSES[reason_of_exit_code(trouble.exit_code)].transient:
            message += f" Attempt {len(pods)} of {job['spec'].get('backoffLimit', 0) + 1} failed; the Job tries again."
        return self.exporting(message, reason=trouble.reason, trouble=trouble, **looks)

    def finished(self, job: Json) -> ExportPlan:
        """A Job that ended well: take in its report."""
        name = job["metadata"]["name"]
        ending = export_report.good_ending(self.observed.job_pods(job))
        if ending is not None:
            return self.reported(ending)
        if diagnose.seconds_since(job["status"]["completionTime"], self.now) < REPORT_SECONDS:
            return self.exporting(f"Job {name} has ended; its report is awaited.", requeue_seconds=REPORT_SECONDS)
        if self.model.spec.suspend:
            return self.suspended()
        # The pod went before its report was read; the artifact is in the store, so a second Job ends as a cache hit.
        return self.exporting(
            f"Job {name} has ended but its report is lost; it runs again.", delete=(job,), requeue_seconds=1.0
        )

    def reported(self, ending: Json) -> ExportPlan:
        """A Job that ended well: proven, or compiled and to be proven, if its report says so."""
        outcome = export_report.report_of(ending)
        if self.pending is None and self.target.verify is not None and outcome and outcome.artifact is None:
            pending = export_report.compiled(self.model, self.settings, self.attempt, outcome)
            if pending is not None:
                known = self.known.model_copy(update={"pending": pending})
                return replace(self, known=known, pending=pending).step()
        status = outcome and export_report.proven(
            self.model, self.settings, self.known, self.job_name, self.attempt, self.wanted, outcome
        )
        if not status:
            # Another run would report the same, so this is a failure and not a reason to run again.
            advice = CLASSES[FailureReason.INVALID_REQUEST].advice
            message = f"The export ended well but left no report that this operator reads. {advice}"
            tail = diagnose.log_tail(ending.get("message") or "")
            return self.failed(Finding("report", FailureReason.INVALID_REQUEST.value, message, 0, tail))
        if status.parity and status.parity.verdict == "Failed" and self.model.spec.parity.policy == "Enforce":
            message = f"The export reports failed parity. {CLASSES[FailureReason.PARITY_FAILED].advice}"
            return self.failed(Finding("parity", FailureReason.PARITY_FAILED.value, message, 0))
        return ExportPlan(status, message=f"Artifact {status.key} is stored and proven.")

    def step(self) -> ExportPlan:
        """The next step of an artifact that is not proven."""
        failure = self.known.last_failure
        if failure is not None and failure.attempt == self.try_name:
            status = self.known.model_copy(update={"state": "Failed"})
            message = f"{failure.message} {RETRY_HINT}"
            return ExportPlan(status, reason=failure.reason, message=message, verifying=self.pending is not None)
        job = self.observed.job(self.job_name)
        if job is None:
            if self.model.spec.suspend:
                return self.suspended()
            later = 2 * NO_POD_SECONDS
            return self.exporting(self.doing, create=self.body(), requeue_seconds=later)
        if not owned(job, self.model.uid):
            # A leftover of a deleted model of the same name: the garbage collector takes it, then this one starts.
            message = f"Job {self.job_name} belongs to another object; delete it if it does not go by itself."
            return self.exporting(message, reason=conditions.NAME_CONFLICT, requeue_seconds=NO_POD_SECONDS)
        if not ended(job):
            return self.running(job)
        failed = is_true(job, "Failed") and diagnose.job_failure(job, self.observed.job_pods(job), self.fields)
        return self.failed(failed) if failed else self.finished(job)


def _still_proven(model: Model, known: TargetStatus, attempt: str, identity: str) -> bool:
    lost = known.lost is not None and known.artifact is not None and known.lost.digest == known.artifact.digest
    followed = model.retry in {"", known.retry}
    return known.attempt == attempt or (known.request == identity and followed and not lost)


def _oversized(wanted: ExportRequest) -> Finding | None:
    """Texts that the schema allows and a container does not."""
    said = jobs.oversized(wanted)
    return None if said is None else Finding("request", FailureReason.INVALID_REQUEST.value, said)


def _incompatible(known: TargetStatus, finding: Finding, now: datetime) -> ExportPlan:
    """A target whose pods could not do what they are for: nothing is started, and no attempt is used up."""
    failure = failure_status(finding, None, now)
    before = known.last_failure
    if before is not None and before.model_copy(update={"time": failure.time}) == failure:
        failure = before
    status = known.model_copy(update={"state": "Failed", "last_failure": failure})
    return ExportPlan(status, reason=finding.reason, message=finding.message)


def plan(model: Model, target: Target, settings: Settings, observed: Observed, now: datetime) -> ExportPlan:
    """Decide one target's next step. Raises jobs.NoArtifactStoreError."""
    wanted = jobs.export_request(model, target, settings)
    identity = jobs.identity(model, settings, wanted)
    attempt = jobs.attempt(model, target, identity)
    known = model.target_status(target.name)
    pending = known.pending if known.pending is not None and known.pending.attempt == attempt else None
    this = _Target(model, target, settings, observed, now, known, wanted, attempt, pending)
    if known.artifact is not None and _still_proven(model, known, attempt, identity):
        # Credentials are no part of the identity: pods take those that the spec names now.
        store = jobs.store_status(jobs.artifact_of(model, settings))
        artifact = known.artifact.model_copy(update={"store": store})
        status = known.model_copy(update={"state": "Proven", "last_failure": None, "artifact": artifact})
        result = ExportPlan(status, message=f"Artifact {known.key} is stored and proven.")
    elif (finding := placement.preflight(model, target, settings) or _oversized(wanted)) is not None:
        result = _incompatible(known, finding, now)
    else:
        result = this.step()
    # A running Job of this attempt is left alone also where only its second step is looked at. By name: a label may go.
    tries = {attempt, this.try_name}
    current = {name(model, each) for name in (jobs.job_name, jobs.verify_name) for each in tries} | {result.awaited}
    superseded = tuple(
        other
        for other in observed.jobs_of(model, target.name)
        if other["metadata"]["name"] not in current and not ended(other) and not model.spec.suspend
    )
    return replace(result, delete=result.delete + superseded)


def is_source_failure(reason: str) -> bool:
    """Whether a failure says that the source is at fault."""
    return reason in {
        FailureReason.SOURCE_NOT_FOUND.value,
        FailureReason.SOURCE_ACCESS_DENIED.value,
        FailureReason.SOURCE_INVALID.value,
        FailureReason.SOURCE_UNREACHABLE.value,
        FailureReason.SOURCE_CHANGED.value,
    }
