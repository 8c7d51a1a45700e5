"""The read model: everything about the models of a namespace, as typed objects, from one function."""

import contextlib
import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Literal

from pydantic import ValidationError

from torchscript_operator.api import conditions
from torchscript_operator.api.v1alpha1 import API_VERSION, KIND, PLURAL
from torchscript_operator.api.v1alpha1.status import Condition, ServingTargetStatus, TargetStatus
from torchscript_operator.cli.cluster.access import ApiError, Cluster, Json
from torchscript_operator.controller.model import COMPONENT_LABEL, MODEL_LABEL, SERVING, TARGET_LABEL, Model
from torchscript_operator.controller.observed import Observed, label

Depth = Literal["models", "children", "events"]
"""How much is read: the models alone in one call, their children too, or the events about them as well."""
State = Literal["Ready", "Updating", "Degraded", "Working", "Waiting", "Failed", "Suspended", "Deleting"]
NOTHING = Observed()
MOST_TOLD = 3
"""Of the fields that are not read."""
CHILDREN = (("batch/v1", "jobs"), ("v1", "pods"), ("apps/v1", "deployments"), ("v1", "services"))


@dataclass(frozen=True)
class ModelView:
    """One model with all that belongs to it."""

    body: Json
    """As the API server sent it."""
    model: Model
    unreadable: str | None = None
    """What of the spec this release does not read."""
    children: Observed = NOTHING
    """Jobs, pods, Deployments and the Service; empty where they were not asked for or may not be read."""
    events: tuple[Json, ...] = ()
    """About the model, the oldest first."""
    is_readable: bool = True
    """Whether `model` has the object's spec, at least what this release knows of it, and not another in its place."""

    @property
    def created(self) -> str:
        """When it was created, as Kubernetes writes times."""
        return str(self.body["metadata"].get("creationTimestamp") or "")

    @property
    def is_current(self) -> bool:
        """Whether the operator has seen the present spec."""
        return self.model.status.observed_generation == self.model.generation

    def condition(self, kind: str) -> Condition | None:
        """A condition by type."""
        return next((found for found in self.model.status.conditions if found.type == kind), None)

    def holds(self, kind: str) -> bool:
        """Whether a condition is True."""
        found = self.condition(kind)
        return found is not None and found.status == "True"

    @property
    def state(self) -> State:
        """All conditions in one word."""
        if "deletionTimestamp" in self.body["metadata"]:
            return "Deleting"
        if not self.is_current:
            return "Waiting"
        ready, stalled = self.holds(conditions.READY), self.holds(conditions.STALLED)
        if ready:
            return "Degraded" if stalled else "Updating" if self.holds(conditions.RECONCILING) else "Ready"
        if stalled:
            return "Failed"
        return "Suspended" if self.model.spec.suspend else "Working"

    @property
    def reason(self) -> str:
        """Why: that of the condition that the state follows."""
        kind = {
            "Degraded": conditions.STALLED,
            "Failed": conditions.STALLED,
            "Updating": conditions.RECONCILING,
        }.get(self.state, conditions.READY)
        found = self.condition(kind)
        return found.reason if found else ""

    @property
    def targets(self) -> tuple[TargetStatus, ...]:
        """A status for each target of the spec, also for one that the operator has not seen."""
        return tuple(self.model.target_status(target.name) for target in self.model.spec.targets)

    def serving(self, target: str) -> ServingTargetStatus | None:
        """What serves a target."""
        listed = self.model.status.serving.targets if self.model.status.serving else ()
        return next((found for found in listed if found.name == target), None)

    def pods(self, target: str | None = None, *, serving: bool | None = None) -> tuple[Json, ...]:
        """Pods, the oldest first: of one target, or only those that serve, or only those that do not."""
        found = [
            pod
            for pod in self.children.pods
            if target in {None, label(pod, TARGET_LABEL)} and serving in {None, label(pod, COMPONENT_LABEL) == SERVING}
        ]
        return tuple(sorted(found, key=lambda pod: str(pod["metadata"].get("creationTimestamp") or "")))

    def job_pods(self, name: str) -> tuple[Json, ...]:
        """Pods of a Job by its name, the oldest first."""
        job = self.children.job(name)
        return self.children.job_pods(job) if job else ()


@dataclass(frozen=True)
class Reading:
    """What was read."""

    models: tuple[ModelView, ...]
    missing: tuple[str, ...] = ()
    """What the user may not read, in the server's words; all else is there."""


def parse(body: Json) -> ModelView:
    """A model without children. Fields of another release are passed over and told of."""
    try:
        return ModelView(body, Model.parse(body))
    except ValidationError as error:
        found = error.errors()
        told = "; ".join(f"{'.'.join(str(step) for step in it['loc'])}: {it['msg']}" for it in found[:MOST_TOLD])
    if all(it["type"] == "extra_forbidden" for it in found):
        known = copy.deepcopy(body["spec"])
        for it in found:
            _drop(known, it["loc"])
        with contextlib.suppress(ValidationError):
            return ModelView(body, Model.parse({**body, "spec": known}), told)
    return ModelView(body, Model.unreadable(body), told, is_readable=False)


def _drop(spec: Any, path: tuple[int | str, ...]) -> None:
    """Take a field away; a path that is none of the object's is left alone."""
    *above, last = path
    for step in above:
        try:
            spec = spec[step]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(spec, dict):
        spec.pop(last, None)


def read(cluster: Cluster, name: str | None = None, depth: Depth = "models") -> Reading:
    """The models of the cluster's namespace, or of all, or the one of a name, in order of their names.

    At depth children each kind of child is one list for all models. ApiError for models that cannot be read, and
    where there is no model of the name; children that may not be read are told of instead.
    """
    if name is not None and cluster.namespace is not None:
        bodies = [cluster.model(cluster.namespace, name)]
    else:
        listed = cluster.list(API_VERSION, PLURAL, cluster.namespace)
        bodies = [body for body in listed if name in {None, body["metadata"]["name"]}]
    if name is not None and not bodies:
        raise cluster.no_model(cluster.namespace or "(any)", name)
    views = [parse(body) for body in bodies]
    if depth == "models" or not views:
        return Reading(tuple(views))
    missing: list[str] = []
    selector = f"{MODEL_LABEL}={name}" if name else MODEL_LABEL
    found = {plural: _allowed(missing, cluster, version, plural, selector=selector) for version, plural in CHILDREN}
    events: list[Json] = []
    if depth == "events":
        fields = f"involvedObject.kind={KIND}" + (f",involvedObject.name={name}" if name else "")
        events = _allowed(missing, cluster, "v1", "events", fields=fields)
    return Reading(tuple(joined(views, found, events)), tuple(missing))


def _allowed(missing: list[str], cluster: Cluster, api_version: str, plural: str, **which: str) -> list[Json]:
    try:
        return cluster.list(api_version, plural, cluster.namespace, **which)
    except ApiError as error:
        if error.status != HTTPStatus.FORBIDDEN:
            raise
        missing.append(error.message)
        return []


def joined(
    views: Iterable[ModelView], children: Mapping[str, list[Json]], events: Iterable[Json]
) -> Iterable[ModelView]:
    """Give each model its own of what was listed for all; children are by the plurals of CHILDREN."""
    of: dict[tuple[str, str, str], list[Json]] = defaultdict(list)
    for plural, items in children.items():
        for item in items:
            of[plural, item["metadata"]["namespace"], label(item, MODEL_LABEL) or ""].append(item)
    for event in events:
        about = event["involvedObject"]
        of["events", about.get("namespace", ""), about.get("name", "")].append(event)
    for view in views:
        key = (view.model.namespace, view.model.name)
        services = of["services", *key]
        observed = Observed(
            jobs=tuple(of["jobs", *key]),
            pods=tuple(of["pods", *key]),
            deployments=tuple(of["deployments", *key]),
            service=next((item for item in services if item["metadata"]["name"] == view.model.name), None),
        )
        told = sorted(of["events", *key], key=lambda event: str(event.get("lastTimestamp") or ""))
        mine = [event for event in told if event["involvedObject"].get("uid") in {None, view.model.uid}]
        yield replace(view, children=observed, events=tuple(mine))
