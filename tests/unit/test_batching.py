from hypothesis import given
from hypothesis import strategies as st

from torchscript_operator.serve.batching import Policy, choose, delay_left, fair_share, retry_after

LENGTHS = st.lists(st.integers(1, 512), min_size=1, max_size=80).map(sorted)
POLICY = Policy(slack_tokens=24, smallest_share=4)


def capacity(padded: int) -> int:
    return min(16, max(1, 512 // padded))


@given(LENGTHS, st.data())
def test_a_batch_holds_the_oldest_row(lengths: list[int], data: st.DataObject) -> None:
    oldest = data.draw(st.integers(0, len(lengths) - 1))
    start, stop = choose(lengths, oldest, capacity, POLICY)
    assert 0 <= start <= oldest < stop <= len(lengths)


@given(LENGTHS, st.data())
def test_a_batch_keeps_to_the_capacity_of_its_longest_row(lengths: list[int], data: st.DataObject) -> None:
    start, stop = choose(lengths, data.draw(st.integers(0, len(lengths) - 1)), capacity, POLICY)
    assert stop - start <= capacity(lengths[stop - 1])


@given(LENGTHS, st.data())
def test_each_row_that_joins_adds_at_most_the_slack_in_padding(lengths: list[int], data: st.DataObject) -> None:
    start, stop = choose(lengths, data.draw(st.integers(0, len(lengths) - 1)), capacity, POLICY)
    rows = lengths[start:stop]
    assert max(rows) * len(rows) - sum(rows) <= POLICY.slack_tokens * (len(rows) - 1)


@given(LENGTHS, st.data())
def test_a_batch_is_full_or_its_neighbours_would_waste(lengths: list[int], data: st.DataObject) -> None:
    start, stop = choose(lengths, data.draw(st.integers(0, len(lengths) - 1)), capacity, POLICY)
    longest, size = lengths[stop - 1], stop - start
    if start > 0 and size < capacity(longest):
        assert longest - lengths[start - 1] > POLICY.slack_tokens
    if stop < len(lengths) and size < capacity(lengths[stop]):
        assert size * (lengths[stop] - longest) > POLICY.slack_tokens


@given(LENGTHS, st.data())
def test_a_model_without_a_mask_gets_rows_of_one_length(lengths: list[int], data: st.DataObject) -> None:
    oldest = data.draw(st.integers(0, len(lengths) - 1))
    start, stop = choose(lengths, oldest, capacity, Policy(mixed_lengths=False))
    assert set(lengths[start:stop]) == {lengths[oldest]}


def test_the_nearest_lengths_are_taken_first() -> None:
    assert choose([5, 18, 20, 21, 60], 2, lambda _: 3, POLICY) == (1, 4)


def test_waiting_rows_are_shared_among_idle_workers() -> None:
    assert fair_share(20, 2, POLICY) == 10


def test_few_rows_are_not_torn_apart() -> None:
    assert fair_share(3, 8, POLICY) == POLICY.smallest_share


def test_without_a_delay_nothing_waits() -> None:
    assert delay_left(0.0, 1, 32, 0.0) == 0.0


def test_a_lone_row_waits_what_is_left_of_the_delay() -> None:
    assert delay_left(0.25, 1, 32, 1.0) == 0.75


def test_a_full_batch_waits_no_longer() -> None:
    assert delay_left(0.0, 32, 32, 1.0) == 0.0


@given(st.integers(0, 10**9), st.floats(0, 1e9))
def test_retry_after_is_between_a_second_and_a_minute(tokens: int, rate: float) -> None:
    assert 1 <= retry_after(tokens, rate) <= 60
