import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.serving import toy_manifest
from torchscript_operator.artifact.request import Shape
from torchscript_operator.serve.buckets import Buckets, TooLongError

KINDS = st.sampled_from(["dynamic", "fixed"])


def buckets(batch: str, sequence: str) -> Buckets:
    return Buckets.of(toy_manifest(batch=batch, sequence=sequence))


@given(KINDS, KINDS, st.integers(1, 4), st.integers(1, 16))
def test_a_size_holds_what_it_was_asked_for(batch: str, sequence: str, rows: int, length: int) -> None:
    found = buckets(batch, sequence)
    size = found.fit(rows, length)
    assert size.batch >= rows
    assert size.sequence >= length
    assert size.batch == rows or batch == "fixed"
    assert size.sequence == length or sequence == "fixed"
    assert found.file_shape(size) in found.shapes


@given(KINDS, KINDS, st.integers(1, 16))
def test_the_largest_batch_fits_at_its_padded_length(batch: str, sequence: str, length: int) -> None:
    found = buckets(batch, sequence)
    padded = found.padded(length)
    largest = found.largest_batch(padded)
    assert found.fit(largest or 100, padded).sequence == padded


def test_fixed_axes_take_the_smallest_bucket() -> None:
    assert buckets("fixed", "fixed").fit(1, 5) == Shape(batch=1, sequence=8)
    assert buckets("fixed", "fixed").fit(2, 5) == Shape(batch=4, sequence=8)
    assert buckets("fixed", "fixed").fit(1, 9) == Shape(batch=4, sequence=16)


def test_dynamic_axes_take_no_padding() -> None:
    assert buckets("dynamic", "dynamic").fit(3, 5) == Shape(batch=3, sequence=5)


def test_more_rows_than_every_bucket_are_a_programming_error() -> None:
    with pytest.raises(ValueError, match="no bucket"):
        buckets("fixed", "fixed").fit(5, 5)


def test_too_long_for_fixed_axes_names_the_buckets_and_the_remedy() -> None:
    with pytest.raises(TooLongError, match=r"17 tokens.*b1-s8, b4-s8, b4-s16.*spec.inputs.shapes"):
        buckets("fixed", "fixed").check(17)


def test_too_long_for_dynamic_axes_names_the_limit() -> None:
    with pytest.raises(TooLongError, match="17 tokens are more than the model's 16"):
        buckets("dynamic", "dynamic").check(17)
