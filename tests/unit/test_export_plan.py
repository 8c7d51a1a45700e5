"""One target's export, pass by pass: started, awaited, taken in, repeated."""

from typing import Any

import pytest

from tests.unit import workers
from tests.unit.world import SETTINGS, World, spec
from torchscript_operator.api import conditions
from torchscript_operator.artifact.failures import FailureReason


def test_first_pass_creates_one_job_and_nothing_else() -> None:
    world = World()
    planned = world.step()
    assert [item["kind"] for item in planned.create] == ["Job"]
    assert (planned.apply, planned.delete) == ((), ())
    assert world.target().state == "Exporting"
    assert world.target().job == world.created[0]


@pytest.mark.parametrize("edit", [{"suspend": True}, {"parallelism": 0}])
def test_job_that_somebody_suspends_is_told_and_goes_on_when_it_is_resumed(edit: dict[str, Any]) -> None:
    world = World()
    world.settle()
    job = world.running()
    before = dict(job["spec"])
    job["spec"] |= edit
    world.wait(3600)
    world.settle()
    assert "suspended, though not by this operator" in world.condition(conditions.RECONCILING).message
    assert world.running() is job
    job["spec"] = before
    world.settle()
    assert "Waiting for Job" in world.condition(conditions.RECONCILING).message


def test_job_is_created_once() -> None:
    world = World()
    world.settle()
    assert len(world.created) == 1


def test_proof_brings_deployment_and_service() -> None:
    world = World()
    world.settle()
    world.export_ends(workers.proven("a"))
    planned = world.step()
    assert [item["kind"] for item in planned.apply] == ["Deployment", "Service"]
    assert world.rolled() == workers.digest_of("a")
    assert world.target().state == "Proven"


def test_model_is_ready_when_its_deployment_is() -> None:
    world = World()
    world.serves()
    assert world.condition(conditions.READY).status == "True"
    serving = world.model.status.serving
    assert serving is not None
    assert serving.url == "http://minilm.ml.svc.cluster.local"
    assert serving.targets[0].active is not None
    assert serving.targets[0].active.artifact.digest == workers.digest_of("a")
    assert serving.targets[0].rolling_to is None


def test_report_becomes_the_targets_status() -> None:
    world = World()
    world.settle()
    world.export_ends(workers.proven("a"))
    world.settle()
    target = world.target()
    assert target.key == "a" * 64
    assert target.source_revision == "a" * 40
    assert target.worker_image == "worker:test"
    assert target.versions == {"torch": "2.13.0", "transformers": "4.57.6"}
    assert target.parity is not None
    assert target.parity.outputs[0].maximum_absolute_difference == "4.77e-07"


def test_changed_spec_replaces_a_running_job() -> None:
    world = World()
    world.settle()
    first = world.created[0]
    world.edit(inputs={"shapes": [{"batch": 1, "sequence": 64}]})
    world.settle()
    assert list(world.jobs) == [world.created[1]]
    assert world.created[1] != first


def test_finished_job_of_an_old_spec_is_kept_for_its_log() -> None:
    world = World()
    world.settle()
    world.export_fails(66, workers.failed(FailureReason.SOURCE_NOT_FOUND))
    world.settle()
    world.edit(source={"s3": {"uri": "s3://models/other"}})
    world.settle()
    assert len(world.jobs) == 2


def test_present_artifact_serves_while_the_next_is_exported() -> None:
    world = World()
    world.serves("a")
    world.edit(source={"s3": {"uri": "s3://models/other"}})
    world.settle()
    assert world.target().state == "Exporting"
    assert world.rolled() == workers.digest_of("a")
    assert world.condition(conditions.READY).status == "True"


def test_present_artifact_serves_on_when_the_next_export_fails() -> None:
    world = World()
    world.serves("a")
    world.edit(source={"s3": {"uri": "s3://models/other"}})
    world.settle()
    world.export_fails(84, workers.failed(FailureReason.PARITY_FAILED))
    before = world.deployments["minilm-cpu"]
    world.settle()
    assert world.deployments["minilm-cpu"] == before
    assert world.condition(conditions.READY).status == "True"
    assert world.condition(conditions.STALLED).status == "True"
    assert world.condition(conditions.PARITY_VERIFIED).reason == "ParityFailed"


def test_failed_attempt_is_not_repeated() -> None:
    world = World()
    world.settle()
    world.export_fails(66, workers.failed(FailureReason.SOURCE_NOT_FOUND))
    world.settle()
    world.wait(100_000)
    world.jobs.clear()  # its time to live is over
    world.settle()
    assert len(world.created) == 1
    assert world.target().state == "Failed"


@pytest.mark.parametrize("cure", ["spec", "annotation"])
def test_failed_attempt_is_repeated_when_a_person_says_so(cure: str) -> None:
    world = World()
    world.settle()
    world.export_fails(66, workers.failed(FailureReason.SOURCE_NOT_FOUND))
    world.settle()
    if cure == "spec":
        world.edit(source={"s3": {"uri": "s3://models/other"}})
    else:
        world.retry("1")
    world.serves("b")
    assert world.condition(conditions.READY).status == "True"
    assert world.condition(conditions.STALLED).status == "False"
    assert world.target().last_failure is None


def test_other_job_resources_repeat_a_failed_attempt() -> None:
    world = World()
    world.settle()
    world.export_fails(137)
    world.settle()
    world.edit(targets=[{"name": "cpu", "job": {"resources": {"limits": {"memory": "4Gi"}}}}])
    world.settle()
    assert len(world.created) == 2


def test_other_job_resources_do_not_repeat_what_is_proven() -> None:
    world = World()
    world.serves()
    world.edit(targets=[{"name": "cpu", "job": {"resources": {"limits": {"memory": "4Gi"}}}}])
    world.settle()
    assert len(world.created) == 1
    assert world.target().state == "Proven"


def test_retry_annotation_that_has_been_followed_makes_no_export_of_what_else_changes() -> None:
    world = World()
    world.serves("a")
    world.retry("1")
    world.serves("a")
    before = list(world.created)
    world.edit(targets=[{"name": "cpu", "job": {"resources": {"limits": {"memory": "8Gi"}}}}])
    world.settle()
    assert world.created == before
    world.retry("2")
    world.settle()
    assert len(world.created) == len(before) + 1


def test_retry_annotation_exports_a_proven_model_again() -> None:
    world = World()
    world.serves()
    world.retry("1")
    world.settle()
    assert len(world.created) == 2


def test_new_artifact_rolls_out_when_it_is_proven() -> None:
    world = World()
    world.serves("a")
    world.edit(source={"s3": {"uri": "s3://models/other"}})
    world.serves("b")
    assert world.rolled() == workers.digest_of("b")


def test_spec_that_goes_back_finds_its_old_job() -> None:
    world = World()
    old = world.body["spec"]
    world.serves("a")
    world.edit(source={"s3": {"uri": "s3://models/other"}})
    world.serves("b")
    world.edit(**old)
    world.settle()
    assert len(world.created) == 2
    assert world.rolled() == workers.digest_of("a")


def test_spec_that_goes_back_runs_again_when_the_old_report_is_gone() -> None:
    world = World()
    old = world.body["spec"]
    world.serves("a")
    world.edit(source={"s3": {"uri": "s3://models/other"}})
    world.serves("b")
    world.edit(**old)
    world.pods.clear()
    world.wait(60)
    world.settle()
    assert world.created == [world.created[0], world.created[1], world.created[0]]
    world.export_ends(workers.proven("a", cacheHit=True))
    world.settle()
    assert world.rolled() == workers.digest_of("a")


def test_spec_that_goes_back_before_its_successor_is_proven_changes_nothing() -> None:
    world = World()
    old = world.body["spec"]
    world.serves("a")
    world.edit(source={"s3": {"uri": "s3://models/other"}})
    world.settle()
    world.edit(**old)
    world.settle()
    assert len(world.created) == 2
    assert [name for name in world.jobs if name == world.created[1]] == []
    assert world.target().state == "Proven"


def test_lost_report_is_awaited_and_then_made_again() -> None:
    world = World()
    world.settle()
    world.export_ends(None)
    awaited = world.settle()
    assert awaited.requeue_seconds is not None
    assert len(world.created) == 1
    world.wait(60)
    world.settle()
    assert world.created == [world.created[0]] * 2


@pytest.mark.parametrize("message", ["", "{}", '{"schemaVersion": 2, "novelty": true}', "Traceback: no report"])
def test_report_that_cannot_be_read_is_a_failure_and_no_loop(message: str) -> None:
    world = World()
    world.settle()
    world.export_ends(message)
    world.wait(3600)
    world.settle()
    assert len(world.created) == 1
    assert world.target().state == "Failed"
    assert world.condition(conditions.COMPILED).reason == "InvalidRequest"


def test_sidecar_that_ended_well_is_not_taken_for_the_export() -> None:
    world = World()
    world.settle()
    world.export_ends(workers.proven("a"))
    sidecar = workers.container_status("proxy", workers.terminated(0))
    world.pods[0]["status"]["containerStatuses"].insert(0, sidecar)
    world.settle()
    assert world.target().state == "Proven"


def test_failed_parity_is_never_served_whatever_the_exit_code() -> None:
    world = World()
    world.settle()
    world.export_ends(workers.proven("a", verdict="Failed"))
    world.settle()
    assert world.deployments == {}
    assert world.condition(conditions.PARITY_VERIFIED).reason == "ParityFailed"


def test_failed_parity_is_served_and_told_when_the_policy_is_warn() -> None:
    world = World(spec(parity={"policy": "Warn"}))
    world.settle()
    world.export_ends(workers.proven("a", verdict="Failed"))
    world.settle()
    world.rollout_ends()
    world.settle()
    assert world.condition(conditions.READY).status == "True"
    assert world.condition(conditions.PARITY_VERIFIED).reason == conditions.WARNED


def test_rotated_credentials_reach_the_pods_without_an_export() -> None:
    store = {"uri": "s3://artifacts/models", "credentialsSecret": {"name": "old"}}
    world = World(spec(artifact=store))
    world.serves()
    world.edit(artifact={**store, "credentialsSecret": {"name": "new"}})
    world.settle()
    assert len(world.created) == 1
    environment = world.deployments["minilm-cpu"]["spec"]["template"]["spec"]["containers"][0]["env"]
    secrets = {item["valueFrom"]["secretKeyRef"]["name"] for item in environment if "valueFrom" in item}
    assert secrets == {"new"}


@pytest.mark.parametrize(
    "change",
    [
        {"source": {"persistentVolumeClaim": {"claimName": "other", "path": "m"}}},
        {"artifact": {"persistentVolumeClaim": {"claimName": "other", "path": "a"}}},
    ],
)
def test_other_claim_with_the_same_path_is_another_export(change: dict[str, object]) -> None:
    volumes = {
        "source": {"persistentVolumeClaim": {"claimName": "models", "path": "m"}},
        "artifact": {"persistentVolumeClaim": {"claimName": "artifacts", "path": "a"}},
    }
    world = World(spec(**volumes))
    world.serves()
    world.edit(**change)
    world.settle()
    assert len(world.created) == 2


@pytest.mark.parametrize(("text", "fits"), [("x" * 1900, True), ("x" * 2100, False), ("ä" * 1100, False)])
def test_samples_that_no_environment_variable_holds_are_refused_with_a_way_out(text: str, fits: bool) -> None:
    world = World(spec(inputs={"samples": {"texts": [text] * 64}}))
    world.settle()
    assert (len(world.created) == 1) is fits
    assert (world.condition(conditions.STALLED).status == "False") is fits
    if not fits:
        failure = world.target().last_failure
        assert failure is not None
        assert (failure.stage, failure.reason) == ("request", "InvalidRequest")
        assert "spec.inputs.samples.configMap" in world.condition(conditions.READY).message


def test_other_default_worker_image_is_another_export() -> None:
    world = World()
    world.serves()
    world.settings = SETTINGS.model_copy(update={"worker_image": "worker:next"})
    world.settle()
    assert len(world.created) == 2
    assert world.rolled() == workers.digest_of("a")
