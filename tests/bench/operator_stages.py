"""What kwok plays in the benchmark: one node, export pods that end with a report, serving pods that become Ready."""

from __future__ import annotations

from typing import Any

from tests.unit import workers

Json = dict[str, Any]

NODE = "kwok"
EXPORT_MILLISECONDS = 2000
"""How long an export pod runs; up to as long again by chance, so that ends do not come in step."""
LOAD_MILLISECONDS = 1000
"""How long a serving pod loads, likewise."""
READY = '.status.conditions.[] | select( .type == "Ready" ) | .status'
GONE = {"key": ".metadata.deletionTimestamp", "operator": "Exists"}
HERE = {"key": ".metadata.deletionTimestamp", "operator": "DoesNotExist"}

_CONTAINERS = """\
{{ $now := Now }}
conditions:
- {type: Ready, status: "%(ready)s", lastTransitionTime: {{ $now | Quote }}}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  imageID: ""
  ready: %(lower)s
  restartCount: 0
  state: %(state)s
{{ end }}
phase: %(phase)s
"""


def _status(phase: str, state: str, *, ready: bool = False) -> str:
    return _CONTAINERS % {"phase": phase, "state": state, "ready": ready, "lower": str(ready).lower()}


def _one_of(path: str, value: str) -> Json:
    return {"key": path, "operator": "In", "values": [value]}


def _stage(name: str, conditions: list[Json], then: Json, milliseconds: int = 0, kind: str = "Pod") -> Json:
    spec: Json = {
        "resourceRef": {"apiGroup": "v1", "kind": kind},
        "selector": {"matchExpressions": conditions},
        "next": then,
    }
    if milliseconds:
        spec["delay"] = {"durationMilliseconds": milliseconds, "jitterDurationMilliseconds": 2 * milliseconds}
    return {"apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "Stage", "metadata": {"name": name}, "spec": spec}


def stages() -> list[Json]:
    """The life of a pod: Pending, running, then ended as a Job's or Ready as a Deployment's; deleted when asked."""
    running = "{running: {startedAt: {{ $now | Quote }}}}"
    report = workers.proven().replace("'", "''")
    ended = (
        "{terminated: {exitCode: 0, reason: Completed, startedAt: {{ $now | Quote }}, finishedAt: {{ $now | Quote }}, "
        f"message: '{report}'}}}}"
    )
    owner = ".metadata.ownerReferences.[].kind"
    not_ready = _one_of(READY, "False")
    runs = [HERE, _one_of(".status.phase", "Running")]
    starts = [HERE, _one_of(".status.phase", "Pending")]
    node_ready = "conditions:\n- {type: Ready, status: 'True', reason: KubeletReady, message: ''}\n"
    return [
        # kwok looks only after nodes for which there is a stage.
        _stage("node-ready", [_one_of(READY, "Unknown")], {"statusTemplate": node_ready}, kind="Node"),
        # A container without a readiness probe is ready as soon as it runs, and so is its pod.
        _stage(
            "export-starts",
            [*starts, _one_of(owner, "Job")],
            {"statusTemplate": _status("Running", running, ready=True)},
            50,
        ),
        _stage(
            "server-starts",
            [*starts, _one_of(owner, "ReplicaSet")],
            {"statusTemplate": _status("Running", running)},
            50,
        ),
        _stage(
            "export-ends",
            [*runs, _one_of(owner, "Job")],
            {"statusTemplate": _status("Succeeded", ended)},
            EXPORT_MILLISECONDS,
        ),
        _stage(
            "server-ready",
            [*runs, not_ready, _one_of(owner, "ReplicaSet")],
            {"statusTemplate": _status("Running", running, ready=True)},
            LOAD_MILLISECONDS,
        ),
        _stage("goes", [GONE], {"delete": True}),
    ]


def node() -> Json:
    """A node with room for everything; kwok keeps its lease."""
    room = {"cpu": "100k", "memory": "100Ti", "pods": "100k"}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": NODE},
        "status": {"allocatable": room, "capacity": room, "phase": "Running", "conditions": [ready]},
    }
