"""The API server's time, whatever this machine's clock says."""

from datetime import UTC, datetime, timedelta

import pytest

from torchscript_operator.controller import clock as clocks
from torchscript_operator.controller.clock import Clock

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
AT_NOON = "Thu, 01 Jan 2026 12:00:00 GMT"


@pytest.fixture
def elapsed(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of the monotonic clock."""
    seconds = [100.0]
    monkeypatch.setattr(clocks.time, "monotonic", lambda: seconds[0])
    monkeypatch.setattr(clocks, "machine_now", lambda: NOON - timedelta(days=400))
    return seconds


@pytest.mark.usefixtures("elapsed")
def test_machine_is_asked_only_before_the_server_has_answered() -> None:
    clock = Clock()
    assert clock.now() == NOON - timedelta(days=400)
    clock.hear(AT_NOON)
    assert clock.now() == NOON


def test_time_goes_on_between_answers(elapsed: list[float]) -> None:
    clock = Clock()
    clock.hear(AT_NOON)
    elapsed[0] += 90
    assert clock.now() == NOON + timedelta(seconds=90)


def test_answer_that_agrees_to_the_second_moves_nothing_back(elapsed: list[float]) -> None:
    clock = Clock()
    clock.hear(AT_NOON)
    elapsed[0] += 0.9
    clock.hear(AT_NOON)
    assert clock.now() == NOON + timedelta(seconds=0.9)


def test_server_that_was_set_is_followed(elapsed: list[float]) -> None:
    clock = Clock()
    clock.hear(AT_NOON)
    elapsed[0] += 5
    clock.hear("Thu, 01 Jan 2026 11:00:00 GMT")
    assert clock.now() == NOON - timedelta(hours=1)


@pytest.mark.usefixtures("elapsed")
@pytest.mark.parametrize("date", [None, "", "yesterday"])
def test_answer_without_a_date_is_left_out(date: str | None) -> None:
    clock = Clock()
    clock.hear(AT_NOON)
    clock.hear(date)
    assert clock.now() == NOON
