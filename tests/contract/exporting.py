"""Running exports in tests: as the Job's process, or in this one where a test has to change something inside."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchscript_operator.artifact.manifest import Manifest
from torchscript_operator.artifact.outcome import ExportOutcome
from torchscript_operator.artifact.request import (
    EXPORT_VARIABLE,
    SCRATCH_VARIABLE,
    TERMINATION_LOG_VARIABLE,
    ExportRequest,
)

TOLERANCES = {
    "absoluteTolerance": "1e-4",
    "relativeTolerance": "1e-4",
    "minimumCosineSimilarity": "0.999",
    "minimumAgreement": "1",
}
SHAPES = [{"batch": 1, "sequence": 32}, {"batch": 8, "sequence": 64}]


@dataclass(frozen=True)
class JobResult:
    """What a Job's process left behind."""

    exit_code: int
    outcome: ExportOutcome
    message: str
    """The termination message."""
    log: list[dict[str, Any]]


@dataclass(frozen=True)
class ExportedArtifact:
    """A published artifact in a folder store."""

    request: ExportRequest
    result: JobResult
    store: Path
    """The store's root; the artifact lies at store/key."""

    @property
    def key(self) -> str:
        assert self.result.outcome.key is not None
        return self.result.outcome.key

    @property
    def digest(self) -> str:
        """sha256:<hex> of the manifest."""
        assert self.result.outcome.artifact is not None
        return self.result.outcome.artifact.digest

    @property
    def uri(self) -> str:
        """URI that ends in the key, as a ServeRequest has it."""
        return f"file://{self.store}/{self.key}"

    @property
    def manifest(self) -> Manifest:
        return Manifest.model_validate_json((self.store / self.key / "manifest.json").read_bytes())

    def file(self, name: str) -> Path:
        """Path of one of the manifest's files."""
        entry = next(entry for entry in self.manifest.files if entry.name == name)
        return self.store / self.key / entry.path


def make_request(source: Path | dict[str, Any], store: Path | str, **changes: Any) -> ExportRequest:
    """A request with small shapes; `changes` are top-level fields in their JSON form."""
    found = {"kind": "Folder", "path": str(source)} if isinstance(source, Path) else source
    where = {"uri": f"file://{store}"} if isinstance(store, Path) else {"uri": store}
    value = {
        "model": "tests/model",
        "target": "cpu",
        "source": found,
        "task": "feature-extraction",
        "shapes": SHAPES,
        "parity": TOLERANCES,
        "store": where,
    }
    return ExportRequest.model_validate(value | changes)


def start_job(
    request: ExportRequest | str, scratch: Path, environment: dict[str, str] | None = None
) -> "subprocess.Popen[str]":
    """Start `python -m torchscript_operator.export`; its termination message will be scratch/termination-log."""
    scratch.mkdir(parents=True, exist_ok=True)
    variables = {
        **os.environ,
        EXPORT_VARIABLE: request if isinstance(request, str) else request.to_json(),
        SCRATCH_VARIABLE: str(scratch),
        TERMINATION_LOG_VARIABLE: str(scratch / "termination-log"),
        **(environment or {}),
    }
    command = [sys.executable, "-m", "torchscript_operator.export"]
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run_job(request: ExportRequest | str, scratch: Path, environment: dict[str, str] | None = None) -> JobResult:
    """Run `python -m torchscript_operator.export` to its end."""
    process = start_job(request, scratch, environment)
    try:
        stdout, stderr = process.communicate(timeout=600)
    finally:
        process.kill()
    termination_log = scratch / "termination-log"
    assert termination_log.exists(), stderr
    message = termination_log.read_text()
    log = [json.loads(line) for line in stdout.splitlines()]
    return JobResult(process.returncode, ExportOutcome.model_validate_json(message), message, log)
