"""What all worker pods have in common."""

from typing import Any

import pytest

from tests.unit.world import SETTINGS, World
from torchscript_operator.controller.pods import folder_uri


def pods(**settings: Any) -> list[Any]:
    """The pod specs of a Job and of a Deployment."""
    world = World()
    world.settings = SETTINGS.model_validate({**SETTINGS.model_dump(by_alias=True), **settings})
    world.serves()
    children = [*world.jobs.values(), *world.deployments.values()]
    return [child["spec"]["template"]["spec"] for child in children]


def test_pods_pass_the_restricted_profile() -> None:
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_pods_see_no_api_token() -> None:
    assert {pod["automountServiceAccountToken"] for pod in pods()} == {False}


def test_root_is_read_only_and_scratch_is_writable() -> None:
    for pod in pods():
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert {"name": "scratch", "emptyDir": {}} in pod["volumes"]


def test_pull_secrets_and_priority_are_passed_on() -> None:
    for pod in pods(imagePullSecrets=["registry"], priorityClassName="low"):
        assert pod["imagePullSecrets"] == [{"name": "registry"}]
        assert pod["priorityClassName"] == "low"


def environment(pod: Any) -> dict[str, Any]:
    (container,) = pod["containers"]
    names = [variable["name"] for variable in container["env"]]
    assert len(names) == len(set(names))
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in container["env"]}


def test_jobs_may_have_a_priority_of_their_own() -> None:
    job, deployment = pods(priorityClassName="serving", jobPriorityClassName="batch")
    assert job["priorityClassName"] == "batch"
    assert deployment["priorityClassName"] == "serving"
    job, deployment = pods(jobPriorityClassName="batch")
    assert job["priorityClassName"] == "batch"
    assert "priorityClassName" not in deployment


def test_private_certificates_are_mounted_where_every_client_looks() -> None:
    for pod in pods(caBundle={"configMap": "company-ca", "key": "bundle.pem"}):
        (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "ca"]
        (mount,) = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "ca"]
        (item,) = volume["configMap"]["items"]
        assert volume["configMap"]["name"] == "company-ca"
        assert item["key"] == "bundle.pem"
        assert mount["readOnly"] is True
        variables = environment(pod)
        for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"):
            assert variables[name] == f"{mount['mountPath']}/{item['path']}"


def test_proxies_reach_all_worker_pods() -> None:
    proxy = {"http": "http://proxy:3128", "https": "http://proxy:3129", "excluded": [".svc", "10.0.0.0/8"]}
    for pod in pods(proxy=proxy):
        variables = environment(pod)
        assert variables["HTTP_PROXY"] == "http://proxy:3128"
        assert variables["HTTPS_PROXY"] == "http://proxy:3129"
        assert variables["NO_PROXY"] == ".svc,10.0.0.0/8"


def test_a_proxys_password_stays_in_its_secret() -> None:
    for pod in pods(proxy={"secret": "proxy", "excluded": [".svc"]}):
        variables = environment(pod)
        assert variables["HTTPS_PROXY"] == {"secretKeyRef": {"name": "proxy", "key": "HTTPS_PROXY"}}
        assert variables["HTTP_PROXY"] == {"secretKeyRef": {"name": "proxy", "key": "HTTP_PROXY", "optional": True}}


def test_crash_leaves_the_end_of_its_log() -> None:
    for pod in pods():
        assert pod["containers"][0]["terminationMessagePolicy"] == "FallbackToLogsOnError"


@pytest.mark.parametrize(("path", "uri"), [("", "file:///mnt/artifacts"), ("a/b/", "file:///mnt/artifacts/a/b")])
def test_folder_of_a_volume_is_a_file_uri(path: str, uri: str) -> None:
    assert folder_uri(path) == uri
