"""The chart's life in a cluster: `helm test`, an upgrade from the previous release under load, an uninstall."""

from __future__ import annotations

import contextlib
import json
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

from tests.e2e import previous
from tests.e2e import site as sites
from tests.e2e.reference import TOLERANCE, ask, eager
from tests.reader import Reader
from torchscript_operator.api import crd
from torchscript_operator.controller.model import FINALIZER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cluster.s3 import S3
    from tests.e2e.conftest import Models

Json = dict[str, Any]
CRD = "torchscriptmodels.torchscript.dev"
SYSTEM = f"--namespace={sites.SYSTEM_NAMESPACE}"


def items(models: Models, kind: str, namespace: str) -> list[Json]:
    found: list[Json] = (models.kubectl.get(kind, namespace) or {}).get("items", [])
    return found


def test_helm_test_applies_a_model_asks_it_and_leaves_nothing(models: Models, s3: S3, tmp_path: Path) -> None:
    store = yaml.safe_load((sites.ROOT / "examples/minilm.yaml").read_text())["spec"]["artifact"]
    artifact = {
        "test.artifact.uri": f"s3://{sites.ARTIFACT_BUCKET}/helm-test",
        "test.artifact.endpoint": store["endpoint"],
        "test.artifact.region": s3.region,
        "test.artifact.credentialsSecret.name": sites.CREDENTIALS,
        "test.namespace": models.namespace,
    }
    sites.install(models.site, *(f"{name}={value}" for name, value in artifact.items()))
    reader = Reader.at(models.site.kubeconfig, models.namespace, tmp_path)
    said = reader.types("helm test torchscript-operator --namespace torchscript-system --logs --timeout 15m")
    assert "Phase:          Succeeded" in said
    assert "ParityVerified=True" in said
    assert "The answer is what Transformers computes" in said
    namespace = f"--namespace={models.namespace}"
    assert items(models, "torchscriptmodels", namespace) == []
    kinds = ("serviceaccounts", "roles", "rolebindings", "configmaps", "services")
    found = [item for kind in kinds for where in (namespace, SYSTEM) for item in items(models, kind, where)]
    assert not [item["metadata"]["name"] for item in found if "-test" in item["metadata"]["name"]]
    with sites.s3_client(models.site, s3) as client:
        left = client.list_objects_v2(Bucket=sites.ARTIFACT_BUCKET, Prefix="helm-test/")
    assert left["KeyCount"] == 0


def test_viewers_read_models_and_editors_write_them(models: Models) -> None:
    namespace = f"--namespace={models.namespace}"
    for role in ("view", "edit"):
        models.kubectl.run("create", "rolebinding", role, f"--clusterrole={role}", f"--user={role}er", namespace)

    def may(user: str, verb: str, resource: str) -> bool:
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": user,
                "resourceAttributes": {
                    "namespace": models.namespace,
                    "verb": verb,
                    "group": "torchscript.dev",
                    "resource": resource,
                },
            },
        }
        asked = models.kubectl.run("create", "--filename=-", "--output=json", stdin=json.dumps(review))
        allowed: bool = json.loads(asked)["status"]["allowed"]
        return allowed

    # Kubernetes adds the chart's roles to its own a moment after they appear.
    models.until(lambda: may("editer", "patch", "torchscriptmodels"), "an editor's rights", 60)
    models.until(lambda: may("viewer", "list", "torchscriptmodels"), "a viewer's rights", 60)
    assert not may("viewer", "create", "torchscriptmodels")
    assert not may("editer", "patch", "torchscriptmodels/status")
    assert not may("stranger", "get", "torchscriptmodels")


@contextlib.contextmanager
def asked_all_the_time(url: str, name: str) -> Iterator[list[str]]:
    """Ask a model until the end of the block; yields what went wrong."""
    expected = eager(sites.model_folder())
    stop = threading.Event()
    wrong: list[str] = []
    answers = 0

    def loop() -> None:
        nonlocal answers
        while not stop.is_set():
            try:
                difference = np.abs(ask(url, name) - expected).max()
            except OSError as error:
                wrong.append(repr(error))
            else:
                answers += 1
                if difference > TOLERANCE:
                    wrong.append(f"off by {difference}")
            stop.wait(0.05)

    asking = threading.Thread(target=loop)
    asking.start()
    try:
        yield wrong
    finally:
        stop.set()
        asking.join()
    assert answers > 0


def serving_pods(models: Models, name: str) -> list[Json]:
    pods = models.children("pods", name)
    return [pod for pod in pods if pod["metadata"]["labels"]["torchscript.dev/component"] == "serving"]


def operator_image(models: Models) -> str:
    found = models.kubectl.get("deployment", sites.RELEASE, SYSTEM)
    image: str = found["spec"]["template"]["spec"]["containers"][0]["image"]
    return image


def removed_with_it(body: Json) -> None:
    """The artifacts of a model are to go with it."""
    body["spec"]["artifact"]["deletionPolicy"] = "Delete"


def removed_with_it_and_doubled(body: Json) -> None:
    removed_with_it(body)
    body["spec"]["serving"]["replicas"] = 2


def removed_with_it_and_turned_off(body: Json) -> None:
    removed_with_it(body)
    body["spec"]["serving"]["replicas"] = 0


def finalizers(models: Models, name: str) -> list[str]:
    found: list[str] = (models.get(name) or {})["metadata"].get("finalizers", [])
    return found


@pytest.fixture
def present(models: Models) -> Iterator[Models]:
    """Whatever happens, the next test finds the present release."""
    yield models
    sites.install(models.site)


def test_a_model_serves_through_upgrade_uninstall_and_return(present: Models, tmp_path: Path) -> None:
    models, site = present, present.site
    chart = previous.unpack(tmp_path)
    image = previous.build_operator(tmp_path)
    image.load()
    sites.install(site, chart=chart, operator=image.reference)
    assert operator_image(models) == image.reference
    models.apply("steady", removed_with_it)
    models.settled("steady")
    # Its export finds the other's artifact in the store, and no pod serves it.
    models.apply("leaving", removed_with_it_and_turned_off)
    with asked_all_the_time(models.url("steady"), "steady") as wrong:
        sites.install(site)
        assert operator_image(models) == site.images.operator != image.reference
        definition = models.kubectl.get("crd", CRD)
        assert definition["spec"]["versions"] == yaml.safe_load(crd.render())["spec"]["versions"]
        models.settled("steady")
        models.settled("leaving")
        assert finalizers(models, "steady") == finalizers(models, "leaving") == [FINALIZER]

        said = site.helm("uninstall", sites.RELEASE, SYSTEM, "--wait")
        assert "kept" in said
        assert CRD in said
        assert items(models, "deployments", SYSTEM) == []
        # Nobody is left to remove artifacts, so no model waits for that; what serves a model goes with it.
        assert finalizers(models, "steady") == finalizers(models, "leaving") == []
        assert len(models.children("deployments", "leaving")) == 1
        models.kubectl.run("delete", "torchscriptmodel", "leaving", f"--namespace={models.namespace}", "--timeout=60s")
        models.until(lambda: not models.children("deployments", "leaving"), "no Deployment of a model that is gone", 60)
    assert wrong == []

    # Nobody looks after it, but its pods still find what they need.
    (pod,) = serving_pods(models, "steady")
    models.kubectl.run("delete", "pod", pod["metadata"]["name"], f"--namespace={models.namespace}")
    deployment = f"deployment/{models.children('deployments', 'steady')[0]['metadata']['name']}"
    models.kubectl.run("rollout", "status", deployment, f"--namespace={models.namespace}", "--timeout=120s")
    np.testing.assert_allclose(ask(models.url("steady"), "steady"), eager(sites.model_folder()), atol=TOLERANCE)

    with asked_all_the_time(models.url("steady"), "steady") as wrong:
        sites.install(site)
        models.apply("steady", removed_with_it_and_doubled)
        models.settled("steady")
        assert len(serving_pods(models, "steady")) == 2
        assert finalizers(models, "steady") == [FINALIZER]
    assert wrong == []
