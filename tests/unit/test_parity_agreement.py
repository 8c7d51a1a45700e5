"""What outputs decide: classes, positions, spans, choices and tokens."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from torchscript_operator.artifact import parity
from torchscript_operator.artifact.comparable import best_span
from torchscript_operator.artifact.manifest import OutputParity
from torchscript_operator.artifact.parity import Compared, Comparison, Outputs
from torchscript_operator.artifact.request import Tolerances

Array = NDArray[Any]
DECISIONS = Tolerances(
    absolute_tolerance="1e9", relative_tolerance="1e9", minimum_cosine_similarity="-1", minimum_agreement="1"
)
"""Only what outputs decide counts."""
USUAL = Tolerances(
    absolute_tolerance="1e-4", relative_tolerance="1e-4", minimum_cosine_similarity="0.999", minimum_agreement="1"
)
SCORES = st.integers(-50, 50).map(lambda value: np.float32(value / 4))
POSITIONS = arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 7)), elements=SCORES)
TOKENS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=4)


def spans(
    starts: Array, ends: Array, other_starts: Array, other_ends: Array, mask: Array | None = None
) -> OutputParity:
    """The figures of the ends."""
    outputs = Outputs([Compared("start", "position"), Compared("end", "span")], "b1-s1", DECISIONS)
    outputs.add(
        {"start": starts, "end": ends}, {"start": other_starts, "end": other_ends}, {"start": mask, "end": mask}
    )
    return outputs.results()[1]


def tokens(expected: list[list[int]], actual: list[list[int]], least: str = "1") -> OutputParity:
    tolerances = DECISIONS.model_copy(update={"minimum_agreement": least})
    comparison = Comparison("sequences", "b1-s1", tolerances, agreement="token")
    comparison.add(padded(expected), padded(actual))
    return comparison.result()


def padded(rows: list[list[int]]) -> Array:
    length = max(map(len, rows))
    return np.array([row + [-1] * (length - len(row)) for row in rows])


@given(POSITIONS, st.data())
def test_best_span_is_the_best_of_all_that_do_not_end_before_they_start(starts: Array, data: st.DataObject) -> None:
    ends = data.draw(arrays(np.float32, starts.shape, elements=SCORES))
    width = starts.shape[1]

    found = best_span(starts.astype(np.float64), ends.astype(np.float64))

    for row, place in enumerate(found):
        start, end = divmod(int(place), width)
        everything = [starts[row, i] + ends[row, j] for i in range(width) for j in range(i, width)]
        assert start <= end
        assert starts[row, start] + ends[row, end] == max(everything)


@given(POSITIONS, st.data())
def test_spans_agree_when_both_best_ones_are_the_same(starts: Array, data: st.DataObject) -> None:
    drawn = [data.draw(arrays(np.float32, starts.shape, elements=SCORES)) for _ in range(3)]
    ends, other_starts, other_ends = drawn
    first, second = (
        best_span(a.astype(np.float64), b.astype(np.float64)) for a, b in ((starts, ends), (other_starts, other_ends))
    )

    found = spans(starts, ends, other_starts, other_ends)

    assert float(found.agreement or "nan") == pytest.approx((first == second).mean(), abs=1e-2)
    assert found.passed == bool((first == second).all())


@given(POSITIONS, st.data())
def test_positions_under_the_mask_are_no_part_of_a_span(starts: Array, data: st.DataObject) -> None:
    mask = data.draw(arrays(np.bool_, starts.shape))
    assume(mask.any())
    garbage = data.draw(st.sampled_from([np.nan, np.inf, 1e30]))
    others = [np.where(mask, starts, garbage).astype(np.float32) for _ in range(2)]

    found = spans(starts, starts, *others, mask)

    assert found.passed
    assert found.rows == mask.any(axis=1).sum()


def test_span_without_its_starts_fails() -> None:
    values = np.ones((2, 3), dtype=np.float32)
    alone = Outputs([Compared("end", "span")], "b1-s1", DECISIONS)
    alone.add({"end": values}, {"end": values}, {})
    missing = Outputs([Compared("start", "position"), Compared("end", "span")], "b1-s1", DECISIONS)
    missing.add({"start": values, "end": values}, {"end": values}, {})

    assert not alone.results()[0].passed
    assert [found.passed for found in missing.results()] == [False, False]


def test_start_that_moves_breaks_the_span_and_not_only_the_start() -> None:
    starts = np.array([[5.0, 4.0, 0.0]], dtype=np.float32)
    ends = np.array([[0.0, 0.0, 5.0]], dtype=np.float32)

    found = spans(starts, ends, starts[:, [1, 0, 2]], ends)

    assert not found.passed
    assert found.agreement == "0"


@given(TOKENS)
def test_same_tokens_agree(rows: list[list[int]]) -> None:
    found = tokens(rows, rows)

    assert found.passed
    assert (found.agreement, found.minimum_cosine_similarity, found.maximum_absolute_difference) == ("1", "1", "0")
    assert found.rows == len(rows)


@given(TOKENS, st.data())
def test_one_other_token_disagrees_by_its_share(rows: list[list[int]], data: st.DataObject) -> None:
    other = [list(row) for row in rows]
    row = data.draw(st.integers(0, len(rows) - 1))
    place = data.draw(st.integers(0, len(rows[row]) - 1))
    other[row][place] += 10
    total = sum(map(len, rows))

    found = tokens(rows, other)

    assert not found.passed
    assert float(found.agreement or "nan") == pytest.approx(1 - 1 / total, abs=6e-3)
    assert float(found.minimum_cosine_similarity) == pytest.approx(1 - 1 / len(rows[row]), abs=6e-3)
    assert found.maximum_absolute_difference == "1"


@given(TOKENS)
def test_longer_sequence_disagrees(rows: list[list[int]]) -> None:
    assert not tokens(rows, [[*row, 1] for row in rows]).passed
    assert not tokens([[*row, 1] for row in rows], rows).passed


def test_share_of_tokens_decides_and_not_their_values() -> None:
    assert tokens([[1, 2, 3, 4]], [[1, 2, 3, 9]], least="0.75").passed
    assert not tokens([[1, 2, 3, 4]], [[1, 2, 8, 9]], least="0.75").passed


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        (None, np.ones((1, 2), dtype=np.int64)),
        (np.ones((1, 2), dtype=np.int64), None),
        (np.ones((1, 2), dtype=np.int64), np.ones((2, 2), dtype=np.int64)),
        (np.ones((1, 2), dtype=np.int64), np.ones((1, 2), dtype=np.float32)),
        (np.ones(2, dtype=np.int64), np.ones(2, dtype=np.int64)),
        (np.ones((0, 2), dtype=np.int64), np.ones((0, 2), dtype=np.int64)),
        (np.full((1, 2), -1), np.full((1, 2), -1)),
    ],
)
def test_tokens_that_cannot_be_compared_fail(expected: Array | None, actual: Array | None) -> None:
    comparison = Comparison("sequences", "b1-s1", DECISIONS, agreement="token")
    comparison.add(expected, actual)

    assert not comparison.result().passed


@given(arrays(np.float32, st.tuples(st.integers(2, 6), st.just(1)), elements=SCORES), st.data())
def test_choices_agree_when_the_best_row_of_a_batch_is_the_same(values: Array, data: st.DataObject) -> None:
    other = data.draw(arrays(np.float32, values.shape, elements=SCORES))
    comparison = Comparison("logits", "b1-s1", DECISIONS, agreement="choice")
    comparison.add(values, other)

    assert comparison.result().passed == (values.argmax() == other.argmax())


@given(POSITIONS, st.data())
def test_value_that_counts_is_not_lost_under_a_mask_of_values(values: Array, data: st.DataObject) -> None:
    mask = data.draw(arrays(np.bool_, values.shape))
    assume(mask.any())
    index = data.draw(st.sampled_from([tuple(place) for place in np.argwhere(mask).tolist()]))
    other = values.copy()
    other[index] += 1

    assert not parity.compare("output", "b1-s1", values, other, mask, USUAL).passed


def test_sign_of_a_single_number_next_to_zero_means_nothing() -> None:
    found = parity.compare("output", "b1-s1", np.array([[1e-6]]), np.array([[-1e-6]]), None, USUAL.model_copy())

    assert found.passed


def test_sign_of_a_single_number_counts_where_the_values_differ() -> None:
    found = parity.compare("output", "b1-s1", np.array([[1.0]]), np.array([[-1.0]]), None, USUAL)

    assert not found.passed
    assert found.minimum_cosine_similarity == "-1"
