"""What a worker tells the operator, through the container's termination message: 4,096 bytes at most."""

from typing import Literal

from pydantic import Field

from torchscript_operator.artifact.contract import Document
from torchscript_operator.artifact.failures import FailureReason
from torchscript_operator.artifact.manifest import Candidate, OutputParity

MAXIMUM_BYTES = 4096
"""The kubelet cuts a termination message here."""


class Failure(Document):
    """Why a worker gave up."""

    stage: str
    """The stage that failed: resolve, load, trace, axes, parity, package, upload, fetch, replay, warm-up, serve."""
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


class CandidateSummary(Document):
    """One form that the search for a precision looked at, in brief; the manifest has the whole row."""

    precision: str
    frozen: bool = False
    packed: bool = False
    kept_layers: int = 0
    """int8: how many linear layers stayed in float32."""
    threads: int | None = None
    texts_per_second: str | None = None
    minimum_cosine_similarity: str | None = None
    verdict: str
    """Passed, Failed, NotAvailable or NotMeasured."""
    chosen: bool = False

    @classmethod
    def of(cls, candidate: Candidate) -> "CandidateSummary":
        """Shorten a row of the manifest."""
        return cls(
            precision=candidate.precision,
            frozen=candidate.frozen,
            packed=candidate.packed,
            kept_layers=len(candidate.kept_layers),
            threads=candidate.threads,
            texts_per_second=candidate.texts_per_second,
            minimum_cosine_similarity=candidate.minimum_cosine_similarity,
            verdict=candidate.verdict,
            chosen=candidate.chosen,
        )


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
    pending: ArtifactReference | None = None
    """Compiled but not proven: what a verify Job takes up. Its digest is that of pending.json."""
    precision: str | None = None
    candidates: tuple[CandidateSummary, ...] = ()
    """Forms looked at for precision int8 and auto, the chosen one first; as many as fit."""
    parity: ParitySummary | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    duration_seconds: int = 0
    failure: Failure | None = None


class ServeOutcome(Document):
    """Why a serving process ended before it was asked to."""

    schema_version: Literal[1] = 1
    digest: str
    failure: Failure
    parity: ParitySummary | None = None


def fit(outcome: ExportOutcome | ServeOutcome) -> str:
    """Encode an outcome into at most MAXIMUM_BYTES.

    What is dropped, in this order: parity rows and candidates from the end, the longer list first; then the end of the
    failure's message. Raises ValueError for an outcome that is too long without them.
    """
    while True:
        text = outcome.to_json()
        excess = len(text.encode()) - MAXIMUM_BYTES
        if excess <= 0:
            return text
        rows = len(outcome.parity.outputs) if outcome.parity is not None else 0
        candidates = outcome.candidates if isinstance(outcome, ExportOutcome) else ()
        if candidates and len(candidates) >= rows:
            outcome = outcome.model_copy(update={"candidates": candidates[:-1]})
        elif outcome.parity is not None and rows:
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
