"""Refusals, lost and late answers on any call, two operators at once, clocks that jump: the end is the same."""

import random
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.integration import faults
from tests.integration.faults import FOR_EVER
from tests.integration.harness import Models, eventually
from tests.integration.impatience import IMPATIENT, SHORT_CALLS, MovedClock
from tests.integration.lives import Lived, Site, World, changes, final, updated, withdrawn
from tests.integration.proxy import Call, Exchange
from tests.unit.converging import differences

ON_ANY = {
    "429 with Retry-After": faults.refused(429, Retry_After="1"),
    "429": faults.refused(429),
    "500": faults.refused(500),
    "503": faults.refused(503),
    "lost": faults.lost(),
    "late": faults.delayed(0.7),
}
ON_CALLS = {
    **ON_ANY,
    "409": faults.refused(409),
    "time-out after commit": faults.unanswered(2),
}
"""What only our own calls meet; kopf's are lists and watches."""
DAY = 86_400


def first_of_each_kind() -> Callable[[Call], bool]:
    """The first call of each verb and resource."""
    seen: set[str] = set()

    def matches(call: Call) -> bool:
        new = call.what not in seen
        seen.add(call.what)
        return new

    return matches


def single(matches: Callable[[Call], bool]) -> Callable[[Call], bool]:
    """The same, for calls about one object."""
    return lambda call: call.verb not in {"list", "watch"} and bool(call.resource) and matches(call)


def once_on_each_kind(name: str, site: Site) -> Any:
    matches = first_of_each_kind()
    return site.line.rule(matches if name in ON_ANY else single(matches), ON_CALLS[name], times=FOR_EVER)


def often(seed: int, site: Site) -> Any:
    """Every third call or so meets something, in an order of the seed's own."""
    chance = random.Random(seed)  # noqa: S311 -- an order, not a secret
    actions = list(ON_CALLS.values())

    async def any_of(exchange: Exchange) -> Any:
        return await chance.choice(actions)(exchange)

    return site.line.rule(single(lambda _: chance.random() < 0.3), any_of, times=FOR_EVER)


def lives_of(world: World, life: Callable[[Models], None], names: Iterable[str], seeds: int) -> dict[str, Lived]:
    lives: dict[str, Callable[[], Lived]] = {
        name: partial(world.live, life, partial(once_on_each_kind, name), SHORT_CALLS) for name in names
    }
    lives |= {f"seed {seed}": partial(world.live, life, partial(often, seed), SHORT_CALLS) for seed in range(seeds)}
    return world.all(lives)


def test_every_kind_of_call_of_an_update_may_meet_every_fault(world: World) -> None:
    lived, reference = lives_of(world, updated, ON_CALLS, 2), world.reference(updated)
    assert {name: found for name, one in lived.items() if (found := one.differs(reference))} == {}
    assert all(one.disturbance.fired > 5 for one in lived.values())


def test_every_kind_of_call_of_a_rollback_and_a_removal_may_be_refused_or_time_out(world: World) -> None:
    names = ("409", "500", "time-out after commit")
    lived, reference = lives_of(world, withdrawn, names, 1), world.reference(withdrawn)
    assert {name: found for name, one in lived.items() if (found := one.differs(reference))} == {}
    assert all(one.disturbance.fired > 5 for one in lived.values())


def test_two_operators_with_bad_connections_do_what_one_does(world: World) -> None:
    reference = world.reference(updated)
    site, rival = world.open(SHORT_CALLS), world.open(SHORT_CALLS)
    rival.line.namespace = site.models.namespace
    for seed, one in enumerate((site, rival)):
        often(seed, one)
    with site, rival:
        updated(site.models)
        site.settle()
        rival.settle()
    assert changes(site.line) + changes(rival.line) == reference.changes
    assert differences(final(site.models), reference.final) == []
    assert site.operator.faults() + rival.operator.faults() == []


def test_passes_that_failed_in_an_outage_come_back_with_the_server_and_not_with_their_backoff(world: World) -> None:
    day = {"queue.FIRST_RETRY_SECONDS": float(DAY), "queue.LAST_RETRY_SECONDS": float(DAY)}
    site = world.open({**IMPATIENT, **day, "watch.LAST_RETRY_SECONDS": 1.0})
    with site:
        site.models.create()
        site.models.awaits_job()
        site.settle()
        outage = site.line.rule(single(faults.every), faults.away(), times=FOR_EVER)
        deafness = site.line.rule(faults.of("watch jobs"), faults.away(), times=FOR_EVER)
        # The watch of before still tells of it, or the next look at everything asks for a pass.
        site.models.export_ends("a")
        eventually(lambda: outage.fired and deafness.fired, "a pass that fails, and a watch that finds nobody")
        site.line.rules.clear()
        site.models.rollout_ends("a")
        site.models.awaits("Ready", "True")
    assert site.operator.faults() == []


@pytest.mark.parametrize("seconds", [-400 * DAY, 400 * DAY])
def test_machines_clock_may_jump(world: World, tmp_path: Path, seconds: int) -> None:
    offset = tmp_path / "offset"
    offset.write_text("0")
    reference = world.reference(withdrawn)

    def jump(site: Site) -> Any:
        async def act(exchange: Exchange) -> Any:
            offset.write_text(str(seconds))
            return await faults.forward(exchange)

        return site.line.rule(faults.is_write, act, nth=4)

    lived = world.live(withdrawn, jump, {"clock.machine_now": MovedClock(offset)})
    assert lived.disturbance.fired
    assert lived.differs(reference) == []
