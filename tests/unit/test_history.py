"""Earlier artifacts stay referenced, and an annotation puts one back."""

from typing import Any

import pytest

from tests.unit import workers
from tests.unit.world import World, spec, targets
from torchscript_operator.api import conditions
from torchscript_operator.api.v1alpha1.status import HistoryStatus, PinStatus
from torchscript_operator.artifact.failures import FailureReason
from torchscript_operator.controller import history
from torchscript_operator.controller.model import ROLLBACK_ANNOTATION


def source(letter: str) -> dict[str, Any]:
    return {"s3": {"uri": f"s3://models/{letter}"}}


def served(letters: str, **fields: Any) -> World:
    """A model that has served some artifacts, one after the other."""
    world = World(spec(source=source(letters[0]), **fields))
    world.serves(letters[0])
    for letter in letters[1:]:
        world.wait(60)
        world.edit(source=source(letter))
        world.serves(letter)
    return world


def letters(world: World) -> str:
    return "".join(item.artifact.digest[-1] for item in world.target().history)


def pinned(world: World) -> PinStatus | None:
    serving = world.model.status.serving
    assert serving is not None
    return serving.targets[0].pinned


def rollback(world: World, to: str | None) -> None:
    annotations = world.body["metadata"]["annotations"]
    annotations.pop(ROLLBACK_ANNOTATION, None)
    if to is not None:
        annotations[ROLLBACK_ANNOTATION] = to
    world.settle()


def rolled_back(world: World, to: str) -> World:
    rollback(world, to)
    world.rollout_ends()
    world.settle()
    return world


def test_history_is_newest_first_and_as_long_as_the_spec_says() -> None:
    assert letters(served("abcde")) == "dcb"


def test_no_history_is_kept_where_the_spec_wants_none() -> None:
    assert letters(served("abc", revisionHistoryLimit=0)) == ""


def test_entry_says_what_the_artifact_was() -> None:
    entry = served("ab").target().history[0]
    assert entry == HistoryStatus(
        key="a" * 64,
        artifact=entry.artifact,
        worker_image="worker:test",
        source_revision="a" * 40,
        precision="float32",
        verdict="Passed",
        proven_time="2026-01-01T00:01:00Z",
    )
    assert entry.artifact.digest == workers.digest_of("a")


def test_artifact_that_comes_back_leaves_the_history() -> None:
    world = served("abc")
    world.edit(source=source("a"))
    world.settle()
    world.rollout_ends()
    world.settle()
    assert world.target().artifact.digest == workers.digest_of("a")  # type: ignore[union-attr]
    assert letters(world) == "cb"


def test_artifact_that_has_served_is_forgotten_in_the_pass_that_sees_its_successor_serve() -> None:
    world = served("a", revisionHistoryLimit=0)
    world.edit(source=source("b"))
    world.settle()
    world.export_ends(workers.proven("b"))
    world.settle()
    assert letters(world) == "a"
    world.rollout_ends()
    world.step()
    assert letters(world) == ""
    assert world.is_quiet(world.plan())


def test_shorter_limit_shortens_the_history_but_for_what_serves() -> None:
    world = rolled_back(served("abcd"), "a" * 10)
    world.edit(revisionHistoryLimit=1)
    world.settle()
    assert letters(world) == "ca"


def test_history_outlives_a_failed_export() -> None:
    world = served("ab")
    world.edit(source=source("c"))
    world.settle()
    world.export_fails(84, workers.failed(FailureReason.PARITY_FAILED))
    world.settle()
    assert letters(world) == "a"


def test_time_of_the_proof_stays_while_the_artifact_does() -> None:
    world = served("a")
    before = world.target().proven_time
    world.wait(600)
    world.edit(serving={"replicas": 2})
    world.settle()
    assert world.target().proven_time == before is not None


def test_entry_takes_the_credentials_that_its_store_has_now() -> None:
    store = {"uri": "s3://artifacts/models", "credentialsSecret": {"name": "old"}}
    world = served("ab", artifact=store)
    world.edit(artifact={**store, "credentialsSecret": {"name": "new"}})
    world.settle()
    store_now = world.target().history[0].artifact.store
    assert store_now.credentials_secret == "new"  # noqa: S105 -- a Secret's name


@pytest.mark.parametrize("to", ["a", "aaaaaaaa", "sha256:aaaa", "a" * 64])
def test_annotation_puts_an_earlier_artifact_back(to: str) -> None:
    world = rolled_back(served("ab"), to)
    assert world.rolled() == workers.digest_of("a")
    assert world.condition(conditions.AVAILABLE).reason == conditions.PINNED
    assert "rollback-to" in world.condition(conditions.AVAILABLE).message
    assert world.condition(conditions.READY).status == "True"
    assert world.condition(conditions.STALLED).status == "False"


def test_the_newest_artifact_comes_back_when_the_annotation_goes() -> None:
    world = rolled_back(served("ab"), "a")
    rollback(world, None)
    assert world.rolled() == workers.digest_of("b")
    assert pinned(world) is None


def test_pin_is_in_the_status_before_the_deployment_follows_it() -> None:
    """A spec may change as soon as the older artifact is seen to serve: the pin is of the spec before that change."""
    world = served("ab")
    world.body["metadata"]["annotations"][ROLLBACK_ANNOTATION] = "a"
    planned = world.step()
    assert (planned.apply, planned.requeue_seconds) == ((), 0.0)
    assert world.rolled() == workers.digest_of("b")
    assert pinned(world) is not None
    world.edit(source=source("c"))
    world.serves("c")
    assert world.rolled() == workers.digest_of("c")


def test_pin_outlives_scaling_and_other_settings_of_serving() -> None:
    world = rolled_back(served("ab"), "a")
    world.edit(serving={"replicas": 4}, revisionHistoryLimit=5)
    world.settle()
    assert world.rolled() == workers.digest_of("a")


def test_pin_outlives_another_default_image() -> None:
    world = rolled_back(served("ab"), "a")
    world.settings = world.settings.model_copy(update={"worker_image": "worker:next"})
    world.settle()
    world.export_ends(workers.proven("c"))
    world.settle()
    assert world.target().artifact.digest == workers.digest_of("c")  # type: ignore[union-attr]
    assert world.rolled() == workers.digest_of("a")


def test_changed_spec_ends_a_pin_only_once_its_own_artifact_is_proven() -> None:
    world = rolled_back(served("ab"), "a")
    world.edit(source=source("c"))
    world.settle()
    assert world.rolled() == workers.digest_of("a")
    world.export_ends(workers.proven("c"))
    world.settle()
    assert world.rolled() == workers.digest_of("c")
    found = pinned(world)
    assert found is not None
    assert found.ended


def test_failed_export_of_a_changed_spec_leaves_the_pin() -> None:
    world = rolled_back(served("ab"), "a")
    world.edit(source=source("c"))
    world.settle()
    world.export_fails(84, workers.failed(FailureReason.PARITY_FAILED))
    world.settle()
    assert world.rolled() == workers.digest_of("a")


def test_ended_pin_counts_again_with_another_value() -> None:
    world = rolled_back(served("ab"), "a")
    world.edit(source=source("c"))
    world.serves("c")
    rollback(world, "b")
    assert world.rolled() == workers.digest_of("b")


def test_pin_to_an_artifact_that_no_longer_starts_goes_back_too() -> None:
    world = served("ab")
    rollback(world, "a")
    world.rollout_hangs(late=True)
    world.settle()
    assert world.rolled() == workers.digest_of("b")
    assert world.condition(conditions.AVAILABLE).reason == conditions.ROLLED_BACK


def test_artifact_that_failed_is_not_tried_again_after_a_pin() -> None:
    world = served("a")
    fails(world, "b")
    rolled_back(world, "a")
    rollback(world, None)
    assert world.rolled() == workers.digest_of("a")
    assert world.condition(conditions.STALLED).reason == conditions.ROLLED_BACK


def fails(world: World, letter: str) -> None:
    """A new artifact is proven, and its pods do not get Ready."""
    world.edit(source=source(letter))
    world.settle()
    world.export_ends(workers.proven(letter))
    world.settle()
    world.rollout_hangs(state=workers.terminated(88, workers.serve_failed(FailureReason.REPLAY_FAILED, letter)))
    world.settle()
    world.rollout_ends()
    world.settle()


def test_artifact_that_failed_is_not_tried_again_after_a_pin_that_failed_too() -> None:
    world = served("ab")
    fails(world, "c")
    before = world.condition(conditions.AVAILABLE).message
    rollback(world, "a")
    assert world.rolled() == workers.digest_of("a")
    world.rollout_hangs(late=True)
    world.settle()
    world.rollout_ends()
    world.settle()
    assert world.rolled() == workers.digest_of("b")
    told = world.condition(conditions.AVAILABLE)
    assert told.reason == conditions.ROLLED_BACK
    assert f"{workers.digest_of('a')[:19]} failed: Its pods were not Ready" in told.message
    rollback(world, None)
    assert world.rolled() == workers.digest_of("b")
    assert world.condition(conditions.AVAILABLE).message == before


def test_pin_that_has_ended_tells_no_more_of_what_failed() -> None:
    world = served("ab")
    rollback(world, "a")
    world.rollout_hangs(late=True)
    world.settle()
    world.rollout_ends()
    world.edit(source=source("c"))
    world.serves("c")
    found = pinned(world)
    assert found is not None
    assert (found.ended, found.failed_digest, found.last_failure) == (True, None, None)


def test_pin_that_failed_is_tried_again_when_a_person_says_so() -> None:
    world = served("ab")
    rollback(world, "a")
    world.rollout_hangs(late=True)
    world.settle()
    world.rollout_ends()
    world.settle()
    world.edit(serving={"resources": {"limits": {"memory": "4Gi"}}})
    world.settle()
    assert world.rolled() == workers.digest_of("a")
    world.rollout_ends()
    world.settle()
    found = pinned(world)
    assert found is not None
    assert (found.failed_attempt, found.last_failure) == (None, None)
    assert world.condition(conditions.STALLED).status == "False"


def test_unknown_artifact_is_told_with_those_there_are_and_changes_nothing() -> None:
    world = served("ab")
    rollback(world, "ffff")
    assert world.rolled() == workers.digest_of("b")
    told = world.condition(conditions.STALLED)
    assert told.reason == conditions.ROLLBACK_UNKNOWN
    assert workers.digest_of("a") in told.message
    assert world.condition(conditions.READY).status == "True"


def test_value_that_fits_several_artifacts_is_told() -> None:
    world = served("ab")
    rollback(world, "sha256:")
    assert world.rolled() == workers.digest_of("b")
    assert "fits several artifacts" in world.condition(conditions.STALLED).message


def test_artifact_that_failed_parity_is_put_back_only_while_the_policy_allows_it() -> None:
    world = World(spec(source=source("a"), parity={"policy": "Warn"}))
    world.settle()
    world.export_ends(workers.proven("a", verdict="Failed"))
    world.settle()
    world.rollout_ends()
    world.edit(source=source("b"))
    world.serves("b")
    rollback(world, "a")
    assert world.rolled() == workers.digest_of("a")
    world.edit(parity={"policy": "Enforce"})
    world.settle()
    assert world.rolled() == workers.digest_of("b")


def test_only_the_target_that_has_the_artifact_goes_back() -> None:
    world = World(spec(source=source("a"), targets=targets("cpu", "two")))
    world.settle()
    world.serves("a", "cpu")
    world.serves("c", "two")
    world.edit(source=source("b"))
    world.settle()
    world.serves("b", "cpu")
    world.serves("d", "two")
    rollback(world, "a")
    assert (world.rolled("cpu"), world.rolled("two")) == (workers.digest_of("a"), workers.digest_of("d"))
    assert world.condition(conditions.STALLED).status == "False"


def test_nothing_is_asked_of_a_model_without_artifacts() -> None:
    world = World()
    world.body["metadata"]["annotations"][ROLLBACK_ANNOTATION] = "a"
    world.settle()
    assert history.pins(world.model, {"cpu": world.target()}, world.settings) == ({}, None)
    assert world.condition(conditions.STALLED).status == "False"
