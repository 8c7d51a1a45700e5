"""The second of two steps: on a node with the device, prove what a Job without one has compiled.

The eager model is loaded from the same source and compared on the whole of what parity is measured on, by the code
that also serves the one-step export; only compiling is left out. The manifest that is published is the compiled one
with the parity in it, under the key that both Jobs arrive at by themselves.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.manifest import Manifest
from torchscript_operator.artifact.pending import PENDING
from torchscript_operator.artifact.request import ExportRequest, HuggingFaceSource, Source
from torchscript_operator.artifact.store import Store, fetch
from torchscript_operator.export import files, inputs, key, source
from torchscript_operator.export.backends import Backend
from torchscript_operator.export.logs import Progress
from torchscript_operator.export.tasks import Task

if TYPE_CHECKING:
    from torchscript_operator.export.evidence import Evidence


@dataclass(frozen=True)
class Compiled:
    """What was compiled, on this machine."""

    manifest: Manifest
    """Without a proof."""
    folder: Path


@dataclass(frozen=True)
class Proven:
    """The same, compared with eager."""

    manifest: Manifest
    samples: int
    """How many of the user's texts were compared."""
    evidence: "Evidence | None"
    """What the report shows beside the figures."""


class Verifier:
    """Proves one pending artifact."""

    def __init__(
        self, request: ExportRequest, store: Store, scratch: Path, environment: Mapping[str, str], progress: Progress
    ) -> None:
        """Take a request with `pending`; nothing is read yet."""
        self._request = request
        self._store = store
        self._scratch = scratch
        self._environment = environment
        self._progress = progress
        self.evidence: Evidence | None = None
        """What the report shows beside the figures; there once it was proven."""

    def fetch(self) -> Compiled:
        """Download the compiled files, every byte verified.

        WorkerError of the store, or INVALID_REQUEST for what was compiled by another compiler or in another way.
        """
        pending = self._request.pending
        if pending is None:
            raise WorkerError(FailureReason.INVALID_REQUEST, "The request names nothing to verify.")
        folder = self._scratch / "artifact"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with self._progress.stage("fetch", "Fetching what was compiled"):
            manifest = fetch(self._store, pending.digest, folder, PENDING, pending.key)
        if manifest.compilation != self._request.compilation:
            made = manifest.compilation.to_json()
            message = f"What lies under {manifest.key} was compiled otherwise than asked for: {made}."
            raise WorkerError(FailureReason.INVALID_REQUEST, message)
        return Compiled(manifest, folder)

    def prove(self, compiled: Compiled, task_class: type[Task], backend: Backend) -> Proven:
        """Compare with eager at every bucket; the verdict is in the manifest.

        WorkerError DIGEST_MISMATCH when source or worker are not those that it was compiled from and by.
        """
        from torchscript_operator.export.generation import builder_of  # noqa: PLC0415

        manifest = compiled.manifest
        with self._progress.stage("resolve", "Reading the source"):
            resolved = source.resolve(
                self._pinned(manifest), self._scratch, self._environment, self._request.trust or ()
            )
            if resolved.identity.files_digest != manifest.source.files_digest:
                message = f"The source at {resolved.identity.location} has changed since it was compiled."
                raise WorkerError(FailureReason.DIGEST_MISMATCH, message)
            samples = inputs.read_samples(self._request.samples)
            self._check_key(manifest, inputs.samples_digest(samples), backend)
            config = files.read_config(resolved.folder)
            task = task_class.of_folder(resolved.folder)
        builder = builder_of(task)(self._request, manifest.shapes, resolved, config, task, backend, self._progress)
        parity = builder.prove(compiled.folder, manifest, samples)
        self._progress.stage_name = "resolve"
        resolved.check()
        self.evidence = builder.evidence
        return Proven(manifest.model_copy(update={"parity": parity}), len(samples), builder.evidence)

    def _pinned(self, manifest: Manifest) -> Source:
        """The source, at the commit that was compiled where a branch may have moved on."""
        asked = self._request.source
        if isinstance(asked, HuggingFaceSource) and manifest.source.revision is not None:
            return asked.model_copy(update={"revision": manifest.source.revision})
        return asked

    def _check_key(self, manifest: Manifest, samples_digest: str, backend: Backend) -> None:
        versions = key.versions(self._request.worker_image, backend.versions())
        found = key.of_export(self._request, manifest.source.files_digest, samples_digest, versions)
        if found != manifest.key:
            changed = sorted(
                name for name in versions | manifest.versions if versions.get(name) != manifest.versions.get(name)
            )
            what = f"versions differ: {', '.join(changed)}" if changed else "request, samples or machine differ"
            message = f"What was compiled as {manifest.key} is not what this Job would compile: {what}."
            raise WorkerError(FailureReason.DIGEST_MISMATCH, message)
