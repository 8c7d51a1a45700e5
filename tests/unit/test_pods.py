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


def test_crash_leaves_the_end_of_its_log() -> None:
    for pod in pods():
        assert pod["containers"][0]["terminationMessagePolicy"] == "FallbackToLogsOnError"


@pytest.mark.parametrize(("path", "uri"), [("", "file:///mnt/artifacts"), ("a/b/", "file:///mnt/artifacts/a/b")])
def test_folder_of_a_volume_is_a_file_uri(path: str, uri: str) -> None:
    assert folder_uri(path) == uri
