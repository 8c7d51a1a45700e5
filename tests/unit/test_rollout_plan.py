"""Rollouts: they follow proof, and one that fails goes back."""

import pytest

from tests.unit import workers
from tests.unit.world import World, spec
from torchscript_operator.api import conditions
from torchscript_operator.artifact.failures import CLASSES, FailureReason

SECOND = {"s3": {"uri": "s3://models/second"}}
HOPELESS = [FailureReason.ARTIFACT_NOT_FOUND, FailureReason.DIGEST_MISMATCH, FailureReason.REPLAY_FAILED]


def rolling(to: str = "b") -> World:
    """A model that serves one artifact and rolls out another."""
    world = World()
    world.serves("a")
    world.edit(source=SECOND)
    world.settle()
    world.export_ends(workers.proven(to))
    world.settle()
    return world


def crashed(reason: FailureReason) -> dict[str, object]:
    return workers.terminated(CLASSES[reason].exit_code, workers.serve_failed(reason, "b"))


def rolled_back() -> World:
    world = rolling()
    world.rollout_hangs(late=True)
    world.settle()
    return world


def test_rollout_keeps_the_old_artifact_active_until_all_new_pods_are_ready() -> None:
    world = rolling()
    world.rollout_hangs()
    world.settle()
    serving = world.model.status.serving
    assert serving is not None
    assert serving.targets[0].active is not None
    assert serving.targets[0].active.artifact.digest == workers.digest_of("a")
    assert serving.targets[0].rolling_to == workers.digest_of("b")
    assert world.condition(conditions.READY).status == "True"


def test_rollout_past_its_deadline_goes_back() -> None:
    world = rolled_back()
    assert world.rolled() == workers.digest_of("a")
    assert world.condition(conditions.AVAILABLE).reason == conditions.ROLLED_BACK
    assert "within 600 s" in world.condition(conditions.AVAILABLE).message


@pytest.mark.parametrize("reason", HOPELESS)
def test_rollout_whose_pods_cannot_succeed_goes_back_at_once(reason: FailureReason) -> None:
    world = rolling()
    world.rollout_hangs(state=crashed(reason))
    world.settle()
    assert world.rolled() == workers.digest_of("a")
    serving = world.model.status.serving
    assert serving is not None
    failure = serving.targets[0].last_failure
    assert failure is not None
    assert failure.reason == reason.value


def test_hopeless_pod_is_seen_behind_one_that_is_only_slow() -> None:
    world = rolling()
    world.rollout_hangs(state=workers.waiting("ErrImagePull", "slow registry"))
    world.rollout_hangs(state=crashed(FailureReason.REPLAY_FAILED))
    world.settle()
    assert world.rolled() == workers.digest_of("a")


def test_rollout_whose_pods_may_yet_succeed_goes_on() -> None:
    world = rolling()
    world.rollout_hangs(state=crashed(FailureReason.STORE_UNREACHABLE))
    world.settle()
    assert world.rolled() == workers.digest_of("b")
    assert world.condition(conditions.AVAILABLE).reason == "StoreUnreachable"


def test_failed_digest_is_not_tried_again() -> None:
    world = rolled_back()
    world.rollout_ends()
    for _ in range(5):
        world.wait(10_000)
        world.settle()
        assert world.rolled() == workers.digest_of("a")
    assert world.condition(conditions.READY).status == "True"
    assert world.condition(conditions.STALLED).status == "True"
    assert world.condition(conditions.RECONCILING).status == "False"


def test_failed_digest_is_tried_again_after_the_retry_annotation() -> None:
    world = rolled_back()
    world.rollout_ends()
    world.settle()
    world.retry("1")
    world.settle()
    world.export_ends(workers.proven("b", cacheHit=True))
    world.settle()
    assert world.rolled() == workers.digest_of("b")


def test_failed_digest_is_tried_again_with_other_serving_resources() -> None:
    world = rolled_back()
    world.rollout_ends()
    world.settle()
    world.edit(serving={"resources": {"limits": {"memory": "8Gi"}}})
    world.settle()
    assert world.rolled() == workers.digest_of("b")


def test_failed_digest_is_not_tried_again_for_another_number_of_replicas() -> None:
    world = rolled_back()
    world.rollout_ends()
    world.settle()
    world.edit(serving={"replicas": 3})
    world.settle()
    assert world.rolled() == workers.digest_of("a")
    assert world.deployments["minilm-cpu"]["spec"]["replicas"] == 3


def test_mended_template_gets_its_own_try_although_the_old_one_is_late() -> None:
    world = rolling()
    world.rollout_hangs(late=True)
    world.edit(serving={"resources": {"limits": {"memory": "8Gi"}}})
    world.settle()
    assert world.rolled() == workers.digest_of("b")
    assert world.condition(conditions.STALLED).status == "False"


def test_next_artifact_is_rolled_out_after_a_failed_one() -> None:
    world = rolled_back()
    world.edit(source={"s3": {"uri": "s3://models/third"}})
    world.serves("c")
    assert world.rolled() == workers.digest_of("c")
    assert world.condition(conditions.STALLED).status == "False"
    serving = world.model.status.serving
    assert serving is not None
    assert serving.targets[0].failed_digest is None
    assert serving.targets[0].last_failure is None


def test_first_rollout_has_nothing_to_go_back_to_and_stalls_when_late() -> None:
    world = World()
    world.settle()
    world.export_ends(workers.proven("a"))
    world.settle()
    world.deployments["minilm-cpu"]["status"] = workers.rolling(world.deployments["minilm-cpu"], late=True, old=0)
    world.settle()
    assert world.rolled() == workers.digest_of("a")
    assert world.condition(conditions.STALLED).reason == conditions.PODS_NOT_READY
    assert world.condition(conditions.READY).status == "False"


def test_late_first_rollout_that_gets_ready_after_all_is_ready() -> None:
    world = World()
    world.settle()
    world.export_ends(workers.proven("a"))
    world.settle()
    world.deployments["minilm-cpu"]["status"] = workers.rolling(world.deployments["minilm-cpu"], late=True, old=0)
    world.settle()
    world.rollout_ends()
    world.settle()
    assert world.condition(conditions.READY).status == "True"
    assert world.condition(conditions.STALLED).status == "False"


def test_old_crash_of_a_pod_that_is_ready_is_no_trouble() -> None:
    world = rolling()
    world.rollout_hangs()
    last = crashed(FailureReason.REPLAY_FAILED)
    world.pods[-1]["status"] = workers.pod_status("server", {"running": {}}, last=last, ready=True)
    world.settle()
    assert world.rolled() == workers.digest_of("b")
    assert world.condition(conditions.AVAILABLE).reason == conditions.ROLLING_OUT


def test_pods_that_the_api_server_refuses_are_told() -> None:
    world = rolling()
    world.rollout_hangs()
    refusal = {"type": "ReplicaFailure", "status": "True", "message": 'pods "x" is forbidden: exceeded quota'}
    world.deployments["minilm-cpu"]["status"]["conditions"].append(refusal)
    world.pods.clear()
    world.settle()
    assert world.condition(conditions.AVAILABLE).reason == conditions.POD_REJECTED
    assert "exceeded quota" in world.condition(conditions.AVAILABLE).message


def test_suspended_model_is_not_rolled_out() -> None:
    world = World()
    world.serves("a")
    world.edit(source=SECOND)
    world.settle()
    world.edit(suspend=True)
    world.export_ends(workers.proven("b"))
    world.settle()
    assert world.rolled() == workers.digest_of("a")
    assert world.condition(conditions.AVAILABLE).reason == conditions.SUSPENDED
    assert world.condition(conditions.AVAILABLE).status == "True"
    assert world.condition(conditions.READY).status == "True"
    assert world.condition(conditions.RECONCILING).status == "False"


def test_suspended_model_still_tells_of_the_rollout_under_way() -> None:
    world = rolling()
    world.rollout_hangs()
    world.edit(suspend=True)
    world.settle()
    assert world.condition(conditions.RECONCILING).status == "True"


def test_suspended_model_leaves_a_deleted_deployment_deleted() -> None:
    world = World()
    world.serves()
    world.edit(suspend=True)
    world.deployments.clear()
    world.settle()
    assert world.deployments == {}


def test_model_of_no_replicas_is_ready() -> None:
    world = World(spec(serving={"replicas": 0}))
    world.serves()
    assert world.condition(conditions.READY).status == "True"


def test_paused_deployment_goes_on() -> None:
    world = World()
    world.serves()
    world.deployments["minilm-cpu"]["spec"]["paused"] = True
    world.settle()
    assert not world.deployments["minilm-cpu"]["spec"]["paused"]


def test_paused_deployment_of_a_suspended_model_stays_paused() -> None:
    world = World()
    world.serves()
    world.edit(suspend=True)
    world.deployments["minilm-cpu"]["spec"]["paused"] = True
    world.settle()
    assert world.deployments["minilm-cpu"]["spec"]["paused"]


def test_scaling_keeps_the_artifact() -> None:
    world = World()
    world.serves()
    world.edit(serving={"replicas": 5})
    world.settle()
    assert world.deployments["minilm-cpu"]["spec"]["replicas"] == 5
    assert world.rolled() == workers.digest_of("a")


def test_deployment_that_the_controller_has_not_seen_yet_is_not_settled() -> None:
    world = rolling()
    world.deployments["minilm-cpu"]["status"] |= {"updatedReplicas": 1}
    world.settle()
    assert world.condition(conditions.AVAILABLE).status == "False"


def test_old_deadline_does_not_count_against_a_template_that_was_just_applied() -> None:
    world = rolling()
    world.deployments["minilm-cpu"]["status"]["conditions"] = workers.rolling(
        world.deployments["minilm-cpu"], late=True
    )["conditions"]
    world.settle()
    assert world.rolled() == workers.digest_of("b")


def test_failure_is_in_the_status_before_the_deployment_goes_back() -> None:
    world = World()
    world.serves("a")
    world.edit(source={"s3": {"uri": "s3://models/second"}})
    world.settle()
    world.export_ends(workers.proven("b"))
    world.settle()
    world.rollout_hangs(late=True)
    told = world.step()
    assert (told.apply, told.requeue_seconds) == ((), 0.0)
    assert world.model.status.serving is not None
    assert world.model.status.serving.targets[0].failed_digest == workers.digest_of("b")
    world.step()
    assert world.rolled() == workers.digest_of("a")
