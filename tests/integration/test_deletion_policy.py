"""Artifacts that go with their model, on a real API server with its controllers; the tests are the kubelet."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.cluster.controlplane import ControlPlane
from tests.integration.conftest import numbers
from tests.integration.harness import Api, Json, Models, Operator, eventually
from tests.integration.spaces import make_namespace
from tests.unit import workers
from torchscript_operator.artifact.failures import FailureReason

FINALIZER = "torchscript.dev/artifacts"
DELETED: dict[str, Any] = {"artifact": {"uri": "s3://artifacts/models", "deletionPolicy": "Delete"}}
RETAINED: dict[str, Any] = {"artifact": {"uri": "s3://artifacts/models"}}

pytestmark = pytest.mark.cluster_wide("an operator that watches a list of namespaces removes no artifacts")


@pytest.fixture
def models(governed: tuple[ControlPlane, Operator]) -> Iterator[Models]:
    with Api(governed[0].kubeconfig) as api:
        yield Models(api, make_namespace(api, f"deletion-{next(numbers)}"))


def proven(models: Models, name: str, letter: str, **spec: Any) -> None:
    """A model that serves nothing, with an artifact."""
    models.create(name, serving={"targets": []}, **spec)
    job = models.awaits_job(model=name)
    ends(models, job, workers.terminated(0, workers.proven(letter)))
    models.awaits("Ready", "True", name=name)


def ends(models: Models, job: Json, state: Json) -> None:
    """A Job's pod ends, which no kubelet runs; its controller then ends the Job."""
    selector = f"batch.kubernetes.io/job-name={job['metadata']['name']}"
    path = models.path("pods", group="/api/v1")
    (pod,) = eventually(lambda: models.api("GET", f"{path}?labelSelector={selector}")["items"], "the Job's pod")
    container = workers.pod_status("export", state)
    models.api.merge(f"{path}/{pod['metadata']['name']}/status", {"status": container})


def removal(models: Models) -> Json | None:
    """The removal Job that runs."""
    found = [
        job for job in models.jobs() if "-remove-" in job["metadata"]["name"] and not job["status"].get("conditions")
    ]
    return next(iter(found), None)


def removed(job: Json) -> list[str]:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    text = next(item["value"] for item in container["env"] if item["name"] == "TSM_REMOVE_REQUEST")
    return [key[0] for key in yaml.safe_load(text)["keys"]]


def is_gone(models: Models, name: str = "minilm") -> bool:
    return models.api.find(models.path("torchscriptmodels", name)) is None


def test_only_models_that_ask_for_removal_have_a_finalizer(models: Models) -> None:
    models.create("kept", suspend=True, **RETAINED)
    models.create("deleted", suspend=True, **DELETED)
    models.awaits("Ready", "False", "Suspended", name="kept")
    models.awaits("Ready", "False", "Suspended", name="deleted")
    assert models.get("deleted")["metadata"]["finalizers"] == [FINALIZER]
    assert "finalizers" not in models.get("kept")["metadata"]
    assert models.get("deleted")["status"]["deletionPolicy"] == "Delete"
    models.edit("deleted", artifact={"deletionPolicy": "Retain"})
    eventually(lambda: "finalizers" not in models.get("deleted")["metadata"], "no finalizer")


def test_model_goes_once_its_artifacts_are_removed_and_others_keep_theirs(models: Models) -> None:
    proven(models, "minilm", "a", **DELETED)
    models.edit(source={"s3": {"uri": "s3://models/second"}})
    ends(models, models.awaits_job(), workers.terminated(0, workers.proven("b")))
    eventually(lambda: models.get()["status"]["targets"][0]["key"] == "b" * 64, "the second artifact")
    proven(models, "other", "b", **RETAINED)
    # In the foreground, so that children go before the model: the removal has to outlive that.
    models.api("DELETE", models.path("torchscriptmodels", "minilm"), {"propagationPolicy": "Foreground"})
    job = eventually(lambda: removal(models), "the removal")
    assert removed(job) == ["a"]
    assert not is_gone(models)
    ends(models, job, workers.terminated(0))
    eventually(lambda: is_gone(models), "the model to go")
    assert models.get("other")["status"]["targets"][0]["key"] == "b" * 64


def test_model_goes_when_removal_fails_and_an_event_says_what_stays(models: Models) -> None:
    proven(models, "minilm", "a", **DELETED)
    models.delete()
    job = eventually(lambda: removal(models), "the removal")
    ends(models, job, workers.terminated(86, workers.failed(FailureReason.STORE_ACCESS_DENIED)))
    eventually(lambda: is_gone(models), "the model to go")
    (told,) = [event for event in models.events() if event["reason"] == "ArtifactsRetained"]
    assert told["type"] == "Warning"
    assert f"s3://artifacts/models/{'a' * 64}" in told["message"]


def test_model_without_artifacts_goes_at_once(models: Models) -> None:
    models.create(suspend=True, **DELETED)
    eventually(lambda: models.get()["metadata"].get("finalizers"), "the finalizer")
    models.delete()
    eventually(lambda: is_gone(models), "the model to go")
    assert models.jobs() == []


def test_model_that_was_put_back_from_a_backup_goes_too(models: Models) -> None:
    """Whoever applies what `kubectl get -o yaml` has said has set the finalizer as well."""
    models.create(suspend=True, **DELETED)
    backup = eventually(lambda: it if (it := models.get())["metadata"].get("finalizers") else None, "the finalizer")
    models.delete()
    eventually(lambda: is_gone(models), "the model to go")
    metadata = {"name": "minilm", "finalizers": [*backup["metadata"]["finalizers"], "example.com/other"]}
    kept = {key: backup[key] for key in ("apiVersion", "kind", "spec")}
    models.api("POST", models.path("torchscriptmodels"), {**kept, "metadata": metadata})
    models.awaits("Ready", "False", "Suspended")
    models.delete()
    eventually(lambda: models.get()["metadata"]["finalizers"] == ["example.com/other"], "others' finalizer alone")
    models.api.merge(models.path("torchscriptmodels", "minilm"), {"metadata": {"finalizers": None}})
    eventually(lambda: is_gone(models), "the model to go")


def test_operator_that_restarts_goes_on_with_a_deletion(
    governed: tuple[ControlPlane, Operator], models: Models
) -> None:
    proven(models, "minilm", "a", **DELETED)
    governed[1].kill()
    models.delete()
    governed[1].start()
    job = eventually(lambda: removal(models), "the removal")
    governed[1].kill()
    ends(models, job, workers.terminated(0))
    governed[1].start()
    eventually(lambda: is_gone(models), "the model to go")


def test_namespace_that_is_deleted_does_not_wait_for_a_removal(
    governed: tuple[ControlPlane, Operator], models: Models
) -> None:
    proven(models, "minilm", "a", **DELETED)
    pods = models.path("pods", group="/api/v1")
    models.api("DELETE", pods, {"gracePeriodSeconds": 0})
    governed[0].kubectl.run("delete", "namespace", models.namespace, "--wait=false")
    eventually(lambda: governed[0].kubectl.get("namespace", models.namespace) is None, "no namespace", 60)


def deployed(models: Models) -> str:
    """A Deployment in place of the operator's, with a pod."""
    labels = {"app": "operator"}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "operator:1"}]}}
    body = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "operator"},
        "spec": {"selector": {"matchLabels": labels}, "template": pod},
    }
    models.api("POST", models.path("deployments", group="/apis/apps/v1"), body)
    eventually(lambda: operators(models), "the operator's pod")
    return f"{models.namespace}/operator"


def operators(models: Models) -> list[Json]:
    path = models.path("pods", group="/api/v1")
    found: list[Json] = models.api("GET", f"{path}?labelSelector=app=operator")["items"]
    return found


def test_released_model_goes_without_an_operator(governed: tuple[ControlPlane, Operator], models: Models) -> None:
    proven(models, "minilm", "a", **DELETED)
    name = deployed(models)
    governed[1].kill()  # as an uninstall's hook does by scaling its Deployment, for which another stands here
    command = [sys.executable, "-m", "torchscript_operator.controller.release", f"--stop={name}"]
    environment = os.environ | {"KUBECONFIG": str(governed[0].kubeconfig)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "models are released" in done.stderr
    assert operators(models) == []
    assert "finalizers" not in models.get()["metadata"]
    models.delete()
    eventually(lambda: is_gone(models), "the model to go")
    governed[1].start()
