"""`tsm` against a real API server, with the operator at work."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from typer.testing import CliRunner

from tests.cluster.binaries import binary
from tests.cluster.controlplane import ControlPlane
from tests.integration.harness import LEAST, OTHER, Json, Models, eventually
from tests.unit import workers
from torchscript_operator.artifact.failures import CLASSES, FailureReason
from torchscript_operator.cli.main import app

pytestmark = pytest.mark.usefixtures("operator")
Tsm = Callable[..., Any]


@pytest.fixture
def tsm(plane: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Tsm:
    """The command line as the cluster's administrator, in the test's own namespace."""
    monkeypatch.setenv("KUBECONFIG", str(plane.kubeconfig))

    def run(*arguments: str, **options: Any) -> Any:
        return CliRunner().invoke(app, [*arguments, "--namespace", namespace], **options)

    return run


def facts(tsm: Tsm, name: str = "minilm") -> Json:
    found: Json = json.loads(tsm("status", name, "-o", "json").stdout)
    return found


def reader(plane: ControlPlane, namespace: str, folder: Path, *rules: Json) -> Path:
    """A kubeconfig of an account that may do just this in the namespace."""
    kubectl = plane.kubectl
    where = f"--namespace={namespace}"
    bodies = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader"}},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": "reader"},
            "rules": list(rules),
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "reader"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
            "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": namespace}],
        },
    ]
    kubectl.run("apply", "--server-side", where, "--filename=-", stdin=yaml.safe_dump_all(bodies))
    token = kubectl.run("create", "token", "reader", where, "--duration=1h").strip()
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    config["contexts"][0]["context"]["namespace"] = namespace
    path = folder / "reader.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


READ_MODELS = {"apiGroups": ["torchscript.dev"], "resources": ["torchscriptmodels"], "verbs": ["get", "list"]}


def test_status_follows_a_model_from_nothing_to_ready(tsm: Tsm, models: Models) -> None:
    assert "There is no model" in tsm("status").stdout
    models.create()
    models.awaits_job()
    models.awaits("Ready", "False", "Exporting")
    assert facts(tsm)["state"] == "Working"
    models.serves("a")
    found = facts(tsm)
    assert (found["state"], found["targets"][0]["artifact"]["digest"]) == ("Ready", workers.digest_of("a"))
    assert [pod["component"] for pod in found["pods"]] == ["export"]
    text = tsm("status", "tsm/minilm")
    assert text.exit_code == 0, text.output
    assert "minilm-cpu" in text.stdout


def test_failure_has_its_next_step_and_a_retry_starts_over(tsm: Tsm, models: Models) -> None:
    models.create()
    old = models.export_fails(66, workers.failed(FailureReason.SOURCE_NOT_FOUND))
    models.awaits("Stalled", "True", "SourceNotFound")
    assert "next: Correct spec.source" in " ".join(tsm("status", "minilm").stdout.split())
    stalled = tsm("wait", "minilm")
    assert stalled.exit_code == CLASSES[FailureReason.SOURCE_NOT_FOUND].exit_code
    retried = tsm("retry", "minilm")
    assert retried.exit_code == 0, retried.output
    models.awaits_job(but=old["metadata"]["name"])
    models.awaits("Stalled", "False")


def test_wait_ends_when_the_present_spec_answers(tsm: Tsm, models: Models) -> None:
    models.create()
    models.serves("a")
    done = tsm("wait", "minilm", "--timeout", "20s")
    assert (done.exit_code, done.stdout) == (0, "minilm: Ready, Serving\n")
    models.edit(source=OTHER)
    models.awaits_job()
    late = tsm("wait", "--all", "--timeout", "1s")
    assert late.exit_code == 124
    assert "minilm/cpu: exporting" in late.stderr


def test_rollback_and_its_undo(tsm: Tsm, models: Models) -> None:
    models.create()
    models.serves("a")
    models.edit(source=OTHER)
    models.serves("b")
    assert tsm("rollback", "minilm").exit_code == 0
    models.rollout_ends("a")
    models.awaits("Available", "True", "PinnedByAnnotation")
    revisions = json.loads(tsm("history", "minilm", "-o", "json").stdout)["revisions"]
    assert [row["notes"] for row in revisions] == [["newest"], ["serving", "pinned"]]
    assert tsm("rollback", "minilm", "--undo").exit_code == 0
    models.rollout_ends("b")
    models.awaits("Available", "True", "Serving")


def test_suspended_model_waits_until_it_is_resumed(tsm: Tsm, models: Models) -> None:
    models.create()
    models.serves("a")
    before = len(models.jobs())
    assert tsm("suspend", "minilm").exit_code == 0
    models.edit(source=OTHER)
    models.awaits("Compiled", "False", "Suspended")
    assert len(models.jobs()) == before
    assert tsm("resume", "minilm").exit_code == 0
    models.awaits_job()


@pytest.fixture
def settings(settings_file: Path) -> tuple[str, str]:
    return "--settings", str(settings_file)


def manifest(**fields: Any) -> str:
    body = {"apiVersion": "torchscript.dev/v1alpha1", "kind": "TorchScriptModel", "metadata": {"name": "minilm"}}
    return yaml.safe_dump({**body, "spec": {**LEAST, **fields}})


def planned(tsm: Tsm, settings: tuple[str, str], **fields: Any) -> tuple[int, Json]:
    result = tsm("plan", "-", "-o", "json", *settings, input=manifest(**fields))
    found: Json = json.loads(result.stdout)
    return result.exit_code, found["models"][0]


def test_plan_foretells_what_the_operator_does(tsm: Tsm, models: Models, settings: tuple[str, str]) -> None:
    # Of this test alone: what other tests' models have made would be found in the store.
    mine, next_ = ({"s3": {"uri": f"s3://{models.namespace}/{name}"}} for name in ("first", "second"))
    code, new = planned(tsm, settings, source=mine)
    assert (code, new["new"], new["targets"][0]["action"]) == (2, True, "export")
    models.create(source=mine)
    models.serves("a")
    code, same = planned(tsm, settings, source=mine)
    assert (code, same["changes"], same["targets"][0]["action"]) == (0, False, "unchanged")
    code, scaled = planned(tsm, settings, source=mine, serving={"replicas": 3})
    assert code == 2
    assert ("minilm-cpu", "scale") in [(roll["name"], roll["action"]) for roll in scaled["children"]]
    code, other = planned(tsm, settings, source=next_)
    assert (code, other["targets"][0]["action"]) == (2, "export")
    assert [change["path"] for change in other["targets"][0]["inputsChanged"]] == ["spec.source.uri"]
    models.edit(source=next_)
    assert models.awaits_job()["metadata"]["name"] == other["targets"][0]["job"]


def test_plan_of_an_earlier_spec_finds_its_artifact(tsm: Tsm, models: Models, settings: tuple[str, str]) -> None:
    models.create()
    models.serves("a")
    models.edit(source=OTHER)
    models.serves("b")
    code, back = planned(tsm, settings)
    assert (code, back["targets"][0]["action"], back["targets"][0]["key"]) == (2, "cached", "a" * 64)
    assert ("minilm-cpu", "roll") in [(roll["name"], roll["action"]) for roll in back["children"]]


def test_reader_sees_models_and_is_told_what_is_left_out(
    plane: ControlPlane, models: Models, namespace: str, tmp_path: Path
) -> None:
    models.create()
    models.serves("a")
    config = str(reader(plane, namespace, tmp_path, READ_MODELS))
    shown = CliRunner().invoke(app, ["status", "minilm", "--kubeconfig", config])
    assert shown.exit_code == 0, shown.output
    assert "Ready" in shown.stdout
    assert "pods" in shown.stderr
    refused = CliRunner().invoke(app, ["retry", "minilm", "--force", "--kubeconfig", config])
    assert refused.exit_code == 1
    assert "forbids it" in refused.stderr
    everywhere = CliRunner().invoke(app, ["status", "-A", "--kubeconfig", config])
    assert everywhere.exit_code == 1
    assert "forbids it" in everywhere.stderr


def test_plan_without_the_operators_settings_takes_them_from_the_models_own_artifacts(tsm: Tsm, models: Models) -> None:
    source = {"s3": {"uri": f"s3://{models.namespace}/unseen"}}
    models.create(source=source)
    models.serves("a")
    # No operator is to be found where nobody installed the chart.
    done = tsm("plan", "-", "-o", "json", input=manifest(source=source))
    (plan,) = json.loads(done.stdout)["models"]
    assert (done.exit_code, plan["targets"][0]["action"]) == (0, "unchanged")
    assert any("not known here" in note for note in plan["notes"])
    inputs = {"shapes": [{"batch": 1, "sequence": 64}]}
    changed = tsm("plan", "-", "-o", "json", input=manifest(source=source, inputs=inputs))
    (plan,) = json.loads(changed.stdout)["models"]
    assert [change["path"] for change in plan["targets"][0]["inputsChanged"]] == ["spec.inputs.shapes"]


def test_wait_for_all_of_an_empty_namespace_is_no_success(tsm: Tsm) -> None:
    result = tsm("wait", "--all")
    assert result.exit_code == 1
    assert "There is no model in namespace" in result.stderr


def test_doctor_says_what_is_missing_around_the_models(tsm: Tsm, models: Models) -> None:
    models.create()
    models.awaits("Ready", "False", "Exporting")
    result = tsm("doctor", "-o", "json")
    found = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert found["cluster"]["verdict"] == "ok"
    assert found["CRD"]["verdict"] == "ok"
    assert found["your rights"]["verdict"] == "ok"
    assert found["models"]["verdict"] == "ok"
    # The tests' operator is no Deployment of the chart.
    assert found["operator"]["verdict"] == "fail"
    assert result.exit_code == 1


@pytest.mark.cluster_wide("what is judged is an operator without settings, which looks after all namespaces")
def test_operators_rights_are_judged_by_the_api_server(tsm: Tsm, plane: ControlPlane, rights: tuple[Path, str]) -> None:
    home, account = rights[1].split(":")[2:]
    labels = {"app.kubernetes.io/part-of": "torchscript-operator", "app.kubernetes.io/component": "operator"}
    spec = {"serviceAccountName": account, "containers": [{"name": "operator", "image": "operator:1"}]}
    for name, expected in ((account, "ok"), ("nobody", "fail")):
        body = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "for-doctor", "namespace": home, "labels": labels},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {**spec, "serviceAccountName": name}},
            },
        }
        plane.kubectl.run("apply", "--filename=-", stdin=yaml.safe_dump(body))
        found = {check["name"]: check for check in json.loads(tsm("doctor", "-o", "json").stdout)["checks"]}
        assert found["operator's rights"]["verdict"] == expected, found["operator's rights"]
    plane.kubectl.run("delete", "deployment", "for-doctor", f"--namespace={home}")


def test_log_of_a_pod_that_no_node_has_is_empty(tsm: Tsm, models: Models) -> None:
    models.create()
    models.export_ends("a")
    models.awaits("Compiled", "True")
    result = tsm("logs", "minilm", "--component", "export")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "The log is empty." in result.stderr


def test_kubectl_finds_the_plugin(plane: ControlPlane, models: Models, namespace: str) -> None:
    models.create()
    models.awaits("Ready", "False", "Exporting")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "KUBECONFIG": str(plane.kubeconfig)}
    command = [binary("kubectl"), "tsm", "status", "--namespace", namespace]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[1].split()[:2] == ["minilm", "Working"]


def test_server_that_is_gone_is_one_message(tmp_path: Path, plane: ControlPlane) -> None:
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    result = CliRunner().invoke(app, ["status", "--kubeconfig", str(path)])
    assert result.exit_code == 1
    assert "does not answer" in result.stderr
    assert len(result.stderr.splitlines()) == 2


def test_wait_for_a_model_that_is_deleted_ends(tsm: Tsm, models: Models) -> None:
    models.create()
    models.awaits_job()
    models.delete()
    eventually(lambda: models.api.find(models.path("torchscriptmodels", "minilm")) is None, "the model to be gone")
    result = tsm("wait", "minilm")
    assert result.exit_code == 1
    assert "There is no model minilm" in result.stderr


@contextmanager
def dashboard(plane: ControlPlane, namespace: str) -> Iterator[Iterator[Json]]:
    """A `tsm dashboard`; what it tells of models, each time that something has changed."""
    command = [sys.executable, "-m", "torchscript_operator.cli.main", "dashboard", "--no-open", "-n", namespace]
    environment = os.environ | {"KUBECONFIG": str(plane.kubeconfig)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        found = re.search(r"http://\S+", process.stderr.readline())
        assert found is not None
        with httpx.stream("GET", f"{found[0]}events", timeout=60) as answer:
            lines = answer.iter_lines()
            yield (json.loads(line.removeprefix("data: ")) for line in lines if line.startswith('data: {"whole"'))
    finally:
        process.kill()
        process.communicate()


def test_dashboard_follows_a_model_from_nothing_to_its_end(plane: ControlPlane, namespace: str, models: Models) -> None:
    with dashboard(plane, namespace) as told:

        def until(reached: Callable[[Json], bool]) -> Json:
            return next(each for each in told if reached(each))

        def state(each: Json) -> list[str]:
            return [row["state"] for row in each["rows"]]

        first = until(lambda each: True)  # noqa: ARG005
        assert (first["rows"], first["missing"], first["problem"]) == ([], [], None)
        models.create()
        until(lambda each: state(each) == ["Working"])
        models.serves("a")
        ready = until(lambda each: state(each) == ["Ready"])["rows"][0]
        assert (ready["name"], ready["proven"], ready["worst"]["passed"]) == ("minilm", 1, True)
        models.delete()
        assert until(lambda each: each["gone"] != [])["gone"] == [[namespace, "minilm"]]
