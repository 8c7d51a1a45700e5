"""The operator is killed after any of its writes, runs twice, or loses the API server: the end is always the same."""

import json
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.controlplane import ControlPlane
from tests.integration.conftest import await_ends, make_namespace
from tests.integration.harness import OTHER, WRITES, Api, Json, Models, Operator, audit, eventually, writes

MOST_WRITES = 22
"""No run below takes more writes, events included; the reference run is held to it."""
VOLATILE = frozenset(
    {
        *("uid", "resourceVersion", "creationTimestamp", "managedFields", "generation", "time", "lastTransitionTime"),
        *("clusterIP", "clusterIPs", "selector", "controller-uid", "batch.kubernetes.io/controller-uid", "job-name"),
        *("batch.kubernetes.io/job-name", "torchscript.dev/attempt", "torchscript.dev/applied", "attempt", "request"),
        *("job", "message", "startTime", "completionTime"),
    }
)
"""Fields that hold an identity or a time, or the namespace's name in a digest."""


def life(models: Models) -> None:
    """A model that is created, served, updated and served again."""
    models.create()
    models.serves("a")
    models.edit(source=OTHER)
    models.serves("b")


def plain(value: Any, namespace: str) -> Any:
    """A value without what differs from one run to the next."""
    if isinstance(value, dict):
        return {key: plain(item, namespace) for key, item in value.items() if key not in VOLATILE}
    if isinstance(value, list):
        return [plain(item, namespace) for item in value]
    return value.replace(namespace, "NAMESPACE") if isinstance(value, str) else value


def final(models: Models) -> Json:
    """Everything that a run leaves behind."""
    jobs = sorted(models.jobs(), key=lambda job: job["metadata"]["creationTimestamp"])
    found = {
        "status": models.get()["status"],
        "jobs": [{"spec": job["spec"], "status": job["status"]["conditions"]} for job in jobs],
        "deployments": [
            {"spec": item["spec"], "labels": item["metadata"]["labels"]}
            for item in models.api("GET", models.path("deployments", group="/apis/apps/v1"))["items"]
        ],
        "service": (models.service() or {})["spec"],
    }
    cleaned: Json = plain(found, models.namespace)
    for job in cleaned["jobs"]:
        job["spec"]["template"]["metadata"].pop("name", None)
    cleaned["jobs"].sort(key=json.dumps)
    return cleaned


def created_and_deleted(plane: ControlPlane, user: str, models: Models) -> tuple[int, int]:
    """How many Jobs the operator created, and how many children it deleted."""
    done = [event for event in audit(plane, user, models.namespace) if event["responseStatus"]["code"] < 300]
    created = [it for it in done if it["verb"] == "create" and it["objectRef"]["resource"] == "jobs"]
    return len(created), len([it for it in done if it["verb"] == "delete"])


class Assassin(threading.Thread):
    """Kills the operator as soon as its n-th write in a namespace is in the audit log, and starts it again."""

    def __init__(self, plane: ControlPlane, user: str, models: Models, operator: Operator, number: int) -> None:
        super().__init__(daemon=True)
        self.user, self.namespace, self.operator, self.left = user, models.namespace, operator, number
        self.log = plane.audit_log.open()
        self.log.seek(0, 2)
        self.over = threading.Event()

    def run(self) -> None:
        with self.log:
            rest = ""
            while self.left and not self.over.is_set():
                rest += self.log.read()
                *whole, rest = rest.split("\n")
                self.left -= sum(self.counts(json.loads(line)) for line in whole)
                if self.left <= 0:
                    self.operator.kill()
                    self.operator.start()
                    return
                time.sleep(0.002)

    def counts(self, event: Json) -> bool:
        mine = event["user"]["username"] == self.user and event.get("objectRef", {}).get("namespace") == self.namespace
        return mine and event["stage"] == "ResponseComplete" and event["verb"] in WRITES


@pytest.fixture(scope="module")
def reference(plane: ControlPlane, api: Api, only_operator: Operator) -> Models:
    """A run that nothing disturbs."""
    if not only_operator.alive:
        only_operator.start()
    models = Models(api, make_namespace(plane, "reference"))
    life(models)
    return models


def test_reference_run_creates_two_jobs_deletes_nothing_and_writes_little(
    plane: ControlPlane, rights: tuple[Any, str], reference: Models
) -> None:
    assert created_and_deleted(plane, rights[1], reference) == (2, 0)
    assert len(writes(plane, rights[1], reference.namespace)) <= MOST_WRITES


@pytest.mark.parametrize("number", range(1, MOST_WRITES + 1))
def test_operator_killed_after_a_write_reaches_the_same_end(
    plane: ControlPlane,
    rights: tuple[Any, str],
    operator: Operator,
    reference: Models,
    models: Models,
    number: int,
) -> None:
    assassin = Assassin(plane, rights[1], models, operator, number)
    assassin.start()
    life(models)
    assassin.over.set()
    assassin.join()
    assert final(models) == final(reference)
    assert created_and_deleted(plane, rights[1], models) == (2, 0)


def test_two_operators_that_both_lead_do_no_harm(
    plane: ControlPlane,
    rights: tuple[Any, str],
    reference: Models,
    models: Models,
    operator: Operator,
    second: Operator,
) -> None:
    for each in (operator, second):
        assert "tsm_leader 1.0" in (each.get("/metrics") or "")
    life(models)
    assert second.faults() == []
    assert final(models) == final(reference)
    assert created_and_deleted(plane, rights[1], models) == (2, 0)


@pytest.fixture
def second(operator: Operator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    other = Operator(operator.kubeconfig, operator.settings, tmp_path_factory.mktemp("second") / "operator.log")
    other.start()
    eventually(lambda: other.get("/readyz"), "the second operator to be ready")
    yield other
    assert other.kill(signal.SIGTERM) == 0


def test_loss_of_the_api_server_is_survived(plane: ControlPlane, operator: Operator, models: Models) -> None:
    models.create()
    models.awaits_job()
    process = operator.process
    plane.stop("kube-apiserver")
    await_ends(plane, "kube-apiserver")
    plane.start("kube-apiserver")
    models.serves("a")
    assert operator.process is process
    assert operator.alive


def test_changes_during_an_absence_are_found_at_the_start(operator: Operator, models: Models) -> None:
    models.create()
    job = models.awaits_job()
    operator.kill()
    models.edit(source=OTHER)
    operator.start()
    models.awaits_job(but=job["metadata"]["name"])
    eventually(lambda: len(models.jobs()) == 1, "the old Job to go")
