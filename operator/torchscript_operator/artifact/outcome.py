"""What a worker tells the operator, through the container's termination message: 4,096 bytes at most."""

from typing import Literal

from torchscript_operator.artifact.contract import Document
from torchscript_operator.artifact.failures import FailureReason
from torchscript_operator.artifact.manifest import OutputParity

MAXIMUM_BYTES = 4096
"""The kubelet cuts a termination message here."""


class Failure(Document):
    """Why a worker gave up."""

    stage: str
    """The stage that failed: resolve, load, trace, axes, parity, upload, fetch, replay, warm-up, serve."""
    reason: FailureReason
    message: str
    """One or two sentences of what was found, then the class's advice; no secret, no stack."""


class ArtifactReference(Document):
    """Where the artifact lies and what it must be."""

    uri: str
    """`<store>/<key>`"""
    digest: str
    """sha256:<hex> of the manifest."""
    size_bytes: int
    """All files together."""


class ParitySummary(Document):
    """The verdict and, for each output and shape, the figures; as many as fit, the worst first."""

    verdict: Literal["Passed", "Failed"]
    report: str | None = None
    """URI of report.html."""
    outputs: tuple[OutputParity, ...] = ()
    omitted: int = 0
    """Rows left out for want of room; all are in the report."""


class ExportOutcome(Document):
    """How an export ended."""

    schema_version: Literal[1] = 1
    request_digest: str
    succeeded: bool
    cache_hit: bool = False
    key: str | None = None
    source_revision: str | None = None
    """Resolved commit, or the digest of the source's files."""
    artifact: ArtifactReference | None = None
    precision: str | None = None
    parity: ParitySummary | None = None
    versions: dict[str, str] = {}
    duration_seconds: int = 0
    failure: Failure | None = None


class ServeOutcome(Document):
    """Why a serving process ended before it was asked to."""

    schema_version: Literal[1] = 1
    digest: str
    failure: Failure
    parity: ParitySummary | None = None


def fit(outcome: ExportOutcome | ServeOutcome) -> str:
    """Encode an outcome into at most MAXIMUM_BYTES, dropping parity rows from the end, then cutting the message."""
    while True:
        text = outcome.to_json()
        excess = len(text.encode()) - MAXIMUM_BYTES
        if excess <= 0:
            return text
        if outcome.parity is not None and outcome.parity.outputs:
            shorter = outcome.parity.model_copy(
                update={"outputs": outcome.parity.outputs[:-1], "omitted": outcome.parity.omitted + 1}
            )
            outcome = outcome.model_copy(update={"parity": shorter})
        elif outcome.failure is not None and len(outcome.failure.message) > 1:
            kept = max(1, len(outcome.failure.message) - max(excess, 16))
            failure = outcome.failure.model_copy(update={"message": outcome.failure.message[:kept]})
            outcome = outcome.model_copy(update={"failure": failure})
        else:
            msg = f"an outcome without parity rows and message is still {excess} bytes too long"
            raise ValueError(msg)
