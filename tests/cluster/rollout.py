"""Waits for a Deployment, and says in words why its pods do not start."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tests.cluster.kubectl import Kubectl, KubectlError

if TYPE_CHECKING:
    from collections.abc import Iterator

Json = dict[str, Any]
LOOK_SECONDS = 3
FINAL = frozenset({"ImagePullBackOff", "InvalidImageName"})
"""Reasons that seldom pass by themselves."""
PULLING = "Nodes pull with their own credentials, not with this machine's: let them read the repository."
STARTING = frozenset({"ContainerCreating", "PodInitializing"})
"""Reasons to wait that are none to worry about."""


def rolled_out(kubectl: Kubectl, name: str, namespace: str, seconds: float) -> None:
    """Wait until a Deployment runs as it is described.

    Raises KubectlError with what is in the way: at once where an image cannot be pulled, else in the end.
    """
    deadline = time.monotonic() + seconds
    look = ("rollout", "status", f"deployment/{name}", f"--namespace={namespace}", f"--timeout={LOOK_SECONDS}s")
    while True:
        try:
            kubectl.run(*look)
        except KubectlError as error:
            found = obstacles(kubectl, namespace)
            if time.monotonic() < deadline and not any(reason in FINAL for reason, _ in found):
                continue
            msg = "\n".join(
                [f"deployment/{name} in namespace {namespace} does not start.", *(text for _, text in found)]
            )
            raise KubectlError(msg if found else f"{msg} {error}") from error
        return


def obstacles(kubectl: Kubectl, namespace: str) -> list[tuple[str, str]]:
    """What keeps a namespace's pods from starting: reason and sentence, each once."""
    listed = (kubectl.get("pods,replicasets,events", f"--namespace={namespace}") or {}).get("items", [])
    pods = [item for item in listed if item["kind"] == "Pod" and "deletionTimestamp" not in item["metadata"]]
    events = [item for item in listed if item["kind"] == "Event"]
    found = [each for pod in pods for each in _of_pod(pod, events)]
    for item in listed:
        if item["kind"] == "ReplicaSet":  # refused by pod security, a quota or an admission webhook
            conditions = item["status"].get("conditions", [])
            found += [(each["reason"], each["message"]) for each in conditions if each["type"] == "ReplicaFailure"]
    return list(dict.fromkeys(found))


def _of_pod(pod: Json, events: list[Json]) -> Iterator[tuple[str, str]]:
    for condition in pod["status"].get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield condition["reason"], f"No node takes the pod: {condition['message']}"
    name = pod["metadata"]["name"]
    for key in ("initContainerStatuses", "containerStatuses"):
        for container in pod["status"].get(key, []):
            waiting = container["state"].get("waiting", {})
            reason, message = waiting.get("reason", ""), waiting.get("message", "")
            if reason in FINAL:
                told = [event["message"] for event in events if event["involvedObject"].get("name") == name]
                # Older kubelets say here that they wait, and in an Event why.
                message = next((each for each in told if each.startswith("Failed to pull")), message)
                yield reason, f"The node cannot pull {container['image']}: {message}\n{PULLING}"
            elif reason and reason not in STARTING:
                yield reason, f"Container {container['name']} of pod {name}: {reason}. {message}".rstrip()
