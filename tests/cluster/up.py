"""Brings the cluster up: derived from what runs now, so that it also repairs a half-started or half-dead one."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster import binaries, machine, network, packages, paths, run_node
from tests.cluster.components import Plane
from tests.cluster.kubectl import Kubectl, KubectlError
from tests.cluster.pki import write_kubeconfig
from tests.cluster.processes import Identity, Supervisor, end, marked

if TYPE_CHECKING:
    from collections.abc import Callable

COMPONENTS = (
    "etcd",
    "containerd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
)
"""In the order in which they start."""

NEURON_LABELS = {"node.kubernetes.io/instance-type": "inf1.xlarge"}
NEURON_TAINT = {"key": "aws.amazon.com/neuron", "value": "true", "effect": "NoSchedule"}
NEURON_CAPACITY = ("aws.amazon.com/neuron", "1")
"""What an inf1 node of a real cluster shows: its type, a taint that keeps others off, one device."""

_NO_OUTSIDE = "template ANY ANY . {\n        rcode NXDOMAIN\n      }"
"""CoreDNS's answer to outside names where nobody can resolve them: no, at once."""


def up(*, neuron: bool = False) -> None:
    """Everything runs and is Ready when this returns; ClusterError says what did not, with the end of its log."""
    machine.require_root()
    packages.install()
    binaries.build()
    started = time.monotonic()
    with machine.exclusive(paths.state()):
        machine.claim(paths.state())
        supervisor = Supervisor(paths.state())
        _end_strays(supervisor)
        plane = _plane()
        network.up(paths.state() / "network.json")
        machine.make_cgroup()
        if not supervisor.records():
            network.check_ports_free()
        _start_control_plane(supervisor, plane)
        _start_node(supervisor, plane)
        kubectl = Kubectl(paths.kubeconfig())
        _deploy_dns(kubectl)
        _wait_ready(supervisor, kubectl)
        _be_neuron(supervisor, kubectl, wanted=neuron)
    taken = time.monotonic() - started
    print(f"cluster ready after {taken:.0f} s: export KUBECONFIG={paths.kubeconfig()}", file=sys.stderr)


def plane() -> Plane:
    """The full cluster's control plane, as it is described to clients."""
    return Plane(paths.state(), bind=network.NODE_ADDRESS, extra_certificates=run_node.CERTIFICATES)


def _plane() -> Plane:
    described = plane()
    prepared = replace(described, generation=described.prepare())
    for user in ("kubelet", "proxy"):
        write_kubeconfig(prepared.pki / f"{user}.kubeconfig", prepared.pki, user, prepared.url)
    return prepared


def _end_strays(supervisor: Supervisor) -> None:
    """Components of ours that no record knows, as after a record's file was lost. Shims keep their pods."""
    known = {record.identity for record in supervisor.records().values()}
    unknown = [identity for identity in marked(paths.state()) if identity not in known]
    end([identity for identity in unknown if _command(identity) in COMPONENTS], grace=10)


def _command(identity: Identity) -> str:
    try:
        return Path(f"/proc/{identity.pid}/exe").readlink().name
    except OSError:
        return ""


def _start_control_plane(supervisor: Supervisor, plane: Plane) -> None:
    supervisor.ensure(plane.etcd())
    supervisor.ensure(run_node.containerd())  # busy with itself while etcd and the API server start
    supervisor.wait("etcd", plane.etcd_ready, seconds=30, needs=["etcd"])
    supervisor.ensure(plane.apiserver())
    supervisor.wait("containerd", run_node.containerd_ready, seconds=30, needs=["containerd"])
    for archive in run_node.system_images():
        run_node.import_archive(archive)
    plane.wait_ready(supervisor)
    supervisor.ensure(plane.controllers())
    supervisor.ensure(plane.scheduler())


def _start_node(supervisor: Supervisor, plane: Plane) -> None:
    supervisor.ensure(run_node.kubelet(plane.generation))
    supervisor.ensure(run_node.proxy(plane.generation))
    supervisor.wait("the kubelet", run_node.kubelet_ready, seconds=60, needs=["containerd", "kubelet"])


def _deploy_dns(kubectl: Kubectl) -> None:
    servers = network.resolvers()
    outside = f"forward . {' '.join(servers)}" if servers else _NO_OUTSIDE
    kubectl.apply(
        "coredns.yaml",
        image=run_node.coredns_image(),
        address=network.DNS_ADDRESS,
        outside=outside,
        digest=hashlib.sha256(outside.encode()).hexdigest()[:12],
    )


def _wait_ready(supervisor: Supervisor, kubectl: Kubectl) -> None:
    """Node, DNS and the account that every pod uses."""

    def holds(*arguments: str) -> Callable[[], bool]:
        def check() -> bool:
            try:
                kubectl.run(*arguments)
            except KubectlError:
                return False
            return True

        return check

    supervisor.wait(
        "the node to be Ready",
        holds("wait", f"node/{paths.NODE}", "--for=condition=Ready", "--timeout=5s"),
        seconds=60,
        needs=["containerd", "kubelet"],
    )
    supervisor.wait(
        "DNS's rollout",
        holds("--namespace=kube-system", "rollout", "status", "deployment/coredns", "--timeout=5s"),
        seconds=90,
        needs=["kube-controller-manager", "kube-scheduler", "containerd", "kubelet"],
    )
    # After a crash the API still shows the pods as they were: only an answer proves that they are back.
    supervisor.wait("DNS", network.dns_ready, seconds=60, needs=["kube-proxy", "containerd", "kubelet"])
    supervisor.wait(
        "the default service account",
        holds("--namespace=default", "get", "serviceaccount", "default"),
        seconds=30,
        needs=["kube-controller-manager"],
    )


def _be_neuron(supervisor: Supervisor, kubectl: Kubectl, *, wanted: bool) -> None:
    """Makes the real node look like an inf1 node, or like a plain one again."""
    node = kubectl.get("node", paths.NODE)
    labels, taints = node["metadata"]["labels"], node["spec"].get("taints", [])
    resource, amount = NEURON_CAPACITY
    others = [taint for taint in taints if taint["key"] != NEURON_TAINT["key"]]
    desired = [*others, NEURON_TAINT] if wanted else others
    if taints != desired or any((labels.get(key) == value) != wanted for key, value in NEURON_LABELS.items()):
        patch = {
            "metadata": {"labels": {key: value if wanted else None for key, value in NEURON_LABELS.items()}},
            "spec": {"taints": desired},
        }
        kubectl.run("patch", "node", paths.NODE, "--type=merge", f"--patch={json.dumps(patch)}")
    path = f"/status/capacity/{resource.replace('/', '~1')}"
    capacity = node["status"]["capacity"].get(resource)
    if wanted and capacity != amount:
        kubectl.patch_node_status(paths.NODE, {"op": "add", "path": path, "value": amount})
    elif not wanted and capacity is not None:
        kubectl.patch_node_status(
            paths.NODE,
            {"op": "remove", "path": path},
            {"op": "remove", "path": path.replace("capacity", "allocatable")},
        )

    def shown() -> bool:
        status = kubectl.get("node", paths.NODE)["status"]
        return bool((status["allocatable"].get(resource) == amount) == wanted)

    supervisor.wait(f"{resource} in the node's status", shown, seconds=60, needs=["kubelet"])
