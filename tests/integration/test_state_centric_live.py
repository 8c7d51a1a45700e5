"""Specs that Hypothesis makes from the CRD's schema, on a real API server: the end depends on the last one alone."""

import copy
import time
from functools import partial
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings

from tests.integration.harness import Json, Models, eventually, now
from tests.integration.impatience import IMPATIENT
from tests.integration.lives import Lived, World, changes, final
from tests.unit import workers
from tests.unit.converging import differences, outcome, plain, without_history
from tests.unit.specs import edits, specs

QUIET_SECONDS = 4.0
"""Longer than the impatient operator's time between two full looks, and than its watches live without an event."""


def all_goes_well(models: Models) -> bool:
    """End what runs, roll out what waits; returns whether the operator has nothing more to do for the present spec."""
    idle = True
    for job in models.jobs():
        if not job.get("status", {}).get("conditions"):
            idle = False
            models.pod(job, workers.pod_status("export", workers.terminated(0, outcome(job))))
            models.job_status(job, workers.complete(now()))
    for item in models.api("GET", models.path("deployments", group="/apis/apps/v1"))["items"]:
        status, wanted = item.get("status", {}), workers.rolled_out(item)
        seen = status.get("observedGeneration") == wanted["observedGeneration"]
        if not seen or status.get("replicas", 0) != wanted["replicas"]:
            idle = False
            models.deployment_status(item, wanted)
    model = models.get()
    if not idle or model["status"].get("observedGeneration") != model["metadata"]["generation"]:
        return False
    return models.condition("Reconciling").get("status") == "False"


def put(models: Models, spec: Json) -> None:
    """Replace the whole spec."""
    body = models.get()
    models.api("PUT", models.path("torchscriptmodels", "minilm"), {**body, "spec": spec})


def succeed_one_another(chain: list[Json], models: Models) -> None:
    models.create(**chain[0])
    eventually(lambda: all_goes_well(models), f"rest with {chain[0]}")
    for spec in chain[1:]:
        put(models, spec)
        eventually(lambda: all_goes_well(models), f"rest with {spec}")


def lived(world: World, chain: list[Json]) -> Lived:
    """A model that has these specs one after the other, and then writes nothing any more."""
    site = world.open({**IMPATIENT, "plan.REJECTED_SECONDS": 2.0})
    with site:
        succeed_one_another(chain, site.models)
        site.settle()
        before = site.line.writes()
        time.sleep(QUIET_SECONDS)  # not to wait for something, but to see that nothing comes
        assert site.line.writes() == before, site.line.acted[-20:]
        return Lived(final(site.models), changes(site.line), site, None)


def present(found: Json) -> Json:
    """Without what tells of earlier specs."""
    (model,) = copy.deepcopy(found["torchscriptmodels"])
    model["status"] = without_history({"status": model["status"]})["status"]
    kept: Json = {"model": [model["spec"], model["status"]], **{it: found[it] for it in found if it not in SKIPPED}}
    stripped: Json = plain(kept)
    return stripped


SKIPPED = {"torchscriptmodels", "jobs"}
"""Jobs of earlier specs stay for their logs."""


def says(one: Lived, kind: str) -> bool:
    """Whether a condition of the model holds in the end."""
    (model,) = one.final["torchscriptmodels"]
    return any(it["type"] == kind and it["status"] == "True" for it in model["status"]["conditions"])


def checks(world: World, first: Json, last: Json, other: Json) -> Any:
    lives = {
        "first, other, last": partial(lived, world, [first, other, last]),
        "last": partial(lived, world, [last]),
        "first": partial(lived, world, [first]),
        "first, last, first": partial(lived, world, [first, last, first]),
    }
    return world.all(lives)


def test_end_depends_on_the_last_spec_alone_and_is_quiet(world: World) -> None:
    compared: list[str] = []

    @settings(
        max_examples=3,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(edits(), specs())
    def every_example(edit: tuple[Json, Json], other: Json) -> None:
        first, last, other = ({**spec, "suspend": False} for spec in (*edit, other))
        found = checks(world, first, last, other)
        for way, straight in (("first, other, last", "last"), ("first, last, first", "first")):
            if says(found[straight], "Ready"):
                compared.append(way)
                assert differences(present(found[way].final), present(found[straight].final)) == []
            else:
                # What served before goes on, and somebody is told why.
                assert says(found[straight], "Stalled")
                assert says(found[way], "Stalled")
        assert [line for one in found.values() for line in one.site.operator.faults()] == []

    every_example()
    assert set(compared) == {"first, other, last", "first, last, first"}
