"""Two operators, of which one leads: however it ends, the other goes on where it stopped."""

import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.controlplane import ControlPlane
from tests.integration.conftest import HOME, SETTINGS, install_rights
from tests.integration.harness import OTHER, Api, Json, Models, Operator, audit, eventually, writes
from tests.reader import Reader

LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{HOME}/leases"
QUICK = {"leaseDurationSeconds": 8, "renewDeadlineSeconds": 5, "retrySeconds": 0.5}
"""Terms by which a leader that is lost is replaced soon; the usual ones are 15, 10 and 2."""
PATIENT = {"leaseDurationSeconds": 600, "renewDeadlineSeconds": 500, "retrySeconds": 0.5}
"""Terms by which nobody is replaced within a test unless the lease is given back."""
ENDED = "was lost, so this operator ends"
LOST = 4
"""Exit code of an operator that has lost its lease."""


class Pair:
    """Two operators that share a Lease, with the rights that the chart gives them in one namespace."""

    def __init__(self, api: Api, namespace: str, folder: Path, kubeconfig: Path, user: str) -> None:
        self.api, self.folder, self.kubeconfig, self.user = api, folder, kubeconfig, user
        self.models = Models(api, namespace)
        self.operators: list[Operator] = []
        self.logs: list[Path] = []

    def start(self, terms: Json, count: int = 2, kubeconfig: Path | None = None) -> None:
        settings = self.folder / "settings.yaml"
        election = {"enabled": True, "name": "tsm-ha", "namespace": HOME, **terms}
        wanted = {**SETTINGS, "watchNamespaces": [self.models.namespace], "leaderElection": election}
        settings.write_text(yaml.safe_dump(wanted))
        started = [Operator(kubeconfig or self.kubeconfig, settings, self.log()) for _ in range(count)]
        self.operators += started
        for operator in started:
            operator.start()
        for operator in started:
            eventually(lambda it=operator: it.get("/readyz"), "the operator to be ready, leader or not", 60)

    def log(self) -> Path:
        self.logs.append(self.folder / f"operator-{len(self.logs)}.log")
        return self.logs[-1]

    def leader(self, but: Operator | None = None) -> Operator:
        def look() -> Operator | None:
            found = [it for it in self.operators if it.alive and "tsm_leader 1.0" in (it.get("/metrics") or "")]
            assert len(found) <= 1
            return found[0] if found and found[0] is not but else None

        return eventually(look, "a leader", 60)

    def lease(self) -> Json:
        return self.api("GET", f"{LEASES}/tsm-ha")


@pytest.fixture
def pair(
    plane: ControlPlane, api: Api, only_operator: Operator, namespace: str, tmp_path: Path
) -> Iterator[Callable[..., Pair]]:
    """Makes a pair; what it has done is shown when a test fails, and may tell of no fault."""
    if only_operator.alive:
        only_operator.kill(signal.SIGTERM)
    values = ("--set", f"watchNamespaces={{{namespace}}}", "--set", "nameOverride=ha", "--set", "replicas=2")
    kubeconfig, user = install_rights(plane, tmp_path, *values)
    if api.find(f"{LEASES}/tsm-ha"):
        api("DELETE", f"{LEASES}/tsm-ha")
    made = Pair(api, namespace, tmp_path, kubeconfig, user)

    def start(terms: Json, **how: Any) -> Pair:
        made.start(terms, **how)
        return made

    yield start
    for operator in made.operators:
        if operator.alive:
            operator.process.send_signal(signal.SIGCONT)  # type: ignore[union-attr]
            operator.kill()
        text = operator.log.read_text()
        print(text)  # noqa: T201 -- pytest shows it when the test fails
        # A connection that hangs is not closed in good order, which Python says in lines of its own.
        told = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        bad = [line for line in told if "exception" in line or line["level"] in {"error", "critical"}]
        assert [line["message"] for line in bad if ENDED not in line["message"]] == []


def test_leader_that_is_asked_to_end_gives_its_lease_back(
    plane: ControlPlane, pair: Callable[..., Pair], reader: Reader
) -> None:
    two = pair(PATIENT)
    first = two.leader()
    shown = yaml.safe_load(reader.types("kubectl -n torchscript-system get lease tsm-ha -o yaml"))
    assert shown["spec"]["holderIdentity"] == two.lease()["spec"]["holderIdentity"]
    two.models.create()
    job = two.models.awaits_job()
    (other,) = [it for it in two.operators if it is not first]
    assert other.get("/readyz") == other.get("/healthz") == "ok", "an operator that waits is well"
    assert 'tsm_reconcile_total{result="success"}' not in (other.get("/metrics") or "")
    assert first.kill(signal.SIGTERM) == 0
    assert two.leader(but=first) is other
    assert two.lease()["spec"]["leaseTransitions"] == 1
    two.models.serves("a")
    assert [it["metadata"]["uid"] for it in two.models.jobs()] == [job["metadata"]["uid"]]
    # All of it with the rights that the chart gives, and with an event about who leads.
    refused = [it["requestURI"] for it in audit(plane, two.user) if it["responseStatus"]["code"] in {401, 403}]
    assert refused == []
    told = two.api("GET", f"/api/v1/namespaces/{HOME}/events?fieldSelector=reason=LeaderElection")["items"]
    assert f"{two.lease()['spec']['holderIdentity']} became leader" in [it["message"] for it in told]


def test_leader_that_is_killed_is_replaced(plane: ControlPlane, pair: Callable[..., Pair]) -> None:
    two = pair(QUICK)
    first = two.leader()
    two.models.create()
    job = two.models.awaits_job()
    first.kill(signal.SIGKILL)
    two.models.edit(source=OTHER)  # whoever comes next has not been told by the first one
    two.leader(but=first)
    two.models.awaits_job(but=job["metadata"]["name"])
    two.models.serves("b")
    assert len([it for it in writes(plane, two.user, two.models.namespace) if it.startswith("create jobs")]) == 2


def test_leader_that_was_held_up_writes_nothing_and_ends(plane: ControlPlane, pair: Callable[..., Pair]) -> None:
    two = pair(QUICK)
    first = two.leader()
    assert first.process is not None
    first.process.send_signal(signal.SIGSTOP)
    second = two.leader(but=first)
    two.models.create()
    two.models.awaits_job()
    second.kill(signal.SIGTERM)  # nobody else is there to do what the first one must not do any more
    two.models.edit(source=OTHER)
    before = writes(plane, two.user, two.models.namespace)
    first.process.send_signal(signal.SIGCONT)
    eventually(lambda: not first.alive or "tsm_leader 0.0" in (first.get("/metrics") or ""), "the end of its turn")
    assert first.process.wait(30) == LOST
    assert writes(plane, two.user, two.models.namespace) == before


class Cable:
    """A connection to the API server that can be cut: what is sent arrives nowhere, and nothing comes back."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        host, _, port = cluster["server"].removeprefix("https://").partition(":")
        self.server = (host, int(port))
        self.door = socket.create_server(("127.0.0.1", 0))
        self.cut = threading.Event()
        self.ends: list[socket.socket] = []
        cluster["server"] = f"https://127.0.0.1:{self.door.getsockname()[1]}"
        self.kubeconfig = folder / "cable.kubeconfig"
        self.kubeconfig.write_text(yaml.safe_dump(config))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                near, _ = self.door.accept()
            except OSError:
                return
            far = socket.create_connection(self.server)
            self.ends += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self.carry, args=(one, other), daemon=True).start()

    def carry(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65536):
                if not self.cut.is_set():
                    other.sendall(data)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def close(self) -> None:
        self.door.close()
        for end in self.ends:
            end.close()


def test_leader_that_loses_the_api_server_ends_and_is_replaced(pair: Callable[..., Pair], tmp_path: Path) -> None:
    kubeconfig = tmp_path / "operator.kubeconfig"
    cable = Cable(kubeconfig, tmp_path)
    two = pair(QUICK, count=1, kubeconfig=cable.kubeconfig)
    first = two.leader()
    two.start(QUICK, count=1)
    cable.cut.set()
    assert first.process is not None
    assert first.process.wait(60) == LOST
    cable.close()
    assert ENDED in first.log.read_text()
    two.leader(but=first)
    two.models.create()
    two.models.serves("a")
