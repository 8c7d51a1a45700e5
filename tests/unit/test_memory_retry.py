"""An export that was killed for want of memory gets one more try with more of it, where the spec says how much."""

from typing import Any

import pytest

from tests.unit import workers
from tests.unit.world import SETTINGS, World, spec
from torchscript_operator.artifact.failures import FailureReason
from torchscript_operator.controller import events
from torchscript_operator.controller.model import Json
from torchscript_operator.controller.settings import CompilerDefaults

LIMITED = {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "4Gi"}}


def world(retry: str | int | None = "8Gi", resources: Json | None = None, **fields: Any) -> World:
    job = {"resources": LIMITED if resources is None else resources, **({"retryMemory": retry} if retry else {})}
    return World(spec(targets=[{"name": "cpu", "job": job, **fields}]))


def killed(found: World) -> Json:
    """The running Job's container is killed by the kernel."""
    found.settle()
    job = found.running()
    found.pod_of(job, workers.pod_status("export", workers.terminated(137, reason="OOMKilled")))
    job["status"] = workers.job_failed("2026-01-01T00:01:00Z", reason="PodFailurePolicy")
    found.settle()
    return job


def resources(job: Json) -> Json:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    found: Json = container["resources"]
    return found


def test_second_try_has_the_memory_that_the_spec_gives_and_the_rest_as_before() -> None:
    found = world()
    killed(found)
    assert resources(found.running()) == {"requests": {"cpu": "1", "memory": "8Gi"}, "limits": {"memory": "8Gi"}}


def test_second_try_outlives_an_operator_that_dies_before_it_has_told_of_it() -> None:
    found = world()
    found.settle()
    before = found.body["status"]
    killed(found)
    found.body["status"] = before
    assert found.plan().delete == ()


def test_status_says_that_it_is_tried_again_with_how_much_and_why() -> None:
    found = world()
    first = killed(found)
    assert found.target().state == "Exporting"
    failure = found.target().last_failure
    assert failure is not None
    assert (failure.reason, failure.exit_code) == ("OutOfMemory", 137)
    assert failure.attempt == first["metadata"]["labels"]["torchscript.dev/attempt"]
    found.pod_of(found.running(), workers.pod_status("export", {"running": {}}))
    found.settle()
    told = found.condition("Reconciling")
    assert told.status == "True"
    assert found.condition("Compiled").reason == "RetryingWithMoreMemory"
    assert "It has 8Gi of memory, since a first try was killed for want of it." in told.message
    assert found.condition("Stalled").status == "False"


def test_event_tells_of_the_first_failure() -> None:
    found = world()
    found.settle()
    before = found.model.status.conditions
    killed(found)
    (told,) = events.changes(before, found.model.status.conditions)
    event = events.build(found.model, told, found.now)
    assert (event["type"], event["reason"]) == ("Warning", "RetryingWithMoreMemory")
    assert "a first try was killed for want of it" in event["message"]


def test_second_try_that_succeeds_is_served_and_forgets_the_failure() -> None:
    found = world()
    killed(found)
    found.export_ends(workers.proven())
    found.settle()
    found.rollout_ends()
    found.settle()
    assert found.condition("Ready").status == "True"
    assert found.target().last_failure is None
    assert len(found.created) == 2, "nothing is exported again"


def test_second_try_goes_on_when_the_first_ones_job_is_gone() -> None:
    found = world()
    first = killed(found)
    del found.jobs[first["metadata"]["name"]]
    found.settle()
    assert len(found.created) == 2
    assert found.target().state == "Exporting"


def test_there_is_no_third_try() -> None:
    found = world()
    killed(found)
    killed(found)
    assert len(found.created) == 2
    assert found.condition("Stalled").reason == "OutOfMemory"
    assert "With 8Gi of memory, in a second try: " in found.condition("Stalled").message


def test_second_try_that_fails_otherwise_says_how() -> None:
    found = world()
    killed(found)
    found.export_fails(84, workers.failed(FailureReason.PARITY_FAILED))
    found.settle()
    assert found.condition("Stalled").reason == "ParityFailed"
    assert len(found.created) == 2


@pytest.mark.parametrize("retry", [None, "4Gi", "1Gi", 1024])
def test_without_more_memory_there_is_one_try(retry: str | int | None) -> None:
    found = world(retry)
    killed(found)
    assert len(found.created) == 1
    assert found.condition("Stalled").reason == "OutOfMemory"


def test_container_without_a_limit_is_given_one() -> None:
    found = world(resources={"requests": {"cpu": "1"}})
    killed(found)
    assert resources(found.running()) == {"requests": {"cpu": "1", "memory": "8Gi"}, "limits": {"memory": "8Gi"}}


def test_limit_of_the_settings_counts_like_the_specs() -> None:
    found = World(spec(targets=[{"name": "cpu", "job": {"retryMemory": "3Gi"}}]))
    defaults = CompilerDefaults.model_validate({"job": {"resources": LIMITED}})
    found.settings = SETTINGS.model_copy(update={"compilers": {"torchscript": defaults}})
    killed(found)
    assert len(found.created) == 1


def test_memory_that_is_allowed_later_takes_up_the_failed_export() -> None:
    found = world(None)
    killed(found)
    found.edit(targets=[{"name": "cpu", "job": {"resources": LIMITED, "retryMemory": "8Gi"}}])
    found.settle()
    assert resources(found.running())["limits"]["memory"] == "8Gi"


def test_compiler_that_was_killed_counts_as_a_kill() -> None:
    found = world()
    found.settle()
    found.export_fails(137, workers.failed(FailureReason.OUT_OF_MEMORY))
    found.settle()
    assert resources(found.running())["limits"]["memory"] == "8Gi"


def test_other_failures_are_not_tried_again() -> None:
    found = world()
    found.settle()
    found.export_fails(66, workers.failed(FailureReason.SOURCE_NOT_FOUND))
    found.settle()
    assert len(found.created) == 1


def test_suspended_model_waits_with_its_second_try() -> None:
    found = world()
    found.settle()
    found.edit(suspend=True)
    found.export_fails(137, reason="PodFailurePolicy")
    found.settle()
    assert len(found.created) == 1
    found.edit(suspend=False)
    found.settle()
    assert resources(found.running())["limits"]["memory"] == "8Gi"


def test_proof_that_was_killed_gets_its_own_second_try() -> None:
    target = {"name": "cpu", "compiler": "neuron", "verify": {"resources": LIMITED, "retryMemory": "9Gi"}}
    found = World(spec(targets=[target]))
    found.settle()
    pending = {"uri": f"s3://artifacts/models/{'a' * 64}", "digest": workers.digest_of("a"), "sizeBytes": 1}
    found.export_ends(workers.proven(artifact=None, parity=None, pending=pending))
    found.settle()
    assert resources(found.running())["limits"]["memory"] == "4Gi"
    killed(found)
    assert resources(found.running())["limits"]["memory"] == "9Gi"
    found.export_ends(workers.proven())
    found.settle()
    assert found.target().state == "Proven"
    assert len(found.created) == 3
