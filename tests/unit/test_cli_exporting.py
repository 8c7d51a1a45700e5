"""What a person is told about an export, however the worker ends."""

import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from tests.unit import artifacts
from torchscript_operator.artifact.failures import CLASSES, FailureReason
from torchscript_operator.artifact.outcome import ArtifactReference, ExportOutcome, Failure, ParitySummary
from torchscript_operator.artifact.request import StoreLocation
from torchscript_operator.cli import exporting
from torchscript_operator.cli.errors import CliError

REQUEST = artifacts.export_request().model_copy(update={"store": StoreLocation(uri="file:///store")})
KEY = "a" * 64
PASSED = ExportOutcome(
    request_digest="0",
    succeeded=True,
    key=KEY,
    artifact=ArtifactReference(uri=f"file:///store/{KEY}", digest="sha256:ab", size_bytes=90_500_000),
    parity=ParitySummary(verdict="Passed", report=f"file:///store/{KEY}/report.html", outputs=(artifacts.figure(),)),
)


def failed(reason: FailureReason) -> ExportOutcome:
    failure = Failure(stage="parity", reason=reason, message=f"It differs. {CLASSES[reason].advice}")
    return ExportOutcome(request_digest="0", succeeded=False, key=KEY, failure=failure)


def shown(outcome: ExportOutcome) -> str:
    stream = io.StringIO()
    exporting.show(outcome, REQUEST, Console(file=stream, width=200))
    return stream.getvalue()


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The source of a module that stands in for the worker."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(exporting, "MODULE", "made_up_export")
    return tmp_path / "made_up_export.py"


def run() -> tuple[ExportOutcome, str]:
    stream = io.StringIO()
    return exporting.export(REQUEST, Console(file=stream, width=200)), stream.getvalue()


def test_the_outcome_is_read_from_the_log(worker: Path) -> None:
    text = PASSED.to_json()
    worker.write_text(
        "import json\n"
        "print(json.dumps({'stage': 'load', 'message': 'Loading'}))\n"
        f"print(json.dumps({{'message': 'The export has ended', 'outcome': json.loads({text!r})}}))\n"
    )
    outcome, progress = run()
    assert outcome == PASSED
    assert "load" in progress


def test_a_worker_that_dies_shows_the_end_of_its_log(worker: Path) -> None:
    worker.write_text("raise SystemExit('libgomp is missing')\n")
    with pytest.raises(CliError, match="libgomp is missing") as caught:
        run()
    assert caught.value.exit_code == 1
    assert "default-minilm-cpu-export.log" in caught.value.advice


def test_a_worker_that_is_killed_has_met_the_end_of_memory(worker: Path) -> None:
    worker.write_text("import os\nos.kill(os.getpid(), 9)\n")
    with pytest.raises(CliError, match="when memory ends") as caught:
        run()
    assert caught.value.exit_code == CLASSES[FailureReason.OUT_OF_MEMORY].exit_code


def test_an_outcome_of_another_version_is_no_success(worker: Path) -> None:
    worker.write_text('print(\'{"outcome": {"schemaVersion": 99}}\')\n')
    with pytest.raises(CliError, match="left no outcome"):
        run()


def test_nothing_but_the_log_is_left_in_the_cache(worker: Path, tmp_path: Path) -> None:
    worker.write_text("import os, pathlib\npathlib.Path(os.environ['TSM_SCRATCH_PATH'], 'model').write_text('big')\n")
    with pytest.raises(CliError):
        run()
    assert [path.name for path in (tmp_path / "cache" / "torchscript-operator").iterdir()] == ["logs"]


def test_what_was_downloaded_stays_in_the_cache(worker: Path, tmp_path: Path) -> None:
    worker.write_text(
        "import os, pathlib\n"
        "cache = pathlib.Path(os.environ['TSM_SOURCE_CACHE'])\n"
        "cache.mkdir(exist_ok=True)\n"
        "(cache / 'model').write_text('big')\n"
    )
    with pytest.raises(CliError):
        run()
    assert (tmp_path / "cache" / "torchscript-operator" / "sources" / "model").exists()


def test_a_refused_export_leads_to_its_report() -> None:
    error = exporting.failure_of(failed(FailureReason.PARITY_FAILED), REQUEST)
    assert error.exit_code == 84
    assert error.message == "ParityFailed in the stage parity: It differs."
    assert f"tsm report /store/{KEY}" in error.advice


@pytest.mark.parametrize("reason", list(FailureReason), ids=lambda reason: reason.value)
def test_every_failure_has_its_exit_code_and_a_next_step(reason: FailureReason) -> None:
    error = exporting.failure_of(failed(reason), REQUEST)
    assert error.exit_code == CLASSES[reason].exit_code
    assert error.advice
    # Without a cluster there is nothing to give a Secret to.
    assert "Give spec." not in error.message + error.advice


def test_an_internal_error_leads_to_the_log() -> None:
    assert "export.log" in exporting.failure_of(failed(FailureReason.INTERNAL_ERROR), REQUEST).advice


def test_an_export_shows_figures_and_places() -> None:
    text = shown(PASSED)
    assert "logits" in text
    assert f"/store/{KEY}\n" in "".join(line.rstrip() + "\n" for line in text.splitlines())
    assert "90.5 MB" in text
    assert "Exported before" not in text


def test_a_cache_hit_is_told() -> None:
    assert "Exported before" in shown(PASSED.model_copy(update={"cache_hit": True}))


def test_an_installation_without_torch_says_what_to_install() -> None:
    with pytest.raises(CliError, match="made_up_library cannot be imported here") as caught:
        exporting.require("made_up_library")
    assert caught.value.exit_code == 1
    assert "pip install" in caught.value.advice
