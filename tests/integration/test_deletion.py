"""Deleting a model takes its children along; a namespace that is deleted never hangs on the operator."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.controlplane import ControlPlane, control_plane
from tests.integration.conftest import install_crd, make_namespace
from tests.integration.harness import Api, Models, Operator, eventually


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, settings_file: Path) -> Iterator[ControlPlane]:
    """An API server with the controllers, and an operator of its own."""
    with control_plane(tmp_path_factory.mktemp("controllers"), controllers=True) as running:
        install_crd(running)
        operator = Operator(running.kubeconfig, settings_file, tmp_path_factory.mktemp("log") / "operator.log")
        operator.start()
        eventually(lambda: operator.get("/readyz"), "the operator to be ready")
        yield running
        operator.kill()


@pytest.fixture
def models(world: ControlPlane, request: pytest.FixtureRequest) -> Iterator[Models]:
    name = request.node.name.replace("_", "-")[:50]
    with Api(world.kubeconfig) as api:
        yield Models(api, make_namespace(world, name))


def test_children_go_with_their_model(models: Models) -> None:
    models.create()
    models.awaits_job()
    models.delete()
    eventually(lambda: models.jobs() == [], "no Job")
    assert models.api("GET", models.path("torchscriptmodels"))["items"] == []


def test_model_that_comes_again_at_once_starts_anew(models: Models) -> None:
    old = models.create()["metadata"]["uid"]
    models.awaits_job()
    models.delete()
    new = models.create()["metadata"]["uid"]
    assert new != old

    def only_mine() -> bool:
        owners = [job["metadata"]["ownerReferences"][0]["uid"] for job in models.jobs()]
        return owners == [new]

    eventually(only_mine, "one Job, the new model's", 60)


def test_namespace_is_deleted_without_a_wait(world: ControlPlane, models: Models) -> None:
    models.create(suspend=True)  # the controllers take 15 s and more where there are pods
    models.awaits("Ready", "False", "Suspended")
    world.kubectl.run("delete", "namespace", models.namespace, "--wait=false")
    eventually(lambda: world.kubectl.get("namespace", models.namespace) is None, "no namespace", 60)


def test_superseded_job_takes_its_pods_along(models: Models) -> None:
    models.create()
    old = models.awaits_job()["metadata"]["name"]
    models.edit(source={"s3": {"uri": "s3://models/other"}})
    models.awaits_job(but=old)
    eventually(lambda: [job["metadata"]["name"] for job in models.jobs()] != [old], "the old Job to go")

    def pods_of_old() -> bool:
        pods = models.api("GET", models.path("pods", group="/api/v1"))["items"]
        return not [pod for pod in pods if pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] == old]

    eventually(pods_of_old, "no pod of the old Job")
