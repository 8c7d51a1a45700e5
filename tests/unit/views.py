"""Models in every state that a person can meet, as the command line reads them: the planner's own, carried out."""

import copy
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from tests.unit import workers
from tests.unit.world import SETTINGS, World, targets
from torchscript_operator.artifact.failures import CLASSES, FailureReason
from torchscript_operator.cli.cluster import installation
from torchscript_operator.cli.cluster.access import ApiError, Cluster
from torchscript_operator.cli.cluster.read import ModelView, parse
from torchscript_operator.controller.export_plan import stamp
from torchscript_operator.controller.model import ROLLBACK_ANNOTATION
from torchscript_operator.controller.observed import Observed
from torchscript_operator.controller.settings import Settings

Json = dict[str, Any]
OTHER = {"s3": {"uri": "s3://models/other"}}
AGE = timedelta(hours=2)
RECORDED = Path(__file__).resolve().parents[1] / "golden" / "cli" / "states"


def view(world: World) -> ModelView:
    """A world as the command line reads it."""
    body = copy.deepcopy(world.body)
    body["metadata"] |= {"creationTimestamp": stamp(world.now - AGE), "resourceVersion": "7"}
    events = (
        {
            "involvedObject": {"kind": "TorchScriptModel", "name": "minilm", "namespace": "ml", "uid": "model-1"},
            "type": "Warning" if "fail" in str(body["status"]).lower() else "Normal",
            "reason": "Told",
            "message": "What the operator has told.",
            "lastTimestamp": stamp(world.now - timedelta(minutes=3)),
        },
    )
    found = parse(body)
    children = world.observed() if found.unreadable is None else Observed()
    return dataclasses.replace(found, children=children, events=events)


def new() -> World:
    return World()


def exporting() -> World:
    world = World()
    world.settle()
    world.pod_of(world.running(), workers.pod_status("export", {"running": {}}))
    world.wait(42)
    world.settle()
    return world


def unschedulable() -> World:
    world = World()
    world.settle()
    world.pod_of(world.running(), workers.unscheduled("0/2 nodes are available: 2 Insufficient memory."))
    world.settle()
    return world


def serving() -> World:
    world = World()
    world.serves("a")
    template = world.deployments["minilm-cpu"]["spec"]["template"]
    world._pod(world.deployments["minilm-cpu"], template, workers.pod_status("server", {"running": {}}, ready=True))
    return world


def rolling() -> World:
    world = serving()
    world.edit(source=OTHER)
    world.settle()
    world.export_ends(workers.proven("b"))
    world.settle()
    world.rollout_hangs()
    world.settle()
    return world


def updating() -> World:
    world = serving()
    world.edit(source=OTHER)
    world.settle()
    return world


def parity_failed() -> World:
    world = World()
    world.settle()
    found = workers.parsed(workers.failed(FailureReason.PARITY_FAILED, "last_hidden_state differs by 0.3 at b1-s128."))
    report = f"s3://artifacts/models/{'c' * 64}/report.html"
    figure = {**workers.FIGURE, "passed": False, "maximumAbsoluteDifference": "3.00e-01"}
    found["parity"] = {"verdict": "Failed", "report": report, "outputs": [figure]}
    message = workers.ExportOutcome.model_validate(found).to_json()
    world.export_fails(CLASSES[FailureReason.PARITY_FAILED].exit_code, message)
    world.settle()
    return world


def degraded() -> World:
    world = serving()
    world.edit(source=OTHER)
    world.settle()
    world.export_fails(66, workers.failed(FailureReason.SOURCE_NOT_FOUND))
    world.settle()
    return world


def rolled_back() -> World:
    world = rolling()
    world.rollout_hangs(late=True)
    world.settle()
    world.rollout_ends()
    world.settle()
    return world


def pinned() -> World:
    world = serving()
    world.edit(source=OTHER)
    world.serves("b")
    world.body["metadata"]["annotations"][ROLLBACK_ANNOTATION] = workers.digest_of("a")
    world.settle()
    world.rollout_ends()
    world.settle()
    return world


def suspended() -> World:
    world = World()
    world.edit(suspend=True)
    world.settle()
    return world


def out_of_memory() -> World:
    world = World()
    world.settle()
    world.export_fails(137, "[bold]line one[/bold]\nline two")
    world.settle()
    return world


def two_targets() -> World:
    world = World()
    world.edit(targets=targets("cpu", "two"))
    world.settle()
    world.export_ends(workers.proven("a"), "cpu")
    world.settle()
    world.rollout_ends("cpu")
    world.settle()
    return world


def deleting() -> World:
    world = serving()
    world.body["metadata"]["deletionTimestamp"] = stamp(world.now)
    return world


STATES: Mapping[str, Callable[[], World]] = {
    made.__name__: made
    for made in (
        new,
        exporting,
        unschedulable,
        serving,
        rolling,
        updating,
        parity_failed,
        degraded,
        rolled_back,
        pinned,
        suspended,
        out_of_memory,
        two_targets,
        deleting,
    )
}


def record(name: str) -> Json:
    """A state as JSON: the model with its children, and the time."""
    world = STATES[name]()
    found = view(world)
    children = {field.name: getattr(found.children, field.name) for field in dataclasses.fields(found.children)}
    return {"now": stamp(world.now), "model": found.body, "children": children, "events": found.events}


def recorded(name: str) -> tuple[ModelView, datetime]:
    """A state as it was recorded, so that what is shown of it changes only with the command line."""
    path = RECORDED / f"{name}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record(name), indent=1) + "\n")
    read = json.loads(path.read_text())
    children = {kind: tuple(items) if isinstance(items, list) else items for kind, items in read["children"].items()}
    found = parse(read["model"])
    made = dataclasses.replace(found, children=Observed(**children), events=tuple(read["events"]))
    return made, datetime.fromisoformat(read["now"])


class FakeCluster(Cluster):
    """A cluster in memory, behind the same methods; it remembers what was changed."""

    def __init__(
        self, *views: ModelView, namespace: str | None = "ml", logs: Mapping[str, list[str]] | None = None
    ) -> None:
        self.namespace = namespace
        self.context = "test"
        self.views = list(views)
        self.logs = dict(logs or {})
        self.objects: dict[tuple[str, str], list[Json]] = {}
        self.patches: list[Json] = []
        self.forbidden: set[str] = set()
        self.asked: list[Json] = []
        self.log_options: list[dict[str, object]] = []

    def within(self, namespace: str) -> "FakeCluster":
        other = copy.copy(self)
        other.namespace = namespace
        return other

    def add(self, api_version: str, plural: str, *items: Json) -> None:
        self.objects.setdefault((api_version, plural), []).extend(items)

    def list(
        self,
        api_version: str,
        plural: str,
        namespace: str | None,
        selector: str | None = None,
        fields: str | None = None,  # noqa: ARG002 - as the real one
    ) -> list[Json]:
        if plural in self.forbidden:
            raise ApiError(403, f"test forbids it: {plural}.")
        kinds = {
            "torchscriptmodels": lambda view: [view.body],
            "jobs": lambda view: view.children.jobs,
            "pods": lambda view: view.children.pods,
            "deployments": lambda view: view.children.deployments,
            "services": lambda view: [view.children.service] if view.children.service else [],
            "events": lambda view: view.events,
        }
        here = [view for view in self.views if namespace in {None, view.model.namespace}]
        found = [item for view in here for item in kinds.get(plural, lambda _: [])(view)]
        return [item for item in (*found, *self.objects.get((api_version, plural), [])) if _matches(item, selector)]

    def get(self, api_version: str, plural: str, namespace: str | None, name: str) -> Json | None:
        if plural in self.forbidden:
            raise ApiError(403, f"test forbids it: {plural}.")
        listed = self.list(api_version, plural, namespace)
        return next((item for item in listed if item["metadata"]["name"] == name), None)

    def merge(self, _api_version: str, _plural: str, namespace: str, name: str, patch: Json) -> Json:
        self.patches.append(patch)
        body = copy.deepcopy(self.model(namespace, name))
        annotations = body["metadata"]["annotations"] | patch.get("metadata", {}).get("annotations", {})
        body["metadata"]["annotations"] = {key: value for key, value in annotations.items() if value is not None}
        body["spec"] |= patch.get("spec", {})
        return body

    def ask(self, _api_version: str, _plural: str, spec: Json, _namespace: str | None = None) -> Json:
        self.asked.append(spec)
        about = spec["resourceAttributes"]
        return {"allowed": about["resource"] not in self.forbidden}

    def version(self) -> str:
        return "v1.34.1"

    def log(self, _namespace: str, pod: str, **options: object) -> Iterator[str]:
        self.log_options.append(options)
        if pod not in self.logs:
            raise ApiError(400, f"container of {pod} is waiting to start")
        yield from self.logs[pod]


def _matches(item: Json, selector: str | None) -> bool:
    labels = item.get("metadata", {}).get("labels") or {}
    wanted = [part.partition("=") for part in (selector or "").split(",") if part]
    return all(key in labels and value in {labels[key], ""} for key, _, value in wanted)


def installed(cluster: FakeCluster, settings: Settings = SETTINGS, name: str = "operator") -> FakeCluster:
    """With an operator as the chart installs it."""
    volume = {"name": "settings", "configMap": {"name": name}}
    spec = {"serviceAccountName": "operator", "volumes": [volume], "containers": [{"image": "operator:1"}]}
    labels = dict(part.split("=") for part in installation.SELECTOR.split(","))
    deployment = {
        "metadata": {"name": name, "namespace": "torchscript-system", "labels": labels},
        "spec": {"replicas": 1, "template": {"spec": spec}},
        "status": {"readyReplicas": 1},
    }
    dumped = settings.model_dump(mode="json", by_alias=True, exclude_none=True)
    config = {"metadata": {"name": name}, "data": {"settings.yaml": yaml.safe_dump(dumped)}}
    cluster.add("apps/v1", "deployments", deployment)
    cluster.add("v1", "configmaps", config)
    return cluster


@contextmanager
def connected(cluster: Cluster) -> Iterator[Cluster]:
    yield cluster
