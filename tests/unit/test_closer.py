"""Closer looks take turns, and a fifth of the time at most."""

from __future__ import annotations

import pytest

from torchscript_operator.controller.closer import LEAST_SECONDS, CloserLooks


class Clock:
    """Time that passes when told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def looked(clock: Clock, seconds: float) -> CloserLooks:
    """Looks, of which the first took some seconds."""
    looks = CloserLooks(clock)
    with looks.turn():
        clock.now += seconds
    return looks


def test_the_first_look_is_made_at_once_and_no_second_one_beside_it() -> None:
    looks = CloserLooks(Clock())
    assert looks.may_begin()
    with looks.turn():
        assert not looks.may_begin()


def test_a_pause_of_four_times_its_length_follows_a_look() -> None:
    clock = Clock()
    looks = looked(clock, 0.5)
    clock.now += 1.9
    assert not looks.may_begin()
    clock.now += 0.2
    assert looks.may_begin()


def test_a_look_that_fails_gives_its_turn_away_too() -> None:
    clock = Clock()
    looks = CloserLooks(clock)
    with pytest.raises(OSError, match="gone"), looks.turn():
        raise OSError("gone")
    assert looks.may_begin()


@pytest.mark.parametrize(
    ("took", "wanted", "seconds"),
    [
        pytest.param(0.01, None, LEAST_SECONDS, id="soon, where looks are quick"),
        pytest.param(3.0, None, 30.0, id="after ten looks, where they are slow"),
        pytest.param(3.0, 60.0, 30.0, id="before the model would ask again"),
        pytest.param(3.0, 5.0, 5.0, id="when the model asks again, if that is before"),
    ],
)
def test_a_model_that_has_to_wait_comes_back(took: float, wanted: float | None, seconds: float) -> None:
    assert looked(Clock(), took).later(wanted) == pytest.approx(seconds)
