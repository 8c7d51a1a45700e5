"""`helm test`: what its pod may do, what it applies, and the program that it runs."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.golden.chart import rendering
from torchscript_operator.api.v1alpha1.spec import TorchScriptModelSpec

if TYPE_CHECKING:
    from types import ModuleType

PROGRAM = rendering.CHART / "files/helm_test.py"
STORE = ("--set", "artifactStore.uri=s3://bucket/prefix,artifactStore.region=eu-central-1")


@pytest.fixture(scope="module")
def program() -> ModuleType:
    return rendering.module(PROGRAM)


def hooks(*arguments: str) -> dict[str, Any]:
    """Objects of the test, by kind."""
    return {each["kind"]: each for each in rendering.objects(*arguments) if rendering.hooked(each, "test")}


def model(*arguments: str) -> Any:
    (container,) = hooks(*arguments)["Pod"]["spec"]["containers"]
    (found,) = [each["value"] for each in container["env"] if each["name"] == "TEST_MODEL"]
    return json.loads(found)


def test_it_is_no_part_of_the_installation() -> None:
    found = hooks()
    assert found.keys() == {"ConfigMap", "Pod", "Role", "RoleBinding", "Service", "ServiceAccount"}
    for each in found.values():
        assert each["metadata"]["annotations"]["helm.sh/hook"] == "test"
        assert "before-hook-creation" in each["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
    assert not hooks("--set", "test.enabled=false")


def test_it_may_do_nothing_but_its_one_model() -> None:
    found = hooks()
    name = model()["metadata"]["name"]
    create, own = found["Role"]["rules"]
    assert (create["resources"], create["verbs"]) == (["torchscriptmodels"], ["create"])
    assert (own["resources"], own["verbs"], own["resourceNames"]) == (["torchscriptmodels"], ["get", "delete"], [name])
    account = found["Pod"]["spec"]["serviceAccountName"]
    assert found["RoleBinding"]["subjects"] == [
        {"kind": "ServiceAccount", "name": account, "namespace": rendering.NAMESPACE}
    ]


@pytest.mark.parametrize("case", ["default", "scoped", "full"])
def test_its_model_is_one_that_the_api_takes(case: str) -> None:
    found = model(*rendering.values_of(case))
    TorchScriptModelSpec.model_validate(found["spec"])
    assert len(found["metadata"]["name"]) <= 40


def test_it_is_where_the_operator_looks() -> None:
    assert model()["metadata"]["namespace"] == rendering.NAMESPACE
    assert model(*rendering.values_of("scoped"))["metadata"]["namespace"] == "team-a"
    assert model(*rendering.values_of("full"))["metadata"]["namespace"] == "staging"


def test_it_has_ten_minutes_more_than_its_program_for_images_to_be_pulled() -> None:
    for arguments, given in (((), 300), (("--set", "test.timeoutSeconds=60"), 60)):
        spec = hooks(*arguments)["Pod"]["spec"]
        (seconds,) = [it["value"] for it in spec["containers"][0]["env"] if it["name"] == "TEST_TIMEOUT_SECONDS"]
        assert (int(seconds), spec["activeDeadlineSeconds"]) == (given, given + 600)


def test_its_rights_are_where_its_model_is_and_all_else_where_helm_looks_for_logs() -> None:
    found = hooks(*rendering.values_of("full"))
    places = {kind: each["metadata"]["namespace"] for kind, each in found.items()}
    elsewhere = {kind for kind, namespace in places.items() if namespace == "staging"}
    assert elsewhere == {"Role", "RoleBinding", "NetworkPolicy"}
    assert {namespace for kind, namespace in places.items() if kind not in elsewhere} == {rendering.NAMESPACE}


def test_its_artifact_goes_to_the_default_store_and_away_again() -> None:
    assert model(*STORE)["spec"]["artifact"] == {
        "uri": "s3://bucket/prefix",
        "region": "eu-central-1",
        "deletionPolicy": "Delete",
    }
    assert "artifact" not in model()["spec"]
    assert model(*rendering.values_of("full"))["spec"]["artifact"]["uri"] == "s3://scratch/test"


def test_the_job_asks_the_service_in_front_of_the_pod() -> None:
    found = hooks()
    service, pod = found["Service"], found["Pod"]
    endpoint = model()["spec"]["source"]["huggingFace"]["endpoint"]
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    assert endpoint == f"http://{name}.{namespace}.svc:{service['spec']['ports'][0]['port']}"
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()


def test_the_pod_runs_the_program_of_the_chart(program: ModuleType) -> None:
    found = hooks()
    (container,) = found["Pod"]["spec"]["containers"]
    (mount,) = [each for each in container["volumeMounts"] if each["name"] == "test"]
    assert container["command"][-1] == f"{mount['mountPath']}/{PROGRAM.name}"
    assert found["ConfigMap"]["data"][PROGRAM.name].strip() == PROGRAM.read_text().strip()
    assert container["ports"][0]["containerPort"] == program.PORT


def test_it_ends_by_itself_before_it_is_ended() -> None:
    pod = hooks("--set", "test.timeoutSeconds=60")["Pod"]["spec"]
    (container,) = pod["containers"]
    (seconds,) = [each["value"] for each in container["env"] if each["name"] == "TEST_TIMEOUT_SECONDS"]
    assert pod["activeDeadlineSeconds"] > int(seconds) == 60


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        ([[1.0, 2.0]], [[1.0, 2.5]], 0.5),
        ([[1.0]], [[1.0], [1.0]], math.inf),
        ([[1.0]], [[1.0, 1.0]], math.inf),
        ([[math.nan]], [[1.0]], math.inf),
        ([[math.inf]], [[math.inf]], math.inf),
    ],
)
def test_answers_are_compared_number_by_number(
    program: ModuleType, one: list[list[float]], other: list[list[float]], found: float
) -> None:
    assert program.difference(one, other) == found


def test_artifact_hub_is_told_the_images_and_kinds_that_there_are() -> None:
    chart = yaml.safe_load((rendering.CHART / "Chart.yaml").read_text())
    annotations = chart["annotations"]
    listed = {each["image"] for each in yaml.safe_load(annotations["artifacthub.io/images"])}
    settings = rendering.settings_of(rendering.objects())
    (deployment,) = rendering.of_kind(rendering.objects(), "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert listed == {container["image"], settings["workerImage"]}
    (kind,) = yaml.safe_load(annotations["artifacthub.io/crds"])
    (definition,) = rendering.of_kind(rendering.objects(), "CustomResourceDefinition")
    assert kind["name"] == definition["metadata"]["name"]
    assert kind["kind"] == definition["spec"]["names"]["kind"]
    assert kind["version"] in {each["name"] for each in definition["spec"]["versions"]}
    (example,) = yaml.safe_load(annotations["artifacthub.io/crdsExamples"])
    TorchScriptModelSpec.model_validate(example["spec"])
    assert all(
        each["kind"] in {"added", "changed", "deprecated", "removed", "fixed", "security"}
        for each in yaml.safe_load(annotations["artifacthub.io/changes"])
    )
