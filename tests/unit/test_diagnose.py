"""Why a pod does not get on, in words for the person who wrote the model."""

from typing import Any

import pytest

from tests.unit import workers
from tests.unit.world import World
from torchscript_operator.api import conditions
from torchscript_operator.artifact.failures import CLASSES, FailureReason
from torchscript_operator.controller import diagnose
from torchscript_operator.controller.export_plan import stamp
from torchscript_operator.controller.model import Json

SELECTOR = "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector."
TAINT = "0/3 nodes are available: 3 node(s) had untolerated taint {aws.amazon.com/neuron: true}."
MEMORY = "0/3 nodes are available: 3 Insufficient memory. preemption: 0/3 nodes are available."
CLAIM = 'persistentvolumeclaim "models" not found'
PLACED = {
    "nodeSelector": {"disk": "nvme"},
    "resources": {"requests": {"memory": "900Gi", "cpu": 2}},
}


def exporting(**job: Any) -> World:
    world = World()
    world.edit(targets=[{"name": "cpu", "job": job}])
    world.settle()
    return world


def told(world: World) -> tuple[str, str]:
    """Reason and message that a person reads."""
    world.settle()
    found = world.condition(conditions.COMPILED)
    return found.reason, found.message


def pod(world: World, **status: Any) -> Json:
    return world.pod_of(world.running(), status)


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        (SELECTOR, "spec.targets[].job.nodeSelector or affinity asks for disk=nvme"),
        (TAINT, "spec.targets[].job.tolerations does not accept the taints named"),
        (MEMORY, "spec.targets[].job.resources asks for cpu=2, memory=900Gi"),
        (CLAIM, "spec.source.persistentVolumeClaim or spec.artifact.persistentVolumeClaim cannot be mounted"),
    ],
)
def test_unschedulable_pod_names_the_schedulers_reason_and_our_constraint(message: str, hint: str) -> None:
    world = exporting(**PLACED)
    pod(world, **workers.unscheduled(message))
    reason, said = told(world)
    assert reason == conditions.UNSCHEDULABLE
    assert message.rstrip(".") in said
    assert hint in said


def test_unschedulable_pod_of_several_constraints_names_them_all() -> None:
    world = exporting(**PLACED)
    pod(world, **workers.unscheduled(f"{SELECTOR} 1 Insufficient cpu."))
    _, said = told(world)
    assert "nodeSelector" in said
    assert "resources" in said


def test_pod_that_waits_for_a_scheduling_gate_is_told_with_the_gate() -> None:
    world = exporting()
    status = workers.unscheduled("Scheduling is blocked due to non-empty scheduling gates")
    status["conditions"][0]["reason"] = "SchedulingGated"
    pod(world, **status)["spec"]["schedulingGates"] = [{"name": "kueue.x-k8s.io/admission"}]
    reason, said = told(world)
    assert reason == conditions.SCHEDULING_GATED
    assert "(kueue.x-k8s.io/admission)" in said
    assert world.target().state == "Exporting"


def test_unschedulable_pod_leaves_the_export_under_way() -> None:
    world = exporting(**PLACED)
    pod(world, **workers.unscheduled(SELECTOR))
    world.settle()
    assert world.target().state == "Exporting"
    assert world.condition(conditions.RECONCILING).status == "True"


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"])
def test_image_that_cannot_be_pulled_is_named(reason: str) -> None:
    world = exporting()
    pod(world, **workers.pod_status("export", workers.waiting(reason, "not found")))
    found, said = told(world)
    assert found == conditions.IMAGE_PULL_FAILED
    assert "The image worker:test cannot be pulled: not found. Check spec.targets[].job.image" in said


def test_missing_secret_is_named_as_it_is_written() -> None:
    world = exporting()
    message = "couldn't find key AWS_ACCESS_KEY_ID in Secret ml/S3.Keys"
    pod(world, **workers.pod_status("export", workers.waiting("CreateContainerConfigError", message)))
    found, said = told(world)
    assert found == conditions.CONFIGURATION_MISSING
    assert "Couldn't find key AWS_ACCESS_KEY_ID in Secret ml/S3.Keys. Create it in the model's namespace" in said


IMAGE_STEP = "Check that spec.targets[].job.image is an image of this operator's workers."


def test_container_that_does_not_start_is_told() -> None:
    world = exporting()
    pod(world, **workers.pod_status("export", workers.waiting("CreateContainerError", "no such command")))
    assert told(world) == (
        conditions.START_FAILED,
        f"Job {world.created[-1]}: The container did not start: no such command. {IMAGE_STEP}",
    )


def test_container_that_is_being_created_is_no_trouble() -> None:
    world = exporting()
    pod(world, **workers.pod_status("export", workers.waiting("ContainerCreating")))
    assert told(world)[0] == conditions.EXPORTING


def test_transient_failure_says_that_the_job_tries_again() -> None:
    world = exporting()
    message = workers.failed(FailureReason.SOURCE_UNREACHABLE)
    pod(world, **workers.pod_status("export", workers.terminated(69, message)))
    reason, said = told(world)
    assert reason == "SourceUnreachable"
    assert said.endswith("Attempt 1 of 4 failed; the Job tries again.")
    assert world.condition(conditions.SOURCE_RESOLVED).status == "False"


def test_lasting_failure_promises_no_other_try() -> None:
    world = exporting()
    message = workers.failed(FailureReason.SOURCE_NOT_FOUND)
    pod(world, **workers.pod_status("export", workers.terminated(66, message)))
    assert "tries again" not in told(world)[1]


def test_newest_pod_speaks_for_the_job() -> None:
    world = exporting()
    pod(world, **workers.pod_status("export", workers.terminated(69)))
    world.wait(10)
    pod(world, **workers.pod_status("export", {"running": {}}))
    assert told(world)[0] == conditions.EXPORTING


def test_report_of_the_worker_is_told_in_its_own_words() -> None:
    world = exporting()
    world.export_fails(84, workers.failed(FailureReason.PARITY_FAILED, "Output logits is off by 0.5 at b1-s128."))
    reason, said = told(world)
    assert reason == "ParityFailed"
    assert "Output logits is off by 0.5 at b1-s128." in said


def test_end_of_the_log_is_kept_when_there_is_no_report() -> None:
    world = exporting()
    world.export_fails(70, "first\n" + "x" * 5000 + "\nRuntimeError: boom")
    told(world)
    failure = world.target().last_failure
    assert failure is not None
    assert failure.log_tail is not None
    assert failure.log_tail.endswith("RuntimeError: boom")
    assert len(failure.log_tail) == 2048
    assert failure.exit_code == 70


def test_container_that_the_kernel_killed_for_memory_says_so() -> None:
    world = exporting()
    job = world.running()
    world.pod_of(job, workers.pod_status("export", workers.terminated(137, reason="OOMKilled")))
    job["status"] = workers.job_failed(stamp(world.now))
    reason, said = told(world)
    assert reason == "OutOfMemory"
    assert "was killed for want of memory" in said
    assert CLASSES[FailureReason.OUT_OF_MEMORY].advice in said


def test_container_that_was_killed_for_an_unknown_reason_most_likely_lacked_memory() -> None:
    world = exporting()
    world.export_fails(137)
    reason, said = told(world)
    assert reason == "OutOfMemory"
    assert "was killed (ended with exit code 137), most likely for want of memory," in said


def test_unknown_exit_code_is_an_internal_error() -> None:
    world = exporting()
    world.export_fails(3)
    reason, said = told(world)
    assert reason == "InternalError"
    assert "exit code 3" in said


def test_evicted_pod_is_not_taken_for_one_out_of_memory() -> None:
    world = exporting()
    job = world.running()
    evicted = {"reason": "Evicted", "message": "The node was low on resource: ephemeral-storage."}
    world.pod_of(job, workers.pod_status("export", workers.terminated(137), **evicted))
    job["status"] = workers.job_failed(stamp(world.now))
    reason, said = told(world)
    assert reason == conditions.EVICTED
    assert "ephemeral-storage" in said


def test_evicted_pod_of_a_job_that_goes_on_is_told_as_such() -> None:
    world = exporting()
    evicted = {"reason": "Evicted", "message": "The node was low on resource: memory."}
    pod(world, **workers.pod_status("export", workers.terminated(137), **evicted))
    assert told(world)[0] == conditions.EVICTED


def test_export_past_its_deadline_names_the_field_and_what_was_last_seen() -> None:
    world = exporting(**PLACED, activeDeadlineSeconds=60)
    job = world.running()
    world.pod_of(job, workers.unscheduled(SELECTOR))
    job["status"] = workers.job_failed(stamp(world.now), "DeadlineExceeded", "Job was active longer")
    reason, said = told(world)
    assert reason == conditions.DEADLINE_EXCEEDED
    assert "longer than 60 s. Raise spec.targets[].job.activeDeadlineSeconds." in said
    assert "didn't match Pod's node affinity/selector" in said


def test_failed_job_whose_pods_are_gone_tells_the_jobs_own_message() -> None:
    world = exporting()
    world.running()["status"] = workers.job_failed(stamp(world.now), message="Job has reached the backoff limit")
    reason, said = told(world)
    assert reason == "InternalError"
    assert "Job has reached the backoff limit" in said


@pytest.mark.parametrize(
    "message",
    [
        'pods "x" is forbidden: exceeded quota: compute',
        'pods "x" is forbidden: violates PodSecurity "restricted:latest"',
    ],
)
def test_refused_pod_is_told_from_the_jobs_event(message: str) -> None:
    world = exporting()
    job = world.running()
    job.setdefault("status", {})["startTime"] = job["metadata"]["creationTimestamp"]
    world.wait(10)
    assert world.settle().look_for_events
    world.events.append({"involvedObject": {"uid": job["metadata"]["uid"]}, "message": f"Error creating: {message}"})
    reason, said = told(world)
    assert reason == conditions.POD_REJECTED
    assert message in said


def test_event_about_another_job_tells_nothing() -> None:
    world = exporting()
    world.wait(10)
    world.events.append({"involvedObject": {"uid": "other"}, "message": "Error creating: quota"})
    assert told(world)[0] == conditions.EXPORTING


def test_young_job_without_a_pod_is_looked_at_again_soon() -> None:
    planned = exporting().settle()
    assert planned.requeue_seconds == 5
    assert not planned.look_for_events


def test_serving_pod_names_the_serving_fields() -> None:
    world = World()
    world.serves()
    world.edit(serving={"nodeSelector": {"disk": "nvme"}})
    world.settle()
    world.rollout_hangs()
    world.pods[-1]["status"] = workers.unscheduled(SELECTOR)
    world.settle()
    assert "spec.serving.nodeSelector asks for disk=nvme" in world.condition(conditions.AVAILABLE).message


def test_crash_before_the_present_restart_is_told() -> None:
    world = World()
    world.settle()
    world.export_ends(workers.proven())
    world.settle()
    last = workers.terminated(87, workers.serve_failed(FailureReason.STORE_UNREACHABLE))
    world.rollout_hangs()
    world.pods[-1]["status"] = workers.pod_status("server", workers.waiting("CrashLoopBackOff"), last=last)
    world.settle()
    assert world.condition(conditions.AVAILABLE).reason == "StoreUnreachable"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Traceback\nRuntimeError: boom\n\n", "RuntimeError: boom."),
        ('{"level": "info"}\n{"level": "error", "message": "The disk is full."}', "The disk is full."),
        ("[1, 2]", "[1, 2]."),
        ("x" * 300, "x" * 200 + "…"),
        ("", ""),
    ],
)
def test_last_line_of_a_log_is_told_in_short(text: str, expected: str) -> None:
    assert diagnose.last_line(text) == expected


def test_crashed_container_says_its_last_line() -> None:
    found = diagnose.ended(workers.terminated(1, "loading\nImportError: no module named x")["terminated"])
    assert "left no report. Its last line: ImportError: no module named x. " in found.message


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Authorization: Bearer abcdefghijklmnop", "abcdefghijklmnop"),
        ("{'authorization': 'Basic dXNlcjpwYXNzd29yZA=='}", "dXNlcjpwYXNzd29yZA"),
        ("GET https://user:hunter2hunter2@host/path", "hunter2hunter2"),
        ("token hf_abcdefghijklmnopqrstuvwxyz is invalid", "hf_abcdefghijklmnopqrstuvwxyz"),
        ("AKIAIOSFODNN7EXAMPLE is unknown", "AKIAIOSFODNN7EXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMIK7MDENGbPxRfiCY", "wJalrXUtnFEMIK7MDENGbPxRfiCY"),
        ("password: correct-horse-battery", "correct-horse-battery"),
        ("https://b.s3/k?X-Amz-Signature=0123456789abcdef&x=1", "0123456789abcdef"),
        ("jwt eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln", "eyJhbGciOiJSUzI1NiJ9"),
    ],
)
def test_log_tail_holds_no_credential(text: str, secret: str) -> None:
    found = diagnose.ended(workers.terminated(1, text)["terminated"])
    assert secret not in (found.log_tail or "")
    assert secret not in found.message
    assert "[redacted]" in (found.log_tail or "")


@pytest.mark.parametrize("end", ["\nRuntimeError: boom", " RuntimeError: boom"])
@pytest.mark.parametrize("before", range(12))
def test_credential_that_the_kubelet_cut_in_two_is_not_kept(end: str, before: int) -> None:
    begin = "token=hf_abcdefghijklmnopqrstuvwxyz"
    written = begin + "." * (2048 + before - len(begin + end)) + end
    tail = diagnose.log_tail(written[-2048:]) or ""
    assert tail.endswith("RuntimeError: boom")
    assert "qrstuvwxyz" not in tail


@pytest.mark.parametrize(
    "text",
    [
        "tokenizer: WordPiece with 30522 tokens",
        "RuntimeError: expected scalar type Float but found Half",
        "s3://artifacts/models/601c760fc83e839d3661bf3c0417a9cb9981d0d55293d874687ad0fcc3c25cb8",
        "http://mirror:8080/api/models/sentence-transformers",
        "sha256:a42a13969ec6e2306b787d06dd0074d756e7c811fd157a458ab15dee5c5033c3",
    ],
)
def test_log_tail_keeps_what_is_no_credential(text: str) -> None:
    assert diagnose.log_tail(text) == text


@pytest.mark.parametrize(
    ("said", "step"),
    [
        ('pods "x" is forbidden: exceeded quota: compute', "Raise that quota, or lower spec.serving.resources."),
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest"', "find the webhook that changes them"),
        ('error looking up service account ml/worker: serviceaccount "worker" not found', "Create that account"),
        ("admission webhook denied the request", "Change what refuses them"),
    ],
)
def test_refused_pods_come_with_the_next_step(said: str, step: str) -> None:
    assert step in diagnose.no_replica(said, diagnose.SERVING_FIELDS).message
