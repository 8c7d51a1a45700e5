"""A pod that has a node and does not start: told from the kubelet's events, which are looked for only then."""

from typing import Any

import pytest

from tests.unit import workers
from tests.unit.world import SETTINGS, World
from torchscript_operator.api import conditions
from torchscript_operator.controller import children, starting
from torchscript_operator.controller.export_plan import stamp
from torchscript_operator.controller.settings import Settings

Json = dict[str, Any]
TRUSTING = Settings.model_validate(
    {**SETTINGS.model_dump(by_alias=True), "caBundle": {"configMap": "corporate-ca", "key": "ca.crt"}}
)
CREATING = workers.waiting("ContainerCreating")
NO_CONFIG_MAP = 'MountVolume.SetUp failed for volume "ca" : configmap "corporate-ca" not found'
NO_KEY = 'MountVolume.SetUp failed for volume "keys" : references non-existent secret key: tls.crt'
TIMED_OUT = "Unable to attach or mount volumes: unmounted volumes=[ca]: timed out waiting for the condition"
CLAIM = 'MountVolume.SetUp failed for volume "artifacts" : mount failed: exit status 32'


def exporting() -> tuple[World, Json]:
    world = World(settings=TRUSTING)
    world.settle()
    return world, world.pod_of(world.running(), workers.pod_status("export", CREATING))


def rolling_out() -> tuple[World, Json]:
    world = World(settings=TRUSTING)
    world.settle()
    world.export_ends(workers.proven())
    world.settle()
    world.rollout_hangs(state=CREATING)
    return world, world.pods[-1]


def warn(world: World, pod: Json, message: str, reason: str = "FailedMount", ago: float = 0) -> None:
    world.wait(-ago)
    about = {"kind": "Pod", "uid": pod["metadata"]["uid"]}
    event = {"involvedObject": about, "reason": reason, "message": message, "lastTimestamp": stamp(world.now)}
    world.wait(ago)
    world.events.append(event)


def told(world: World, kind: str = conditions.COMPILED) -> tuple[str, str]:
    world.settle()
    found = world.condition(kind)
    return found.reason, found.message


def test_export_without_its_config_map_is_told_with_what_names_it_and_the_next_step() -> None:
    world, pod = exporting()
    world.wait(30)
    warn(world, pod, NO_CONFIG_MAP)
    reason, said = told(world)
    assert reason == conditions.CONFIGURATION_MISSING
    assert said.endswith(
        'MountVolume.SetUp failed for volume "ca" : configmap "corporate-ca" not found. ConfigMap corporate-ca is '
        "named by the chart's value worker.caBundle. Create what is missing in the model's namespace, or correct the "
        "reference; the pod then starts."
    )
    assert world.condition(conditions.RECONCILING).status == "True"


def test_serving_pod_without_its_config_map_is_told() -> None:
    world, pod = rolling_out()
    world.wait(30)
    warn(world, pod, NO_CONFIG_MAP)
    reason, said = told(world, conditions.AVAILABLE)
    assert reason == conditions.CONFIGURATION_MISSING
    assert 'configmap "corporate-ca" not found' in said


def test_rollout_that_runs_out_of_time_keeps_what_the_events_said() -> None:
    world, pod = rolling_out()
    world.wait(600)
    warn(world, pod, NO_CONFIG_MAP)
    deployment = world.deployments["minilm-cpu"]
    deployment["status"] = workers.rolling(deployment, late=True)
    assert told(world, conditions.AVAILABLE)[0] == conditions.CONFIGURATION_MISSING


def test_volume_that_cannot_be_mounted_is_told_apart_from_one_that_is_missing() -> None:
    world, pod = exporting()
    pod["spec"]["volumes"].append({"name": "artifacts", "persistentVolumeClaim": {"claimName": "models"}})
    world.wait(30)
    warn(world, pod, CLAIM)
    reason, said = told(world)
    assert reason == conditions.MOUNT_FAILED
    assert "PersistentVolumeClaim models is named by spec.source.persistentVolumeClaim or spec.artifact" in said


def test_sandbox_that_fails_again_and_again_is_one_finding() -> None:
    world, pod = exporting()
    world.wait(30)
    for letter in "ab":
        warn(world, pod, f'failed to set up sandbox "{letter * 64}": no network', "FailedCreatePodSandBox")
    reason, said = told(world)
    assert reason == conditions.START_FAILED
    assert said.count("no network") == 1


def test_several_missing_volumes_are_all_named_in_an_order_that_stays() -> None:
    found = []
    for messages in ([NO_CONFIG_MAP, NO_KEY], [NO_KEY, NO_CONFIG_MAP]):
        world, pod = exporting()
        world.wait(30)
        for message in messages:
            warn(world, pod, message)
        found.append(told(world)[1].partition(":")[2])
    assert found[0] == found[1]
    assert "corporate-ca" in found[0]
    assert "tls.crt" in found[0]


def test_cause_is_told_and_not_that_it_timed_out() -> None:
    world, pod = exporting()
    world.wait(30)
    warn(world, pod, NO_CONFIG_MAP)
    warn(world, pod, TIMED_OUT)
    assert "timed out" not in told(world)[1]


def test_cause_that_has_passed_is_not_told() -> None:
    world, pod = exporting()
    world.wait(900)
    warn(world, pod, NO_KEY, ago=600)
    warn(world, pod, NO_CONFIG_MAP)
    assert "tls.crt" not in told(world)[1]


@pytest.mark.parametrize("reason", ["Unhealthy", "BackOff", "FailedPreStopHook"])
def test_other_warnings_about_the_pod_tell_nothing(reason: str) -> None:
    world, pod = exporting()
    world.wait(30)
    warn(world, pod, "something else", reason)
    assert told(world)[0] == conditions.EXPORTING


@pytest.mark.parametrize("make", [exporting, rolling_out])
def test_events_are_looked_for_only_once_a_start_takes_long(make: Any) -> None:
    world, pod = make()
    planned = world.settle()
    assert (planned.look_for_events, planned.look_closer) == ((), False)
    assert planned.requeue_seconds == starting.SLOW_SECONDS
    world.wait(starting.SLOW_SECONDS)
    assert world.settle().look_for_events == (pod["metadata"]["name"],)


@pytest.mark.parametrize("make", [exporting, rolling_out])
def test_looks_at_a_pod_that_does_not_start_get_rarer(make: Any) -> None:
    world, _ = make()
    found = []
    for _ in range(3):
        world.wait(30)
        found.append(world.settle().requeue_seconds)
    assert found == [30, 60, 60]


@pytest.mark.parametrize(("make", "container"), [(exporting, "export"), (rolling_out, "server")])
def test_pod_that_has_started_is_not_looked_at_for_events(make: Any, container: str) -> None:
    world, pod = make()
    pod["status"] = workers.pod_status(container, {"running": {}})
    world.wait(300)
    planned = world.settle()
    assert (planned.look_for_events, planned.requeue_seconds) == ((), None)


def test_rollout_that_takes_long_asks_for_its_pods() -> None:
    world, _ = rolling_out()
    world.pods.clear()
    assert not world.settle().look_closer
    world.wait(starting.SLOW_SECONDS)
    assert world.settle().look_closer


def test_model_that_serves_is_not_looked_at_closer() -> None:
    world = World()
    world.serves()
    world.wait(300)
    planned = world.settle()
    assert (planned.look_closer, planned.look_for_events, planned.requeue_seconds) == (False, (), None)


def test_children_know_which_models_have_a_pod_that_has_not_begun() -> None:
    world, pod = rolling_out()
    known = children.Children()
    known.note("pods", pod)
    assert known.starting(world.model)
    pod["status"] = workers.pod_status("server", {"running": {}})
    assert known.note("pods", pod) is None
    assert not known.starting(world.model)


@pytest.mark.parametrize(
    "status",
    [
        workers.unscheduled("no node"),
        workers.pod_status("export", workers.waiting("ErrImagePull")),
        workers.pod_status("export", workers.terminated(0)),
        {"phase": "Pending"},
    ],
    ids=["no node", "no image", "ended", "not yet placed"],
)
def test_only_a_pod_with_a_node_and_nothing_else_to_say_is_starting(status: Json) -> None:
    metadata = {"creationTimestamp": "2026-01-01T00:00:00Z"}
    assert starting.since({"metadata": metadata, "status": status}) is None
