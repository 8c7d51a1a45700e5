"""What a store has lost is exported again, once for each artifact and not without end."""

import pytest

from tests.unit import workers
from tests.unit.world import World
from torchscript_operator.api import conditions
from torchscript_operator.artifact.failures import CLASSES, FailureReason

LOST = workers.terminated(
    CLASSES[FailureReason.ARTIFACT_NOT_FOUND].exit_code, workers.serve_failed(FailureReason.ARTIFACT_NOT_FOUND)
)


def lose(world: World) -> None:
    """A new serving pod does not find the artifact."""
    world.rollout_hangs(state=LOST)
    world.settle()


def found_again(world: World, letter: str) -> None:
    """The export ends, and pods start."""
    world.export_ends(workers.proven(letter))
    world.settle()
    world.pods.clear()
    world.settle()
    world.rollout_ends()
    world.settle()


def lost() -> World:
    world = World()
    world.serves("a")
    lose(world)
    return world


def test_lost_artifact_is_exported_again_by_itself() -> None:
    world = lost()
    assert world.running()["metadata"]["name"] != world.created[0]
    assert len(world.created) == 2
    assert world.condition(conditions.STALLED).status == "False"
    assert world.condition(conditions.RECONCILING).status == "True"
    assert world.condition(conditions.READY).status == "True"


@pytest.mark.parametrize("letter", ["a", "b"])
def test_model_is_well_once_the_artifact_is_back(letter: str) -> None:
    world = lost()
    found_again(world, letter)
    assert world.rolled() == workers.digest_of(letter)
    assert world.condition(conditions.AVAILABLE).status == "True"
    assert world.condition(conditions.STALLED).status == "False"
    assert len(world.created) == 2


def test_artifact_that_is_lost_again_waits_for_a_person() -> None:
    world = lost()
    found_again(world, "a")
    lose(world)
    assert len(world.created) == 2
    assert world.condition(conditions.STALLED).reason == "ArtifactNotFound"
    assert "torchscript.dev/retry" in world.condition(conditions.STALLED).message
    world.retry("1")
    world.settle()
    assert len(world.created) == 3


def test_store_that_loses_everything_is_given_up() -> None:
    world = lost()
    for letter in "bcd":
        found_again(world, letter)
        lose(world)
    assert len(world.created) == 4
    assert world.condition(conditions.STALLED).status == "True"


def test_another_spec_starts_anew() -> None:
    world = lost()
    found_again(world, "a")
    world.edit(source={"s3": {"uri": "s3://models/second"}})
    world.serves("b")
    lose(world)
    assert len(world.created) == 4
    assert world.target().lost.times == 1  # type: ignore[union-attr]


def test_suspended_model_is_not_exported_again() -> None:
    world = World()
    world.serves("a")
    world.edit(suspend=True)
    lose(world)
    assert len(world.created) == 1


@pytest.mark.parametrize("reason", [FailureReason.DIGEST_MISMATCH, FailureReason.STORE_UNREACHABLE])
def test_other_trouble_is_no_loss(reason: FailureReason) -> None:
    world = World()
    world.serves("a")
    world.rollout_hangs(state=workers.terminated(CLASSES[reason].exit_code, workers.serve_failed(reason)))
    world.settle()
    assert len(world.created) == 1


def test_new_artifact_that_is_lost_before_it_serves_is_tried_again() -> None:
    world = World()
    world.serves("a")
    world.edit(source={"s3": {"uri": "s3://models/second"}})
    world.settle()
    world.export_ends(workers.proven("b"))
    world.settle()
    lose(world)
    assert world.rolled() == workers.digest_of("a")
    world.pods.clear()  # as a Deployment's controller takes away what it no longer wants
    found_again(world, "b")
    assert world.rolled() == workers.digest_of("b")
    assert world.condition(conditions.READY).status == "True"
