"""What the pages have a reader type, where it takes a kubelet: ports, logs, and a model that answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.cluster.network import free_ports
from tests.cluster.s3 import PORT as S3_PORT
from tests.e2e import site as sites
from tests.reader import Reader
from tests.unit import pages

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import Models

SYSTEM = f"--namespace={sites.SYSTEM_NAMESPACE}"
OPERATOR = f"deploy/{sites.RELEASE}"


@pytest.fixture
def reader(models: Models, tmp_path: Path) -> Reader:
    """With a free port in place of 8080."""
    (port,) = free_ports(1)
    swaps = {
        "8080:80": f"{port}:80",
        f"{OPERATOR} 8080": f"{OPERATOR} {port}:8080",
        "localhost:8080": f"localhost:{port}",
    }
    return Reader.at(models.site.kubeconfig, models.namespace, tmp_path, swaps)


def vectors(said: str) -> list[int]:
    """How many numbers each text's vector has, in an answer that port-forward may have said something before."""
    answer, _ = json.JSONDecoder().raw_decode(said, said.index("{"))
    return [len(item["embedding"]) for item in answer["data"]]


def name_service(models: Models, name: str) -> None:
    """Another Service before the pods of minilm."""
    found = models.kubectl.get("service", "minilm", f"--namespace={models.namespace}")
    spec = {key: found["spec"][key] for key in ("selector", "ports")}
    metadata = {"name": name, "namespace": models.namespace}
    body = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
    models.kubectl.run("apply", "--server-side", "--filename=-", stdin=json.dumps(body))


def test_model_of_the_pages_answers_and_is_looked_at(reader: Reader, models: Models) -> None:
    reader.types("kubectl apply -f examples/minilm.yaml")
    reader.types("kubectl wait --for=condition=Ready --timeout=30m tsm/minilm")
    # As it is pasted: the second line begins while the first still connects.
    answer = reader.types(
        "kubectl port-forward service/minilm 8080:80 &\n"
        "curl --retry 5 --retry-connrefused http://localhost:8080/v1/embeddings"
        """ -H 'Content-Type: application/json' -d '{"model": "minilm", "input": ["How do I reset my password?"]}'"""
    )
    assert vectors(answer) == [384]
    reader.swaps["http://minilm/"] = f"{models.url('minilm')}/"
    answer = reader.types(
        "curl http://minilm/v1/embeddings -H 'Content-Type: application/json'"
        """ -d '{"model": "minilm", "input": ["Hello."]}'"""
    )
    assert vectors(answer) == [384]
    assert "warm-up" in reader.types("tsm logs minilm")
    assert "warm-up" in reader.types("tsm logs minilm --component serving --since 15m")
    with reader.starts("tsm logs minilm -f") as typed:
        typed.says("warm-up")
        typed.ctrl_c()
    with models.site.forward("service/versitygw", S3_PORT, "s3") as url:
        # That of the status is an address in the cluster.
        reader.swaps["tsm report minilm"] = f"tsm report minilm --secret --endpoint {url}"
        with reader.starts("tsm report minilm --open") as typed:
            assert "Opened" in typed.ends()
    assert reader.browsed.read_text().rstrip().endswith(".html")

    forwards = pages.select("docs/tasks/*.md", "kubectl", "port-forward")
    assert len(forwards) > 1
    for command in forwards:
        name = command.words[2].removeprefix("service/")
        if name != "minilm":
            name_service(models, name)
        with reader.starts(command.line) as typed:
            url = f"http://{typed.says(r'(127[.]0[.]0[.]1:[0-9]+) ')[1]}"
            assert httpx.get(f"{url}/v2/health/ready").status_code == 200


def test_operator_is_looked_at(reader: Reader, models: Models) -> None:
    stop = "import os, signal; os.kill(1, signal.SIGTERM)"
    models.kubectl.run("exec", OPERATOR, SYSTEM, "--", "python", "-c", stop)
    selector = "--selector=app.kubernetes.io/component=operator"

    def restarted() -> bool:
        (pod,) = models.kubectl.get("pods", SYSTEM, selector)["items"]
        return all(it["ready"] and it["restartCount"] for it in pod["status"]["containerStatuses"])

    models.until(restarted, "the operator's second container", 60)
    assert "Running" in reader.types("kubectl -n torchscript-system get pods -l app.kubernetes.io/component=operator")
    assert "Replicas:" in reader.types("kubectl -n torchscript-system describe deploy torchscript-operator")
    last = reader.types("kubectl -n torchscript-system logs deploy/torchscript-operator --previous | tail -1")
    assert json.loads(last)["level"]
    answer = reader.types(
        "kubectl -n torchscript-system port-forward deploy/torchscript-operator 8080"
        " & curl --retry 5 --retry-connrefused localhost:8080/readyz"
    )
    assert answer.endswith("ok")
    assert "ok      operator: " in reader.types("tsm doctor")
