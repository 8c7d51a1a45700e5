"""Why a pod that has a node does not start: the kubelet tells of a missing volume in events alone. All pure."""

import re
from collections.abc import Iterable
from datetime import datetime, timedelta

from torchscript_operator.api import conditions
from torchscript_operator.controller.diagnose import Fields, Finding, seconds_since, sentence
from torchscript_operator.controller.model import Json
from torchscript_operator.controller.observed import condition, is_true

SLOW_SECONDS = 20
"""Most pods start within this time; only about one that has not are events looked for."""
MOST_SECONDS = 60
"""The longest time between two looks; that its container has started asks for none."""
BEFORE_A_START = frozenset({"ContainerCreating", "PodInitializing"})
SANDBOX = "FailedCreatePodSandBox"
REASONS = frozenset({"FailedMount", "FailedAttachVolume", "FailedMapVolume", SANDBOX})
"""Of the kubelet and of the attach/detach controller."""
RECENT = timedelta(minutes=5)
"""Before the newest event: a volume is tried again within about two minutes, so what is older has passed."""
TIMED_OUT = "timed out waiting for the condition"
"""Ends an event that names volumes but no cause."""
MISSING = re.compile(r"not found|non-existent", re.IGNORECASE)
NUMBER = re.compile(r"\b[0-9a-f]{32,}\b")
"""A sandbox's id, another one at each try."""
VOLUME = re.compile(r'for volume "([^"]+)"')
MOST_CAUSES = 3


def since(pod: Json) -> str | None:
    """When a pod got the node on which its container has not begun to start; None for any other pod."""
    if "deletionTimestamp" in pod["metadata"] or not is_true(pod, "PodScheduled"):
        return None
    status = pod.get("status", {})
    if status.get("phase", "Pending") != "Pending":
        return None
    states = [it.get("state", {}) for it in status.get("containerStatuses") or []]
    if any(state.get("waiting", {}).get("reason") not in BEFORE_A_START for state in states):
        return None
    placed = condition(pod, "PodScheduled") or {}
    when: str | None = placed.get("lastTransitionTime") or pod["metadata"].get("creationTimestamp")
    return when


def next_look(begun: str, now: datetime) -> float:
    """Seconds to the next look at what began at a time."""
    age = seconds_since(begun, now)
    return SLOW_SECONDS - age if age < SLOW_SECONDS else min(age, MOST_SECONDS)


def slow(pods: Iterable[Json], now: datetime) -> tuple[str, ...]:
    """Names of the pods that should have started by now."""
    begun = ((pod["metadata"]["name"], since(pod)) for pod in pods)
    return tuple(name for name, when in begun if when is not None and seconds_since(when, now) >= SLOW_SECONDS)


def _time(event: Json) -> datetime:
    series = event.get("series") or {}
    text = series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    return datetime.fromisoformat(text or event["metadata"]["creationTimestamp"])


def _causes(pod: Json, events: Iterable[Json]) -> list[Json]:
    """The events that tell why a pod does not start, in an order that does not change with the next try."""
    uid = pod["metadata"]["uid"]
    told = [it for it in events if it.get("involvedObject", {}).get("uid") == uid and it.get("reason") in REASONS]
    if not told:
        return []
    newest = max(map(_time, told))
    recent = [it for it in told if newest - _time(it) <= RECENT]
    exact = [it for it in recent if TIMED_OUT not in it.get("message", "")]
    # One of several causes for each text.
    by_text = {NUMBER.sub("…", it.get("message", "")): it for it in exact or recent}
    return [{**by_text[text], "message": text} for text in sorted(by_text)][:MOST_CAUSES]


def _source(pod: Json, message: str, fields: Fields) -> str | None:
    """What a volume that a message names is, and which field asks for it."""
    found = VOLUME.search(message)
    volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes") or []}
    volume = volumes.get(found[1], {}) if found else {}
    if "configMap" in volume:
        return f"ConfigMap {volume['configMap']['name']} is named by the chart's value worker.caBundle"
    if "persistentVolumeClaim" in volume:
        return f"PersistentVolumeClaim {volume['persistentVolumeClaim']['claimName']} is named by {fields.claims}"
    if "secret" in volume:
        return f"Secret {volume['secret']['secretName']} is named by spec.serving"
    return None


def trouble(pod: Json, events: Iterable[Json], fields: Fields) -> Finding | None:
    """What the events about a pod that does not start say; None where they say nothing."""
    if since(pod) is None or not (causes := _causes(pod, events)):
        return None
    texts = [cause["message"] for cause in causes]
    said = " ".join(sentence(text) for text in texts)
    if all(cause["reason"] == SANDBOX for cause in causes):
        advice = "Look at the node's network plugin and container runtime; the pod is tried again by itself."
        return Finding("start", conditions.START_FAILED, f"The pod does not start: {said} {advice}")
    named = list(dict.fromkeys(source for text in texts if (source := _source(pod, text, fields))))
    where = f" {'; '.join(named)}." if named else ""
    if any(MISSING.search(text) for text in texts):
        advice = "Create what is missing in the model's namespace, or correct the reference; the pod then starts."
        return Finding("start", conditions.CONFIGURATION_MISSING, f"{said}{where} {advice}")
    advice = "Check the volume and its storage driver; mounting it is tried again by itself."
    return Finding("start", conditions.MOUNT_FAILED, f"{said}{where} {advice}")
