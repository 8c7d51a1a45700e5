"""tsm doctor: each check's verdicts and remedies."""

import copy
import io
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from tests.unit import views
from tests.unit.views import FakeCluster, connected, installed
from tests.unit.world import SETTINGS
from torchscript_operator import __version__
from torchscript_operator.api import crd
from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.cli import doctor
from torchscript_operator.cli.cluster import access, installation
from torchscript_operator.cli.cluster.installation import Installation
from torchscript_operator.cli.doctor import Check
from torchscript_operator.cli.formats import Format
from torchscript_operator.cli.main import app

Json = dict[str, Any]
HELPERS = Path(__file__).resolve().parents[2] / "charts/torchscript-operator/templates/_helpers.tpl"
SECRET = {"metadata": {"name": "s3"}, "data": {"AWS_ACCESS_KEY_ID": "eA==", "AWS_SECRET_ACCESS_KEY": "eA=="}}


def node(name: str, kind: str = "m7i.large", **allocatable: str) -> Json:
    room = {"cpu": "16", "memory": "64Gi", **{key.replace("__", "/"): value for key, value in allocatable.items()}}
    labels = {"node.kubernetes.io/instance-type": kind}
    return {"metadata": {"name": name, "labels": labels}, "spec": {}, "status": {"allocatable": room}}


INF2 = node("inf2", "inf2.xlarge", **{"aws.amazon.com__neuron": "1"})


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that answers; no test asks a real one."""

    class Answers:
        def exists(self, _path: str) -> bool:
            return False

    monkeypatch.setattr(doctor, "open_store", lambda _where: Answers())


@pytest.fixture
def cluster() -> FakeCluster:
    """All is well."""
    found = installed(FakeCluster(views.view(views.serving())))
    found.add("apiextensions.k8s.io/v1", "customresourcedefinitions", crd.build())
    found.add("v1", "nodes", node("one"))
    return found


def verdicts(cluster: FakeCluster) -> dict[str, str]:
    return {check.name: check.verdict for check in doctor.examine(cluster)}


def test_where_all_is_well_nothing_is_to_be_done(cluster: FakeCluster) -> None:
    checks = doctor.examine(cluster)
    assert {check.verdict for check in checks} == {"ok"}, [check for check in checks if check.verdict != "ok"]
    assert not doctor.failed(checks)


def test_everything_that_fails_has_a_remedy(cluster: FakeCluster) -> None:
    cluster.objects = {}
    cluster.views = [views.view(views.parity_failed()), views.view(views.new())]
    checks = doctor.examine(cluster)
    assert {check.name for check in checks if check.verdict == "fail"} >= {"CRD", "operator", "models"}
    assert [check.name for check in checks if check.verdict in {"fail", "warn"} and not check.remedy] == []


def test_cluster_that_does_not_answer_ends_the_examination(cluster: FakeCluster) -> None:
    def silent() -> str:
        raise access.ApiError(0, "The API server does not answer.", "Check the network.")

    cluster.version = silent  # type: ignore[method-assign]
    assert doctor.examine(cluster) == [
        Check("cluster", "fail", "The API server does not answer.", "Check the network.")
    ]


def test_old_kubernetes_is_refused(cluster: FakeCluster) -> None:
    cluster.version = lambda: "v1.30.9+k3s1"  # type: ignore[method-assign]
    assert verdicts(cluster)["cluster"] == "fail"


def test_what_may_not_be_looked_at_is_unknown(cluster: FakeCluster) -> None:
    cluster.forbidden = {"customresourcedefinitions", "nodes", "configmaps"}
    found = verdicts(cluster)
    assert (found["CRD"], found["nodes"], found["operator's settings"]) == ("unknown",) * 3
    assert found["operator"] == "ok"


def definition(**changes: Any) -> Json:
    found = copy.deepcopy(crd.build())
    found["spec"]["versions"][0] |= changes
    return found


def test_definition_of_another_release_names_the_fields() -> None:
    found = definition()
    properties = found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    del properties["suspend"]
    properties["fromTheFuture"] = {"type": "string"}
    check = doctor.judge_definition(found)
    assert check.verdict == "warn"
    assert "lacks spec.suspend" in check.found
    assert "also has spec.fromTheFuture" in check.found


def test_definition_of_another_version_fails() -> None:
    assert doctor.judge_definition(definition(name="v1")).verdict == "fail"
    assert doctor.judge_definition(definition(served=False)).verdict == "fail"
    assert doctor.judge_definition(None).verdict == "fail"


@pytest.mark.parametrize(
    ("forbidden", "verdict"), [({"nodes"}, "warn"), ({"torchscriptmodels"}, "fail"), (set(), "ok")]
)
def test_own_rights_are_told_by_command(cluster: FakeCluster, forbidden: set[str], verdict: str) -> None:
    cluster.forbidden = forbidden
    checks = list(doctor._rights(doctor.Patient(cluster)))
    assert [check.verdict for check in checks] == [verdict]


def test_every_right_that_a_command_needs_is_asked_for(cluster: FakeCluster) -> None:
    for resource, command in (
        ("torchscriptmodels", "history"),
        ("horizontalpodautoscalers", "plan"),
        ("poddisruptionbudgets", "plan"),
        ("services", "plan"),
        ("nodes", "plan's nodes"),
    ):
        cluster.forbidden = {resource}
        (check,) = doctor._rights(doctor.Patient(cluster))
        assert re.search(rf"\b{command}\b[^;:]*: no [^;]*{resource}", check.found), (resource, check.found)


def operator(ready: int = 1, replicas: int = 1, version: str | None = __version__) -> Installation:
    labels = {installation.VERSION_LABEL: version} if version else {}
    template = {"spec": {"containers": [{"image": "operator:1"}]}}
    return Installation(
        {
            "metadata": {"name": "o", "namespace": "n", "labels": labels},
            "spec": {"replicas": replicas, "template": template},
            "status": {"readyReplicas": ready},
        },
        SETTINGS,
    )


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (operator(), "ok"),
        (operator(version=None), "ok"),
        (operator(version="9.9.9"), "warn"),
        (operator(ready=1, replicas=2), "warn"),
        (operator(ready=0), "fail"),
    ],
)
def test_operator_is_judged_by_its_deployment(found: Installation, verdict: str) -> None:
    assert doctor.judge_operator(found).verdict == verdict


def test_rights_of_the_operator_are_asked_for_its_own_account(cluster: FakeCluster) -> None:
    doctor.examine(cluster)
    asked = {spec["user"] for spec in cluster.asked if "user" in spec}
    assert asked == {"system:serviceaccount:torchscript-system:operator"}


def test_scoped_operator_needs_rights_in_its_namespaces_alone(cluster: FakeCluster) -> None:
    cluster.objects = {}
    installed(cluster, SETTINGS.model_copy(update={"watch_namespaces": ("ml", "two")}))
    doctor.examine(cluster)
    asked = {spec["resourceAttributes"].get("namespace") for spec in cluster.asked if "user" in spec}
    assert asked == {"ml", "two"}


def test_rights_in_many_namespaces_are_asked_for_several_at_a_time(cluster: FakeCluster) -> None:
    cluster.objects = {}
    installed(cluster, SETTINGS.model_copy(update={"watch_namespaces": tuple(f"team-{n}" for n in range(20))}))
    ask, together = cluster.ask, threading.Barrier(2, timeout=60)

    def slow(*arguments: Any) -> Json:
        together.wait()
        return ask(*arguments)

    # A question alone would wait for a second one in vain.
    cluster.ask = slow  # type: ignore[method-assign]
    patient = doctor.Patient(cluster)
    patient.operator = installation.find(cluster)
    assert [check.verdict for check in doctor._operator_rights(patient)] == ["ok"]
    each = sum(len(resources) * len(verbs) for _, resources, verbs in installation.RIGHTS)
    assert len(cluster.asked) == 20 * each


def test_operator_that_does_not_watch_the_namespace_is_told(cluster: FakeCluster) -> None:
    cluster.objects = {}
    installed(cluster, SETTINGS.model_copy(update={"watch_namespaces": ("team-a", "team-b")}))
    (check,) = [check for check in doctor.examine(cluster) if check.name == "operator's namespaces"]
    assert (check.verdict, check.found) == ("warn", "it watches team-a, team-b, not ml")


def test_of_several_operators_the_one_of_the_namespace_is_examined(cluster: FakeCluster) -> None:
    cluster.objects = {}
    for name, watched in (("a", ("team-a",)), ("mine", ("other", "ml")), ("b", ("team-b",))):
        installed(cluster, SETTINGS.model_copy(update={"watch_namespaces": watched}), name)
    found = installation.find(cluster)
    assert found is not None
    assert found.name == "mine"
    assert "operator's namespaces" not in verdicts(cluster)


def test_rights_that_are_asked_for_are_those_of_the_chart() -> None:
    text = re.search(r'define "torchscript-operator\.rules" -\}\}(.*?)\{\{- end', HELPERS.read_text(), re.DOTALL)
    assert text is not None
    rules = yaml.safe_load(re.sub(r"\{\{.*?\}\}", "", text[1]))
    charts = {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    asked = {(group, it, verb) for group, resources, verbs in installation.RIGHTS for it in resources for verb in verbs}
    assert asked <= charts


def test_model_that_the_operator_has_not_seen_is_a_failure() -> None:
    assert doctor.judge_models([views.view(views.new())]).verdict == "fail"
    assert doctor.judge_models([views.view(views.degraded())]).verdict == "warn"
    assert doctor.judge_models([]).verdict == "ok"


def store_failed() -> Iterator[views.ModelView]:
    world = views.new()
    world.settle()
    world.export_fails(86, views.workers.failed(FailureReason.STORE_ACCESS_DENIED))
    world.settle()
    yield views.view(world)


def test_store_that_pods_were_refused_by_is_a_failure() -> None:
    (check, *_) = doctor.judge_store(list(store_failed()), SETTINGS)
    assert check.verdict == "fail"
    assert "StoreAccessDenied" in check.found


def test_no_store_at_all_is_a_failure_where_a_model_needs_one() -> None:
    bare = SETTINGS.model_copy(update={"artifact_store": None})
    assert [check.verdict for check in doctor.judge_store([views.view(views.new())], bare)] == ["unknown", "fail"]
    assert [check.verdict for check in doctor.judge_store([], bare)] == ["unknown", "warn"]


def test_spec_that_cannot_be_read_is_not_judged() -> None:
    world = views.new()
    world.body["spec"]["task"] = "from-the-future"
    bare = SETTINGS.model_copy(update={"artifact_store": None})
    assert [check.verdict for check in doctor.judge_store([views.parse(world.body)], bare)] == ["unknown", "warn"]


def test_store_that_this_machine_does_not_reach_is_no_failure(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_where: object) -> None:
        raise WorkerError(FailureReason.STORE_UNREACHABLE, "No route.")

    monkeypatch.setattr(doctor, "open_store", denied)
    assert verdicts(cluster)["store, from here"] == "warn"


@pytest.mark.parametrize(
    ("secrets", "verdict"),
    [([SECRET], "ok"), ([{**SECRET, "data": {"AWS_ACCESS_KEY_ID": "eA=="}}], "fail"), ([], "fail")],
)
def test_secret_of_the_default_store_is_looked_for(secrets: list[Json], verdict: str) -> None:
    store = {"uri": "s3://artifacts/models", "credentialsSecret": {"name": "s3"}}
    dumped = SETTINGS.model_dump(mode="json", by_alias=True, exclude_none=True)
    settings = SETTINGS.model_validate({**dumped, "artifactStore": store})
    found = installed(FakeCluster(views.view(views.serving())), settings)
    found.add("v1", "secrets", *secrets)
    assert verdicts(found)["store's Secret"] == verdict


def test_compiler_that_no_model_uses_needs_no_nodes() -> None:
    found = {check.name: check for check in doctor.judge_pools([node("one")], [], SETTINGS)}
    assert found["nodes for torchscript"].verdict == "ok"
    assert found["nodes for neuronx"].verdict == "ok"
    assert "no model uses it" in found["nodes for neuronx"].found


def test_compiler_that_a_model_uses_needs_nodes() -> None:
    world = views.new()
    world.edit(targets=[{"name": "inf2", "compiler": "neuronx", "precision": "float32"}])
    found = {check.name: check.verdict for check in doctor.judge_pools([node("one")], [views.view(world)], SETTINGS)}
    assert found["nodes for neuronx"] == "fail"
    found = {check.name: check.verdict for check in doctor.judge_pools([INF2], [views.view(world)], SETTINGS)}
    assert found["nodes for neuronx"] == "ok"


@pytest.mark.parametrize(
    ("nodes", "verdict"),
    [([node("cpu")], "ok"), ([INF2], "ok"), ([INF2, node("silent", "trn1.2xlarge")], "fail")],
)
def test_nodes_with_a_device_must_offer_it(nodes: list[Json], verdict: str) -> None:
    (check,) = doctor.judge_devices(nodes)
    assert check.verdict == verdict


def test_findings_are_told_with_their_remedies() -> None:
    stream = io.StringIO()
    checks = [Check("CRD", "fail", "it is [not] there", "Install it.")]
    doctor.show(checks, Format.TABLE, Console(file=stream, width=100, highlight=False))
    assert stream.getvalue().splitlines() == ["✗ fail    CRD: it is [not] there", "            Install it."]


@pytest.mark.parametrize(("objects", "code"), [(True, 0), (False, 1)])
def test_exit_code_is_for_scripts(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, objects: bool, code: int
) -> None:
    if not objects:
        cluster.objects = {}
    monkeypatch.setattr(access, "connect", lambda _options: connected(cluster))
    result = CliRunner().invoke(app, ["doctor", "-o", "json"])
    assert result.exit_code == code, result.output
    assert json.loads(result.stdout)["healthy"] is objects
