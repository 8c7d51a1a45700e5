"""From `kubectl apply` to Ready, on a real API server; the tests are the Job and Deployment controllers."""

from collections import Counter
from http import HTTPStatus
from pathlib import Path

import pytest

from tests.cluster.controlplane import ControlPlane
from tests.integration.harness import WRITES, Models, audit, eventually
from tests.unit import workers

pytestmark = pytest.mark.usefixtures("operator")


def test_model_gets_a_job(models: Models) -> None:
    models.create()
    job = models.awaits_job()
    assert job["metadata"]["ownerReferences"][0]["uid"] == models.get()["metadata"]["uid"]
    assert models.awaits("Ready", "False", "Exporting")["observedGeneration"] == 1


def test_proven_model_gets_a_deployment_and_a_service_and_is_ready(models: Models) -> None:
    models.create()
    models.serves("a")
    assert models.service() is not None
    status = models.get()["status"]
    assert status["targets"][0]["artifact"]["digest"] == workers.digest_of("a")
    assert status["serving"]["targets"][0]["active"]["artifact"]["digest"] == workers.digest_of("a")
    assert status["serving"]["readyReplicas"] == 1


def test_each_change_is_told_by_one_event(models: Models) -> None:
    models.create()
    models.serves("a")
    told = [(event["reason"], event["message"]) for event in models.events()]
    assert len(told) == len(set(told))
    assert {"Exporting", "RollingOut", "Serving"} <= {reason for reason, _ in told}


def test_a_model_costs_few_calls_and_asks_for_next_to_nothing_that_is_not_there(
    plane: ControlPlane, rights: tuple[Path, str], models: Models
) -> None:
    before = len(list(audit(plane, rights[1], models.namespace)))
    models.create()
    models.serves("a")
    calls = list(audit(plane, rights[1], models.namespace))[before:]
    verbs = Counter(call["verb"] for call in calls)
    # Each but for a pass more where the machine is slow.
    assert sum(verbs[verb] for verb in WRITES) <= 10
    assert verbs["get"] + verbs["list"] <= 10
    missed = [call["requestURI"] for call in calls if call["responseStatus"]["code"] == HTTPStatus.NOT_FOUND]
    assert len(missed) <= 1


def test_several_models_are_kept_apart(models: Models) -> None:
    models.create("one")
    models.create("two")
    eventually(lambda: len(models.jobs()) == 2, "two Jobs")
    assert {job["metadata"]["labels"]["torchscript.dev/model"] for job in models.jobs()} == {"one", "two"}


def test_a_guarded_model_is_behind_https_with_its_secrets_as_files(models: Models) -> None:
    guard = {
        "access": {"tokenSecret": {"name": "clients", "key": "tokens"}},
        "tls": {"secretName": "minilm-tls", "clientAuthority": {"name": "clients-ca", "key": "ca.crt"}},
    }
    models.create(serving=guard)
    models.serves("a")
    assert models.get()["status"]["serving"]["url"].startswith("https://minilm.")
    service, deployment = models.service(), models.deployment()
    assert service is not None
    assert deployment is not None
    assert [(port["name"], port["port"]) for port in service["spec"]["ports"]] == [("https", 443), ("grpc", 9000)]
    pod = deployment["spec"]["template"]["spec"]
    assert [volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume] == [
        "clients",
        "minilm-tls",
        "clients-ca",
    ]
    assert pod["containers"][0]["readinessProbe"]["httpGet"]["port"] == "health"

    models.edit(serving={"access": None, "tls": None})
    eventually(lambda: models.get()["status"]["serving"]["url"].startswith("http://"), "a URL of plain HTTP")
    plain, bare = models.service(), models.deployment()
    assert plain is not None
    assert bare is not None
    assert [(port["name"], port["port"]) for port in plain["spec"]["ports"]] == [("http", 80), ("grpc", 9000)]
    assert not any("secret" in volume for volume in bare["spec"]["template"]["spec"]["volumes"])
