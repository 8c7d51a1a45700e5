"""A real API server, the CRD, and the operator as a process of its own, with the rights that the chart gives it."""

import itertools
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.binaries import binary, build
from tests.cluster.controlplane import ControlPlane, control_plane
from tests.integration.harness import ROOT, Api, Models, Operator, Refused, eventually
from tests.integration.lives import World
from tests.integration.proxy import Proxy
from tests.integration.spaces import Spaces
from tests.reader import Reader

CHART = ROOT / "charts/torchscript-operator"
HOME = "torchscript-system"
SETTINGS = {
    "workerImage": "worker:test",
    "artifactStore": {"uri": "s3://artifacts/models"},
    "resyncSeconds": 60,
    "logLevel": "DEBUG",
}
OWNER = {"apiVersion": "torchscript.dev/v1alpha1", "kind": "TorchScriptModel", "name": "minilm", "uid": "u"}
numbers = itertools.count(1)


STRICT = ("--enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement",)
"""As OpenShift has it: who makes an object that blocks its owner's deletion has to be allowed that."""


def install_crd(plane: ControlPlane) -> None:
    plane.kubectl.run("apply", "--server-side", f"--filename={ROOT / 'crds'}")

    def established() -> bool:
        # `kubectl wait` fails where the object has no condition at all yet.
        found = plane.kubectl.get("crd", "torchscriptmodels.torchscript.dev") or {}
        conditions = found.get("status", {}).get("conditions") or []
        return any((item["type"], item["status"]) == ("Established", "True") for item in conditions)

    eventually(established, "the definition is established")


def _is_hook(body: dict[str, Any]) -> bool:
    return "helm.sh/hook" in body["metadata"].get("annotations", {})


def install_rights(plane: ControlPlane, folder: Path, *values: str) -> tuple[Path, str]:
    """Give an account the chart's own rights; returns its kubeconfig and its user name."""
    build(["helm"])
    rendered = subprocess.run(
        [binary("helm"), "template", "tsm", CHART, "--no-hooks", f"--namespace={HOME}", *values],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    kinds = {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}
    lasting = [body for body in yaml.safe_load_all(rendered) if body and not _is_hook(body)]
    wanted = [body for body in lasting if body["kind"] in kinds]
    if plane.kubectl.get("namespace", HOME) is None:
        plane.kubectl.run("create", "namespace", HOME)
    plane.kubectl.run("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=yaml.safe_dump_all(wanted))
    (subject,) = {
        (subject["namespace"], subject["name"])
        for body in wanted
        if body["kind"].endswith("RoleBinding")
        for subject in body["subjects"]
    }
    token = plane.kubectl.run("create", "token", subject[1], f"--namespace={subject[0]}", "--duration=2h").strip()
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    path = folder / "operator.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path, f"system:serviceaccount:{subject[0]}:{subject[1]}"


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server without controllers: Jobs and pods are what the tests make of them."""
    with control_plane(tmp_path_factory.mktemp("plane"), extra_apiserver=STRICT) as running:
        install_crd(running)
        await_owners(running)
        yield running


def await_owners(plane: ControlPlane) -> None:
    """Wait until the admission plugin knows the new kind; it looks every ten seconds."""
    metadata = {"name": "owned", "namespace": "default", "ownerReferences": [{**OWNER, "blockOwnerDeletion": True}]}
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}

    def is_known() -> bool:
        with Api(plane.kubeconfig) as api, suppress(Refused):
            return bool(api("POST", "/api/v1/namespaces/default/configmaps?dryRun=All", body))
        return False

    eventually(is_known, "the admission plugin to know TorchScriptModels")


@pytest.fixture(scope="session")
def api(plane: ControlPlane) -> Iterator[Api]:
    with Api(plane.kubeconfig) as client:
        yield client


@pytest.fixture(scope="session")
def spaces(api: Api, request: pytest.FixtureRequest) -> Spaces:
    """The namespaces of tests that have no API server of their own."""
    return Spaces.of(api, request, lambda item: "namespace" in getattr(item, "fixturenames", ()))


@pytest.fixture
def namespace(spaces: Spaces) -> str:
    """A namespace of the test's own."""
    return spaces.take(f"test-{next(numbers)}")


@pytest.fixture
def models(api: Api, namespace: str) -> Models:
    """The models of that namespace."""
    return Models(api, namespace)


@pytest.fixture
def reader(plane: ControlPlane, namespace: str, tmp_path: Path) -> Reader:
    """Someone who types the pages' commands, in the test's namespace."""
    return Reader.at(plane.kubeconfig, namespace, tmp_path)


@pytest.fixture(scope="session")
def settings_file(spaces: Spaces, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings as the chart would render them."""
    path = tmp_path_factory.mktemp("settings") / "settings.yaml"
    path.write_text(yaml.safe_dump(SETTINGS | spaces.settings))
    return path


@pytest.fixture(scope="session")
def rights(plane: ControlPlane, spaces: Spaces, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The operator's kubeconfig and user name."""
    return install_rights(plane, tmp_path_factory.mktemp("rights"), *spaces.flags)


@pytest.fixture(scope="session")
def only_operator(
    rights: tuple[Path, str], settings_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    """The one operator of the session, since it takes seconds to start."""
    running = Operator(rights[0], settings_file, tmp_path_factory.mktemp("operator") / "operator.log")
    yield running
    if running.alive:
        running.kill(signal.SIGTERM)


@pytest.fixture
def operator(only_operator: Operator) -> Iterator[Operator]:
    """A running operator; its log of this test is shown when the test fails, and may tell of no fault."""
    if not only_operator.alive:
        only_operator.start()
        eventually(lambda: only_operator.get("/readyz"), "the operator to be ready")
    start = only_operator.log.stat().st_size
    faults = len(only_operator.faults())
    yield only_operator
    sys.stderr.write(only_operator.log.read_text()[start:])
    assert only_operator.faults()[faults:] == []


@pytest.fixture(scope="session")
def whole_world(
    plane: ControlPlane,
    api: Api,
    rights: tuple[Path, str],
    settings_file: Path,
    spaces: Spaces,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    """Where operators are disturbed, each in a namespace of its own."""
    with Proxy(plane.kubeconfig) as proxy:
        folder = tmp_path_factory.mktemp("world")

        def fresh() -> str:
            return spaces.add(f"life-{next(numbers)}")

        yield World(api, proxy, rights[0], settings_file, folder, fresh, scoped=bool(spaces.listed))


@pytest.fixture(scope="session")
def governed(tmp_path_factory: pytest.TempPathFactory, settings_file: Path) -> Iterator[tuple[ControlPlane, Operator]]:
    """An API server with its controllers: Jobs get pods, garbage is collected. With an operator of its own."""
    with control_plane(tmp_path_factory.mktemp("governed"), controllers=True) as running:
        install_crd(running)
        operator = Operator(running.kubeconfig, settings_file, tmp_path_factory.mktemp("log") / "operator.log")
        operator.start()
        eventually(lambda: operator.get("/readyz"), "the operator to be ready")
        yield running, operator
        operator.kill()
        assert operator.faults() == []


@pytest.fixture
def alone(only_operator: Operator) -> None:
    """The session's operator does not meddle."""
    if only_operator.alive:
        only_operator.kill(signal.SIGTERM)


@pytest.fixture
def world(whole_world: World, alone: None) -> World:  # noqa: ARG001 -- it is what it does
    """Where operators are disturbed, and no other meddles."""
    return whole_world
