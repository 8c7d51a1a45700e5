"""What the kubelet is told."""

import time

from torchscript_operator.controller.health import MISSED_RESYNCS, STUCK_SECONDS, Health


def test_working_operator_is_well() -> None:
    assert Health(lambda: 0.0, 600).ailments() == []


def test_operator_is_ready_after_its_first_full_look() -> None:
    health = Health(lambda: 0.0, 600)
    assert not health.started
    health.resynced()
    assert health.started


def test_key_that_nobody_takes_is_an_ailment() -> None:
    (found,) = Health(lambda: STUCK_SECONDS + 1, 600).ailments()
    assert "has waited 301 s" in found


def test_missed_full_looks_are_an_ailment() -> None:
    health = Health(lambda: 0.0, 600)
    health.last_resync = time.monotonic() - 600 * MISSED_RESYNCS - 1
    (found,) = health.ailments()
    assert "no full look" in found
