"""Deleting a model takes its children along; a namespace that is deleted never hangs on the operator."""

from collections.abc import Iterator

import pytest
import yaml

from tests.cluster.controlplane import control_plane
from tests.integration.conftest import SETTINGS, install_crd
from tests.integration.harness import Api, Models, Operator, eventually
from tests.integration.spaces import Spaces


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Spaces]:
    """An API server with the controllers, and an operator of its own."""
    folder = tmp_path_factory.mktemp("controllers")
    with control_plane(folder / "plane", controllers=True) as running, Api(running.kubeconfig) as api:
        install_crd(running)
        spaces = Spaces.of(api, request, lambda item: item.path == request.path)
        (folder / "settings.yaml").write_text(yaml.safe_dump(SETTINGS | spaces.settings))
        operator = Operator(running.kubeconfig, folder / "settings.yaml", folder / "operator.log")
        operator.start()
        eventually(lambda: operator.get("/readyz"), "the operator to be ready")
        yield spaces
        operator.kill()


@pytest.fixture
def models(world: Spaces, request: pytest.FixtureRequest) -> Models:
    return Models(world.api, world.take(request.node.name.replace("_", "-")[:50]))


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


def test_namespace_is_deleted_without_a_wait(models: Models) -> None:
    models.create(suspend=True)  # the controllers take 15 s and more where there are pods
    models.awaits("Ready", "False", "Suspended")
    path = f"/api/v1/namespaces/{models.namespace}"
    models.api("DELETE", path)
    eventually(lambda: models.api.find(path) is None, "no namespace", 60)


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
