"""An export from request to outcome, stage by stage."""

import errno
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchscript_operator.artifact import request as requests
from torchscript_operator.artifact import tolerances
from torchscript_operator.artifact.failures import CLASSES, FailureReason, WorkerError
from torchscript_operator.artifact.logs import redact, secrets
from torchscript_operator.artifact.manifest import Manifest, Parity
from torchscript_operator.artifact.outcome import (
    ArtifactReference,
    CandidateSummary,
    ExportOutcome,
    Failure,
    ParitySummary,
)
from torchscript_operator.artifact.parity import Bounds, describe, worst_first
from torchscript_operator.artifact.pending import PENDING
from torchscript_operator.artifact.request import ExportRequest
from torchscript_operator.artifact.store import Credentials, Store, find_complete, open_store, publish
from torchscript_operator.export import architectures, backends, files, inputs, key, report, source, tasks
from torchscript_operator.export.backends import Backend
from torchscript_operator.export.logs import LOGGER, Progress
from torchscript_operator.export.memory import is_out_of_memory
from torchscript_operator.export.source import ResolvedSource
from torchscript_operator.export.tasks import Task

if TYPE_CHECKING:
    from torchscript_operator.export.evidence import Evidence


@dataclass
class Known:
    """What an export has found out so far; a failed one reports it, too."""

    key: str | None = None
    source_revision: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    artifact: ArtifactReference | None = None
    pending: ArtifactReference | None = None
    parity: ParitySummary | None = None
    precision: str | None = None
    candidates: tuple[CandidateSummary, ...] = ()
    cache_hit: bool = False


def run(request: ExportRequest, environment: Mapping[str, str], scratch: Path) -> ExportOutcome:
    """Export a model; never raises but for signals and the interpreter's exit.

    `environment` holds the credentials; `scratch` is a folder for downloads and for the artifact in the making.
    """
    started = time.monotonic()
    progress = Progress()
    known = Known()
    failure = None
    try:
        _Export(request, environment, scratch, progress, known).run()
    except Exception as error:  # noqa: BLE001 - the one place where every error becomes an outcome
        failure = _failure(error, progress, environment)
    return ExportOutcome(
        request_digest=request.digest(),
        succeeded=failure is None,
        cache_hit=known.cache_hit,
        key=known.key,
        source_revision=known.source_revision,
        artifact=known.artifact,
        pending=known.pending,
        precision=known.precision,
        candidates=known.candidates,
        parity=known.parity,
        versions=known.versions,
        duration_seconds=round(time.monotonic() - started),
        failure=failure,
    )


def _failure(error: Exception, progress: Progress, environment: Mapping[str, str]) -> Failure:
    """Classify an error; only one that no class expects leaves a traceback in the log."""
    if isinstance(error, WorkerError):
        reason, found = error.reason, error.message
    elif is_out_of_memory(error):
        reason, found = FailureReason.OUT_OF_MEMORY, "An allocation failed."
    elif isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        reason, found = FailureReason.OUT_OF_DISK, "There is no room left for the files of the export."
    else:
        reason, found = FailureReason.INTERNAL_ERROR, f"{type(error).__name__}: {error}."
        LOGGER.error("Unexpected error", exc_info=error, extra={"stage": progress.stage_name})
    message = redact(f"{found} {CLASSES[reason].advice}", secrets(environment))
    LOGGER.log(logging.ERROR, message, extra={"stage": progress.stage_name, "reason": reason.value})
    return Failure(stage=progress.stage_name, reason=reason, message=message)


class _Export:
    """One run; its methods are the stages in order."""

    def __init__(
        self, request: ExportRequest, environment: Mapping[str, str], scratch: Path, progress: Progress, known: Known
    ) -> None:
        self._request = request
        self._environment = environment
        self._scratch = scratch
        self._progress = progress
        self._known = known
        self._shapes = inputs.unique_shapes(request.shapes)

    def run(self) -> None:
        """Resolve, look for a finished artifact, and make one if there is none."""
        _check_tolerances(self._request)
        deferred = self._request.proof == "Deferred" and self._request.pending is None
        backend = backends.find(self._request.compilation, device_absent=deferred)
        task_class = tasks.find(self._request.task)
        credentials = Credentials.from_environment(requests.ARTIFACT_CREDENTIALS_PREFIX, self._environment)
        store = open_store(self._request.store, credentials)
        if self._request.pending is not None:
            self._verify(store, task_class, backend)
            return
        with self._progress.stage("resolve", "Reading the source"):
            resolved = source.resolve(self._request.source, self._scratch, self._environment, self._request.trust or ())
            samples = inputs.read_samples(self._request.samples)
            config = files.read_config(resolved.folder)
            self._check_shapes(config)
            task = task_class.of_folder(resolved.folder)
            artifact_key = self._identify(resolved, samples, backend)
            if self._is_cached(store, artifact_key) or (deferred and self._is_compiled(store, artifact_key)):
                return
        # Torch and Transformers take seconds to import, which a bad source or a finished artifact need not wait for.
        from torchscript_operator.export.generation import builder_of  # noqa: PLC0415

        builder = builder_of(task)(self._request, self._shapes, resolved, config, task, backend, self._progress)
        folder = self._scratch / "artifact"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        manifest = builder.build(folder, artifact_key, samples, self._known.versions)
        self._progress.stage_name = "resolve"
        resolved.check()
        self._know(manifest)
        if deferred:
            with self._progress.stage("upload", f"Uploading to {store.uri}, to be proven"):
                self._known.pending = publish(store, manifest, folder, PENDING)
                self._progress.know(digest=self._known.pending.digest)
            return
        self._upload(store, manifest, folder, len(samples), builder.evidence)

    def _verify(self, store: Store, task_class: type[Task], backend: Backend) -> None:
        """Prove what another Job compiled, where the device is, and publish it."""
        from torchscript_operator.export.verify import Verifier  # noqa: PLC0415

        verifier = Verifier(self._request, store, self._scratch, self._environment, self._progress)
        compiled = verifier.fetch()
        self._known.key, self._known.versions = compiled.manifest.key, dict(compiled.manifest.versions)
        self._known.source_revision = compiled.manifest.source.revision or compiled.manifest.source.files_digest
        self._known.precision = compiled.manifest.precision
        self._progress.know(key=compiled.manifest.key)
        if not self._is_cached(store, compiled.manifest.key):
            proven = verifier.prove(compiled, task_class, backend)
            self._upload(store, proven.manifest, compiled.folder, proven.samples, proven.evidence)

    def _check_shapes(self, config: Mapping[str, Any]) -> None:
        limit = architectures.maximum_positions(config)
        longest = max(self._shapes, key=lambda shape: shape.sequence)
        if limit is not None and longest.sequence > limit:
            message = f"Shape {longest.name} is longer than the {limit} tokens that the model has positions for."
            raise WorkerError(FailureReason.SHAPE_TOO_LONG, message)

    def _identify(self, resolved: ResolvedSource, samples: tuple[str, ...], backend: Backend) -> str:
        files_digest = resolved.identity.files_digest
        self._known.source_revision = resolved.identity.revision or files_digest
        self._known.versions = key.versions(self._request.worker_image, backend.versions())
        found = key.of_export(self._request, files_digest, inputs.samples_digest(samples), self._known.versions)
        self._known.key = found
        self._progress.know(key=found)
        self._progress.say(f"The source is {resolved.identity.location}")
        return found

    def _is_cached(self, store: Store, artifact_key: str) -> bool:
        complete = find_complete(store, artifact_key)
        if complete is None:
            return False
        manifest, reference = complete
        page = f"{artifact_key}/{report.HTML_NAME}"
        uri = f"{store.uri}/{page}" if store.exists(page) else None
        self._finish(manifest, reference, uri)
        self._known.cache_hit = True
        self._progress.say(f"The artifact is there already, with digest {reference.digest}")
        return True

    def _is_compiled(self, store: Store, artifact_key: str) -> bool:
        """Whether the key is compiled and waits for its proof."""
        compiled = find_complete(store, artifact_key, PENDING)
        if compiled is None:
            return False
        manifest, self._known.pending = compiled
        self._known.precision = manifest.precision
        self._known.cache_hit = True
        self._progress.say(f"The model is compiled already, with digest {self._known.pending.digest}")
        return True

    def _upload(
        self, store: Store, manifest: Manifest, folder: Path, samples: int, evidence: "Evidence | None" = None
    ) -> None:
        """Upload the report, then the artifact; a failed verdict under Enforce stops after the report."""
        # Only exports that come this far make a page.
        from torchscript_operator.export.report_page import page  # noqa: PLC0415

        passed = manifest.parity.verdict == "Passed"
        published = passed or self._request.parity.policy == "Warn"
        with self._progress.stage("upload", f"Uploading to {store.uri}"):
            written = report.Report(manifest, published, samples, self._progress.seconds, evidence)
            store.write_bytes(f"{manifest.key}/{report.JSON_NAME}", written.to_json())
            store.write_bytes(f"{manifest.key}/{report.HTML_NAME}", page(written).encode())
            uri = f"{store.uri}/{manifest.key}/{report.HTML_NAME}"
            self._known.parity = _summary(manifest.parity, uri)
            if published:
                self._finish(manifest, publish(store, manifest, folder), uri)
        if not published:
            self._progress.stage_name = "parity"
            message = f"The compiled model differs from eager: {describe(worst_first(manifest.parity.outputs)[0])}."
            raise WorkerError(FailureReason.PARITY_FAILED, message)
        if not passed:
            self._progress.warn("Parity failed, and the artifact was published because the policy is Warn")

    def _know(self, manifest: Manifest) -> None:
        self._known.precision = manifest.precision
        self._known.candidates = tuple(CandidateSummary.of(candidate) for candidate in manifest.candidates)

    def _finish(self, manifest: Manifest, reference: ArtifactReference, report_uri: str | None) -> None:
        self._known.artifact = reference
        self._know(manifest)
        self._known.parity = _summary(manifest.parity, report_uri)
        self._progress.know(digest=reference.digest)


def _check_tolerances(request: ExportRequest) -> None:
    """Refuse bounds that are no numbers before anything else is done. WorkerError INVALID_REQUEST."""
    compiler, precision = request.compilation.compiler, request.compilation.precision
    measured = ("float32", "bfloat16", "int8") if (compiler, precision) == ("torchscript", "auto") else (precision,)
    for name in measured:
        Bounds.parse(tolerances.resolve(request.parity, compiler, name))


def _summary(parity: Parity, report_uri: str | None) -> ParitySummary:
    return ParitySummary(verdict=parity.verdict, report=report_uri, outputs=tuple(worst_first(parity.outputs)))
