"""An S3 server (versitygw) in a namespace of its own: of the embedded cluster, or with your image of any other."""

from __future__ import annotations

import base64
import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.cluster import paths, run_node, scratch
from tests.cluster.components import answers
from tests.cluster.kubectl import Kubectl
from tests.cluster.processes import Supervisor
from tests.cluster.rollout import rolled_out

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "versitygw-root"  # noqa: S105 - the name of a Secret
"""Holds the root keys under the names that S3 clients read from their environment."""

PORT = 7070


@dataclass(frozen=True)
class S3:
    """Where it is, and its root keys."""

    endpoint: str
    """For pods."""
    node_endpoint: str
    """For processes on the cluster's node, this machine: the Service's own address."""
    access_key: str
    secret_key: str
    region: str = "us-east-1"


def deploy_s3(kubeconfig: Path, *, image: str | None = None, namespace: str = "s3", seconds: int = 120) -> S3:
    """Deploys it and waits until it serves; keys made by an earlier call are kept.

    Without `image` the embedded cluster's own is made and imported into its node.
    """
    kubectl = Kubectl(kubeconfig)
    chosen = image or run_node.import_archive(s3_archive())
    if kubectl.get("namespace", namespace) is None:
        kubectl.run("create", "namespace", namespace)
    kubectl.run("label", "namespace", namespace, "--overwrite", "pod-security.kubernetes.io/enforce=restricted")
    if kubectl.get("secret", SECRET, f"--namespace={namespace}") is None:
        kubectl.run("create", "--filename=-", stdin=_new_keys(namespace))
    kubectl.apply("s3.yaml", namespace=namespace, image=chosen)
    rolled_out(kubectl, "versitygw", namespace, seconds)
    found = find_s3(kubeconfig, namespace=namespace)
    if image is None:  # after a crash the API may still show an earlier pod as ready
        supervisor = Supervisor(paths.state())
        health = f"{found.node_endpoint}/health"
        supervisor.wait("S3", lambda: answers(health), seconds=seconds, needs=["kube-proxy", "kubelet"])
    return found


def find_s3(kubeconfig: Path, *, namespace: str = "s3") -> S3:
    """What deploy_s3() deployed."""
    kubectl = Kubectl(kubeconfig)
    service = kubectl.get("service", "versitygw", f"--namespace={namespace}")
    secret = kubectl.get("secret", SECRET, f"--namespace={namespace}")
    if service is None or secret is None:
        msg = f"no S3 server in namespace {namespace}: run `python -m tests.cluster s3-up`"
        raise LookupError(msg)
    return S3(
        endpoint=f"http://versitygw.{namespace}.svc.cluster.local:{PORT}",
        node_endpoint=f"http://{service['spec']['clusterIP']}:{PORT}",
        access_key=base64.b64decode(secret["data"]["AWS_ACCESS_KEY_ID"]).decode(),
        secret_key=base64.b64decode(secret["data"]["AWS_SECRET_ACCESS_KEY"]).decode(),
    )


def _new_keys(namespace: str) -> str:
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET, "namespace": namespace},
            "stringData": {
                "AWS_ACCESS_KEY_ID": f"test{secrets.token_hex(8)}",
                "AWS_SECRET_ACCESS_KEY": secrets.token_urlsafe(30),
            },
        }
    )


def s3_archive() -> Path:
    """An image with nothing but the server, made when its binary is new."""
    binary = paths.binary("versitygw")
    tag = binary.parent.name.removeprefix("versitygw-")
    archive = paths.images() / f"versitygw-{tag}.tar"
    if archive.exists():
        return archive
    return scratch.scratch_image(f"localhost/versitygw:{tag}", {"/versitygw": binary}, ["/versitygw"], archive=archive)
