"""examples/gitops on a real API server: what kustomize builds is accepted, and Argo CD's settings take our patch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.integration.conftest import make_namespace

if TYPE_CHECKING:
    from tests.cluster.controlplane import ControlPlane

Json = dict[str, Any]
FOLDER = Path(__file__).resolve().parents[2] / "examples/gitops"
FIELD = "torchscript.dev_TorchScriptModel"


@pytest.mark.parametrize("overlay", ["staging", "production"])
def test_overlay_is_accepted_as_it_is(plane: ControlPlane, overlay: str) -> None:
    namespace = f"models-{overlay}"
    make_namespace(plane, namespace)
    folder = FOLDER / "kustomize/overlays" / overlay
    done = plane.kubectl.run("apply", "--server-side", f"--kustomize={folder}", "--dry-run=server")
    assert "torchscriptmodel.torchscript.dev/minilm serverside-applied" in done


def test_argo_cds_settings_take_the_patch_and_keep_what_they_have(plane: ControlPlane) -> None:
    make_namespace(plane, "argocd")
    settings = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "argocd-cm"},
        "data": {"url": "https://x"},
    }
    plane.kubectl.run("create", "--namespace=argocd", "--filename=-", stdin=json.dumps(settings))
    patch = FOLDER / "argocd/argocd-cm.yaml"
    plane.kubectl.run("patch", "configmap", "argocd-cm", "--namespace=argocd", f"--patch-file={patch}")
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
