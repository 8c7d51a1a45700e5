"""What the pages have a reader type, on a real API server with the operator; the tests play Jobs and Deployments."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trustme
import yaml

from tests.cluster import packages
from tests.integration.harness import LEAST, OTHER, ROOT, Models, eventually, now
from tests.unit import pages, workers
from torchscript_operator.artifact.failures import CLASSES, FailureReason

if TYPE_CHECKING:
    from tests.reader import Reader
    from tests.unit.pages import Command

pytestmark = pytest.mark.usefixtures("operator")
MET = "torchscriptmodel.torchscript.dev/{} condition met\n"
KEY = f"601c760f{'0' * 56}"
"""Begins as docs/cli.md has it."""
CANDIDATE = {"precision": "bfloat16", "packed": True, "threads": 2, "verdict": "Passed", "chosen": True}


def model_file(**spec: Any) -> str:
    body = {"apiVersion": "torchscript.dev/v1alpha1", "kind": "TorchScriptModel", "metadata": {"name": "minilm"}}
    return yaml.safe_dump({**body, "spec": {**LEAST, **spec}})


def proves(models: Models, name: str = "minilm", **fields: Any) -> None:
    """The export of a model ends well."""
    job = models.awaits_job(model=name)
    models.pod(job, workers.pod_status("export", workers.terminated(0, workers.proven("a", **fields))))
    models.job_status(job, workers.complete(now()))


def test_getting_started(reader: Reader, models: Models) -> None:
    reader.types("kubectl apply -f examples/least.yaml")
    with reader.starts("kubectl wait --for=condition=Ready --timeout=15m tsm/minilm") as waits:
        models.serves()
        assert waits.ends() == MET.format("minilm")
    reader.types("kubectl wait --for=condition=Ready --timeout=15m torchscriptmodel/minilm")
    assert reader.types("tsm wait minilm") == "minilm: Ready, Serving\n"
    assert "Serving" in reader.types("tsm status minilm")
    header, row = reader.types("kubectl get tsm").splitlines()
    shown = (ROOT / "README.md").read_text()
    assert re.search(rf"^{' +'.join(header.split())}$", shown, re.MULTILINE)
    assert row.split()[:4] == ["minilm", "True", "Serving", "True"]
    packages.require("jq", "/usr/bin/jq")
    target = json.loads(
        reader.types("kubectl get tsm minilm -o jsonpath='{.status.targets[0]}' | jq '{artifact, parity}'")
    )
    assert target.keys() == {"artifact", "parity"}
    parity = json.loads(reader.types("kubectl get tsm minilm -o jsonpath='{.status.targets[0].parity}'"))
    assert parity == target["parity"]

    jobs = len(models.jobs())
    reader.types(
        "kubectl patch tsm minilm --type=merge"
        """ -p '{"spec": {"inputs": {"shapes": [{"batch": 1, "sequence": 4096}]}}}'"""
    )
    with reader.starts("kubectl wait --for=condition=Stalled --timeout=15m tsm/minilm") as waits:
        reason = FailureReason.SHAPE_TOO_LONG
        models.export_fails(CLASSES[reason].exit_code, workers.failed(reason))
        assert waits.ends() == MET.format("minilm")
    message = reader.types(
        """kubectl get tsm minilm -o jsonpath='{.status.conditions[?(@.type=="Stalled")].message}'"""
    )
    assert "spec.inputs.shapes" in message
    reader.types("""kubectl patch tsm minilm --type=merge -p '{"spec": {"inputs": null}}'""")
    assert reader.types("kubectl wait --for=condition=Stalled=False --timeout=5m tsm/minilm") == MET.format("minilm")
    # In scripts, after an update.
    reader.types("kubectl wait --for=condition=Reconciling=False --timeout=30m tsm/minilm")
    assert reader.types("kubectl wait --for=condition=Stalled=False --timeout=0 tsm/minilm") == MET.format("minilm")
    models.awaits("Ready", "True")
    assert len(models.jobs()) == jobs + 1


@pytest.mark.parametrize("command", pages.select("docs/t*s/*.md", "kubectl", "wait"), ids=str)
def test_model_of_a_page_is_waited_for(reader: Reader, models: Models, command: Command) -> None:
    (apply,) = pages.select(command.page, "kubectl", "apply")
    name = reader.types(apply.line).split()[0].partition("/")[2]
    with reader.starts(command.line) as waits:
        proves(models, name, candidates=[CANDIDATE])
        models.rollout_ends("a", f"{name}-cpu")
        assert waits.ends() == MET.format(name)
    (port,) = [port for port in (models.service(name) or {})["spec"]["ports"] if port["name"] == "http"]
    assert port["port"] == 80


APPLIED = pages.select("docs/t*s/*.md", "kubectl", "apply")
UNAWAITED = [command for command in APPLIED if not pages.select(command.page, "kubectl", "wait")]
"""On the pages of accelerators."""


@pytest.mark.parametrize("command", UNAWAITED, ids=str)
def test_model_of_a_page_is_exported(reader: Reader, models: Models, command: Command) -> None:
    name = reader.types(command.line).split()[0].partition("/")[2]
    eventually(lambda: [job for job in models.jobs() if job["metadata"]["name"].startswith(name)], "a Job")


def test_forms_that_were_measured(reader: Reader, models: Models) -> None:
    reader.types("kubectl apply -f examples/torchscript.yaml")
    proves(models, "minilm-fast", candidates=[CANDIDATE])
    models.awaits("Compiled", "True", name="minilm-fast")
    found = json.loads(reader.types("kubectl get tsm minilm-fast -o jsonpath='{.status.targets[0].candidates}'"))
    assert [row["precision"] for row in found] == ["bfloat16"]


def test_artifact_of_a_model_that_is_only_exported(reader: Reader, models: Models) -> None:
    body = yaml.safe_load((ROOT / "examples/export-only.yaml").read_text())
    models.api("POST", models.path("torchscriptmodels"), body)
    proves(models, "minilm-export")
    models.awaits("Ready", "True", name="minilm-export")
    found = json.loads(reader.types("kubectl get tsm minilm-export -o jsonpath='{.status.targets[0].artifact}'"))
    assert found["digest"] == workers.digest_of("a")


def test_secrets_that_examples_refer_to(reader: Reader, models: Models) -> None:
    certificate = trustme.CA().issue_cert(f"minilm.{models.namespace}.svc")
    certificate.cert_chain_pems[0].write_to_path(reader.folder / "tls.crt")
    certificate.private_key_pem.write_to_path(reader.folder / "tls.key")
    reader.types('kubectl create secret generic minilm-clients --from-literal=tokens="$(openssl rand -hex 32)"')
    reader.types("kubectl create secret tls minilm-tls --cert=tls.crt --key=tls.key")
    reader.types("kubectl create secret generic hugging-face --from-literal=token=…")
    found = models.api("GET", models.path("secrets", "minilm-clients", "/api/v1"))
    assert re.fullmatch("[0-9a-f]{64}", base64.b64decode(found["data"]["tokens"]).decode())


def test_plan_in_a_cluster(reader: Reader, models: Models) -> None:
    source = {"s3": {"uri": f"s3://{models.namespace}/planned"}}
    (reader.folder / "model.yaml").write_text(model_file(source=source))
    (reader.folder / "models").mkdir()
    (reader.folder / "models/minilm.yaml").write_text(model_file(source=source))
    (reader.folder / "overlays").symlink_to(ROOT / "examples/gitops/kustomize/overlays")
    assert "minilm: new" in reader.types("tsm plan model.yaml", 2)
    (plan,) = json.loads(reader.types("tsm plan models/ -o json", 2))["models"]
    assert (plan["new"], plan["targets"][0]["action"]) == (True, "export")
    assert "1 to export" in reader.types("tsm plan models/ --changes-ok")
    with reader.starts("kustomize build overlays/production | tsm plan -") as typed:
        assert "minilm: new" in typed.ends(2)


def test_tsm_in_a_cluster(reader: Reader, models: Models) -> None:
    (reader.folder / "model.yaml").write_text(model_file())
    with reader.starts("kubectl apply -f model.yaml && tsm wait minilm --timeout 20m") as typed:
        proves(models, key=KEY)
        models.rollout_ends("a")
        assert typed.ends().endswith("\nminilm: Ready, Serving\n")
    assert reader.types("tsm status").splitlines()[1].split()[:2] == ["minilm", "Ready"]
    assert reader.types("kubectl tsm status").splitlines()[1].split()[:2] == ["minilm", "Ready"]
    assert models.namespace in reader.types("tsm status -A")
    assert "minilm" in reader.types("tsm status -o wide")
    assert reader.types("tsm status -o name").split() == ["torchscriptmodel.torchscript.dev/minilm"]
    assert reader.types("tsm wait minilm --for Ready").startswith("minilm: Ready")
    assert "Parity Passed: minilm" in reader.types("tsm report minilm")
    found = yaml.safe_load(reader.types("kubectl get tsm -A -o yaml"))
    assert models.namespace in {item["metadata"]["namespace"] for item in found["items"]}
    assert "Serving" in reader.types("kubectl describe tsm minilm")
    assert "Serving" in reader.types(f"kubectl -n {models.namespace} describe tsm minilm")

    models.edit(source=OTHER)
    models.serves("b")
    assert "601c760f" in reader.types("tsm history minilm")
    reader.types("tsm rollback minilm")
    models.rollout_ends("a")
    models.awaits("Available", "True", "PinnedByAnnotation")
    reader.types("tsm rollback minilm --undo")
    models.rollout_ends("b")
    models.awaits("Available", "True", "Serving")
    reader.types("tsm rollback minilm 601c760f")
    models.rollout_ends("a")
    models.awaits("Available", "True", "PinnedByAnnotation")

    reader.types("tsm suspend minilm")
    assert models.get()["spec"]["suspend"] is True
    reader.types("tsm resume minilm")
    assert not models.get()["spec"].get("suspend")
    reader.types("tsm retry minilm --force")
    reason = FailureReason.SOURCE_NOT_FOUND
    failed = models.export_fails(CLASSES[reason].exit_code, workers.failed(reason))
    models.awaits("Stalled", "True")
    reader.types("tsm retry minilm")
    models.awaits_job(but=failed["metadata"]["name"])
    reader.types("kubectl delete tsm minilm")
    assert models.api.find(models.path("torchscriptmodels", "minilm")) is None


def test_dashboards(reader: Reader, models: Models) -> None:
    models.create()
    with ExitStack() as stack:
        started = [
            stack.enter_context(reader.starts("tsm dashboard")),
            stack.enter_context(reader.starts("tsm dashboard minilm")),
            stack.enter_context(reader.starts("tsm dashboard --all-namespaces")),
        ]
        for typed in started:
            address = typed.says(r"(http://[^\s#]+)\S*\s")[1]
            assert httpx.get(address).status_code == 200
        eventually(lambda: reader.browsed.exists() and len(reader.browsed.read_text().splitlines()) == 3, "browsers")
        assert [typed.ctrl_c() for typed in started] == [0, 0, 0]


def test_plan_of_an_earlier_version(reader: Reader) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=reader", "-c", "user.email=reader@example.com")
        subprocess.run(["git", *identity, *arguments], cwd=reader.folder, env=reader.environment, check=True)

    (reader.folder / "model.yaml").write_text(model_file())
    git("init", "--quiet", "--initial-branch=main")
    git("add", "model.yaml")
    git("commit", "--quiet", "--message=A model")
    with reader.starts("git show main:model.yaml | tsm plan model.yaml --base -") as typed:
        assert "minilm: nothing to do" in typed.ends()
