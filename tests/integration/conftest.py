"""A real API server, the CRD, and the operator as a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from tests.cluster.controlplane import ControlPlane, control_plane
from tests.cluster.network import free_ports

ROOT = Path(__file__).parents[2]
Json = dict[str, Any]
T = TypeVar("T")


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server without controllers: Jobs and pods are what the tests make of them."""
    with control_plane(tmp_path_factory.mktemp("plane")) as running:
        running.kubectl.run("apply", "--server-side", f"--filename={ROOT / 'crds'}")
        running.kubectl.run("wait", "--for=condition=Established", "crd/torchscriptmodels.torchscript.dev")
        yield running


@pytest.fixture
def namespace(plane: ControlPlane, request: pytest.FixtureRequest) -> str:
    """A namespace of the test's own."""
    name = f"t{abs(hash(request.node.nodeid)) % 10**9}"
    plane.kubectl.run("create", "namespace", name)
    return name


@pytest.fixture(scope="session")
def settings_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings as the chart would render them."""
    path = tmp_path_factory.mktemp("settings") / "settings.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "workerImage": "worker:test",
                "artifactStore": {"uri": "s3://artifacts/models"},
                "resyncSeconds": 60,
                "logLevel": "DEBUG",
            }
        )
    )
    return path


class Operator:
    """The operator in a process that tests may kill and start again."""

    def __init__(self, plane: ControlPlane, settings: Path, log: Path) -> None:
        self.plane, self.settings, self.log = plane, settings, log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        (port,) = free_ports(1)
        environment = os.environ | {
            "KUBECONFIG": str(self.plane.kubeconfig),
            "TSM_SETTINGS": str(self.settings),
            "TSM_HEALTH_PORT": str(port),
        }
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "torchscript_operator.controller"],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=20)


@pytest.fixture
def operator(plane: ControlPlane, settings_file: Path, tmp_path: Path) -> Iterator[Operator]:
    """A running operator, ended after the test; its log is shown when the test fails."""
    running = Operator(plane, settings_file, tmp_path / "operator.log")
    running.start()
    yield running
    if running.process is not None and running.process.poll() is None:
        running.kill(signal.SIGTERM)
    sys.stderr.write(running.log.read_text())


def eventually(look: Callable[[], T | None], what: str, seconds: float = 30) -> T:
    """Wait until a look finds something; fails with what was awaited."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {what}")


def condition(model: Json | None, kind: str) -> Json:
    """A condition of a model, empty when absent."""
    conditions = (model or {}).get("status", {}).get("conditions", [])
    return next((found for found in conditions if found["type"] == kind), {})


def dumps(body: Json) -> str:
    """An object for kubectl's standard input."""
    return json.dumps(body)
