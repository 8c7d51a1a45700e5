"""Nodes of AWS that kwok keeps alive: labels, taints and room as the real ones have them, and pods that run nothing."""

from __future__ import annotations

import contextlib
import json
import subprocess
from typing import TYPE_CHECKING, Any

from tests.cluster import binaries

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.cluster.controlplane import ControlPlane

Json = dict[str, Any]
NEURON = "aws.amazon.com/neuron"
ACCELERATORS = {"inf1": "inferentia", "inf2": "inferentia2"}
ROOM = {
    "inf1.xlarge": (4, 6804, 1),
    "inf1.6xlarge": (24, 42536, 4),
    "inf2.8xlarge": (32, 118312, 1),
    "m6i.8xlarge": (32, 118000, 0),
}
"""Instance type to processors, allocatable MiB and Neuron chips."""
LEASES = "--node-lease-duration-seconds=40"
"""Renewed by kwok, or the node controller takes the nodes for dead."""
STAGES = """\
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: node-is-ready}
spec:
  resourceRef: {apiGroup: v1, kind: Node}
  selector:
    matchExpressions:
    - {key: .status.phase, operator: DoesNotExist}
  next:
    statusTemplate: |
      phase: Running
      conditions:
      - type: Ready
        status: "True"
        reason: Fake
        message: kept ready by kwok
        lastHeartbeatTime: {{ Now | Quote }}
        lastTransitionTime: {{ Now | Quote }}
---
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: pod-runs}
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchExpressions:
    - {key: .metadata.deletionTimestamp, operator: DoesNotExist}
    - {key: .status.startTime, operator: DoesNotExist}
  next:
    statusTemplate: |
      phase: Running
      startTime: {{ Now | Quote }}
      conditions:
      - {type: Ready, status: "True", lastTransitionTime: {{ Now | Quote }}}
      - {type: ContainersReady, status: "True", lastTransitionTime: {{ Now | Quote }}}
      containerStatuses:
      {{ range .spec.containers }}
      - name: {{ .name | Quote }}
        image: {{ .image | Quote }}
        imageID: ""
        ready: true
        started: true
        restartCount: 0
        state: {running: {startedAt: {{ Now | Quote }}}}
      {{ end }}
"""
"""Nodes are ready, pods run. In place of kwok's own, which end pods of Jobs at once and without a word."""


def node(instance_type: str) -> Json:
    """A node of an instance type, under its name."""
    family = instance_type.partition(".")[0]
    processors, mebibytes, chips = ROOM[instance_type]
    labels = {
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/os": "linux",
        "kubernetes.io/hostname": instance_type,
        "node.kubernetes.io/instance-type": instance_type,
    }
    room = {"cpu": str(processors), "memory": f"{mebibytes}Mi", "pods": "58", "ephemeral-storage": "100Gi"}
    spec: Json = {}
    if chips:
        labels["karpenter.k8s.aws/instance-accelerator-name"] = ACCELERATORS[family]
        room |= {NEURON: str(chips)}
        spec["taints"] = [{"key": NEURON, "value": "true", "effect": "NoSchedule"}]
    metadata = {"name": instance_type, "labels": labels, "annotations": {"kwok.x-k8s.io/node": "fake"}}
    status = {"capacity": room, "allocatable": room}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec, "status": status}


@contextlib.contextmanager
def fake_nodes(plane: ControlPlane, folder: Path, instance_types: Sequence[str] = tuple(ROOM)) -> Iterator[None]:
    """Create the nodes, and let kwok play their kubelets for as long as the block runs."""
    binaries.build(["kwok"])
    stages = folder / "stages.yaml"
    stages.write_text(STAGES)
    command = [str(binaries.binary("kwok")), f"--kubeconfig={plane.kubeconfig}", "--manage-all-nodes", LEASES]
    with (folder / "kwok.log").open("wb") as log:
        process = subprocess.Popen([*command, f"--config={stages}"], stdout=log, stderr=subprocess.STDOUT)
        try:
            for instance_type in instance_types:
                plane.kubectl.run("create", "--filename=-", stdin=json.dumps(node(instance_type)))
            plane.kubectl.run("wait", "--for=condition=Ready", "nodes", "--all", "--timeout=60s")
            yield
        finally:
            process.terminate()
            process.wait(20)
