"""Specs from the schema, and edits of them: every change shows, history leaves no trace, and rest is rest."""

from typing import Any

from hypothesis import HealthCheck, Phase, assume, given, settings

from tests.unit.converging import converge, differences, shown, without_history
from tests.unit.specs import Path, changed, edits, filled, specs
from tests.unit.world import World

Json = dict[str, Any]
checked = settings(
    max_examples=20,
    derandomize=True,
    phases=[Phase.generate],  # an example that shows a fault is made smaller by hand: by machine it takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
SILENT: dict[Path, str] = {
    ("revisionHistoryLimit",): "acts when there is a history",
}
"""What may change without a trace, and why."""


def lived(*given_specs: Json) -> World:
    """A model that had these specs, one after the other, each until nothing was left to do."""
    world = World(given_specs[0])
    converge(world)
    for spec in given_specs[1:]:
        world.edit(**spec)
        world.body["spec"] = spec
        converge(world)
    return world


@checked
@given(edits())
def test_every_change_shows_in_children_or_status(edit: tuple[Json, Json]) -> None:
    before, after = ({**spec, "suspend": False} for spec in edit)
    assume(changed(before, after) - SILENT.keys())
    for world in (World(before), lived(before)):
        world.settle()
        was = shown(world)
        world.edit()
        world.body["spec"] = after
        world.settle()
        if shown(world) != was:
            return
    raise AssertionError(f"nobody sees {changed(before, after)}: {before} {after}")


@checked
@given(specs())
def test_what_has_converged_writes_nothing(spec: Json) -> None:
    world = lived(spec)
    for _ in range(3):
        assert world.is_quiet(world.plan())
        world.wait(3600)


@checked
@given(specs(), specs())
def test_state_depends_on_the_spec_and_not_on_the_way_there(first: Json, last: Json) -> None:
    first, last = ({**spec, "suspend": False} for spec in (first, last))
    assert differences(without_history(shown(lived(first, last))), without_history(shown(lived(last)))) == []


@checked
@given(edits())
def test_spec_that_is_put_back_puts_everything_back(edit: tuple[Json, Json]) -> None:
    before, after = ({**spec, "suspend": False} for spec in edit)
    assume(filled(before) != filled(after))
    assert (
        differences(without_history(shown(lived(before, after, before))), without_history(shown(lived(before)))) == []
    )
