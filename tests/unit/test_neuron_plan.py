"""Two steps: a Job compiles without the device, a second one proves on it, and nothing is served in between."""

from typing import Any

import pytest

from tests.unit import workers
from tests.unit.world import World, spec
from torchscript_operator.artifact.failures import CLASSES, FailureReason
from torchscript_operator.artifact.outcome import ArtifactReference, ExportOutcome
from torchscript_operator.artifact.request import COMPILER_TIMEOUT_VARIABLE, EXPORT_VARIABLE, ExportRequest

INF1 = {"name": "inf1", "compiler": "neuron", "verify": {}}


def world(**target: Any) -> World:
    found = World(spec(targets=[{**INF1, **target}]))
    found.settle()
    return found


def compiled(letter: str = "a") -> str:
    """The termination message of a Job that compiled and did not prove."""
    pending = ArtifactReference(
        uri=f"s3://artifacts/models/{letter * 64}", digest=f"sha256:{letter * 64}", size_bytes=1
    )
    return ExportOutcome(
        request_digest="0" * 64, succeeded=True, key=letter * 64, source_revision="r" * 40, pending=pending
    ).to_json()


def compiles(found: World, letter: str = "a") -> None:
    found.export_ends(compiled(letter), "inf1")
    found.settle()


def asked(job: Any) -> ExportRequest:
    (value,) = [
        item["value"]
        for item in job["spec"]["template"]["spec"]["containers"][0]["env"]
        if item["name"] == EXPORT_VARIABLE
    ]
    return ExportRequest.model_validate_json(value)


def names(found: World) -> list[str]:
    return [name.rsplit("-", 1)[0] for name in found.created]


def test_first_job_compiles_only() -> None:
    request = asked(world().running("inf1"))
    assert (request.proof, request.pending) == ("Deferred", None)


def test_without_verify_one_job_does_both() -> None:
    found = World(spec(targets=[{"name": "inf1", "compiler": "neuron"}]))
    found.settle()
    assert asked(found.running("inf1")).proof is None
    found.export_ends(workers.proven("a"), "inf1")
    found.settle()
    assert found.target("inf1").state == "Proven"
    assert names(found) == ["minilm-export"]


def test_second_job_is_given_what_the_first_compiled() -> None:
    found = world()
    compiles(found)
    request = asked(found.running("inf1"))
    assert request.pending is not None
    assert (request.pending.key, request.pending.digest) == ("a" * 64, f"sha256:{'a' * 64}")
    assert names(found) == ["minilm-export", "minilm-verify"]


def test_second_job_starts_in_the_pass_that_reads_the_firsts_report() -> None:
    found = world()
    found.export_ends(compiled(), "inf1")
    (created,) = found.step().create
    assert created["metadata"]["name"].startswith("minilm-verify-")


def test_second_job_outlives_an_operator_that_dies_before_it_has_told_of_it() -> None:
    found = world()
    before = found.body["status"]
    found.export_ends(compiled(), "inf1")
    found.step()
    found.body["status"] = before
    assert found.plan().delete == ()


def test_until_it_is_proven_parity_is_unknown_and_nothing_is_served() -> None:
    found = world()
    compiles(found)
    assert (found.condition("Compiled").status, found.condition("SourceResolved").status) == ("True", "True")
    parity = found.condition("ParityVerified")
    assert (parity.status, parity.reason) == ("Unknown", "Verifying")
    assert "not yet compared with eager on the accelerator" in parity.message
    assert (found.condition("Ready").status, found.condition("Ready").reason) == ("False", "Verifying")
    assert (found.condition("Reconciling").status, found.condition("Reconciling").reason) == ("True", "Verifying")
    assert (found.target("inf1").state, found.deployments, found.service) == ("Verifying", {}, None)


def test_proof_of_the_second_job_starts_serving() -> None:
    found = world()
    compiles(found)
    found.export_ends(workers.proven("a"), "inf1")
    found.settle()
    assert (found.target("inf1").state, found.target("inf1").pending) == ("Proven", None)
    assert found.condition("ParityVerified").status == "True"
    assert found.rolled("inf1") == workers.digest_of("a")
    found.rollout_ends("inf1")
    found.settle()
    assert found.condition("Ready").status == "True"
    assert len(found.created) == 2


def test_artifact_that_is_proven_already_needs_no_second_job() -> None:
    found = world()
    found.export_ends(workers.proven("a", cacheHit=True), "inf1")
    found.settle()
    assert (found.target("inf1").state, names(found)) == ("Proven", ["minilm-export"])


def test_failed_proof_says_in_which_step() -> None:
    found = world()
    compiles(found)
    found.export_fails(84, workers.failed(FailureReason.PARITY_FAILED), "inf1", reason="PodFailurePolicy")
    found.settle()
    failure = found.target("inf1").last_failure
    assert failure is not None
    assert (failure.stage, failure.reason) == ("verify/resolve", "ParityFailed")
    assert found.condition("Compiled").status == "True"
    assert (found.condition("ParityVerified").status, found.condition("Stalled").status) == ("False", "True")
    assert found.deployments == {}


def test_device_that_does_not_answer_is_no_pass() -> None:
    found = world()
    compiles(found)
    reason = FailureReason.DEVICE_UNAVAILABLE
    found.export_fails(CLASSES[reason].exit_code, workers.failed(reason), "inf1")
    found.settle()
    assert (found.condition("ParityVerified").status, found.condition("ParityVerified").reason) == (
        "Unknown",
        reason.value,
    )
    assert found.condition("Stalled").reason == reason.value


def test_report_of_a_proof_that_lacks_one_is_a_failure() -> None:
    found = world()
    compiles(found)
    found.export_ends(compiled(), "inf1")
    found.settle()
    assert (found.target("inf1").state, found.condition("Stalled").reason) == ("Failed", "InvalidRequest")


def test_compile_job_that_reports_neither_is_a_failure() -> None:
    found = world()
    found.export_ends(ExportOutcome(request_digest="0" * 64, succeeded=True).to_json(), "inf1")
    found.settle()
    assert (found.target("inf1").state, names(found)) == ("Failed", ["minilm-export"])


def test_other_nodes_for_the_proof_repeat_the_proof_alone() -> None:
    found = world()
    compiles(found)
    found.export_fails(83, workers.failed(FailureReason.DEVICE_UNAVAILABLE), "inf1")
    found.settle()
    found.edit(targets=[{**INF1, "verify": {"nodeSelector": {"pool": "other"}}}])
    found.settle()
    assert names(found) == ["minilm-export", "minilm-verify", "minilm-verify"]
    assert found.running("inf1")["spec"]["template"]["spec"]["nodeSelector"] == {"pool": "other"}


def test_running_proof_on_the_wrong_nodes_is_replaced() -> None:
    found = world()
    compiles(found)
    found.edit(targets=[{**INF1, "verify": {"nodeSelector": {"pool": "other"}}}])
    found.settle()
    assert found.running("inf1")["spec"]["template"]["spec"]["nodeSelector"] == {"pool": "other"}
    assert len(found.model_jobs("inf1")) == 2


def test_retry_goes_through_both_steps() -> None:
    found = world()
    compiles(found)
    found.export_fails(83, workers.failed(FailureReason.DEVICE_UNAVAILABLE), "inf1")
    found.settle()
    found.retry("1")
    found.settle()
    compiles(found)
    assert names(found) == ["minilm-export", "minilm-verify"] * 2


def test_changed_source_is_compiled_before_it_is_proven() -> None:
    found = world()
    compiles(found)
    found.edit(source={"s3": {"uri": "s3://models/other"}})
    found.settle()
    assert asked(found.running("inf1")).pending is None
    assert found.condition("Compiled").status == "False"


def test_lost_report_of_a_proof_runs_it_again() -> None:
    found = world()
    compiles(found)
    found.export_ends(None, "inf1")
    found.settle()
    found.wait(60)
    found.step()
    found.settle()
    assert asked(found.running("inf1")).pending is not None


def test_suspended_model_is_not_proven() -> None:
    found = world()
    found.edit(suspend=True)
    found.export_ends(compiled(), "inf1")
    found.settle()
    assert (found.target("inf1").state, names(found)) == ("Suspended", ["minilm-export"])
    found.edit(suspend=False)
    found.settle()
    assert names(found) == ["minilm-export", "minilm-verify"]


def test_old_artifact_serves_while_a_new_one_is_proven() -> None:
    found = world()
    compiles(found)
    found.export_ends(workers.proven("a"), "inf1")
    found.settle()
    found.rollout_ends("inf1")
    found.settle()
    found.edit(source={"s3": {"uri": "s3://models/other"}})
    found.settle()
    compiles(found, "b")
    assert found.rolled("inf1") == workers.digest_of("a")
    assert found.condition("Ready").status == "True"


def test_unscheduled_proof_names_the_fields_of_verify() -> None:
    found = world()
    compiles(found)
    said = "0/1 nodes are available: 1 Insufficient aws.amazon.com/neuron."
    found.pod_of(found.running("inf1"), workers.unscheduled(said))
    found.settle()
    assert "spec.targets[].verify.resources" in found.condition("ParityVerified").message


@pytest.mark.parametrize(("compiler", "told"), [("neuron", ["3240"]), ("neuronx", [])])
def test_compiler_that_takes_a_timeout_is_given_one_below_the_jobs(compiler: str, told: list[str]) -> None:
    container = world(compiler=compiler).running("inf1")["spec"]["template"]["spec"]["containers"][0]
    assert [item["value"] for item in container["env"] if item["name"] == COMPILER_TIMEOUT_VARIABLE] == told
