"""Export Jobs: identity of an attempt, and what the Job says."""

from typing import Any

import pytest

from tests.unit.world import SETTINGS, World, spec
from torchscript_operator.artifact.failures import CLASSES, FailureReason
from torchscript_operator.artifact.request import EXPORT_VARIABLE, ExportRequest
from torchscript_operator.controller import jobs
from torchscript_operator.controller.model import Model

DIGEST_FIELDS: list[dict[str, Any]] = [
    {"source": {"s3": {"uri": "s3://models/other"}}},
    {"source": {"s3": {"uri": "s3://models/minilm", "endpoint": "http://minio:9000"}}},
    {"source": {"huggingFace": {"repository": "a/b", "revision": "v2"}}},
    {"task": "fill-mask"},
    {"inputs": {"shapes": [{"batch": 2, "sequence": 128}]}},
    {"inputs": {"samples": {"texts": ["one"]}}},
    {"inputs": {"samples": {"configMap": {"name": "samples", "key": "texts"}}}},
    {"parity": {"absoluteTolerance": "1e-5"}},
    {"parity": {"policy": "Warn"}},
    {"artifact": {"uri": "s3://elsewhere/models"}},
    {"targets": [{"name": "cpu", "precision": "bfloat16"}]},
    {"targets": [{"name": "cpu", "job": {"image": "worker:other"}}]},
]
ATTEMPT_FIELDS: list[dict[str, Any]] = [
    {"source": {"s3": {"uri": "s3://models/minilm", "credentialsSecret": {"name": "keys"}}}},
    {"artifact": {"uri": "s3://artifacts/models", "credentialsSecret": {"name": "keys"}}},
    {"targets": [{"name": "cpu", "job": {"nodeSelector": {"disk": "nvme"}}}]},
    {"targets": [{"name": "cpu", "job": {"activeDeadlineSeconds": 60}}]},
]
NEITHER: list[dict[str, Any]] = [
    {"serving": {"replicas": 5}},
    {"serving": {"batching": {"maximumBatchSize": 8}}},
    {"suspend": True},
]


def model(**fields: Any) -> Model:
    return World(spec(**fields)).model


def names(found: Model) -> tuple[str, str]:
    """Identity and attempt of a model's first target."""
    target = found.spec.targets[0]
    identity = jobs.identity(found, SETTINGS, jobs.export_request(found, target, SETTINGS))
    return identity, jobs.attempt(found, target, identity)


def job(**fields: Any) -> Any:
    world = World(spec(**fields))
    world.step()
    return world.running()


def environment(body: Any) -> dict[str, Any]:
    return {item["name"]: item for item in body["spec"]["template"]["spec"]["containers"][0]["env"]}


@pytest.mark.parametrize("fields", DIGEST_FIELDS, ids=str)
def test_what_an_artifact_depends_on_changes_identity_and_attempt(fields: dict[str, Any]) -> None:
    identity, attempt = names(model(**fields))
    assert identity != names(model())[0]
    assert attempt != names(model())[1]


@pytest.mark.parametrize("fields", ATTEMPT_FIELDS, ids=str)
def test_how_an_export_runs_changes_the_attempt_alone(fields: dict[str, Any]) -> None:
    identity, attempt = names(model(**fields))
    assert identity == names(model())[0]
    assert attempt != names(model())[1]


@pytest.mark.parametrize("fields", NEITHER, ids=str)
def test_what_concerns_serving_changes_neither(fields: dict[str, Any]) -> None:
    assert names(model(**fields)) == names(model())


def test_retry_annotation_changes_the_attempt_alone() -> None:
    world = World()
    world.retry("1")
    assert names(world.model)[0] == names(model())[0]
    assert names(world.model)[1] != names(model())[1]


def test_longest_names_fit() -> None:
    world = World(spec(targets=[{"name": "t" * 20}]))
    world.body["metadata"]["name"] = "m" * 40
    world.step()
    assert len(world.created[0]) <= 63


def test_policy_stops_at_once_on_every_lasting_failure() -> None:
    values = jobs.failure_policy()["rules"][1]["onExitCodes"]["values"]
    assert set(values) == {known.exit_code for known in CLASSES.values() if not known.transient}
    assert values == sorted(values)


def test_policy_does_not_count_a_disrupted_pod() -> None:
    first = jobs.failure_policy()["rules"][0]
    assert first == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


def test_policy_lets_transient_failures_be_tried_again() -> None:
    values = jobs.failure_policy()["rules"][1]["onExitCodes"]["values"]
    assert CLASSES[FailureReason.SOURCE_UNREACHABLE].exit_code not in values


def test_job_carries_the_whole_request() -> None:
    text = environment(job())[EXPORT_VARIABLE]["value"]
    request = ExportRequest.model_validate_json(text)
    assert request.model == "ml/minilm"
    assert request.worker_image == "worker:test"
    assert [shape.name for shape in request.shapes] == ["b1-s128", "b8-s128"]


def test_credentials_are_references_and_never_values() -> None:
    body = job(source={"s3": {"uri": "s3://models/minilm", "credentialsSecret": {"name": "keys"}}})
    variable = environment(body)["TSM_SOURCE_AWS_SECRET_ACCESS_KEY"]
    assert variable == {
        "name": "TSM_SOURCE_AWS_SECRET_ACCESS_KEY",
        "valueFrom": {"secretKeyRef": {"name": "keys", "key": "AWS_SECRET_ACCESS_KEY"}},
    }


def test_session_token_may_be_absent_from_the_secret() -> None:
    body = job(source={"s3": {"uri": "s3://models/minilm", "credentialsSecret": {"name": "keys"}}})
    assert environment(body)["TSM_SOURCE_AWS_SESSION_TOKEN"]["valueFrom"]["secretKeyRef"]["optional"] is True


def test_given_placement_replaces_the_default_and_absent_placement_takes_it() -> None:
    placed = {"nodeSelector": {"pool": "default"}, "tolerations": [{"key": "pool", "operator": "Exists"}]}
    world = World(spec(targets=[{"name": "cpu", "job": {"nodeSelector": {"disk": "nvme"}}}]))
    compilers = {"torchscript": {"job": placed}}
    world.settings = SETTINGS.model_validate({**SETTINGS.model_dump(by_alias=True), "compilers": compilers})
    world.step()
    pod = world.running()["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"disk": "nvme"}
    assert pod["tolerations"] == [{"key": "pool", "operator": "Exists"}]


def test_empty_placement_takes_the_default_away() -> None:
    world = World(spec(targets=[{"name": "cpu", "job": {"nodeSelector": {}, "tolerations": []}}]))
    placed = {"nodeSelector": {"pool": "default"}, "tolerations": [{"key": "pool", "operator": "Exists"}]}
    compilers = {"torchscript": {"job": placed}}
    world.settings = SETTINGS.model_validate({**SETTINGS.model_dump(by_alias=True), "compilers": compilers})
    world.step()
    pod = world.running()["spec"]["template"]["spec"]
    assert "nodeSelector" not in pod
    assert "tolerations" not in pod


@pytest.mark.parametrize("namespaces", [(), ("ml",)])
def test_worker_account_is_used_where_it_exists(namespaces: tuple[str, ...]) -> None:
    account = {"name": "worker", "namespaces": list(namespaces)}
    world = World()
    world.settings = SETTINGS.model_validate({**SETTINGS.model_dump(by_alias=True), "workerServiceAccount": account})
    world.step()
    pod = world.running()["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == ("worker" if namespaces else "default")
    assert pod["automountServiceAccountToken"] is False


def hub_environment(endpoint: str | None = None, **settings: Any) -> dict[str, Any]:
    source = {"huggingFace": {"repository": "a/b"} | ({"endpoint": endpoint} if endpoint else {})}
    given = SETTINGS.model_validate({**SETTINGS.model_dump(by_alias=True), **settings})
    world = World(spec(source=source), given)
    world.step()
    return {name: item.get("value") for name, item in environment(world.running()).items()}


def test_the_hub_is_told_nothing_about_who_asks() -> None:
    assert hub_environment()["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_a_mirror_serves_sources_that_name_none() -> None:
    mirror = "https://hub.example.com"
    assert "HF_ENDPOINT" not in hub_environment()
    assert hub_environment(huggingFaceEndpoint=mirror)["HF_ENDPOINT"] == mirror
    assert "HF_ENDPOINT" not in hub_environment("https://other.example.com", huggingFaceEndpoint=mirror)


def test_private_certificates_mean_plain_downloads() -> None:
    assert "HF_HUB_DISABLE_XET" not in hub_environment()
    assert hub_environment(caBundle={"configMap": "ca"})["HF_HUB_DISABLE_XET"] == "1"


def test_another_mirror_is_no_reason_to_export_again() -> None:
    source = {"huggingFace": {"repository": "a/b"}}
    mirrored = SETTINGS.model_copy(update={"hugging_face_endpoint": "https://hub.example.com"})
    found = model(source=source)
    (target,) = found.spec.targets
    assert jobs.export_request(found, target, SETTINGS) == jobs.export_request(found, target, mirrored)
