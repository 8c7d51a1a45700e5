"""Serving children: what a Deployment and a Service say."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit import workers
from tests.unit.world import World, spec
from torchscript_operator.artifact.request import SERVE_VARIABLE, ServeRequest
from torchscript_operator.controller import serving
from torchscript_operator.serve.settings import Settings as ServerSettings


def deployment(**fields: Any) -> Any:
    world = World(spec(**fields))
    world.settle()
    world.export_ends(workers.proven())
    world.settle()
    return world.deployments["minilm-cpu"]


def container(body: Any) -> Any:
    (only,) = body["spec"]["template"]["spec"]["containers"]
    return only


def test_pods_load_the_proven_digest_and_nothing_else() -> None:
    (variable,) = [item for item in container(deployment())["env"] if item["name"] == SERVE_VARIABLE]
    request = ServeRequest.model_validate_json(variable["value"])
    assert request.digest == workers.digest_of("a")
    assert request.artifact.uri == f"s3://artifacts/models/{'a' * 64}"


def test_pods_run_the_image_that_made_the_artifact() -> None:
    assert container(deployment())["image"] == "worker:test"


def test_pods_run_the_serving_image_when_it_is_given() -> None:
    assert container(deployment(serving={"image": "server:1"}))["image"] == "server:1"


def test_starting_pod_has_the_whole_deadline() -> None:
    probe = container(deployment(serving={"progressDeadlineSeconds": 601}))["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 601


def test_no_old_pod_goes_before_a_new_one_is_ready() -> None:
    assert deployment()["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_service_selects_the_pods_of_every_deployment() -> None:
    body = deployment()
    selector = serving.service(World().model)["spec"]["selector"]
    assert selector.items() <= body["spec"]["template"]["metadata"]["labels"].items()


def test_scale_selector_matches_the_service() -> None:
    assert serving.selector_text(World().model) == "torchscript.dev/component=serving,torchscript.dev/model=minilm"


def test_deployments_of_two_targets_share_no_pods() -> None:
    matched = deployment()["spec"]["selector"]["matchLabels"]
    assert matched["torchscript.dev/target"] == "cpu"


ACCESS = {"tokenSecret": {"name": "clients", "key": "tokens"}}
TLS = {"secretName": "minilm-tls", "clientAuthority": {"name": "clients-authority", "key": "ca.pem"}}


def test_the_server_understands_what_the_pod_is_given() -> None:
    body = deployment(serving={"access": ACCESS, "tls": TLS})
    given = ServerSettings.from_environment({item["name"]: item.get("value", "") for item in container(body)["env"]})
    mounts = {item["mountPath"] for item in container(body)["volumeMounts"]}
    files = [given.token_file, given.tls_certificate_file, given.tls_key_file, given.tls_client_authority_file]
    assert all(str(Path(file).parent) in mounts for file in files)
    ports = {item["name"]: item["containerPort"] for item in container(body)["ports"]}
    assert ports == {"https": given.port, "grpc": given.grpc_port, "health": given.health_port}


@pytest.mark.parametrize("guard", [{"access": ACCESS}, {"tls": TLS}, {"access": ACCESS, "tls": TLS}])
def test_probes_of_a_guarded_pod_need_neither_token_nor_certificate(guard: dict[str, Any]) -> None:
    only = container(deployment(serving=guard))
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert only[probe]["httpGet"]["port"] == "health"
        assert "scheme" not in only[probe]["httpGet"]


def test_secrets_are_files_that_follow_a_change_and_never_variables() -> None:
    body = deployment(serving={"access": ACCESS, "tls": TLS})
    secrets = [volume["secret"] for volume in body["spec"]["template"]["spec"]["volumes"] if "secret" in volume]
    assert [secret["secretName"] for secret in secrets] == ["clients", "minilm-tls", "clients-authority"]
    # The worker is in the group, by fsGroup; nobody else may read.
    assert {secret["defaultMode"] for secret in secrets} == {0o440}
    assert not any("subPath" in mount for mount in container(body)["volumeMounts"])
    assert not any("valueFrom" in item and "clients" in str(item) for item in container(body)["env"])


@pytest.mark.parametrize(
    ("guard", "url", "port"), [({}, "http://minilm.ml.svc", 80), ({"tls": TLS}, "https://minilm.ml.svc", 443)]
)
def test_the_url_and_the_service_say_whether_there_is_tls(guard: dict[str, Any], url: str, port: int) -> None:
    world = World(spec(serving=guard))
    assert serving.url(world.model, world.settings).startswith(url)
    http, grpc = serving.service(world.model)["spec"]["ports"]
    assert (http["port"], http["targetPort"]) == (port, url.partition(":")[0])
    assert grpc["appProtocol"] == ("https" if guard else "kubernetes.io/h2c")
