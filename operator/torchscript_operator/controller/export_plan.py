"""What to do about one target's export: nothing, start a Job, wait for it, or take in how it ended. All pure."""

from dataclasses import dataclass, replace
from datetime import datetime

from pydantic import ValidationError

from torchscript_operator.api import conditions
from torchscript_operator.api.v1alpha1.spec import Target
from torchscript_operator.api.v1alpha1.status import (
    ArtifactStatus,
    FailureStatus,
    OutputParityStatus,
    ParityStatus,
    TargetStatus,
)
from torchscript_operator.artifact.failures import CLASSES, FailureReason, reason_of_exit_code
from torchscript_operator.artifact.outcome import ExportOutcome
from torchscript_operator.artifact.request import ExportRequest
from torchscript_operator.controller import diagnose, jobs
from torchscript_operator.controller.diagnose import Finding
from torchscript_operator.controller.model import RETRY_ANNOTATION, Json, Model
from torchscript_operator.controller.observed import Observed, attempt_of, ended, is_true, owned
from torchscript_operator.controller.settings import Settings

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
    look_for_events: bool = False
    """The Job has no pod: only the API server's events say why."""


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


def good_ending(pods: tuple[Json, ...]) -> Json | None:
    """How the export's container ended well, as the newest pod that is left tells it."""
    for pod in reversed(pods):
        for status in pod.get("status", {}).get("containerStatuses") or []:
            ending: Json | None = status.get("state", {}).get("terminated")
            if status["name"] == jobs.CONTAINER and ending and ending["exitCode"] == 0:
                return ending
    return None


def report_of(ending: Json) -> ExportOutcome | None:
    """The report in a termination message; None where there is none that this release reads."""
    try:
        return ExportOutcome.model_validate_json(ending.get("message") or "")
    except ValidationError:
        return None


def proven(
    model: Model, settings: Settings, known: TargetStatus, attempt: str, wanted: ExportRequest, outcome: ExportOutcome
) -> TargetStatus | None:
    """The status of a target whose export succeeded; None for a report that lacks what it must have."""
    if not outcome.succeeded or outcome.artifact is None or outcome.parity is None:
        return None
    parity = outcome.parity
    return TargetStatus(
        name=known.name,
        state="Proven",
        job=jobs.job_name(model, attempt),
        attempt=attempt,
        request=jobs.identity(model, settings, wanted),
        key=outcome.key,
        artifact=ArtifactStatus(
            uri=outcome.artifact.uri,
            digest=outcome.artifact.digest,
            size_bytes=outcome.artifact.size_bytes,
            store=jobs.store_status(jobs.artifact_of(model, settings)),
        ),
        source_revision=outcome.source_revision,
        precision=outcome.precision,
        parity=ParityStatus(
            verdict=parity.verdict,
            report=parity.report,
            outputs=tuple(OutputParityStatus(**row.model_dump()) for row in parity.outputs),
            omitted=parity.omitted,
        ),
        versions=outcome.versions or None,
        worker_image=wanted.worker_image,
    )


@dataclass(frozen=True)
class _Target:
    """One target in one pass."""

    model: Model
    target: Target
    settings: Settings
    observed: Observed
    now: datetime
    known: TargetStatus
    wanted: ExportRequest
    attempt: str

    def failed(self, finding: Finding) -> ExportPlan:
        status = self.known.model_copy(
            update={
                "state": "Failed",
                "job": jobs.job_name(self.model, self.attempt),
                "last_failure": failure_status(finding, self.attempt, self.now),
            }
        )
        return ExportPlan(status, reason=finding.reason, message=f"{finding.message} {RETRY_HINT}")

    def exporting(self, message: str, **fields: object) -> ExportPlan:
        status = self.known.model_copy(
            update={"state": "Exporting", "job": jobs.job_name(self.model, self.attempt), "last_failure": None}
        )
        return replace(ExportPlan(status, reason=conditions.EXPORTING, message=message), **fields)  # type: ignore[arg-type]

    def suspended(self) -> ExportPlan:
        status = self.known.model_copy(update={"state": "Suspended", "last_failure": None})
        return ExportPlan(status, reason=conditions.SUSPENDED, message="spec.suspend is set: no export starts.")

    def running(self, job: Json) -> ExportPlan:
        """A Job that has not ended: say how far it is, or what holds it up."""
        name = job["metadata"]["name"]
        pods = self.observed.job_pods(job)
        if not pods:
            if diagnose.seconds_since(job["metadata"]["creationTimestamp"], self.now) < NO_POD_SECONDS:
                return self.exporting(f"Job {name} is starting.", requeue_seconds=NO_POD_SECONDS)
            trouble = diagnose.no_pod(job, self.observed.events)
            message = trouble.message if trouble else f"Job {name} has no pod yet."
            reason = trouble.reason if trouble else conditions.EXPORTING
            return self.exporting(
                message, reason=reason, trouble=trouble, requeue_seconds=NO_POD_SECONDS, look_for_events=True
            )
        trouble = diagnose.pod_trouble(pods[-1], diagnose.JOB_FIELDS)
        if trouble is None:
            return self.exporting(f"Job {name} exports the model.")
        message = f"Job {name}: {trouble.message}"
        if trouble.exit_code is not None and CLASSES[reason_of_exit_code(trouble.exit_code)].transient:
            message += f" Attempt {len(pods)} of {job['spec'].get('backoffLimit', 0) + 1} failed; the Job tries again."
        return self.exporting(message, reason=trouble.reason, trouble=trouble)

    def finished(self, job: Json) -> ExportPlan:
        """A Job that ended well: take in its report."""
        name = job["metadata"]["name"]
        ending = good_ending(self.observed.job_pods(job))
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
        """An export that ended well: proven, if its report says so."""
        outcome = report_of(ending)
        status = outcome and proven(self.model, self.settings, self.known, self.attempt, self.wanted, outcome)
        if not status:
            # Another run would report the same, so this is a failure and not a reason to run again.
            advice = CLASSES[FailureReason.INVALID_REQUEST].advice
            message = f"The export ended well but left no report that this operator reads. {advice}"
            tail = (ending.get("message") or "")[-diagnose.LOG_TAIL_CHARACTERS :] or None
            return self.failed(Finding("report", FailureReason.INVALID_REQUEST.value, message, 0, tail))
        if status.parity and status.parity.verdict == "Failed" and self.model.spec.parity.policy == "Enforce":
            message = f"The export reports failed parity. {CLASSES[FailureReason.PARITY_FAILED].advice}"
            return self.failed(Finding("parity", FailureReason.PARITY_FAILED.value, message, 0))
        return ExportPlan(status, message=f"Artifact {status.key} is stored and proven.")


def _still_proven(model: Model, known: TargetStatus, attempt: str, identity: str) -> bool:
    return known.attempt == attempt or (known.request == identity and not model.retry)


def plan(model: Model, target: Target, settings: Settings, observed: Observed, now: datetime) -> ExportPlan:
    """Decide one target's next step. Raises jobs.NoArtifactStoreError."""
    wanted = jobs.export_request(model, target, settings)
    identity = jobs.identity(model, settings, wanted)
    attempt = jobs.attempt(model, target, identity)
    known = model.target_status(target.name)
    this = _Target(model, target, settings, observed, now, known, wanted, attempt)
    job = observed.job(jobs.job_name(model, attempt))
    superseded = tuple(
        other
        for other in observed.jobs_of(model, target.name)
        if attempt_of(other) != attempt and not ended(other) and not model.spec.suspend
    )
    if known.artifact is not None and _still_proven(model, known, attempt, identity):
        # Credentials are no part of the identity: pods take those that the spec names now.
        store = jobs.store_status(jobs.artifact_of(model, settings))
        artifact = known.artifact.model_copy(update={"store": store})
        status = known.model_copy(update={"state": "Proven", "last_failure": None, "artifact": artifact})
        return ExportPlan(status, delete=superseded, message=f"Artifact {known.key} is stored and proven.")
    if known.last_failure is not None and known.last_failure.attempt == attempt:
        status = known.model_copy(update={"state": "Failed"})
        failure = known.last_failure
        return ExportPlan(status, delete=superseded, reason=failure.reason, message=f"{failure.message} {RETRY_HINT}")
    if job is not None and not owned(job, model.uid):
        # A leftover of a deleted model of the same name: the garbage collector takes it, then this one starts.
        name = job["metadata"]["name"]
        message = f"Job {name} belongs to another object; delete it if it does not go by itself."
        return this.exporting(message, reason=conditions.NAME_CONFLICT, requeue_seconds=NO_POD_SECONDS)
    if job is None:
        if model.spec.suspend:
            return this.suspended()
        body = jobs.build(model, target, settings, wanted, attempt)
        return this.exporting(f"Job {body['metadata']['name']} is starting.", create=body, delete=superseded)
    if is_true(job, "Complete"):
        result = this.finished(job)
    elif is_true(job, "Failed"):
        result = this.failed(diagnose.job_failure(job, observed.job_pods(job)))
    else:
        result = this.running(job)
    return replace(result, delete=result.delete + superseded)


def is_source_failure(reason: str) -> bool:
    """Whether a failure says that the source is at fault."""
    return reason in {
        FailureReason.SOURCE_NOT_FOUND.value,
        FailureReason.SOURCE_ACCESS_DENIED.value,
        FailureReason.SOURCE_INVALID.value,
        FailureReason.SOURCE_UNREACHABLE.value,
    }
