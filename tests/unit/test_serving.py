"""Serving children: what a Deployment and a Service say."""

from typing import Any

from tests.unit import workers
from tests.unit.world import World, spec
from torchscript_operator.artifact.request import SERVE_VARIABLE, ServeRequest
from torchscript_operator.controller import serving


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
