"""How fast the queue empties, by what passes say and by what leaves it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchscript_operator.serve.pace import (
    LEAST_PADDING,
    LEAST_SECONDS,
    MOST_PADDING,
    RECENT_PASSES,
    WINDOW_SECONDS,
    Pace,
    PassCost,
    worthwhile_padding,
)


def waiting(pace: Pace, seconds: float, tokens: int, every: float, start: float = 0.0) -> float:
    """Batches of so many tokens taken at this interval while more wait; when the last one was."""
    count = int(seconds / every)
    for number in range(count + 1):
        pace.taken(tokens, 1000, start + number * every)
    return start + count * every


def test_before_any_pass_no_pace_is_known() -> None:
    assert Pace(2).tokens_per_second(0.0) == 0


def test_while_nothing_waits_passes_say_the_pace_of_each_worker() -> None:
    pace = Pace(2)
    pace.computed(100, 0.1)
    pace.taken(100, 0, 1.0)
    assert pace.tokens_per_second(10.0) == pytest.approx(2000)


def test_while_texts_wait_what_left_the_queue_says_it() -> None:
    """Passes look fast when the processors are another program's between them."""
    pace = Pace(2)
    pace.computed(100, 0.1)
    end = waiting(pace, 3.0, 100, 0.5)
    assert pace.tokens_per_second(end + 0.5) == pytest.approx(200)


def test_a_pace_that_changed_is_known_after_the_window() -> None:
    pace = Pace(1)
    end = waiting(pace, 10.0, 100, 0.1)
    end = waiting(pace, WINDOW_SECONDS + 1, 100, 1.0, start=end + 1.0)
    assert pace.tokens_per_second(end + 1.0) == pytest.approx(100, rel=0.3)


def test_a_standstill_lowers_it_at_once() -> None:
    pace = Pace(1)
    end = waiting(pace, 4.0, 100, 0.1)
    assert pace.tokens_per_second(end + 4.0) < pace.tokens_per_second(end) * 0.6


def test_an_empty_queue_forgets_what_left_it() -> None:
    pace = Pace(1)
    pace.computed(100, 0.1)
    end = waiting(pace, 3.0, 10, 1.0)
    pace.taken(10, 0, end)
    assert pace.tokens_per_second(end + 1.0) == pytest.approx(1000)


@given(st.floats(LEAST_SECONDS * 2, 30), st.integers(1, 500), st.floats(0.01, 0.2))
def test_a_steady_queue_has_a_steady_pace(seconds: float, tokens: int, every: float) -> None:
    pace = Pace(3)
    end = waiting(pace, seconds, tokens, every)
    assert pace.tokens_per_second(end + every) == pytest.approx(tokens / every, rel=0.25)


def passes(fixed: float, token: float) -> list[tuple[int, float]]:
    return [(tokens, fixed + token * tokens) for tokens in range(20, 20 + RECENT_PASSES)]


@pytest.mark.parametrize(
    ("fixed", "token", "padding"),
    [(4.3e-3, 146e-6, 6), (3.3e-3, 46.5e-6, 14), (0.0, 1e-4, LEAST_PADDING), (1.0, 1e-6, MOST_PADDING)],
)
def test_padding_is_worth_a_part_of_what_a_pass_costs_beside_its_tokens(
    fixed: float, token: float, padding: int
) -> None:
    assert worthwhile_padding(passes(fixed, token)) == padding


@pytest.mark.parametrize("told", [[], [(20, 1.0)], [(20, 1.0), (20, 2.0)], passes(5.0, -1e-3)])
def test_passes_that_do_not_say_what_a_token_costs_change_nothing(told: list[tuple[int, float]]) -> None:
    assert worthwhile_padding(told) is None


def test_the_cost_is_learnt_again_from_each_so_many_passes() -> None:
    cost = PassCost(10)
    found = []
    for fixed in (4.3e-3, 1.0):
        for tokens, seconds in passes(fixed, 146e-6):
            found.append(cost.slack_tokens)
            cost.computed(tokens, seconds)
    assert found == [10] * RECENT_PASSES + [6] * RECENT_PASSES
    assert cost.slack_tokens == MOST_PADDING
