import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.artifacts import figure
from torchscript_operator.artifact.failures import FailureReason
from torchscript_operator.artifact.manifest import Candidate
from torchscript_operator.artifact.outcome import (
    MAXIMUM_BYTES,
    CandidateSummary,
    ExportOutcome,
    Failure,
    ParitySummary,
    fit,
)


def outcome(rows: int = 0, message: str = "found") -> ExportOutcome:
    return ExportOutcome(
        request_digest="d" * 64,
        succeeded=False,
        parity=ParitySummary(verdict="Failed", outputs=tuple(figure(shape=f"b{row}-s8") for row in range(rows))),
        failure=Failure(stage="parity", reason=FailureReason.PARITY_FAILED, message=message),
    )


def test_short_outcome_is_kept_whole() -> None:
    assert ExportOutcome.model_validate_json(fit(outcome(rows=2))) == outcome(rows=2)


def test_rows_are_dropped_from_the_end_and_counted() -> None:
    found = ExportOutcome.model_validate_json(fit(outcome(rows=100)))

    assert found.parity is not None
    assert found.parity.omitted + len(found.parity.outputs) == 100
    assert [row.shape for row in found.parity.outputs[:2]] == ["b0-s8", "b1-s8"]
    assert found.failure == outcome().failure


@given(st.text(max_size=6000), st.integers(0, 40))
def test_every_outcome_fits_and_stays_json(message: str, rows: int) -> None:
    text = fit(outcome(rows, message))

    assert len(text.encode()) <= MAXIMUM_BYTES
    assert json.loads(text)["failure"]["reason"] == "ParityFailed"


def candidates(count: int) -> tuple[CandidateSummary, ...]:
    row = Candidate(
        precision="int8", frozen=True, packed=True, kept_layers=("a", "b"), verdict="Failed", texts_per_second="10.0"
    )
    return tuple(
        CandidateSummary.of(row.model_copy(update={"chosen": index == 0, "threads": index})) for index in range(count)
    )


def test_candidates_are_told_in_brief() -> None:
    found = ExportOutcome.model_validate_json(fit(outcome().model_copy(update={"candidates": candidates(2)})))

    assert [(row.precision, row.packed, row.kept_layers, row.chosen) for row in found.candidates] == [
        ("int8", True, 2, True),
        ("int8", True, 2, False),
    ]


def test_candidates_and_rows_share_the_room_with_the_chosen_one_kept() -> None:
    found = ExportOutcome.model_validate_json(fit(outcome(rows=50).model_copy(update={"candidates": candidates(50)})))

    assert found.parity is not None
    assert found.candidates[0].chosen
    assert len(found.candidates) > 3
    assert len(found.parity.outputs) > 3


def test_outcome_that_cannot_fit_is_an_error() -> None:
    too_long = outcome().model_copy(update={"versions": {"torch": "x" * 5000}})

    with pytest.raises(ValueError, match="too long"):
        fit(too_long)
