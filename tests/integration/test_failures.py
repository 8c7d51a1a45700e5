"""What can go wrong with an export: each ends in a reason, a message with the next step, and an Event."""

from typing import Any

import pytest

from tests.integration.harness import OTHER, Models, eventually, now
from tests.unit import workers
from torchscript_operator.artifact.failures import CLASSES, FailureReason

CLASSES_OF_WORKERS = [
    FailureReason.SOURCE_NOT_FOUND,
    FailureReason.SOURCE_ACCESS_DENIED,
    FailureReason.SOURCE_INVALID,
    FailureReason.TASK_MISMATCH,
    FailureReason.SHAPE_TOO_LONG,
    FailureReason.PARITY_FAILED,
    FailureReason.STORE_ACCESS_DENIED,
]

pytestmark = pytest.mark.usefixtures("operator")


def fail(models: Models, reason: FailureReason) -> None:
    models.export_fails(CLASSES[reason].exit_code, workers.failed(reason), reason="PodFailurePolicy")


@pytest.mark.parametrize("reason", CLASSES_OF_WORKERS)
def test_report_of_the_worker_becomes_condition_and_event(models: Models, reason: FailureReason) -> None:
    models.create()
    fail(models, reason)
    found = models.awaits("Stalled", "True", reason.value)
    assert CLASSES[reason].advice in found["message"]
    assert models.condition("Ready")["reason"] == reason.value
    told = eventually(lambda: [it for it in models.events() if it["reason"] == reason.value], "the event")
    assert [it["type"] for it in told] == ["Warning"]


def test_container_killed_for_memory(models: Models) -> None:
    models.create()
    job = models.awaits_job()
    models.pod(job, workers.pod_status("export", workers.terminated(137, reason="OOMKilled")))
    models.job_status(job, workers.job_failed(now()))
    assert "memory" in models.awaits("Stalled", "True", "OutOfMemory")["message"]


def test_container_killed_for_memory_is_tried_once_more_with_what_the_spec_allows(models: Models) -> None:
    resources = {"requests": {"memory": "1Gi"}, "limits": {"memory": "2Gi"}}
    models.create(targets=[{"name": "cpu", "job": {"resources": resources, "retryMemory": "6Gi"}}])
    first = models.awaits_job()
    models.pod(first, workers.pod_status("export", workers.terminated(137, reason="OOMKilled")))
    models.job_status(first, workers.job_failed(now(), reason="PodFailurePolicy"))
    second = models.awaits_job(but=first["metadata"]["name"])
    (container,) = second["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == {"requests": {"memory": "6Gi"}, "limits": {"memory": "6Gi"}}
    models.awaits("Compiled", "False", "RetryingWithMoreMemory")
    failure = models.get()["status"]["targets"][0]["lastFailure"]
    assert (failure["reason"], failure["exitCode"]) == ("OutOfMemory", 137)
    told = eventually(lambda: [it for it in models.events() if it["reason"] == "RetryingWithMoreMemory"], "the event")
    assert [it["type"] for it in told] == ["Warning"]
    models.serves("a")
    assert len(models.jobs()) == 2
    assert "lastFailure" not in models.get()["status"]["targets"][0]


def test_log_tail_of_a_worker_without_a_report(models: Models) -> None:
    models.create()
    models.export_fails(70, "Traceback\nRuntimeError: boom")
    models.awaits("Stalled", "True", "InternalError")
    assert models.get()["status"]["targets"][0]["lastFailure"]["logTail"].endswith("RuntimeError: boom")


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (
            workers.unscheduled("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."),
            "Unschedulable",
            "spec.targets[].job.nodeSelector or affinity asks for disk=nvme",
        ),
        (
            workers.pod_status("export", workers.waiting("ImagePullBackOff", "no such image")),
            "ImagePullFailed",
            "The image worker:test cannot be pulled: no such image.",
        ),
        (
            workers.pod_status("export", workers.waiting("CreateContainerConfigError", 'secret "keys" not found')),
            "ConfigurationMissing",
            'Secret "keys" not found. Create it in the model\'s namespace',
        ),
    ],
)
def test_pod_that_does_not_start(models: Models, status: dict[str, Any], reason: str, words: str) -> None:
    models.create(targets=[{"name": "cpu", "job": {"nodeSelector": {"disk": "nvme"}}}])
    models.pod(models.awaits_job(), status)
    assert words in models.awaits("Compiled", "False", reason)["message"]
    models.awaits("Reconciling", "True")


def test_pod_that_starts_after_all_is_no_longer_told_of(models: Models) -> None:
    models.create()
    job = models.awaits_job()
    name = models.pod(job, workers.unscheduled("0/0 nodes are available."))
    models.awaits("Compiled", "False", "Unschedulable")
    running = workers.pod_status("export", {"running": {"startedAt": now()}})
    models.api.merge(f"{models.path('pods', name, '/api/v1')}/status", {"status": running})
    models.awaits("Compiled", "False", "Exporting")


def test_pod_that_the_api_server_refuses_is_told_from_the_jobs_event(models: Models) -> None:
    models.create()
    job = models.awaits_job()
    models.job_status(job, {"startTime": now()})
    about = {"kind": "Job", "namespace": models.namespace}
    event = {
        "metadata": {"name": "refused"},
        "involvedObject": {**about, "name": job["metadata"]["name"], "uid": job["metadata"]["uid"]},
        "type": "Warning",
        "reason": "FailedCreate",
        "message": 'Error creating: pods "x" is forbidden: exceeded quota: compute',
    }
    models.api("POST", models.path("events", group="/api/v1"), event)
    assert "exceeded quota: compute" in models.awaits("Compiled", "False", "PodRejected")["message"]


def creating(container: str) -> dict[str, Any]:
    """Status of a pod that got its node long ago and whose container is still being created."""
    status = workers.pod_status(container, workers.waiting("ContainerCreating"))
    status["conditions"][0]["lastTransitionTime"] = "2026-01-01T00:00:00Z"
    return status


def mount_fails(models: Models, pod: str, volume: str, what: str) -> None:
    """The kubelet's event about a volume."""
    uid = models.api("GET", models.path("pods", pod, "/api/v1"))["metadata"]["uid"]
    event = {
        "metadata": {"name": f"{pod}-mount"},
        "involvedObject": {"kind": "Pod", "namespace": models.namespace, "name": pod, "uid": uid},
        "type": "Warning",
        "reason": "FailedMount",
        "message": f'MountVolume.SetUp failed for volume "{volume}" : {what} not found',
        "lastTimestamp": now(),
    }
    models.api("POST", models.path("events", group="/api/v1"), event)


def test_volume_that_an_export_lacks_is_told_until_it_is_there(models: Models) -> None:
    models.create()
    job = models.awaits_job()
    name = f"{job['metadata']['name']}-0"
    models.pod(job, creating("export"), name)
    mount_fails(models, name, "ca", 'configmap "corporate-ca"')
    said = models.awaits("Compiled", "False", "ConfigurationMissing")["message"]
    assert 'configmap "corporate-ca" not found. Create what is missing' in said
    told = eventually(lambda: [it for it in models.events() if it["reason"] == "ConfigurationMissing"], "the event")
    assert [it["type"] for it in told] == ["Warning"]
    models.pod_ends(name)
    models.job_status(job, workers.complete(now()))
    models.awaits("Compiled", "True")


def test_volume_that_a_serving_pod_lacks_is_told(models: Models) -> None:
    models.create()
    models.export_ends()
    deployment = models.awaits_rollout()
    models.pod(deployment, creating("server"), "server-0")
    mount_fails(models, "server-0", "artifacts", 'secret "nodes-storage-key"')
    status = workers.rolling(deployment, old=0)
    status["conditions"][0]["lastUpdateTime"] = "2026-01-01T00:00:00Z"
    models.deployment_status(deployment, status)
    said = models.awaits("Available", "False", "ConfigurationMissing")["message"]
    assert 'secret "nodes-storage-key" not found' in said


def test_job_that_the_api_server_refuses_is_told(models: Models) -> None:
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"count/jobs.batch": "0"}}}
    models.api("POST", models.path("resourcequotas", group="/api/v1"), quota)
    path = models.path("resourcequotas", "none", "/api/v1")
    used = {"hard": {"count/jobs.batch": "0"}, "used": {"count/jobs.batch": "0"}}
    models.api.merge(f"{path}/status", {"status": used})
    models.create()
    assert "exceeded quota: none" in models.awaits("Stalled", "True", "ChildRejected")["message"]


def test_corrected_spec_recovers_without_deleting_anything(models: Models) -> None:
    models.create()
    fail(models, FailureReason.SOURCE_NOT_FOUND)
    models.awaits("Stalled", "True", "SourceNotFound")
    models.edit(source=OTHER)
    models.serves("b")
    models.awaits("Stalled", "False")
    assert "lastFailure" not in models.get()["status"]["targets"][0]


def test_retry_annotation_starts_another_attempt(models: Models) -> None:
    models.create()
    fail(models, FailureReason.SOURCE_ACCESS_DENIED)
    models.awaits("Stalled", "True", "SourceAccessDenied")
    models.annotate(retry="1")
    models.serves("a")
    assert len(models.jobs()) == 2


def test_job_of_a_deleted_model_of_the_same_name_is_waited_for(models: Models) -> None:
    models.create()
    job = models.awaits_job()
    models.delete()
    models.create()
    models.awaits("Compiled", "False", "NameConflict")
    options = {"propagationPolicy": "Background"}
    models.api("DELETE", models.path("jobs", job["metadata"]["name"], "/apis/batch/v1"), options)
    models.serves("a")
