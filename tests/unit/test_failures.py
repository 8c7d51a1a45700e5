import pytest

from torchscript_operator.artifact.failures import CLASSES, FailureReason, WorkerError, reason_of_exit_code


@pytest.mark.parametrize("reason", FailureReason)
def test_every_reason_has_a_class_with_advice(reason: FailureReason) -> None:
    assert CLASSES[reason].advice.endswith(".")


def test_exit_codes_are_distinct_and_leave_the_shell_its_own() -> None:
    codes = [known.exit_code for known in CLASSES.values()]

    assert len(set(codes)) == len(codes)
    assert all(64 <= code <= 255 for code in codes)


@pytest.mark.parametrize("reason", FailureReason)
def test_exit_code_leads_back_to_its_reason(reason: FailureReason) -> None:
    assert reason_of_exit_code(WorkerError(reason, "found").exit_code) is reason


def test_unknown_exit_code_is_an_internal_error() -> None:
    assert reason_of_exit_code(1) is FailureReason.INTERNAL_ERROR
