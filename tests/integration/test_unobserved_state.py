"""Watches and lists that leave out, repeat, delay or lag: nothing is missed for good, and nothing newer is harmed."""

from functools import partial
from typing import Any

import pytest

from tests.integration import faults
from tests.integration.faults import FOR_EVER
from tests.integration.harness import OTHER, Models, eventually
from tests.integration.impatience import IMPATIENT
from tests.integration.lives import Site, World, changes, final, updated
from tests.integration.proxy import Action, Answer, Call, Rule

KINDS = ("torchscriptmodels", "jobs", "pods", "deployments")
DISTURBED: dict[str, tuple[Action, float]] = {
    "events come twice": (faults.doubled(), FOR_EVER),
    "events come late": (faults.late(0.3), FOR_EVER),
    "events are merged": (faults.merged(0.5), FOR_EVER),
    "every watch begins with an error (410)": (faults.gone_event(), 14),
    "every watch ends at its second event (410)": (faults.gone_event(after=1), FOR_EVER),
    "every watch breaks off at its second event": (faults.broken(after=1), FOR_EVER),
    "watches are refused at first (500)": (faults.refused(500), 14),
    "watches are refused at first (429)": (faults.refused(429, Retry_After="1"), 14),
}
UNHEARD: dict[str, Action] = {
    "no event arrives": faults.dropped("ADDED", "MODIFIED", "DELETED"),
    "no change arrives": faults.dropped("MODIFIED"),
    "no addition arrives": faults.dropped("ADDED"),
    "the watch is silent": faults.silent(),
}


def watches(call: Call) -> bool:
    return call.verb == "watch"


def on_watches(action: Action, times: float, site: Site) -> Rule:
    return site.line.rule(watches, action, times=times)


def on_watches_of(kind: str, action: Action, site: Site) -> Rule:
    return site.line.rule(faults.of(f"watch {kind}"), action, times=FOR_EVER)


def forgetful(site: Site) -> Rule:
    """A server that has forgotten every version but that of the last list."""
    return site.line.rule(lambda call: lists(call) or watches(call), faults.compacted(), times=FOR_EVER)


def test_disturbed_watches_change_nothing(world: World) -> None:
    reference = world.reference(updated)
    lives = {
        name: partial(world.live, updated, partial(on_watches, action, times))
        for name, (action, times) in DISTURBED.items()
    }
    lives["no watch goes on but from a new list (410)"] = partial(world.live, updated, forgetful)
    lived = world.all(lives)
    assert {name: found for name, one in lived.items() if (found := one.differs(reference))} == {}
    assert all(one.disturbance.fired for one in lived.values())


def test_what_no_watch_tells_is_found_by_looking(world: World) -> None:
    reference = world.reference(updated)
    lives = {
        f"{kind}: {name}": partial(world.live, updated, partial(on_watches_of, kind, action), IMPATIENT)
        for kind in KINDS
        for name, action in UNHEARD.items()
    }
    lived = world.all(lives)
    assert {name: found for name, one in lived.items() if (found := one.differs(reference))} == {}
    assert all(one.disturbance.fired for one in lived.values())


def lists(call: Call) -> bool:
    return call.verb == "list"


def until_exporting(models: Models) -> None:
    models.create()
    models.awaits_job()


def until_proven(models: Models) -> None:
    models.create()
    models.export_ends("a")
    models.awaits_rollout("a")


def until_served(models: Models) -> None:
    models.create()
    models.serves("a")


@pytest.fixture(params=[until_exporting, until_proven, until_served])
def earlier(request: pytest.FixtureRequest) -> Any:
    """Where a model stood when the lists were made that come again later."""
    return request.param


def test_old_lists_after_a_restart_harm_nothing_newer(world: World, earlier: Any) -> None:
    site = world.open()
    memory: dict[str, Answer] = {}
    with site:
        earlier(site.models)
        site.settle()
        site.line.rule(lists, faults.kept(memory), times=FOR_EVER)
        site.again()
        site.settle()
        site.line.rules.clear()
        if earlier is until_exporting:
            site.models.export_ends("a")
        if earlier is not until_served:
            site.models.rollout_ends("a")
        site.models.awaits("Ready", "True")
        site.models.edit(source=OTHER)
        site.models.serves("b")
        site.settle()
        done, was = changes(site.line), final(site.models)
        # The server that it talks to now lags behind, and says nothing of what has happened since.
        site.line.rule(lists, faults.replayed(memory), times=FOR_EVER)
        site.line.rule(watches, faults.silent(), times=FOR_EVER)
        site.again()
        site.settle()
        assert (changes(site.line), final(site.models)) == (done, was)
        site.models.edit(suspend=True)
        site.models.edit(suspend=False)
        site.line.rules.clear()
        site.again()
        site.models.awaits("Ready", "True")
        site.settle()
        assert changes(site.line) == done


def test_model_made_anew_is_not_taken_for_the_one_in_an_old_list(world: World) -> None:
    site = world.open()
    memory: dict[str, Answer] = {}
    with site:
        until_served(site.models)
        site.settle()
        site.line.rule(lists, faults.kept(memory), times=FOR_EVER)
        site.again()
        site.settle()
        site.line.rules.clear()
        site.models.delete()
        for job in site.models.jobs():
            path = site.models.path("jobs", job["metadata"]["name"], "/apis/batch/v1")
            site.models.api("DELETE", path, {"propagationPolicy": "Background"})
        for path in (
            site.models.path("deployments", "minilm-cpu", "/apis/apps/v1"),
            site.models.path("services", "minilm", "/api/v1"),
        ):
            site.models.api("DELETE", path)
        before = changes(site.line)
        site.line.rule(lists, faults.replayed(memory), times=FOR_EVER)
        site.again()
        site.models.create(source=OTHER)
        site.models.serves("b")
        site.settle()
        assert changes(site.line) - before == {"create jobs": 1}
        assert eventually(site.models.rolled, "a Deployment") == "sha256:" + "b" * 64


def reads_of_the_service(site: Site) -> int:
    return sum(call.what == "get services" for call in site.line.calls[site.began :])


def test_service_is_read_after_a_restart_only_where_somebody_else_has_written_to_it(world: World) -> None:
    site = world.open()
    with site:
        until_served(site.models)
        site.settle()
        site.again()
        site.settle()
        assert reads_of_the_service(site) == 0
        path = site.models.path("services", "minilm", "/api/v1")
        site.operator.kill()
        wanted = site.models.service()["spec"]["selector"]
        site.models.api.merge(path, {"spec": {"selector": {"version": "v1"}}})
        site.began = len(site.line.calls)
        site.operator.start()
        eventually(lambda: site.models.service()["spec"]["selector"] == wanted, "the selector as it was")
        site.settle()
        assert reads_of_the_service(site) > 0
        site.models.api.merge(path, {"metadata": {"labels": {"team": "search"}}})
        site.again()
        site.settle()
        assert reads_of_the_service(site) > 0
        assert site.models.service()["metadata"]["labels"]["team"] == "search"
