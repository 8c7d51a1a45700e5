"""Flux in the embedded cluster: source-controller and kustomize-controller, installed as their own modules describe."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster import binaries, paths, run_node, scratch
from tests.cluster.kubectl import Kubectl

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMESPACE = "flux-system"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:default"
"""User name of both controllers."""

CONTROLLERS = ("source-controller", "kustomize-controller")

_PROMPT = json.dumps(
    [{"op": "add", "path": "/spec/template/spec/containers/0/readinessProbe/periodSeconds", "value": 1}]
)
"""A controller that is ready is seen to be so at once."""


@contextmanager
def installed_flux(kubeconfig: Path, *, seconds: int = 120) -> Iterator[None]:
    """Builds both, applies their definitions, rights and Deployments, waits until they are ready; all goes in the end.

    Objects of Flux's kinds are to be deleted before the end: their finalizers need the controllers.
    """
    binaries.build(["flux"])
    kubectl = Kubectl(kubeconfig)
    kubectl.run("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=90s")
    with tempfile.TemporaryDirectory() as folder:
        images = {name: run_node.import_archive(_archive(name)) for name in CONTROLLERS}
        rendered = _rendered(kubectl, Path(folder), images)
    kubectl.run("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=rendered)
    try:
        for name in CONTROLLERS:
            arguments = ("rollout", "status", f"deployment/{name}", f"--namespace={NAMESPACE}", f"--timeout={seconds}s")
            kubectl.run(*arguments, seconds=seconds + 10)
        yield
    finally:
        kubectl.run("delete", "--ignore-not-found", "--wait=false", "--filename=-", stdin=rendered)


def _archive(name: str) -> Path:
    binary = paths.binary(name)
    tag = binary.parent.name.removeprefix("flux-")
    archive = paths.images() / f"{name}-{tag}.tar"
    if archive.exists():
        return archive
    return scratch.scratch_image(f"localhost/{name}:{tag}", {f"/{name}": binary}, [f"/{name}"], archive=archive)


def _rendered(kubectl: Kubectl, folder: Path, images: dict[str, str]) -> str:
    """Each module's own `config`, all in one namespace; both call their roles alike, so those are given prefixes."""
    resources = ["namespace.yaml"]
    for name in images:
        shutil.copytree(_module(name) / "config", folder / name)
        _write(folder / name / "roles", resources=["../rbac"], namePrefix=f"{name}-")
        resources += [f"{name}/crd", f"{name}/roles", f"{name}/manager"]
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    (folder / "namespace.yaml").write_text(json.dumps(namespace))
    named = [
        {"name": f"fluxcd/{name}", "newName": image.rpartition(":")[0], "newTag": image.rpartition(":")[2]}
        for name, image in images.items()
    ]
    patches = [{"target": {"kind": "Deployment"}, "patch": _PROMPT}]
    _write(folder, namespace=NAMESPACE, resources=resources, images=named, patches=patches)
    return kubectl.run("kustomize", str(folder))


def _write(folder: Path, **fields: object) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "kustomization.yaml").write_text(json.dumps(fields))


def _module(name: str) -> Path:
    """The module's folder in Go's cache, fetched when the executable was built on another day."""
    command = [binaries.go(), "mod", "download", "-json", f"github.com/fluxcd/{name}"]
    done = subprocess.run(
        command, cwd=binaries.TOOLS["flux"].folder, capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode:
        msg = f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}"
        raise binaries.BuildError(msg)
    return Path(json.loads(done.stdout)["Dir"])
