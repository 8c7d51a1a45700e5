"""Each Job and pod lands on the node that its files run on, by the real scheduler and the chart's own defaults.

The nodes are kwok's: fake inf1, inf2 and CPU instances with their usual labels, taints and room.
"""

from __future__ import annotations

import itertools
import signal
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.cluster.controlplane import control_plane
from tests.golden.chart import rendering
from tests.integration.conftest import install_crd, install_rights
from tests.integration.fake_nodes import fake_nodes
from tests.integration.harness import Api, Json, Models, Operator, Refused, eventually
from tests.integration.spaces import Spaces
from tests.unit import workers
from torchscript_operator.artifact.outcome import ArtifactReference, ExportOutcome
from torchscript_operator.artifact.request import EXPORT_VARIABLE, ExportRequest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from tests.cluster.controlplane import ControlPlane

INF1 = {"name": "inf1", "compiler": "neuron"}
INF2 = {"name": "inf2", "compiler": "neuronx"}
INSTANCE_TYPE = "node.kubernetes.io/instance-type"
TOO_MUCH = {"requests": {"memory": "900Gi"}}
TOLD_SECONDS = 30
"""A promise of the operator's, which takes it about one."""
numbers = itertools.count(1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server with scheduler and controllers."""
    with control_plane(tmp_path_factory.mktemp("placement"), controllers=True, scheduler=True) as running:
        install_crd(running)
        yield running


@pytest.fixture(scope="module")
def homes(cluster: ControlPlane, request: pytest.FixtureRequest) -> Iterator[Spaces]:
    """Its namespaces."""
    with Api(cluster.kubeconfig) as api:
        yield Spaces.of(api, request, lambda item: item.path == request.path)


@pytest.fixture(scope="module")
def site(cluster: ControlPlane, homes: Spaces, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """That API server with nodes, and the operator under the chart's default settings."""
    folder = tmp_path_factory.mktemp("operator")
    settings = folder / "settings.yaml"
    values = rendering.settings_of(rendering.case("default")) | {"artifactStore": {"uri": "s3://artifacts/models"}}
    settings.write_text(yaml.safe_dump(values | homes.settings))
    operator = Operator(install_rights(cluster, folder, *homes.flags)[0], settings, folder / "operator.log")
    with fake_nodes(cluster, folder):
        operator.start()
        try:
            eventually(lambda: operator.get("/readyz"), "the operator to be ready")
            yield cluster
        finally:
            operator.kill(signal.SIGTERM)
    assert operator.faults() == []


@pytest.fixture
def models(site: ControlPlane, homes: Spaces) -> Iterator[Models]:
    """A namespace of the test's own, whose pods take no room from the next one's."""
    found = Models(homes.api, homes.take(f"placement-{next(numbers)}"))
    yield found
    for model in found.api("GET", found.path("torchscriptmodels"))["items"]:
        found.delete(model["metadata"]["name"])
    site.kubectl.run("delete", "pods", "--all", f"--namespace={found.namespace}", "--force", "--grace-period=0")


def pods(models: Models, component: str) -> list[Json]:
    found = models.api("GET", models.path("pods", group="/api/v1"))["items"]
    return [pod for pod in found if pod["metadata"]["labels"].get("torchscript.dev/component") == component]


def placed(models: Models, part: str, component: str = "export") -> Json:
    """The pod with a name of this kind, once it is bound to a node."""

    def look() -> Json | None:
        named = [pod for pod in pods(models, component) if part in pod["metadata"]["name"]]
        return next((pod for pod in named if pod["spec"].get("nodeName")), None)

    return eventually(look, f"a pod like {part} on a node; there are {pods(models, component)}")


def node_of(pod: Json) -> str:
    name: str = pod["spec"]["nodeName"]
    return name


def asked(pod: Json) -> ExportRequest:
    (value,) = [item["value"] for item in pod["spec"]["containers"][0]["env"] if item["name"] == EXPORT_VARIABLE]
    return ExportRequest.model_validate_json(value)


def end(models: Models, pod: Json, message: str) -> None:
    """Let a Job's pod succeed with a report, as a kubelet would tell it."""
    state = workers.terminated(0, message)
    statuses = [workers.container_status("export", state)]
    path = f"{models.path('pods', pod['metadata']['name'], '/api/v1')}/status"
    models.api.merge(path, {"status": {"phase": "Succeeded", "containerStatuses": statuses}})


def compiled() -> str:
    pending = ArtifactReference(uri=f"s3://artifacts/models/{'a' * 64}", digest=workers.digest_of("a"), size_bytes=1)
    return ExportOutcome(request_digest="0" * 64, succeeded=True, key="a" * 64, pending=pending).to_json()


@contextmanager
def changed(site: ControlPlane, change: tuple[str, ...], back: tuple[str, ...]) -> Iterator[None]:
    """A change to the cluster that is taken back."""
    site.kubectl.run(*change)
    try:
        yield
    finally:
        site.kubectl.run(*back)


def cordoned(site: ControlPlane, name: str) -> AbstractContextManager[None]:
    """A node that takes no pods."""
    return changed(site, ("cordon", name), ("uncordon", name))


def evict(models: Models, pod: Json) -> None:
    """What `kubectl drain` does to a pod, and then its kubelet."""
    name = pod["metadata"]["name"]
    path = models.path("pods", name, "/api/v1")
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": models.namespace}}
    models.api("POST", f"{path}/eviction", body)
    container = pod["spec"]["containers"][0]["name"]
    statuses = [workers.container_status(container, workers.terminated(143))]
    models.api.merge(f"{path}/status", {"status": {"phase": "Failed", "containerStatuses": statuses}})
    with suppress(Refused):  # its owner may have let it go already
        models.api("DELETE", path, {"gracePeriodSeconds": 0})


def is_other(pod: Json, than: Json) -> bool:
    return bool(pod["metadata"]["uid"] != than["metadata"]["uid"])


@pytest.mark.parametrize(
    ("target", "node"),
    [
        ({"name": "cpu"}, "m6i.8xlarge"),
        (INF1, "inf1.6xlarge"),  # the only inf1 with the memory that compiling takes
        (INF2, "inf2.8xlarge"),
        ({**INF1, "verify": {}}, "m6i.8xlarge"),
        ({**INF2, "verify": {}}, "m6i.8xlarge"),
        ({**INF1, "job": {"nodeSelector": {INSTANCE_TYPE: "inf1.xlarge"}, "resources": {}}}, "inf1.xlarge"),
    ],
    ids=["torchscript", "neuron", "neuronx", "neuron compiles only", "neuronx compiles only", "named node"],
)
def test_export_lands_where_it_can_run(models: Models, target: dict[str, Any], node: str) -> None:
    models.create(targets=[target])
    assert node_of(placed(models, "minilm-export")) == node


def test_two_steps_go_to_two_kinds_of_nodes_and_serving_follows(models: Models) -> None:
    models.create(targets=[{**INF1, "verify": {}}])
    first = placed(models, "minilm-export")
    end(models, first, compiled())
    second = placed(models, "minilm-verify")
    assert models.awaits("ParityVerified", "Unknown", "Verifying")
    assert models.deployment("minilm-inf1") is None
    end(models, second, workers.proven("a"))
    models.awaits("ParityVerified", "True")
    server = placed(models, "minilm-inf1", "serving")
    assert node_of(first) == "m6i.8xlarge"
    assert {node_of(second).partition(".")[0], node_of(server).partition(".")[0]} == {"inf1"}
    models.awaits("Ready", "True", "Serving")


def test_proof_for_inf2_is_compiled_for_inf2(models: Models) -> None:
    models.create(targets=[{**INF2, "verify": {}}])
    first = placed(models, "minilm-export")
    assert asked(first).compilation.arguments == ("--target", "inf2")
    end(models, first, compiled())
    second = placed(models, "minilm-verify")
    assert asked(second).compilation == asked(first).compilation
    assert node_of(second) == "inf2.8xlarge"


@pytest.mark.parametrize(
    ("target", "serving", "said"),
    [
        ({**INF1, "job": {"nodeSelector": {INSTANCE_TYPE: "inf2.8xlarge"}}}, {}, "spec.targets[].job asks for"),
        ({**INF1, "verify": {"nodeSelector": {INSTANCE_TYPE: "inf2.8xlarge"}}}, {}, "spec.targets[].verify asks for"),
        (INF1, {"nodeSelector": {INSTANCE_TYPE: "inf2.8xlarge"}}, "spec.serving asks for"),
        (
            INF2,
            {"nodeSelector": {"karpenter.k8s.aws/instance-accelerator-name": "inferentia"}},
            "instance-accelerator-name=inferentia",
        ),
    ],
    ids=["job", "verify", "serving", "accelerator"],
)
def test_other_family_is_refused_before_anything_is_scheduled(
    models: Models, target: dict[str, Any], serving: dict[str, Any], said: str
) -> None:
    models.create(targets=[target], serving=serving)
    assert said in models.awaits("Stalled", "True", "IncompatibleNode")["message"]
    assert models.jobs() == []


def test_artifact_for_inf1_is_not_moved_to_inf2(models: Models) -> None:
    models.create(targets=[INF1])
    end(models, placed(models, "minilm-export"), workers.proven("a"))
    server = placed(models, "minilm-inf1", "serving")
    models.awaits("Ready", "True", "Serving")
    models.edit(serving={"nodeSelector": {INSTANCE_TYPE: "inf2.8xlarge"}})
    models.awaits("Stalled", "True", "IncompatibleNode")
    models.awaits("Ready", "True")
    assert [pod["metadata"]["name"] for pod in pods(models, "serving")] == [server["metadata"]["name"]]


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ({"nodeSelector": {INSTANCE_TYPE: "inf1.24xlarge"}}, f"job.nodeSelector or affinity asks for {INSTANCE_TYPE}"),
        ({"resources": {"limits": {"aws.amazon.com/neuron": 16}}}, "Insufficient aws.amazon.com/neuron"),
        ({"nodeSelector": {"pool": "none"}}, "asks for pool=none"),
    ],
    ids=["instance type", "chips", "label"],
)
def test_request_that_no_node_meets_says_why(models: Models, job: dict[str, Any], said: str) -> None:
    models.create(targets=[{**INF1, "job": job}])
    assert said in models.awaits("Compiled", "False", "Unschedulable")["message"]
    (pod,) = pods(models, "export")
    assert "nodeName" not in pod["spec"]
    assert told_after(models, pod) <= TOLD_SECONDS


def told_after(models: Models, pod: Json) -> float:
    """Seconds from when a pod was made to the event that says why no node takes it, by the server's clock."""
    told = eventually(lambda: [it for it in models.events() if it["reason"] == "Unschedulable"], "the event")
    begun, ended = (
        datetime.fromisoformat(it) for it in (pod["metadata"]["creationTimestamp"], told[0]["firstTimestamp"])
    )
    return (ended - begun).total_seconds()


def test_claim_that_is_missing_is_told_with_what_names_it(models: Models) -> None:
    models.create(source={"s3": None, "persistentVolumeClaim": {"claimName": "models"}})
    said = models.awaits("Compiled", "False", "Unschedulable")["message"]
    assert 'persistentvolumeclaim "models" not found' in said
    assert "Constraint: spec.source.persistentVolumeClaim or spec.artifact.persistentVolumeClaim" in said


def test_pods_that_a_quota_refuses_are_told(site: ControlPlane, models: Models) -> None:
    models.create("exported")
    first = placed(models, "exported-export")
    site.kubectl.run("create", "quota", "none", "--hard=pods=0", f"--namespace={models.namespace}")
    path = models.path("resourcequotas", "none", "/api/v1")
    eventually(lambda: (models.api.find(path) or {}).get("status", {}).get("hard"), "the quota to be counted")
    end(models, first, workers.proven("a"))
    models.create("late")
    for kind, name, field in (
        ("Available", "exported", "spec.serving.resources"),
        ("Compiled", "late", "spec.targets[].job.resources"),
    ):
        said = models.awaits(kind, "False", "PodRejected", name=name)["message"]
        assert "exceeded quota: none" in said
        assert f"Raise that quota, or lower {field}." in said


def test_scheduler_that_changes_its_mind_is_heard_at_once(site: ControlPlane, models: Models) -> None:
    """No look is due while a pod waits for a node: it is the condition of the pod that asks for a pass."""
    models.create(targets=[{"name": "cpu", "job": {"nodeSelector": {"pool": "late"}, "resources": TOO_MUCH}}])
    assert "Insufficient" not in models.awaits("Compiled", "False", "Unschedulable")["message"]
    with changed(site, ("label", "node", "m6i.8xlarge", "pool=late"), ("label", "node", "m6i.8xlarge", "pool-")):
        message = eventually(
            lambda: said if "Insufficient memory" in (said := models.condition("Compiled")["message"]) else None,
            "what the scheduler says now",
        )
    assert "spec.targets[].job.resources asks for memory=900Gi" in message


def test_serving_pod_moves_when_its_node_is_drained(site: ControlPlane, models: Models) -> None:
    models.create()
    end(models, placed(models, "minilm-export"), workers.proven("a"))
    models.awaits("Ready", "True", "Serving")
    server = placed(models, "minilm-cpu", "serving")
    before = models.deployment()
    with cordoned(site, node_of(server)):
        evict(models, server)
        assert "unschedulable" in models.awaits("Available", "False", "Unschedulable")["message"]
    models.awaits("Available", "True")
    models.awaits("Ready", "True", "Serving")
    after = models.deployment()
    assert before is not None
    assert after is not None
    assert after["spec"] == before["spec"]
    assert len(models.jobs()) == 1
    assert {pod["metadata"]["uid"] for pod in pods(models, "serving")} != {server["metadata"]["uid"]}


def test_export_goes_on_elsewhere_when_its_node_is_drained(site: ControlPlane, models: Models) -> None:
    models.create()
    first = placed(models, "minilm-export")
    with cordoned(site, node_of(first)):
        evict(models, first)
        models.awaits("Compiled", "False", "Unschedulable")
        models.awaits("Stalled", "False")
    (second,) = [pod for pod in eventually(lambda: pods(models, "export"), "a pod") if is_other(pod, first)]
    end(models, placed(models, second["metadata"]["name"]), workers.proven("a"))
    models.awaits("Ready", "True", "Serving")
    assert len(models.jobs()) == 1
    assert "lastFailure" not in models.get()["status"]["targets"][0]


def test_label_of_the_users_own_does_not_lead_to_the_other_family(site: ControlPlane, models: Models) -> None:
    """A selector that only an inf2 node meets: the scheduler is held to inf1 all the same, and nothing is placed."""
    site.kubectl.run("label", "node", "inf2.8xlarge", "pool=accelerated")
    try:
        models.create(targets=[{**INF1, "job": {"nodeSelector": {"pool": "accelerated"}}}])
        models.awaits("Compiled", "False", "Unschedulable")
        assert all("nodeName" not in pod["spec"] for pod in pods(models, "export"))
    finally:
        site.kubectl.run("label", "node", "inf2.8xlarge", "pool-")
