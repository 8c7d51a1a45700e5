"""A serving model is changed, broken and edited by hand."""

import copy
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.controlplane import ControlPlane
from tests.integration.conftest import SETTINGS
from tests.integration.harness import OTHER, Json, Models, Operator, eventually, now, writes
from tests.unit import workers
from tests.unit.world import World
from torchscript_operator.artifact.failures import CLASSES, FailureReason
from torchscript_operator.controller import cluster, connection, serving

PLACED: dict[str, Any] = {
    "targets": [
        {
            "name": "cpu",
            "job": {
                "nodeSelector": {"disk": "nvme"},
                "tolerations": [{"key": "pool", "operator": "Equal", "value": "", "effect": "NoSchedule"}],
                "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
                "resources": {"requests": {"cpu": "0.5", "memory": "1024Mi"}, "limits": {"cpu": 1}},
            },
        }
    ],
    "serving": {
        "replicas": 2,
        "nodeSelector": {"pool": "serving"},
        "tolerations": [{"key": "pool", "operator": "Exists", "value": ""}],
        "resources": {"requests": {"cpu": 0, "memory": "0.5Gi"}, "limits": {"memory": "1024Mi", "cpu": "1500m"}},
    },
    "artifact": {"persistentVolumeClaim": {"claimName": "artifacts"}},
    "source": {"persistentVolumeClaim": {"claimName": "models"}},
}

pytestmark = pytest.mark.usefixtures("operator")


def idle(operator: Operator, plane: ControlPlane, user: str, models: Models) -> None:
    """Ask for passes that have nothing to do, and see that they write nothing."""
    # A status is seen before the event that its pass goes on to write.
    eventually(lambda: not written(operator, plane, user, models), "a pass that writes nothing")
    for _ in range(3):
        assert written(operator, plane, user, models) == []


def written(operator: Operator, plane: ControlPlane, user: str, models: Models) -> list[str]:
    """What is written from asking for a pass until one has ended."""
    before, passes = len(writes(plane, user, models.namespace)), finished(operator)
    models.annotate(poke=str(passes))
    eventually(lambda: finished(operator) > passes, "a pass")
    return writes(plane, user, models.namespace)[before:]


def finished(operator: Operator) -> float:
    """Passes that went well, as the operator counts them."""
    text = operator.get("/metrics") or ""
    counts = [
        float(line.split()[-1]) for line in text.splitlines() if line.startswith('tsm_reconcile_total{result="succ')
    ]
    return sum(counts)


def deployment_path(models: Models) -> str:
    return models.path("deployments", "minilm-cpu", "/apis/apps/v1")


def container(deployment: Json) -> Json:
    (only,) = deployment["spec"]["template"]["spec"]["containers"]
    found: Json = only
    return found


def test_bad_update_leaves_what_serves_untouched(models: Models) -> None:
    models.create()
    models.serves("a")
    before = models.deployment()
    models.edit(source=OTHER)
    models.export_fails(CLASSES[FailureReason.PARITY_FAILED].exit_code, workers.failed(FailureReason.PARITY_FAILED))
    models.awaits("Stalled", "True", "ParityFailed")
    models.awaits("Ready", "True")
    assert models.deployment() == before


def test_good_update_rolls_over(models: Models) -> None:
    models.create()
    models.serves("a")
    models.edit(source=OTHER)
    models.serves("b")


def test_late_rollout_goes_back_and_stays(models: Models) -> None:
    models.create()
    models.serves("a")
    models.edit(source=OTHER)
    models.export_ends("b")
    deployment = models.awaits_rollout("b")
    models.deployment_status(deployment, workers.rolling(deployment, late=True))
    models.rollout_ends("a")
    models.awaits("Stalled", "True", "RolledBack")
    models.awaits("Ready", "True")


def test_replay_that_fails_goes_back_at_once(models: Models) -> None:
    models.create()
    models.serves("a")
    models.edit(source=OTHER)
    models.export_ends("b")
    deployment = models.awaits_rollout("b")
    models.deployment_status(deployment, workers.rolling(deployment))
    crash = workers.terminated(90, workers.serve_failed(FailureReason.REPLAY_FAILED, "b"))
    models.pod(deployment, workers.pod_status("server", crash))
    models.awaits_rollout("a")
    models.awaits("Stalled", "True", "RolledBack")


def test_deleted_deployment_comes_back(models: Models) -> None:
    models.create()
    models.serves("a")
    old = models.api("GET", deployment_path(models))["metadata"]["uid"]
    models.api("DELETE", deployment_path(models), {"propagationPolicy": "Background"})
    found = models.awaits_rollout("a")
    assert found["metadata"]["uid"] != old


def test_deleted_service_comes_back(models: Models) -> None:
    models.create()
    models.serves("a")
    models.api("DELETE", models.path("services", "minilm", "/api/v1"))
    eventually(models.service, "the Service")


def test_deleted_running_job_comes_back(models: Models) -> None:
    models.create()
    job = models.awaits_job()
    path = models.path("jobs", job["metadata"]["name"], "/apis/batch/v1")
    models.api("DELETE", path, {"propagationPolicy": "Background"})
    eventually(lambda: [it for it in models.jobs() if it["metadata"]["uid"] != job["metadata"]["uid"]], "the Job")


def test_hand_edited_deployment_is_put_right(models: Models) -> None:
    models.create()
    models.serves("a")
    edited = models.api("GET", deployment_path(models))
    container(edited)["image"] = "evil:1"
    edited["spec"]["replicas"] = 7
    edited["spec"]["paused"] = True
    del edited["metadata"]["labels"]["app.kubernetes.io/managed-by"]
    models.api("PUT", deployment_path(models), edited)

    def right() -> bool:
        found = models.api("GET", deployment_path(models))
        labelled = found["metadata"]["labels"].get("app.kubernetes.io/managed-by") == "torchscript-operator"
        spec = found["spec"]
        as_wanted = container(found)["image"] == "worker:test" and spec["replicas"] == 1 and "paused" not in spec
        return as_wanted and labelled

    eventually(right, "the Deployment as it was")


def test_label_that_leaves_the_service_without_pods_is_taken_off_its_selector(models: Models) -> None:
    models.create()
    models.serves("a")
    path = models.path("services", "minilm", "/api/v1")
    edited = models.api("GET", path)
    wanted = dict(edited["spec"]["selector"])
    edited["spec"]["selector"]["version"] = "v1"
    models.api("PUT", path, edited)
    eventually(lambda: models.api("GET", path)["spec"]["selector"] == wanted, "the selector as it was")


def test_what_others_add_to_a_child_stays_and_costs_no_writes(
    operator: Operator, plane: ControlPlane, rights: tuple[Any, str], models: Models
) -> None:
    models.create()
    models.serves("a")
    edited = models.api("GET", deployment_path(models))
    container(edited)["env"].append({"name": "INJECTED", "value": "1"})
    edited["metadata"]["annotations"]["example.com/team"] = "search"
    models.api("PUT", deployment_path(models), edited)
    models.rollout_ends("a")
    models.awaits("Ready", "True")
    models.awaits("Reconciling", "False")
    idle(operator, plane, rights[1], models)
    found = models.api("GET", deployment_path(models))
    assert {"name": "INJECTED", "value": "1"} in container(found)["env"]


def test_converged_model_costs_no_writes(
    operator: Operator, plane: ControlPlane, rights: tuple[Any, str], models: Models
) -> None:
    models.create()
    models.serves("a")
    idle(operator, plane, rights[1], models)


def test_children_with_everything_set_are_not_applied_for_ever(
    operator: Operator, plane: ControlPlane, rights: tuple[Any, str], models: Models
) -> None:
    models.create(**PLACED)
    models.serves("a")
    idle(operator, plane, rights[1], models)


def test_failed_model_costs_no_writes(
    operator: Operator, plane: ControlPlane, rights: tuple[Any, str], models: Models
) -> None:
    models.create()
    models.export_fails(66, workers.failed(FailureReason.SOURCE_NOT_FOUND))
    models.awaits("Stalled", "True")
    idle(operator, plane, rights[1], models)


def test_field_that_is_taken_from_the_spec_is_taken_from_the_child(models: Models) -> None:
    models.create(serving={"nodeSelector": {"pool": "serving"}})
    models.serves("a")
    models.edit(serving={"nodeSelector": None})
    eventually(lambda: "nodeSelector" not in models.api("GET", deployment_path(models))["spec"]["template"]["spec"], "")


def test_status_field_that_no_longer_holds_goes(models: Models) -> None:
    models.create(targets=[{"name": "cpu"}, {"name": "two"}])
    models.export_fails(66, workers.failed(FailureReason.SOURCE_NOT_FOUND))
    models.awaits("Compiled", "False", "SourceNotFound")
    models.edit(targets=[{"name": "cpu"}], source=OTHER)
    models.serves("b")
    (target,) = models.get()["status"]["targets"]
    assert "lastFailure" not in target
    models.edit(serving={"targets": []})
    eventually(lambda: "serving" not in models.get()["status"], "the status without serving")


def test_scale_reaches_the_deployment_and_its_status_the_scale(plane: ControlPlane, models: Models) -> None:
    models.create()
    models.serves("a")
    plane.kubectl.run("scale", "tsm/minilm", "--replicas=3", f"--namespace={models.namespace}")
    eventually(lambda: models.api("GET", deployment_path(models))["spec"]["replicas"] == 3, "three replicas")
    models.rollout_ends("a")
    models.awaits("Reconciling", "False")
    scale = models.api("GET", f"{models.path('torchscriptmodels', 'minilm')}/scale")
    assert scale["status"]["replicas"] == 3
    assert "torchscript.dev/model=minilm" in scale["status"]["selector"]


def test_suspended_model_starts_nothing_until_it_is_resumed(models: Models) -> None:
    models.create(suspend=True)
    models.awaits("Ready", "False", "Suspended")
    assert models.jobs() == []
    models.edit(suspend=False)
    models.awaits_job()


def test_spec_that_goes_back_uses_its_old_job(models: Models) -> None:
    first = models.create()["spec"]["source"]
    models.serves("a")
    models.edit(source=OTHER)
    models.serves("b")
    models.edit(source=first)
    models.rollout_ends("a")
    models.awaits("Ready", "True")
    assert len(models.jobs()) == 2


def test_operator_with_another_worker_image_exports_beside_and_rolls_over(
    operator: Operator, rights: tuple[Path, str], models: Models, tmp_path: Path
) -> None:
    models.create()
    models.serves("a")
    (old,) = models.jobs()
    operator.kill(signal.SIGTERM)
    settings = tmp_path / "settings.yaml"
    settings.write_text(
        yaml.safe_dump({**SETTINGS, "workerImage": "worker:next", "watchNamespaces": [models.namespace]})
    )
    upgraded = Operator(rights[0], settings, tmp_path / "operator.log")
    upgraded.start()
    try:
        new = models.awaits_job(but=old["metadata"]["name"])
        assert new["spec"]["template"]["spec"]["containers"][0]["image"] == "worker:next"
        assert models.rolled() == workers.digest_of("a")
        models.awaits("Ready", "True")
        models.export_ends("b")
        deployment = models.awaits_rollout("b")
        assert container(deployment)["image"] == "worker:next"
        models.rollout_ends("b")
        models.awaits("Reconciling", "False")
        status = models.get()["status"]["targets"][0]
        assert upgraded.faults() == []
    finally:
        upgraded.kill(signal.SIGTERM)
    assert (status["key"], status["workerImage"]) == ("b" * 64, "worker:next")
    assert [entry["key"] for entry in status["history"]] == ["a" * 64]


def test_deployment_that_somebody_else_made_is_not_taken_over(models: Models) -> None:
    labels = {"app": "other"}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "other:1"}]}}
    body = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "minilm-cpu"},
        "spec": {"selector": {"matchLabels": labels}, "template": pod},
    }
    models.api("POST", models.path("deployments", group="/apis/apps/v1"), body)
    before = models.deployment()
    models.create()
    models.export_ends("a")
    models.awaits("Available", "False", "NameConflict")
    assert models.deployment() == before


def test_service_that_somebody_else_made_is_not_taken_over(models: Models) -> None:
    body = {"metadata": {"name": "minilm"}, "spec": {"ports": [{"port": 80}], "selector": {"app": "other"}}}
    models.api("POST", models.path("services", group="/api/v1"), body)
    before = copy.deepcopy(models.service())
    models.create()
    models.export_ends("a")
    models.rollout_ends("a")
    models.awaits("Ready", "False", "NameConflict")
    assert models.service() == before


@pytest.fixture
def kubeconfig(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator's own client, here, as the administrator."""
    # It has read the variable with the kubeconfig's path when it was imported.
    load = partial(connection.config.load_kube_config, config_file=str(plane.kubeconfig))
    monkeypatch.setattr(connection.config, "load_kube_config", load)


@pytest.mark.usefixtures("kubeconfig")
async def test_deletion_spares_what_has_taken_the_name_since(models: Models) -> None:
    path = models.path("jobs", "shared", "/apis/batch/v1")
    models.strangers_job("shared")
    old = models.api("GET", path)
    models.api("DELETE", path, {"propagationPolicy": "Background"})
    models.strangers_job("shared")
    new = models.api("GET", path)
    async with cluster.connect() as api:
        await api.delete(old)
        assert models.api("GET", path) == new
        await api.delete(new)
    assert models.api.find(path) is None


@pytest.mark.usefixtures("kubeconfig")
async def test_status_is_not_written_over_a_model_that_has_changed_since_it_was_read(models: Models) -> None:
    models.create(suspend=True)
    models.awaits("Ready", "False", "Suspended")
    old = models.get()
    models.annotate(changed="1")
    async with cluster.connect() as api:
        assert not await api.apply_status(old, {"observedGeneration": 99})
    assert models.get()["status"] == old["status"]


@pytest.mark.usefixtures("kubeconfig")
async def test_nothing_is_written_into_a_model_that_has_taken_the_name_since(models: Models) -> None:
    models.create(suspend=True)
    models.awaits("Ready", "False", "Suspended")
    old = models.get()
    models.delete()
    models.create(suspend=True)
    models.awaits("Ready", "False", "Suspended")
    new = models.get()
    async with cluster.connect() as api:
        assert not await api.apply_status(old, {"observedGeneration": 99})
        uid = old["metadata"]["uid"]
        assert await api.apply_finalizers(models.namespace, "minilm", uid, ["torchscript.dev/artifacts"]) is None
    assert models.get() == new


@pytest.mark.usefixtures("kubeconfig")
@pytest.mark.parametrize("kind", ["Deployment", "Service"])
async def test_first_application_makes_what_is_not_there_and_changes_nothing_that_is(models: Models, kind: str) -> None:
    wanted = child(kind, models.namespace)
    async with cluster.connect() as api:
        made = await api.apply_new(wanted)
        assert [entry["operation"] for entry in made["metadata"]["managedFields"]] == ["Apply"]
        with pytest.raises(cluster.ExistsError):
            await api.apply_new({**wanted, "metadata": {**wanted["metadata"], "labels": {"app": "other"}}})
        found = models.deployment() if kind == "Deployment" else models.service()
        assert found == made


def child(kind: str, namespace: str) -> Json:
    world = World()
    world.body["metadata"]["namespace"] = namespace
    world.serves()
    made = world.deployments["minilm-cpu"] if kind == "Deployment" else serving.service(world.model)
    metadata = {key: made["metadata"][key] for key in ("name", "namespace", "labels", "annotations")}
    return {**{key: made[key] for key in ("apiVersion", "kind", "spec")}, "metadata": metadata}


def test_time_of_a_condition_stays_while_its_status_does(models: Models) -> None:
    models.create()
    before = models.awaits("Ready", "False", "Exporting")["lastTransitionTime"]
    eventually(lambda: now() > before, "the next second")
    models.pod(models.awaits_job(), workers.pod_status("export", workers.waiting("ErrImagePull", "no")))
    assert models.awaits("Ready", "False", "ImagePullFailed")["lastTransitionTime"] == before
