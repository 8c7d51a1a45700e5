"""The worker's rooms on the torch of Inf1's image: a real export, proof and load. No double, but in one test."""

import ast
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import doubles
from tests.contract import old_torch
from tests.contract.exporting import make_request
from torchscript_operator.artifact.manifest import Manifest
from torchscript_operator.artifact.outcome import ExportOutcome
from torchscript_operator.artifact.request import (
    EXPORT_VARIABLE,
    SCRATCH_VARIABLE,
    TERMINATION_LOG_VARIABLE,
    ServeRequest,
    StoreLocation,
)

ROOMS = old_torch.ROOT / "operator/torchscript_operator"
SOURCES = sorted(path for room in ("artifact", "export", "serve") for path in (ROOMS / room).rglob("*.py"))
LOAD = """
import json, os
from torchscript_operator.artifact.request import ServeRequest
from torchscript_operator.serve.loading import load
from torchscript_operator.serve.settings import Settings
environment = {"TSM_SCRATCH_PATH": os.environ["TSM_SCRATCH_PATH"]}
request = ServeRequest.model_validate_json(os.environ["REQUEST"])
stages = []
loaded = load(request, Settings.from_environment(environment), environment, stages.append)
print(json.dumps({"stages": stages, "passed": [output.passed for output in loaded.replay]}))
"""


class Old:
    """A folder inside the root, with a model and a store."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = root
        self.folder = folder

    def inside(self, *parts: str) -> str:
        """A path as the chrooted process sees it."""
        return str(Path("/", self.folder.relative_to(self.root), *parts))

    def export(self, path: str = "", extra: dict[str, str] | None = None, **changes: Any) -> ExportOutcome:
        store = f"file://{self.inside('store')}"
        request = make_request({"kind": "Folder", "path": self.inside("model")}, store, **changes)
        message = self.folder / "message"
        environment = {
            EXPORT_VARIABLE: request.to_json(),
            SCRATCH_VARIABLE: self.inside("scratch"),
            TERMINATION_LOG_VARIABLE: self.inside("message"),
        }
        arguments = ["-W", "ignore", "-m", "torchscript_operator.export"]
        done = old_torch.python(self.root, arguments, environment | (extra or {}), path)
        assert message.exists(), done.stderr
        return ExportOutcome.model_validate_json(message.read_text())

    def manifest(self, outcome: ExportOutcome) -> Manifest:
        assert outcome.succeeded, outcome.failure
        return Manifest.model_validate_json((self.folder / "store" / str(outcome.key) / "manifest.json").read_bytes())

    def load(self, outcome: ExportOutcome) -> dict[str, Any]:
        assert outcome.artifact is not None
        request = ServeRequest(
            model="tests/model",
            target="cpu",
            artifact=StoreLocation(uri=outcome.artifact.uri),
            digest=outcome.artifact.digest,
        )
        environment = {"REQUEST": request.to_json(), SCRATCH_VARIABLE: self.inside("served")}
        done = old_torch.python(self.root, ["-W", "ignore", "-c", LOAD], environment)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


@pytest.fixture(scope="module")
def old_root() -> Path:
    root = old_torch.root()
    old_torch.install_rooms(root)
    return root


@pytest.fixture(scope="module")
def old(old_root: Path, tiny_folder: Path) -> Iterator[Old]:
    folder = old_root / "srv/test"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copytree(tiny_folder, folder / "model")
    shutil.copytree(doubles.NEURON, folder / "doubles")
    yield Old(old_root, folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def exported(old: Old) -> ExportOutcome:
    return old.export()


def test_versions_are_those_of_the_image(old: Old) -> None:
    code = "import torch, transformers; print(torch.__file__, transformers.__version__)"
    done = old_torch.python(old.root, ["-c", code], {})
    assert done.stdout.split() == ["/usr/lib/python3/dist-packages/torch/__init__.py", "4.26.1"], done.stderr
    status = (old.root / "var/lib/dpkg/status").read_text()
    package = next(part for part in status.split("\n\n") if part.startswith("Package: python3-torch\n"))
    assert "\nVersion: 1.13.1+" in package


def test_export_is_proven(old: Old, exported: ExportOutcome) -> None:
    manifest = old.manifest(exported)
    assert manifest.parity.verdict == "Passed"
    assert manifest.versions["transformers"] == "4.26.1"
    assert {axis.kind for axis in manifest.inputs[0].axes} == {"dynamic"}


def test_server_loads_replays_and_warms_up(old: Old, exported: ExportOutcome) -> None:
    found = old.load(exported)
    assert found["stages"] == ["fetch", "load", "replay", "warm-up"]
    assert found["passed"]
    assert all(found["passed"])


def test_neuron_backend_runs_on_this_torch(old: Old) -> None:
    """The one test with a double: of the compiler, on the real torch that it goes with."""
    environment = {"TSM_NEURON_DOUBLE_DEVICE": "present"}
    outcome = old.export(old.inside("doubles"), environment, compilation={"compiler": "neuron"})
    reports = old.manifest(outcome).compiler_reports
    assert reports is not None
    assert [report.shape for report in reports] == ["b1-s32", "b8-s64"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOMS)))
def test_source_is_python_3_10(path: Path) -> None:
    ast.parse(path.read_text(), filename=str(path), feature_version=(3, 10))


NEWER = {
    "asyncio": {"Barrier", "Runner", "TaskGroup", "timeout", "timeout_at"},
    "contextlib": {"chdir"},
    "datetime": {"UTC"},
    "enum": {"ReprEnum", "StrEnum", "member", "nonmember", "property", "verify"},
    "hashlib": {"file_digest"},
    "operator": {"call"},
    "typing": {
        "LiteralString",
        "Never",
        "NotRequired",
        "Required",
        "Self",
        "TypeVarTuple",
        "Unpack",
        "assert_never",
        "assert_type",
        "clear_overloads",
        "dataclass_transform",
        "get_overloads",
        "override",
        "reveal_type",
    },
}
"""What 3.11 and 3.12 brought to modules that the rooms use: grammar says nothing of these."""
NEWER_BUILTINS = {"BaseExceptionGroup", "ExceptionGroup"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOMS)))
def test_source_uses_nothing_newer_than_3_10(path: Path) -> None:
    used = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module in NEWER:
            used |= {alias.name for alias in node.names} & NEWER[node.module]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in NEWER:
            used |= {node.attr} & NEWER[node.value.id]
        elif isinstance(node, ast.Name):
            used |= {node.id} & NEWER_BUILTINS
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
            used |= {"tomllib"} & set(modules)
    assert used == set()
