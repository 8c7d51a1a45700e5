"""What a Job that ended well says of its export: the artifact, or what is compiled and yet to be proven. All pure."""

from pydantic import ValidationError

from torchscript_operator.api.v1alpha1.status import (
    ArtifactStatus,
    CandidateStatus,
    OutputParityStatus,
    ParityStatus,
    PendingStatus,
    TargetStatus,
)
from torchscript_operator.artifact.outcome import ExportOutcome
from torchscript_operator.artifact.request import ExportRequest
from torchscript_operator.controller import jobs
from torchscript_operator.controller.model import Json, Model
from torchscript_operator.controller.settings import Settings


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
    model: Model,
    settings: Settings,
    known: TargetStatus,
    job: str,
    attempt: str,
    wanted: ExportRequest,
    outcome: ExportOutcome,
) -> TargetStatus | None:
    """The status of a target whose export succeeded; None for a report that lacks what it must have."""
    if not outcome.succeeded or outcome.artifact is None or outcome.parity is None:
        return None
    parity = outcome.parity
    return TargetStatus(
        name=known.name,
        state="Proven",
        job=job,
        attempt=attempt,
        request=jobs.identity(model, settings, wanted),
        retry=model.retry or None,
        key=outcome.key,
        artifact=ArtifactStatus(
            uri=outcome.artifact.uri,
            digest=outcome.artifact.digest,
            size_bytes=outcome.artifact.size_bytes,
            store=jobs.store_status(jobs.artifact_of(model, settings)),
        ),
        source_revision=outcome.source_revision,
        precision=outcome.precision,
        candidates=tuple(CandidateStatus(**row.model_dump()) for row in outcome.candidates),
        parity=ParityStatus(
            verdict=parity.verdict,
            report=parity.report,
            outputs=tuple(OutputParityStatus(**row.model_dump()) for row in parity.outputs),
            omitted=parity.omitted,
        ),
        versions=outcome.versions or None,
        duration_seconds=outcome.duration_seconds,
        worker_image=wanted.worker_image,
    )


def compiled(model: Model, settings: Settings, attempt: str, outcome: ExportOutcome) -> PendingStatus | None:
    """What an export compiled without proving it; None for a report that does not say so."""
    if not outcome.succeeded or outcome.pending is None or outcome.key is None:
        return None
    return PendingStatus(
        attempt=attempt,
        key=outcome.key,
        digest=outcome.pending.digest,
        uri=outcome.pending.uri,
        store=jobs.store_status(jobs.artifact_of(model, settings)),
        size_bytes=outcome.pending.size_bytes,
        source_revision=outcome.source_revision,
    )
