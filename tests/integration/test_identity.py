"""Who the operator is to the API server, in a pod: a token in a file that the kubelet replaces."""

import base64
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from tests.cluster.controlplane import ControlPlane
from tests.integration.conftest import SETTINGS
from tests.integration.harness import OTHER, Models, Operator, eventually


class InPod(Operator):
    """An operator that finds its ServiceAccount where the kubelet puts it, in a mount namespace of its own."""

    account: Path

    def start(self) -> None:
        place = "/run/secrets/kubernetes.io/serviceaccount"
        mounts = f"mount -t tmpfs none /run && mkdir -p {place} && mount --bind {self.account} {place}"
        url = urlsplit(yaml.safe_load(self.kubeconfig.read_text())["clusters"][0]["cluster"]["server"])
        environment = os.environ | {
            "KUBERNETES_SERVICE_HOST": str(url.hostname),
            "KUBERNETES_SERVICE_PORT": str(url.port),
            "TSM_SETTINGS": str(self.settings),
            "TSM_HEALTH_PORT": "0",
        }
        command = f"{mounts} && exec {sys.executable} -m torchscript_operator.controller"
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", command], env=environment, stdout=output, stderr=subprocess.STDOUT
            )


@pytest.fixture
def in_pod(
    alone: None, plane: ControlPlane, rights: tuple[Path, str], models: Models, tmp_path: Path
) -> Iterator[InPod]:
    del alone
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump({**SETTINGS, "watchNamespaces": [models.namespace]}))
    operator = InPod(rights[0], settings, tmp_path / "operator.log")
    operator.account = tmp_path / "account"
    operator.account.mkdir()
    config = yaml.safe_load(plane.kubeconfig.read_text())
    authority = config["clusters"][0]["cluster"]["certificate-authority-data"]
    (operator.account / "ca.crt").write_bytes(base64.b64decode(authority))
    (operator.account / "namespace").write_text("torchscript-system")
    yield operator
    if operator.alive:
        operator.kill(signal.SIGTERM)


def test_replaced_service_account_token_is_taken_up_when_the_old_one_is_refused(
    plane: ControlPlane, rights: tuple[Path, str], models: Models, in_pod: InPod
) -> None:
    _, _, home, account = rights[1].split(":")

    def renew(name: str) -> str:
        plane.kubectl.run("create", "secret", "generic", name, f"--namespace={home}")
        bound = ("--bound-object-kind=Secret", f"--bound-object-name={name}")
        token = plane.kubectl.run("create", "token", account, f"--namespace={home}", *bound).strip()
        (in_pod.account / "token.new").write_text(token)
        (in_pod.account / "token.new").rename(in_pod.account / "token")
        return token

    def is_refused(token: str) -> bool:
        server = yaml.safe_load(plane.kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
        context = ssl.create_default_context(cafile=str(in_pod.account / "ca.crt"))
        headers = {"Authorization": f"Bearer {token}"}
        path = f"{server}{models.path('torchscriptmodels')}"
        return httpx.get(path, headers=headers, verify=context).status_code == HTTPStatus.UNAUTHORIZED

    first = renew(f"first-{models.namespace}")
    in_pod.start()
    models.create()
    models.serves("a")
    renew(f"second-{models.namespace}")
    # A token goes with the object that it is bound to.
    plane.kubectl.run("delete", "secret", f"first-{models.namespace}", f"--namespace={home}")
    eventually(lambda: is_refused(first), "the old token is refused")
    models.edit(source=OTHER)
    models.serves("b")
    assert in_pod.faults() == []
