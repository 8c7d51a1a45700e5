"""Whatever write the operator dies at, or gets no answer to, everything ends as if nothing had happened."""

from collections.abc import Callable
from functools import partial

import pytest

from tests.integration import faults
from tests.integration.lives import Site, World, updated, withdrawn
from tests.integration.proxy import Action, Rule

LIVES = (updated, withdrawn)
FAULTS: dict[str, Callable[[Site], Action]] = {
    "killed before": lambda site: faults.killed_before(site.again),
    "killed after": lambda site: faults.killed_after(site.again),
    "answer lost": lambda _: faults.lost(),
}
MOST_WRITES = {updated: 24, withdrawn: 48}
"""Events included."""


MOST = 0.8
STRIDE = 9
"""In the long life every ninth write fails, so that nine lives disturb all of them."""


def at(fault: str, nth: int, times: float, site: Site) -> Rule:
    return site.line.rule(faults.is_write, FAULTS[fault](site), nth=nth, times=times, stride=STRIDE)


def test_undisturbed_lives_write_little(world: World) -> None:
    for life in LIVES:
        reference = world.reference(life)
        assert len(reference.site.line.writes()) <= MOST_WRITES[life]
        assert reference.site.operator.faults() == []
    assert world.reference(updated).changes == {"create jobs": 2}
    assert world.reference(withdrawn).changes == {
        "create jobs": 3 + (not world.scoped),  # the last one removes artifacts
        "delete jobs": 1,
        "delete horizontalpodautoscalers": 1,
        "delete poddisruptionbudgets": 1,
    }


@pytest.mark.parametrize("fault", FAULTS)
def test_every_write_of_an_update_may_fail(world: World, fault: str) -> None:
    reference = world.reference(updated)
    count = len(reference.site.line.writes())
    lived = world.all(
        {f"write {nth}": partial(world.live, updated, partial(at, fault, nth, 1)) for nth in range(1, count + 1)}
    )
    assert {name: found for name, one in lived.items() if (found := one.differs(reference))} == {}
    # A write more or less depends on what came together; but nearly every one of them was disturbed.
    assert sum(one.disturbance.fired for one in lived.values()) >= count * MOST


@pytest.mark.parametrize("fault", FAULTS)
def test_writes_of_a_rollback_and_a_removal_may_fail_again_and_again(world: World, fault: str) -> None:
    reference = world.reference(withdrawn)
    count = len(reference.site.line.writes())
    lives = {
        f"writes {nth}, {nth + STRIDE}, …": partial(world.live, withdrawn, partial(at, fault, nth, faults.FOR_EVER))
        for nth in range(1, STRIDE + 1)
    }
    lived = world.all(lives)
    assert {name: found for name, one in lived.items() if (found := one.differs(reference))} == {}
    assert sum(one.disturbance.fired for one in lived.values()) >= count * MOST
