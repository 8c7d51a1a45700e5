"""What is remembered of live children: their names, and what of each of them asks for a pass. All pure.

A pass reads objects live; from here it only learns which there are. What is missing here may be there nevertheless, so
nothing is decided from that alone: a creation and a first application meet what is there, a deletion lists.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import orjson

from torchscript_operator.api import conditions
from torchscript_operator.controller import diagnose
from torchscript_operator.controller import starting as starts
from torchscript_operator.controller.model import (
    APPLIED_ANNOTATION,
    ATTEMPT_LABEL,
    COMPONENT_LABEL,
    MANAGER,
    MODEL_LABEL,
    SERVING,
    Json,
    Model,
)
from torchscript_operator.controller.observed import condition, ended, is_true, label, past_deadline, settled
from torchscript_operator.controller.queue import Key

Urgency = Literal["now", "soon"]
"""When a change of a child wants a pass: what a model's state depends on at once, mere figures together."""

KINDS = {
    "jobs": "batch/v1",
    "pods": "v1",
    "deployments": "apps/v1",
    "services": "v1",
    "horizontalpodautoscalers": "autoscaling/v2",
    "poddisruptionbudgets": "policy/v1",
}
"""Children that are listened to: apiVersion by resource."""
PLURALS = {
    "Job": "jobs",
    "Deployment": "deployments",
    "Service": "services",
    "HorizontalPodAutoscaler": "horizontalpodautoscalers",
    "PodDisruptionBudget": "poddisruptionbudgets",
}
"""Resource by kind, for the children that a pass writes."""
REVISION_ANNOTATION = "deployment.kubernetes.io/revision"
"""Written into our Deployments by their controller."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One child in short."""

    now: int = 0
    """Changes with whatever the plan depends on; 0 as if there were no such child."""
    soon: int = 0
    """Changes with what the status merely repeats."""
    attempt: str | None = None
    """The attempt that a Job or its pod belongs to."""
    over: bool = False
    """A Job that has ended; a pod that has nothing to say: one that serves well, or whose export runs."""
    starting: bool = False
    """A pod with a node on which its container has not begun to start."""


ABSENT = Seen()


def _identity(body: Json) -> list[object]:
    metadata = body["metadata"]
    annotations = {key: value for key, value in metadata.get("annotations", {}).items() if key != REVISION_ANNOTATION}
    owners = metadata.get("ownerReferences")
    return [
        *(metadata["uid"], metadata.get("generation"), "deletionTimestamp" in metadata),
        *(metadata.get("labels"), annotations, owners),
    ]


def _digest(*parts: object) -> int:
    return hash(orjson.dumps(parts)) or 1


def _job(body: Json) -> Seen:
    is_over = ended(body)
    now = _digest(_identity(body), is_over, is_true(body, "Failed"))
    # That a pod which has nothing to say is gone, its Job may tell later than the pod itself.
    ready = bool(body.get("status", {}).get("ready"))
    return Seen(now, _digest(ready), attempt=label(body, ATTEMPT_LABEL), over=is_over)


def _pod(body: Json) -> Seen:
    uid, attempt = body["metadata"]["uid"], label(body, ATTEMPT_LABEL)
    begun = starts.since(body) is not None
    if label(body, COMPONENT_LABEL) == SERVING:
        # A pod that is well says nothing: that it is Ready is in its Deployment's status.
        well = is_true(body, "Ready") or "deletionTimestamp" in body["metadata"]
        trouble = None if well else diagnose.pod_trouble(body, diagnose.SERVING_FIELDS)
        return Seen(_digest(uid, str(trouble)) if trouble else 0, attempt=attempt, over=trouble is None, starting=begun)
    trouble = diagnose.pod_trouble(body, diagnose.JOB_FIELDS)
    # What the end of a pod means is for its Job to say; what keeps it from starting, only the pod says.
    held = trouble is not None and trouble.exit_code is None
    quiet = trouble is None and attempt is not None and _runs(body)
    now = _digest(uid, str(trouble)) if held else 0
    return Seen(now, _digest(uid, str(trouble)), attempt, over=quiet, starting=begun)


def _runs(body: Json) -> bool:
    status = body.get("status", {})
    states = [it.get("state", {}) for it in status.get("containerStatuses") or []]
    at_work = bool(states) and all("running" in state for state in states)
    return at_work and status.get("phase") == "Running" and "deletionTimestamp" not in body["metadata"]


def _deployment(body: Json) -> Seen:
    status = body.get("status", {})
    counts = [status.get(field) for field in ("replicas", "updatedReplicas", "readyReplicas")]
    refused = (condition(body, "ReplicaFailure") or {}).get("message")
    rollout = [settled(body), past_deadline(body), counts[0] == counts[1], status.get("availableReplicas"), refused]
    # Under an autoscaler a Deployment can be settled although it is not as many as it is to be.
    noticed = status.get("observedGeneration", 0) >= body["metadata"]["generation"]
    return Seen(_digest(_identity(body), rollout), _digest(counts, noticed))


def _wish(body: Json) -> Seen:
    """A child of which only what it wants matters; its status changes all the time, and no pass looks at it."""
    return Seen(_digest(_identity(body), body.get("spec")))


_SEEN = {"jobs": _job, "pods": _pod, "deployments": _deployment}


def seen(plural: str, body: Json) -> Seen:
    """A child in short."""
    return _SEEN.get(plural, _wish)(body)


def _applied(body: Json) -> str:
    found: str = body["metadata"].get("annotations", {}).get(APPLIED_ANNOTATION, "")
    return found


def _is_ours_alone(body: Json) -> bool:
    """Whether a child is as our one application left it, by the server's own account (metadata.managedFields).

    Whoever else writes to it, by whatever way, gets an entry; so does an admission webhook that changes what we apply.
    """
    entries = body["metadata"].get("managedFields") or ()
    return [(entry.get("manager"), entry.get("operation")) for entry in entries] == [(MANAGER, "Apply")]


def key_of(body: Json) -> Key | None:
    """The model that a child says it belongs to."""
    name = label(body, MODEL_LABEL)
    return Key(body["metadata"]["namespace"], name) if name else None


class Children:
    """All children of all models."""

    def __init__(self) -> None:
        """Know of none."""
        self._of: dict[str, defaultdict[Key, dict[str, Seen]]] = {plural: defaultdict(dict) for plural in KINDS}
        self._writing: dict[tuple[str, Key, str], Seen | None] = {}
        """Children that are being written, with what has been heard of them since."""
        self._services: dict[Key, tuple[int, str]] = {}
        """Services as our last application left them: Seen.now, and what was applied."""

    def of(self, plural: str, key: Key) -> dict[str, Seen]:
        """A model's children of one kind, by name."""
        return self._of[plural].get(key, {})

    def note(self, plural: str, body: Json) -> tuple[Key, Urgency] | None:
        """Take in a child as it is now; returns whose pass is wanted, and when."""
        key = key_of(body)
        if key is None:
            return None
        name, new = body["metadata"]["name"], seen(plural, body)
        if plural == "services" and name not in self.of(plural, key) and _is_ours_alone(body):
            # So an operator that starts knows of Services what the one before it knew.
            self._services[key] = new.now, _applied(body)
        return self._take(plural, key, name, new)

    def forget(self, plural: str, key: Key, name: str) -> tuple[Key, Urgency] | None:
        """Take in that a child is gone."""
        return self._take(plural, key, name, ABSENT)

    def begin(self, plural: str, key: Key, name: str) -> None:
        """A pass is about to write a child: what is heard of it before the answer comes may be that very write."""
        self._writing[plural, key, name] = None

    def finish(self, plural: str, key: Key, name: str, live: Json | None) -> bool:
        """Take in the answer, None where there is none; returns whether something else was heard meanwhile."""
        heard = self._writing.pop((plural, key, name))
        known = self.of(plural, key).get(name, ABSENT) if live is None else seen(plural, live)
        self._set(plural, key, name, heard or known)
        if plural == "services" and live is not None and self.of(plural, key):
            self._services[key] = known.now, _applied(live)
        return heard is not None and heard != known

    def _take(self, plural: str, key: Key, name: str, new: Seen) -> tuple[Key, Urgency] | None:
        if (plural, key, name) in self._writing:
            self._writing[plural, key, name] = new
            return None
        before = self.of(plural, key).get(name, ABSENT)
        self._set(plural, key, name, new)
        if before.now != new.now:
            return key, "now"
        # From when a pod has its node, events may say why it does not start, which no change of the pod does.
        begins = new.starting and not before.starting
        return (key, "soon") if begins or before.soon != new.soon else None

    def _set(self, plural: str, key: Key, name: str, new: Seen) -> None:
        if new is not ABSENT:
            self._of[plural][key][name] = new
        elif named := self._of[plural].get(key):
            named.pop(name, None)
            if not named:
                del self._of[plural][key]
            if plural == "services":
                self._services.pop(key, None)

    def missing(self, plural: str, namespace: str | None, there: set[tuple[Key, str]]) -> list[tuple[Key, str]]:
        """Children that are remembered but not among those that a list found."""
        known = [(key, name) for key, named in self._of[plural].items() for name in named]
        return [it for it in known if it not in there and namespace in {None, it[0].namespace}]

    def is_as_applied(self, service: Json) -> bool:
        """Whether a model's Service was last applied just so, and nothing else has been heard of it since.

        A change that is not heard of for once is found by the next list, which wants a pass then.
        """
        key = key_of(service)
        if key is None or (known := self.of("services", key).get(service["metadata"]["name"])) is None:
            return False
        return self._services.get(key) == (known.now, _applied(service))

    def starting(self, model: Model) -> bool:
        """Whether a pod of a model has not begun to start."""
        return any(pod.starting for pod in self.of("pods", Key(model.namespace, model.name)).values())

    def to_read(self, model: Model) -> dict[str, list[str]]:
        """Names of the children that a pass over a model has to look at, by kind.

        Left out are Jobs whose end the status has taken in, with their pods, and pods that have nothing to say.
        """
        key = Key(model.namespace, model.name)
        told = _told(model)
        jobs = self.of("jobs", key)
        past = {job.attempt for name, job in jobs.items() if job.over and told & {job.attempt, name}}
        going = {job.attempt for job in jobs.values() if not job.over}
        pods = self.of("pods", key)
        # Which of several pods of a Job is the newest, only all of them say.
        silent = {None, *going} - {pod.attempt for pod in pods.values() if not pod.over and pod.attempt is not None}
        return {
            "jobs": _names(jobs, past),
            "pods": [
                name
                for name, pod in pods.items()
                if pod.attempt not in past and not (pod.over and pod.attempt in silent)
            ],
            "deployments": list(self.of("deployments", key)),
            "services": [model.name] if self.of("services", key) or _seeks_service(model, going=bool(going)) else [],
        }


def _names(jobs: dict[str, Seen], past: set[str | None]) -> list[str]:
    return [name for name, job in jobs.items() if not (job.over and job.attempt in past)]


def _seeks_service(model: Model, *, going: bool) -> bool:
    """Whether to look for somebody else's Service of the model's name, which does not bear our label.

    While something is exported this tells of a conflict early, but not in the first pass, which has Jobs to start; and
    while there is one, it tells of its end.
    """
    ready = next((found for found in model.status.conditions if found.type == conditions.READY), None)
    if ready is not None and ready.reason == conditions.NAME_CONFLICT:
        return True
    told = model.status.observed_generation == model.generation
    return going and told and bool(model.served) and all(target.artifact is None for target in model.status.targets)


def _told(model: Model) -> set[str | None]:
    """Attempts and names of Jobs whose end is in the status."""
    told: set[str | None] = set()
    for target in model.status.targets:
        told.add(target.attempt)
        told.add(target.pending.attempt if target.pending else None)
        told.add(target.last_failure.attempt if target.last_failure else None)
        told.add(target.job if target.state == "Proven" else None)
    return told - {None}
