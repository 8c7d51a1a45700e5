"""Whole lives of a model under an operator whose way to the API server may be disturbed, and how they are compared."""

from __future__ import annotations

import json
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from tests.integration.forked import Forked
from tests.integration.harness import OTHER, Api, Json, Models, eventually, now
from tests.unit import workers
from tests.unit.converging import differences
from torchscript_operator.artifact.failures import CLASSES, FailureReason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Self

    from tests.integration.proxy import Line, Proxy

AT_ONCE = 10
"""Lives lived at the same time; they mostly wait."""
THIRD = {"s3": {"uri": "s3://models/third"}}
ATTEMPT = re.compile(r"\b[0-9a-f]{10}\b")
VOLATILE = frozenset(
    {
        *("uid", "resourceVersion", "creationTimestamp", "managedFields", "generation", "time", "lastTransitionTime"),
        *("clusterIP", "clusterIPs", "controller-uid", "batch.kubernetes.io/controller-uid", "job-name"),
        *("batch.kubernetes.io/job-name", "torchscript.dev/attempt", "torchscript.dev/applied", "attempt", "request"),
        *("startTime", "completionTime", "failedAttempt"),
    }
)
"""Fields that hold an identity or a time, or the namespace's name in a digest."""


def updated(models: Models) -> None:
    """A model that is created, served, updated and served again."""
    models.create()
    models.serves("a")
    models.edit(source=OTHER)
    models.serves("b")


def withdrawn(models: Models) -> None:
    """A scaled model whose next artifact fails in its pods; it goes back, changes its mind, and goes altogether."""
    store = {"uri": "s3://artifacts/models", "deletionPolicy": "Delete"}
    models.create(serving={"autoscaling": {"maxReplicas": 3}}, artifact=store)
    models.serves("a")
    models.edit(source=OTHER)
    superseded = models.awaits_job()["metadata"]["name"]
    models.edit(source=THIRD)
    models.awaits_job(but=superseded)
    eventually(lambda: superseded not in names(models.jobs()), "the superseded Job to go")
    models.export_ends("b")
    failing = models.awaits_rollout("b")
    reason = FailureReason.REPLAY_FAILED
    state = workers.terminated(CLASSES[reason].exit_code, workers.serve_failed(reason, "b"))
    models.pod(failing, workers.pod_status("server", state, ready=False), "failing")
    models.deployment_status(failing, workers.rolling(failing))
    models.rollout_ends("a")
    models.awaits("Available", "True", "RolledBack")
    models.awaits("Ready", "True")
    models.edit(serving={"autoscaling": None})
    for plural in (HPAS, PDBS):
        path = models.path(plural, "minilm-cpu", LEFT[plural])
        eventually(lambda path=path: models.api.find(path) is None, f"no {plural}")
    scaling = "torchscript.dev/scaling"
    eventually(lambda: scaling not in models.deployment()["metadata"]["annotations"], "a Deployment without companions")
    models.rollout_ends("a")
    models.awaits("Available", "True", "RolledBack")
    models.awaits("Reconciling", "False")
    models.delete()
    if models.removes:
        job = eventually(lambda: next(iter(models.jobs_of("remove")), None), "the removal")
        models.pod(job, workers.pod_status("export", workers.terminated(0)))
        models.job_status(job, workers.complete(now()))
    eventually(lambda: models.api.find(models.path("torchscriptmodels", "minilm")) is None, "the model to go")


HPAS, PDBS = "horizontalpodautoscalers", "poddisruptionbudgets"
LEFT = {
    "jobs": "/apis/batch/v1",
    "deployments": "/apis/apps/v1",
    "services": "/api/v1",
    HPAS: "/apis/autoscaling/v2",
    PDBS: "/apis/policy/v1",
    "torchscriptmodels": "/apis/torchscript.dev/v1alpha1",
}


def names(items: list[Json]) -> set[str]:
    return {item["metadata"]["name"] for item in items}


def plain(value: Any, namespace: str) -> Any:
    """A value without what differs from one run to the next."""
    if isinstance(value, dict):
        return {plain(key, namespace): plain(item, namespace) for key, item in value.items() if key not in VOLATILE}
    if isinstance(value, list):
        return [plain(item, namespace) for item in value]
    return ATTEMPT.sub("ATTEMPT", value.replace(namespace, "NAMESPACE")) if isinstance(value, str) else value


def final(models: Models) -> Json:
    """Everything that a life leaves behind, by kind."""
    found: Json = {}
    for plural, group in LEFT.items():
        items = [
            {key: item[key] for key in ("metadata", "spec", "status") if key in item}
            for item in models.api("GET", models.path(plural, group=group))["items"]
        ]
        cleaned = [plain(item, models.namespace) for item in items]
        found[plural] = sorted(cleaned, key=lambda item: json.dumps(item, sort_keys=True))
    return found


def changes(line: Line) -> Counter[str]:
    """How often children were created and deleted, events left out."""
    wanted = ("create ", "delete ")
    return Counter(what for what in line.writes() if what.startswith(wanted) and what != "create events")


@dataclass
class Site:
    """One namespace with its operator, which runs inside `with`; what it did is told when that fails."""

    models: Models
    line: Line
    operator: Forked
    began: int = 0
    """How many calls had been made when the operator was started last."""

    def __enter__(self) -> Self:
        self.operator.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self.operator.stop()
        if error is not None:
            error.add_note(self.operator.log.read_text()[-6000:])
            error.add_note("\n".join(f"{call.what} {call.name}: {status}" for call, status in self.line.acted[-60:]))

    def again(self) -> None:
        """Kill the operator and start it again."""
        self.operator.again()
        self.began = len(self.line.calls)

    def settle(self) -> None:
        """Wait until the operator that runs now has looked at everything and has nothing more to do."""
        looks = ("list torchscriptmodels", "list jobs")
        eventually(lambda: {*looks} <= {call.what for call in self.line.calls[self.began :]}, "a look at what there is")
        self.line.awaits_quiet()


@dataclass
class World:
    """Where lives are lived."""

    api: Api
    proxy: Proxy
    rights: Path
    settings: Path
    folder: Path
    make_namespace: Callable[[], str]
    scoped: bool = False
    """Operators are told which namespace is theirs; else they take the one that they see for the whole cluster."""
    references: dict[Callable[[Models], None], Lived] = field(default_factory=dict)

    def reference(self, life: Callable[[Models], None]) -> Lived:
        """The life that nothing disturbs."""
        if life not in self.references:
            self.references[life] = self.live(life)
        return self.references[life]

    def open(self, constants: Mapping[str, Any] | None = None) -> Site:
        """A namespace, and an operator that sees nothing else and has not started yet."""
        namespace = self.make_namespace()
        line = self.proxy.line("" if self.scoped else namespace)
        folder = self.folder / namespace
        folder.mkdir()
        kubeconfig = line.kubeconfig(folder / "kubeconfig", self.rights)
        settings = yaml.safe_load(self.settings.read_text()) | ({"watchNamespaces": [namespace]} if self.scoped else {})
        (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
        operator = Forked(kubeconfig, folder / "settings.yaml", folder / "operator.log", constants)
        return Site(Models(self.api, namespace, removes=not self.scoped), line, operator)

    def live(
        self,
        life: Callable[[Models], None],
        disturb: Callable[[Site], Any] | None = None,
        constants: Mapping[str, Any] | None = None,
    ) -> Lived:
        """Live one life in a namespace of its own, under an operator of its own."""
        site = self.open(constants)
        disturbance = disturb(site) if disturb else None
        with site:
            life(site.models)
            site.settle()
        return Lived(final(site.models), changes(site.line), site, disturbance)

    def all(self, lives: dict[str, Callable[[], Lived]]) -> dict[str, Lived]:
        """Live several lives at once; fails with all that failed."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            running = {name: pool.submit(live) for name, live in lives.items()}
        failed = [(name, error) for name, future in running.items() if (error := future.exception())]
        if failed:
            raise ExceptionGroup(f"failed: {[name for name, _ in failed]}", [error for _, error in failed])
        return {name: future.result() for name, future in running.items()}


@dataclass
class Lived:
    """How a life went."""

    final: Json
    changes: Counter[str]
    site: Site
    disturbance: Any

    def differs(self, reference: Lived) -> list[str]:
        """What is not as in an undisturbed life; faults of the operator's own are among it."""
        found = differences(self.final, reference.final)
        if self.changes != reference.changes:
            found.append(f"{self.changes} instead of {reference.changes}")
        return found + [f"fault: {line}" for line in self.site.operator.faults()]
