"""examples/gitops on a real API server: what kustomize builds is accepted, and Argo CD's settings take our patch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.golden.chart import rendering
from tests.integration.harness import eventually
from tests.integration.spaces import make_namespace

if TYPE_CHECKING:
    from tests.cluster.controlplane import ControlPlane
    from tests.integration.harness import Api, Operator
    from tests.reader import Reader

Json = dict[str, Any]
FOLDER = Path(__file__).resolve().parents[2] / "examples/gitops"
EXAMPLES = sorted(FOLDER.parent.glob("*.yaml"))
CRD = "CustomResourceDefinition"
FIELD = "torchscript.dev_TorchScriptModel"


@pytest.mark.parametrize("overlay", ["staging", "production"])
def test_overlay_is_accepted_as_it_is(plane: ControlPlane, api: Api, overlay: str) -> None:
    make_namespace(api, f"models-{overlay}")
    folder = FOLDER / "kustomize/overlays" / overlay
    done = plane.kubectl.run("apply", "--server-side", f"--kustomize={folder}", "--dry-run=server")
    assert "torchscriptmodel.torchscript.dev/minilm serverside-applied" in done


def without_managers(body: Json) -> Json:
    return {**body, "metadata": {key: value for key, value in body["metadata"].items() if key != "managedFields"}}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_applied_example_is_what_applying_it_again_would_make(
    plane: ControlPlane, namespace: str, operator: Operator, path: Path
) -> None:
    """What Argo CD's and Flux's dry run compare: no default, status or finalizer of the operator shows as drift."""
    assert operator.alive
    where = f"--namespace={namespace}"
    apply = (
        "apply",
        "--server-side",
        "--field-manager=argocd-controller",
        where,
        f"--filename={path}",
        "--output=json",
    )
    name = json.loads(plane.kubectl.run(*apply))["metadata"]["name"]

    def seen() -> Json | None:
        body: Json = plane.kubectl.get("torchscriptmodel", name, where)
        return body if body.get("status", {}).get("conditions") else None

    eventually(seen, "a status of the operator")

    def same() -> bool:
        # The operator may write in between; then it is looked at again.
        live: Json = plane.kubectl.get("torchscriptmodel", name, where)
        again: Json = json.loads(plane.kubectl.run(*apply, "--dry-run=server"))
        if live["metadata"]["resourceVersion"] != again["metadata"]["resourceVersion"]:
            return False
        assert without_managers(again) == without_managers(live)
        return True

    eventually(same, "a moment without a write")


def test_chart_is_what_applying_it_again_would_make(plane: ControlPlane, api: Api) -> None:
    wanted = rendering.installed(rendering.objects(*rendering.values_of("default")))
    make_namespace(api, rendering.NAMESPACE)
    apply = ("apply", "--server-side", "--force-conflicts", "--field-manager=argocd-controller", "--filename=-")
    flags = (f"--namespace={rendering.NAMESPACE}", "--output=json")
    bodies = json.dumps({"apiVersion": "v1", "kind": "List", "items": [*wanted]})
    lasting = json.dumps(
        {"apiVersion": "v1", "kind": "List", "items": [body for body in wanted if body["kind"] != CRD]}
    )
    try:
        live = json.loads(plane.kubectl.run(*apply, *flags, stdin=bodies))
        again = json.loads(plane.kubectl.run(*apply, *flags, "--dry-run=server", stdin=bodies))
    finally:
        # `tsm doctor` of other tests would find this operator.
        plane.kubectl.run("delete", flags[0], "--ignore-not-found", "--filename=-", stdin=lasting)
    kept = [{key: body[key] for key in body if key != "status"} for body in map(without_managers, live["items"])]
    found = [{key: body[key] for key in body if key != "status"} for body in map(without_managers, again["items"])]
    assert len(found) > 5
    assert found == kept


def test_argo_cds_settings_take_the_patch_and_keep_what_they_have(
    plane: ControlPlane, api: Api, reader: Reader
) -> None:
    make_namespace(api, "argocd")
    settings = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "argocd-cm"},
        "data": {"url": "https://x"},
    }
    plane.kubectl.run("create", "--namespace=argocd", "--filename=-", stdin=json.dumps(settings))
    reader.types(
        "kubectl patch configmap argocd-cm --namespace argocd --patch-file examples/gitops/argocd/argocd-cm.yaml"
    )
    found: Json = plane.kubectl.get("configmap", "argocd-cm", "--namespace=argocd")
    assert found["data"].keys() == {
        "url",
        f"resource.customizations.health.{FIELD}",
        f"resource.customizations.actions.{FIELD}",
    }
    actions = yaml.safe_load(found["data"][f"resource.customizations.actions.{FIELD}"])
    assert actions.keys() == {"discovery.lua", "definitions"}


def test_operator_is_synced_before_the_models() -> None:
    operator, models = yaml.safe_load_all((FOLDER / "argocd/application.yaml").read_text())
    waves = [int(app["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"]) for app in (operator, models)]
    assert waves == sorted(set(waves))
    path = operator["spec"]["source"]["path"]
    assert (FOLDER.parents[1] / path / "Chart.yaml").exists()
    assert (FOLDER / "kustomize" / models["spec"]["source"]["path"] / "kustomization.yaml").exists()
