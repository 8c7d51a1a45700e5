"""What a user can get wrong, in pods: each ends in a reason and a message that says what to do, and can be mended."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.kubectl import KubectlError
from tests.e2e import site as sites

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cluster.s3 import S3
    from tests.e2e.conftest import Models

Json = dict[str, Any]


def source(**fields: Any) -> Callable[[Json], None]:
    return lambda body: body["spec"]["source"]["s3"].update(fields)


def hub(body: Json) -> None:
    body["spec"]["source"] = {"huggingFace": {"repository": "nobody/nothing", "endpoint": "http://hub.invalid"}}


def long_shape(body: Json) -> None:
    body["spec"]["inputs"]["shapes"] = [{"batch": 1, "sequence": 4096}]


def little_memory(body: Json) -> None:
    # A shape that no other test exports: a cache hit needs no memory.
    body["spec"]["inputs"]["shapes"] = [{"batch": 1, "sequence": 48}]
    resources = {"requests": {"cpu": "100m", "memory": "100Mi"}, "limits": {"memory": "100Mi"}}
    body["spec"]["targets"] = [{"name": "cpu", "job": {"resources": resources}}]


FAILURES = [
    pytest.param(source(uri="s3://models/nothing-here"), "SourceNotFound", "nothing-here", id="unknown object"),
    pytest.param(source(uri="s3://no-such-bucket/model"), "SourceNotFound", "no-such-bucket", id="unknown bucket"),
    pytest.param(
        source(credentialsSecret={"name": "wrong-credentials"}), "SourceAccessDenied", "Secret", id="wrong credentials"
    ),
    pytest.param(source(uri="s3://models/not-a-model"), "SourceInvalid", "config.json", id="not a model"),
    pytest.param(long_shape, "ShapeTooLong", "512", id="shape longer than the positions"),
    pytest.param(little_memory, "OutOfMemory", "memory limit", id="killed for memory"),
]


@pytest.fixture
def wrong(models: Models, s3: S3) -> Models:
    """A namespace with a Secret that opens nothing, and a bucket with something that is no model."""
    keys = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": "wrong"}
    metadata = {"name": "wrong-credentials", "namespace": models.namespace}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": keys}
    models.kubectl.run("apply", "--server-side", "--filename=-", stdin=json.dumps(secret))
    with sites.s3_client(models.site, s3) as client:
        client.put_object(Bucket=sites.SOURCE_BUCKET, Key="not-a-model/readme.txt", Body=b"hello")
    return models


@pytest.mark.parametrize(("change", "reason", "words"), FAILURES)
def test_failure_is_told(wrong: Models, change: Callable[[Json], None], reason: str, words: str) -> None:
    wrong.apply("bad", change)
    stalled = wrong.reason("bad", "Stalled", reason)
    assert stalled["status"] == "True"
    assert words in stalled["message"]
    assert wrong.condition("bad", "Ready")["status"] == "False"
    events = wrong.kubectl.get("events", f"--namespace={wrong.namespace}", "--field-selector=type=Warning")["items"]
    assert reason in {event["reason"] for event in events if event["involvedObject"]["name"] == "bad"}
    failure = (wrong.get("bad") or {})["status"]["targets"][0]["lastFailure"]
    assert failure["reason"] == reason
    assert failure["exitCode"] > 0


def test_unreachable_hub_is_retried_and_told(models: Models) -> None:
    models.apply("hub", hub)
    told = models.reason("hub", "Compiled", "SourceUnreachable")
    assert "hub.invalid" in told["message"]
    assert models.condition("hub", "Stalled")["status"] == "False"


def test_unsatisfiable_node_selector_names_the_constraint(models: Models) -> None:
    def elsewhere(body: Json) -> None:
        body["spec"]["targets"] = [{"name": "cpu", "job": {"nodeSelector": {"disk": "tape"}}}]

    models.apply("nowhere", elsewhere)
    told = models.reason("nowhere", "Compiled", "Unschedulable", seconds=30)
    assert "nodeSelector" in told["message"]
    assert "disk=tape" in told["message"]


def test_missing_secret_is_told_and_the_export_goes_on_when_it_is_there(models: Models) -> None:
    secret = models.kubectl.get("secret", sites.CREDENTIALS, f"--namespace={models.namespace}")
    models.kubectl.run("delete", "secret", sites.CREDENTIALS, f"--namespace={models.namespace}")
    models.apply("locked")
    told = models.reason("locked", "Compiled", "ConfigurationMissing", seconds=60)
    assert sites.CREDENTIALS in told["message"]
    clean = {**secret, "metadata": {"name": sites.CREDENTIALS, "namespace": models.namespace}}
    models.kubectl.run("apply", "--server-side", "--filename=-", stdin=json.dumps(clean))
    models.settled("locked")


def test_corrected_spec_recovers_without_deleting_anything(wrong: Models) -> None:
    wrong.apply("mended", source(uri="s3://models/nothing-here"))
    wrong.reason("mended", "Stalled", "SourceNotFound")
    uid = (wrong.get("mended") or {})["metadata"]["uid"]
    wrong.apply("mended")
    model = wrong.settled("mended")
    assert model["metadata"]["uid"] == uid
    assert "lastFailure" not in model["status"]["targets"][0]


def test_bad_update_leaves_the_good_artifact_serving(wrong: Models) -> None:
    wrong.apply("steady")
    before = wrong.settled("steady")["status"]["serving"]["targets"][0]["active"]
    wrong.apply("steady", long_shape)
    wrong.reason("steady", "Stalled", "ShapeTooLong")
    ready = wrong.condition("steady", "Ready")
    assert ready["status"] == "True"
    assert (wrong.get("steady") or {})["status"]["serving"]["targets"][0]["active"] == before


def test_api_server_refuses_a_bad_spec_with_a_readable_message(models: Models) -> None:
    def two_sources(body: Json) -> None:
        body["spec"]["source"]["huggingFace"] = {"repository": "a/b"}

    with pytest.raises(KubectlError, match="exactly one of huggingFace, s3 and persistentVolumeClaim"):
        models.apply("refused", two_sources)
