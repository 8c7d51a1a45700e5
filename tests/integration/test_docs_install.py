"""What the pages have a reader type to install, upgrade and remove the chart, on an API server with its controllers.

The test is the kubelet: no pod of the chart runs. The release leaves what it found, so that other tests go on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from tests.integration.conftest import HOME, install_crd
from tests.integration.harness import Api, Json, Models, Operator, eventually, now
from tests.integration.spaces import make_namespace
from tests.reader import Reader
from tests.unit import pages

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cluster.controlplane import ControlPlane

pytestmark = pytest.mark.cluster_wide("as the pages install it")
NAME = "torchscript-operator"
KEPT = f"app.kubernetes.io/part-of={NAME},app.kubernetes.io/instance={NAME}"


class Cluster:
    """A cluster, whose kubelet the test is."""

    def __init__(self, api: Api, plane: ControlPlane, reader: Reader) -> None:
        self.api, self.kubectl, self.reader = api, plane.kubectl, reader

    def pods(self, selector: str) -> list[Json]:
        found: list[Json] = self.api("GET", f"/api/v1/namespaces/{HOME}/pods?labelSelector={selector}")["items"]
        return found

    def becomes(self, selector: str, status: Json) -> None:
        """A pod that is awaited gets a status."""
        (pod,) = eventually(lambda: self.pods(selector), f"a pod {selector}")
        self.api.merge(f"/api/v1/namespaces/{HOME}/pods/{pod['metadata']['name']}/status", {"status": status})

    def operator(self) -> Json | None:
        return self.api.find(f"/apis/apps/v1/namespaces/{HOME}/deployments/{NAME}")

    def installs(self, line: str) -> None:
        """Install; where it waits, for the operator's pod to be Ready."""
        with self.reader.starts(line) as helm:
            if "--wait" in line.split():
                ready = {"type": "Ready", "status": "True", "lastTransitionTime": now()}
                self.becomes("app.kubernetes.io/component=operator", {"phase": "Running", "conditions": [ready]})
            helm.ends()
        assert self.operator() is not None

    def uninstalls(self, line: str) -> str:
        """Uninstall; its Job, which takes finalizers away, ends well."""
        with self.reader.starts(line) as helm:
            self.becomes("batch.kubernetes.io/job-name", {"phase": "Succeeded"})
            said = helm.ends()
        assert self.operator() is None
        return said

    def settings(self) -> Json:
        found = self.api("GET", f"/api/v1/namespaces/{HOME}/configmaps/{NAME}")
        settings: Json = yaml.safe_load(found["data"]["settings.yaml"])
        return settings


@pytest.fixture
def bare(governed: tuple[ControlPlane, Operator], tmp_path: Path) -> Iterator[Cluster]:
    """Without a model, the operator and the CRD, which a release brings."""
    plane, operator = governed
    with Api(plane.kubeconfig) as api:
        namespace = make_namespace(api, "docs-install")
        reader = Reader.at(plane.kubeconfig, namespace, tmp_path)
        reader.types("kubectl delete torchscriptmodels --all --all-namespaces")
        operator.kill()
        reader.types("kubectl delete crd torchscriptmodels.torchscript.dev")
        yield Cluster(api, plane, reader)
    install_crd(plane)
    operator.start()
    eventually(lambda: operator.get("/readyz"), "the operator to be ready")


def test_release_is_installed_upgraded_and_removed(bare: Cluster, governed: tuple[ControlPlane, Operator]) -> None:
    reader, operator = bare.reader, governed[1]
    models = Models(bare.api, "docs-install")
    (uninstall,) = pages.select("docs/operations.md", "helm", "uninstall")

    (install,) = pages.select("docs/getting-started.md", "helm", "install")
    bare.installs(install.line)
    reader.types(
        "kubectl create secret generic s3-credentials"
        " --from-literal=AWS_ACCESS_KEY_ID=… --from-literal=AWS_SECRET_ACCESS_KEY=…"
    )
    for (upgrade,) in (
        pages.select("docs/operations.md", "helm", "upgrade"),
        pages.select("docs/targets/neuron.md", "helm", "upgrade"),
        pages.select("docs/targets/neuronx.md", "helm", "upgrade"),
    ):
        reader.types(upgrade.line)
    # Every upgrade keeps what the others have set.
    settings = bare.settings()
    assert settings["artifactStore"]["uri"] == "s3://my-bucket/torchscript"
    assert settings["workerImage"] == "registry.example/team/worker:0.1.0"
    images = {name: settings["compilers"][name]["image"] for name in ("neuron", "neuronx")}
    assert images == {name: f"registry.example/team/{name}:0.1.0" for name in ("neuron", "neuronx")}
    reader.types("kubectl apply --server-side -f crds/torchscriptmodels.yaml")
    assert NAME in reader.types("kubectl get deploy -A -l app.kubernetes.io/component=operator")
    said = bare.uninstalls(uninstall.line)
    assert "torchscriptmodels.torchscript.dev" in said

    (install,) = pages.select("README.md", "helm", "install")
    bare.installs(install.line)
    operator.start()
    models.create(suspend=True, artifact={"uri": "s3://artifacts/models", "deletionPolicy": "Delete"})
    eventually(lambda: models.get()["metadata"].get("finalizers"), "the finalizer")
    operator.kill()
    reader.types("helm uninstall --no-hooks torchscript-operator --namespace torchscript-system")
    reader.types(
        "kubectl patch torchscriptmodel minilm --namespace docs-install --type merge"
        """ --patch '{"metadata": {"finalizers": null}}'"""
    )
    assert "finalizers" not in models.get()["metadata"]

    (install,) = pages.select("charts/torchscript-operator/README.md", "helm", "install")
    bare.installs(install.line)
    reader.types("kubectl delete torchscriptmodels --all --all-namespaces")
    bare.uninstalls(uninstall.line)
    reader.types("kubectl delete crd torchscriptmodels.torchscript.dev")
    reader.types(
        "kubectl delete serviceaccounts,networkpolicies --all-namespaces"
        " --selector app.kubernetes.io/part-of=torchscript-operator,app.kubernetes.io/instance=torchscript-operator"
    )
    kinds = "serviceaccounts,networkpolicies,roles,rolebindings,configmaps,services,deployments,jobs,clusterroles"
    assert bare.kubectl.get(kinds, "--all-namespaces", f"--selector={KEPT}") is None
