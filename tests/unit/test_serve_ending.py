import errno
from pathlib import Path

import pytest

from tests.unit.artifacts import figure
from torchscript_operator.artifact.failures import CLASSES, FailureReason, WorkerError
from torchscript_operator.artifact.outcome import ServeOutcome
from torchscript_operator.artifact.request import TERMINATION_LOG_VARIABLE
from torchscript_operator.serve.ending import classify, report
from torchscript_operator.serve.loading import ReplayError


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (WorkerError(FailureReason.STORE_UNREACHABLE, "x"), FailureReason.STORE_UNREACHABLE),
        (MemoryError(), FailureReason.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), FailureReason.OUT_OF_MEMORY),
        (OSError(errno.ENOSPC, "No space left on device", "/scratch/x"), FailureReason.OUT_OF_DISK),
        (ValueError("/a/path"), FailureReason.INTERNAL_ERROR),
    ],
)
def test_whatever_ends_loading_has_a_class(error: Exception, reason: FailureReason) -> None:
    assert classify(error).reason == reason


def test_the_text_of_an_unknown_error_stays_out_of_the_message() -> None:
    assert "/a/path" not in classify(ValueError("/a/path")).message


def test_the_termination_message_says_what_was_found_what_to_do_and_how_far(tmp_path: Path) -> None:
    error = ReplayError((figure(passed=False), figure()))
    report("sha256:1", "replay", error, {TERMINATION_LOG_VARIABLE: str(tmp_path / "log")})
    outcome = ServeOutcome.model_validate_json((tmp_path / "log").read_text())
    assert outcome.failure.message.startswith("1 of 2 comparisons failed: logits at b1-s8 differs by up to 0.5")
    assert outcome.failure.message.endswith(CLASSES[FailureReason.REPLAY_FAILED].advice)
    assert outcome.parity is not None
    assert len(outcome.parity.outputs) == 2


def test_a_process_outside_a_pod_has_no_termination_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    error = WorkerError(FailureReason.INTERNAL_ERROR, "x")
    report("sha256:1", "load", error, {TERMINATION_LOG_VARIABLE: str(tmp_path / "none/log")})
    assert "cannot be written" in caplog.text
