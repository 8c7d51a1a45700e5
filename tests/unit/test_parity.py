from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from torchscript_operator.artifact import parity
from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.manifest import OutputParity
from torchscript_operator.artifact.request import Tolerances

Array = NDArray[Any]
STRICT = Tolerances(
    absolute_tolerance="0", relative_tolerance="0", minimum_cosine_similarity="1", minimum_agreement="1"
)
USUAL = Tolerances(
    absolute_tolerance="1e-4", relative_tolerance="1e-4", minimum_cosine_similarity="0.999", minimum_agreement="1"
)
ONLY_COSINE = Tolerances(
    absolute_tolerance="1e9", relative_tolerance="0", minimum_cosine_similarity="0.999", minimum_agreement="0"
)
VALUES = st.floats(-1e3, 1e3, width=32, allow_subnormal=False)
MATRICES = arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6)), elements=VALUES)


def check(
    reference: Array | None,
    candidate: Array | None,
    mask: NDArray[np.bool_] | None = None,
    tolerances: Tolerances = USUAL,
    *,
    scores: bool = False,
) -> OutputParity:
    return parity.compare("output", "b1-s1", reference, candidate, mask, tolerances, scores=scores)


@given(MATRICES)
def test_identical_passes_the_strictest_bounds(values: Array) -> None:
    found = check(values, values.copy(), tolerances=STRICT, scores=True)

    assert found.passed
    assert (found.maximum_absolute_difference, found.minimum_cosine_similarity, found.agreement) == ("0", "1", "1")


@given(MATRICES, st.data())
def test_any_element_beyond_tolerance_fails(values: Array, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, values.size - 1))
    sign = data.draw(st.sampled_from([-1.0, 1.0]))
    candidate = values.astype(np.float64)
    allowed = 1e-4 + 1e-4 * abs(candidate.flat[index])
    candidate.flat[index] += sign * allowed * data.draw(st.floats(1.001, 1e6))

    assert not check(values, candidate).passed


@given(MATRICES, st.data())
def test_noise_within_tolerance_passes(values: Array, data: st.DataObject) -> None:
    assume((np.abs(values).max(axis=-1) > 1).all())
    noise = data.draw(arrays(np.float64, values.shape, elements=st.floats(-0.99, 0.99)))
    candidate = values.astype(np.float64) + noise * (1e-4 + 1e-4 * np.abs(values.astype(np.float64)))

    assert check(values, candidate).passed


@given(MATRICES, st.data(), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_a_value_that_is_no_number_fails_and_is_counted(values: Array, data: st.DataObject, broken: float) -> None:
    candidate = values.copy()
    candidate.flat[data.draw(st.integers(0, values.size - 1))] = broken

    found = check(values, candidate, tolerances=ONLY_COSINE)

    assert not found.passed
    assert found.non_finite == 1


@given(MATRICES, st.data())
def test_the_same_nan_on_both_sides_fails(values: Array, data: st.DataObject) -> None:
    values.flat[data.draw(st.integers(0, values.size - 1))] = np.nan

    assert not check(values, values.copy()).passed


@given(MATRICES, st.data(), st.sampled_from([np.nan, np.inf, 1e30]))
def test_garbage_under_the_mask_is_ignored(values: Array, data: st.DataObject, garbage: float) -> None:
    mask = data.draw(arrays(np.bool_, values.shape[:2]))
    assume(mask.any())
    candidate = values.copy()
    candidate[~mask] = garbage

    found = check(values, candidate, mask, STRICT)

    assert found.passed
    assert found.rows == mask.sum()


@given(MATRICES, st.data())
def test_garbage_beside_the_mask_is_not_ignored(values: Array, data: st.DataObject) -> None:
    mask = data.draw(arrays(np.bool_, values.shape[:2]))
    assume(mask.any())
    candidate = values.copy()
    candidate[mask] += np.float32(1e6)

    assert not check(values, candidate, mask).passed


@given(MATRICES, st.permutations(range(4)))
def test_order_of_rows_does_not_change_the_figures(values: Array, order: list[int]) -> None:
    kept = [index for index in order if index < len(values)]
    candidate = values * np.float32(1.001)

    assert check(values, candidate) == check(values[kept], candidate[kept])


@given(MATRICES)
def test_batches_added_one_by_one_give_the_figures_of_all(values: Array) -> None:
    candidate = values * np.float32(1.00001)
    comparison = parity.Comparison("output", "b1-s1", USUAL, scores=True)
    for expected, actual in zip(values, candidate, strict=True):
        comparison.add(expected, actual)

    assert comparison.result() == check(values, candidate, scores=True)


def test_chunks_give_the_figures_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).normal(size=(7, 5, 3)).astype(np.float32)
    candidate = values * np.float32(1.001)
    whole = check(values, candidate, scores=True)
    monkeypatch.setattr(parity, "CHUNK_VALUES", 4)

    assert check(values, candidate, scores=True) == whole


ODD_CASES: dict[str, Callable[[Array], tuple[Array | None, Array | None, Any]]] = {
    "no reference": lambda a: (None, a, None),
    "no candidate": lambda a: (a, None, None),
    "no rows": lambda a: (a[:0], a[:0], None),
    "no width": lambda a: (a[..., :0], a[..., :0], None),
    "all masked": lambda a: (a, a, np.zeros(a.shape[:2], dtype=np.bool_)),
    "one more row": lambda a: (a, np.concatenate([a, a[:1]]), None),
    "broadcastable": lambda a: (a, a[:1], None),
    "a number": lambda a: (a[0, 0, 0], a[0, 0, 0], None),
    "integers": lambda a: (a.astype(np.int64), a.astype(np.int64), None),
    "complex": lambda a: (a, a.astype(np.complex64), None),
    "objects": lambda a: (a, a.astype(object), None),
    "mask of integers": lambda a: (a, a, np.ones(a.shape[:2], dtype=np.int64)),
    "mask too short": lambda a: (a, a, np.ones((1,), dtype=np.bool_)),
    "mask over more than the values": lambda a: (a, a, np.ones((*a.shape, 1), dtype=np.bool_)),
}


@pytest.mark.parametrize("case", ODD_CASES)
def test_what_cannot_be_compared_fails(case: str) -> None:
    values = np.random.default_rng(1).normal(size=(3, 4, 5)).astype(np.float32)
    reference, candidate, mask = ODD_CASES[case](values)

    found = check(reference, candidate, mask, ONLY_COSINE)

    assert not found.passed
    assert found.maximum_absolute_difference == "nan"


def test_one_batch_that_cannot_be_compared_fails_the_rest() -> None:
    values = np.ones((2, 3), dtype=np.float32)
    comparison = parity.Comparison("output", "b1-s1", USUAL)
    comparison.add(values, values)
    comparison.add(values, None)

    assert not comparison.result().passed


@pytest.mark.parametrize(("candidate", "cosine"), [([0.0, 0.0], "0"), ([-1.0, 0.0], "-1"), ([0.0, 1.0], "0")])
def test_cosine_of_rows_that_point_elsewhere(candidate: list[float], cosine: str) -> None:
    found = check(np.array([[1.0, 0.0]]), np.array([candidate]), tolerances=ONLY_COSINE)

    assert found.minimum_cosine_similarity == cosine
    assert not found.passed


def test_two_zero_vectors_are_the_same() -> None:
    zero = np.zeros((1, 3))

    assert check(zero, zero, tolerances=STRICT).passed


def test_cosine_of_huge_values_does_not_overflow() -> None:
    huge = np.full((1, 3), 1e300)

    assert check(huge, huge, tolerances=STRICT).passed


def test_agreement_counts_only_for_scores() -> None:
    reference = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.50001, 0.5]])
    candidate = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.5, 0.50001]])

    assert check(reference, candidate).agreement is None
    assert check(reference, candidate).passed
    assert check(reference, candidate, scores=True).agreement == "0.75"
    assert not check(reference, candidate, scores=True).passed


@given(st.floats(1e-30, 1e30))
def test_a_figure_is_never_better_than_what_it_stands_for(value: float) -> None:
    assert value <= float(parity.figure(value)) <= value * 1.0101


@given(st.floats(-1, 1))
@settings(max_examples=300)
def test_a_share_is_never_better_than_what_it_stands_for(value: float) -> None:
    assert value - (1 - value) * 0.0101 - 1e-15 <= float(parity.share(value)) <= value + 1e-15


def verdict_of(outputs: list[OutputParity], expected: list[tuple[str, str]]) -> str:
    return parity.verdict(outputs, expected, USUAL).verdict


def passed(output: str = "output", shape: str = "b1-s1") -> OutputParity:
    values = np.ones((1, 2))
    return parity.compare(output, shape, values, values, None, USUAL)


def test_verdict_passes_when_all_expected_passed() -> None:
    assert verdict_of([passed("a"), passed("b")], [("a", "b1-s1"), ("b", "b1-s1")]) == "Passed"


def test_verdict_fails_when_nothing_was_expected() -> None:
    assert verdict_of([passed()], []) == "Failed"


def test_verdict_fails_when_one_failed() -> None:
    failed = parity.compare("b", "b1-s1", np.ones((1, 2)), np.zeros((1, 2)), None, USUAL)

    assert verdict_of([passed("a"), failed], [("a", "b1-s1"), ("b", "b1-s1")]) == "Failed"


@pytest.mark.parametrize("expected", [("other", "b1-s1"), ("output", "b8-s1")])
def test_verdict_fails_and_names_what_is_missing(expected: tuple[str, str]) -> None:
    found = parity.verdict([passed()], [("output", "b1-s1"), expected], USUAL)

    assert found.verdict == "Failed"
    assert (found.outputs[-1].output, found.outputs[-1].shape) == expected
    assert found.outputs[-1].rows == 0


def test_worst_comes_first() -> None:
    ones = np.ones((1, 2))
    far, near = (parity.compare(name, "s", ones, ones + by, None, USUAL) for name, by in (("far", 2), ("near", 1)))
    missing = parity.compare("missing", "s", ones, None, None, USUAL)

    order = parity.worst_first([passed("same"), near, missing, far])

    assert [found.output for found in order] == ["missing", "far", "near", "same"]


@pytest.mark.parametrize(
    "change",
    [
        {"absolute_tolerance": "many"},
        {"absolute_tolerance": "inf"},
        {"relative_tolerance": "-1"},
        {"minimum_cosine_similarity": "nan"},
        {"minimum_cosine_similarity": "1.1"},
        {"minimum_agreement": "-0.1"},
    ],
)
def test_bounds_that_are_no_bounds_are_refused(change: dict[str, str]) -> None:
    with pytest.raises(WorkerError) as caught:
        check(np.ones((1, 1)), np.ones((1, 1)), tolerances=USUAL.model_copy(update=change))

    assert caught.value.reason is FailureReason.INVALID_REQUEST


def test_description_names_the_cause() -> None:
    ones = np.ones((1, 2))

    assert "1 NaN" in parity.describe(check(ones, np.array([[np.nan, 1.0]])))
    assert "could not be compared" in parity.describe(check(ones, None))
    assert "differs by up to 1," in parity.describe(check(ones, ones + 1))
