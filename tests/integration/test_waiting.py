"""What waits for a model, waits for it: `kubectl wait` and `helm --wait`, the real ones, with the operator running."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.cluster.binaries import binary, build
from tests.integration.harness import LEAST, OTHER, Models, eventually
from tests.unit import workers
from torchscript_operator.artifact.failures import CLASSES, FailureReason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cluster.controlplane import ControlPlane
    from tests.reader import Reader

pytestmark = pytest.mark.usefixtures("operator")
REASON = FailureReason.TASK_MISMATCH


class Client:
    """kubectl or helm, waiting for a model."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    @property
    def waits(self) -> bool:
        return self.process.poll() is None

    def ended(self, seconds: float = 60) -> tuple[int, str]:
        """Its exit code and all that it said."""
        output, _ = self.process.communicate(timeout=seconds)
        return self.process.returncode, output


@contextmanager
def waiting(command: str, plane: ControlPlane, namespace: str, *arguments: str) -> Iterator[Client]:
    """Start a client that waits; it is ended with the block."""
    build(["helm"])
    line = [str(binary(command)), f"--kubeconfig={plane.kubeconfig}", f"--namespace={namespace}", *arguments]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield Client(process)
        finally:
            process.kill()


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    """A user's chart with one model in it."""
    folder = tmp_path / "team"
    (folder / "templates").mkdir(parents=True)
    (folder / "Chart.yaml").write_text(yaml.safe_dump({"apiVersion": "v2", "name": "team", "version": "1.0.0"}))
    return folder


def fill(chart: Path, **spec: Any) -> None:
    body = {"apiVersion": "torchscript.dev/v1alpha1", "kind": "TorchScriptModel", "metadata": {"name": "minilm"}}
    (chart / "templates/model.yaml").write_text(yaml.safe_dump({**body, "spec": {**LEAST, **spec}}))


def test_kubectl_waits_until_a_model_is_ready(plane: ControlPlane, models: Models) -> None:
    models.create()
    arguments = ("wait", "--for=condition=Ready", "torchscriptmodel/minilm", "--timeout=60s")
    with waiting("kubectl", plane, models.namespace, *arguments) as kubectl:
        models.export_ends()
        models.awaits_rollout()
        assert kubectl.waits
        models.rollout_ends()
        assert kubectl.ended() == (0, "torchscriptmodel.torchscript.dev/minilm condition met\n")


def test_kubectl_waits_for_a_failure(plane: ControlPlane, models: Models) -> None:
    models.create()
    arguments = ("wait", "--for=condition=Stalled", "torchscriptmodel/minilm", "--timeout=60s")
    with waiting("kubectl", plane, models.namespace, *arguments) as kubectl:
        models.awaits("Ready", "False")
        assert kubectl.waits
        models.export_fails(CLASSES[REASON].exit_code, workers.failed(REASON))
        assert kubectl.ended()[0] == 0


@pytest.mark.parametrize(("fails", "code"), [(False, 0), (True, 1)])
def test_kubectl_waits_for_the_end_of_an_update_and_tells_how_it_went(
    plane: ControlPlane, models: Models, fails: bool, code: int
) -> None:
    models.create()
    models.serves()
    models.edit(source=OTHER)
    arguments = ("wait", "--for=condition=Reconciling=False", "torchscriptmodel/minilm", "--timeout=60s")
    with waiting("kubectl", plane, models.namespace, *arguments) as kubectl:
        models.awaits("Reconciling", "True")
        assert kubectl.waits
        if fails:
            models.export_fails(CLASSES[REASON].exit_code, workers.failed(REASON))
        else:
            models.export_ends("b")
            models.rollout_ends("b")
        assert kubectl.ended()[0] == 0
    arguments = ("wait", "--for=condition=Stalled=False", "torchscriptmodel/minilm", "--timeout=0")
    with waiting("kubectl", plane, models.namespace, *arguments) as kubectl:
        assert kubectl.ended()[0] == code


def test_helm_waits_until_the_model_of_a_release_is_ready(models: Models, chart: Path, reader: Reader) -> None:
    fill(chart)
    (reader.folder / "team").symlink_to(chart)
    with reader.starts("helm upgrade --install --wait team ./team") as helm:
        eventually(lambda: models.api.find(models.path("torchscriptmodels", "minilm")), "the model", 60)
        models.export_ends()
        models.awaits_rollout()
        assert helm.process.poll() is None
        models.rollout_ends()
        assert "STATUS: deployed" in helm.ends()


def test_helm_fails_with_a_model_that_fails_while_the_old_one_serves(
    plane: ControlPlane, models: Models, chart: Path
) -> None:
    fill(chart)
    with waiting("helm", plane, models.namespace, "install", "team", str(chart)) as helm:
        assert helm.ended()[0] == 0
    models.serves()
    fill(chart, source=OTHER)
    arguments = ("upgrade", "team", str(chart), "--wait", "--timeout=90s")
    with waiting("helm", plane, models.namespace, *arguments) as helm:
        models.export_fails(CLASSES[REASON].exit_code, workers.failed(REASON))
        code, output = helm.ended(120)
    assert code != 0
    # Helm quotes the model's own words.
    assert "status: Failed" in output
    assert CLASSES[REASON].advice in output
    assert models.awaits("Ready", "True")["reason"] == "Serving"
    assert models.rolled() == workers.digest_of("a")
