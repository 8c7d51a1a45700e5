"""Events: one for each change that a person should see."""

from tests.unit import workers
from tests.unit.world import World
from torchscript_operator.api import conditions
from torchscript_operator.api.v1alpha1.status import Condition
from torchscript_operator.artifact.failures import FailureReason
from torchscript_operator.controller import events


def news(world: World) -> list[Condition]:
    """What the next pass tells."""
    before = world.model.status.conditions
    world.step()
    return events.changes(before, world.model.status.conditions)


def test_start_of_an_export_is_told_once() -> None:
    world = World()
    assert [item.reason for item in news(world)] == [conditions.EXPORTING]
    assert news(world) == []


def test_failure_is_told_once_although_several_conditions_say_it() -> None:
    world = World()
    world.settle()
    world.export_fails(66, workers.failed(FailureReason.SOURCE_NOT_FOUND))
    told = news(world)
    assert [item.reason for item in told] == ["SourceNotFound"]
    assert news(world) == []


def test_failed_update_of_a_serving_model_is_told() -> None:
    world = World()
    world.serves()
    world.edit(source={"s3": {"uri": "s3://models/other"}})
    world.settle()
    world.export_fails(84, workers.failed(FailureReason.PARITY_FAILED))
    assert "ParityFailed" in [item.reason for item in news(world)]


def test_recovery_is_told() -> None:
    world = World()
    world.settle()
    world.export_ends(workers.proven())
    world.settle()
    world.rollout_ends()
    assert conditions.SERVING in [item.reason for item in news(world)]


def test_event_has_the_same_name_when_it_is_built_again() -> None:
    world = World()
    world.step()
    (told,) = events.changes([], [world.condition(conditions.READY)])
    first, again = (events.build(world.model, told, world.now) for _ in range(2))
    assert first["metadata"]["name"] == again["metadata"]["name"]


def test_event_of_another_generation_has_another_name() -> None:
    world = World()
    world.step()
    told = world.condition(conditions.READY)
    first = events.build(world.model, told, world.now)
    world.edit(serving={"replicas": 2})
    assert events.build(world.model, told, world.now)["metadata"]["name"] != first["metadata"]["name"]


def test_failure_that_a_retry_ends_in_again_has_another_name() -> None:
    world = World()
    world.step()
    told = world.condition(conditions.READY)
    first = events.build(world.model, told, world.now)
    world.retry("1")
    assert events.build(world.model, told, world.now)["metadata"]["name"] != first["metadata"]["name"]


def test_failure_is_a_warning_and_progress_is_normal() -> None:
    world = World()
    world.step()
    assert events.build(world.model, world.condition(conditions.READY), world.now)["type"] == "Normal"
    world.export_fails(66, workers.failed(FailureReason.SOURCE_NOT_FOUND))
    world.step()
    for kind in (conditions.READY, conditions.STALLED):
        assert events.build(world.model, world.condition(kind), world.now)["type"] == "Warning"


def test_event_points_at_the_model() -> None:
    world = World()
    world.step()
    body = events.build(world.model, world.condition(conditions.READY), world.now)
    assert body["involvedObject"]["uid"] == "model-1"
    assert body["metadata"]["namespace"] == "ml"


def test_long_message_is_cut() -> None:
    world = World()
    world.step()
    long = world.condition(conditions.READY).model_copy(update={"message": "x" * 5000})
    assert len(events.build(world.model, long, world.now)["message"]) == events.MESSAGE_CHARACTERS
