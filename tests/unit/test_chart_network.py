"""What pods may reach, and who may reach them, with the chart's NetworkPolicies; by labels that the operator gives."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.golden.chart import rendering
from tests.golden.chart.network import Address, Network, Pod
from torchscript_operator.artifact.request import SERVE_GRPC_PORT, SERVE_HEALTH_PORT, SERVE_PORT
from torchscript_operator.controller.health import PORT
from torchscript_operator.controller.model import EXPORT, REMOVE, SERVING, VERIFY, Model

HERE = rendering.NAMESPACE
ON = ("--set", "networkPolicy.enabled=true")
DNS = Pod({"k8s-app": "kube-dns"}, "kube-system")
STRANGER = Pod({"app": "web"}, "shop")
INTERNET = Address("203.0.113.7")
METADATA = Address("169.254.169.254")
POD_IDENTITY = Address("169.254.170.23")


def network(*arguments: str) -> Network:
    """The policies of an installation; helm test's are apart."""
    return Network(rendering.of_kind(rendering.installed(rendering.objects(*arguments)), "NetworkPolicy"))


def operator(*arguments: str) -> Pod:
    (found,) = rendering.of_kind(rendering.objects(*arguments), "Deployment")
    return Pod(found["spec"]["template"]["metadata"]["labels"], HERE)


def worker(component: str, namespace: str = HERE) -> Pod:
    """A pod with the labels that the operator gives it."""
    body = yaml.safe_load((rendering.GOLDEN.parent / "controller/least/model.yaml").read_text())
    body["metadata"] |= {"namespace": namespace, "uid": "1", "generation": 1}
    return Pod(Model.parse(body).labels(component, "cpu"), namespace)


JOBS = [worker(component) for component in (EXPORT, VERIFY, REMOVE)]
WORKERS = [*JOBS, worker(SERVING)]


def test_there_are_none_unless_asked_for() -> None:
    assert not rendering.of_kind(rendering.case("default"), "NetworkPolicy")


@pytest.mark.parametrize("pod", [operator(), *WORKERS], ids=lambda pod: pod.labels["app.kubernetes.io/component"])
def test_every_pod_resolves_names_and_only_in_kube_system(pod: Pod) -> None:
    for protocol in ("TCP", "UDP"):
        assert network(*ON).reaches(pod, DNS, 53, protocol)
        assert not network(*ON).reaches(pod, STRANGER, 53, protocol)


def test_the_operator_reaches_the_api_server_and_no_pod() -> None:
    found = network(*ON)
    for port in (443, 6443):
        assert found.reaches(operator(*ON), Address("10.96.0.1"), port)
    assert not found.reaches(operator(*ON), INTERNET, 80)
    for peer in (STRANGER, worker(SERVING)):
        assert not found.reaches(operator(*ON), peer, 443)
        assert not found.reaches(operator(*ON), peer, SERVE_PORT)


def test_the_operators_api_server_can_be_named() -> None:
    arguments = (*ON, "--set", "networkPolicy.apiServer.cidrs={10.0.0.1/32},networkPolicy.apiServer.ports={6443}")
    found = network(*arguments)
    assert found.reaches(operator(*arguments), Address("10.0.0.1"), 6443)
    assert not found.reaches(operator(*arguments), Address("10.0.0.2"), 6443)
    assert not found.reaches(operator(*arguments), Address("10.0.0.1"), 443)


@pytest.mark.parametrize("pod", WORKERS, ids=lambda pod: pod.labels["app.kubernetes.io/component"])
def test_workers_reach_stores_by_https_and_neither_pods_nor_the_nodes_identity(pod: Pod) -> None:
    found = network(*ON)
    assert found.reaches(pod, INTERNET, 443)
    assert found.reaches(pod, Address("2001:db8::1"), 443)
    assert found.reaches(pod, POD_IDENTITY, 80)
    assert not found.reaches(pod, INTERNET, 80)
    assert not found.reaches(pod, METADATA, 80)
    assert not found.reaches(pod, STRANGER, 443)
    assert not found.reaches(pod, operator(*ON), PORT)


def test_sources_are_for_jobs_alone() -> None:
    arguments = (
        *ON,
        "--set",
        "networkPolicy.store.cidrs={10.1.0.0/16},networkPolicy.sources.cidrs={10.2.0.0/16},networkPolicy.sources.ports={8443}",
    )
    found = network(*arguments)
    for pod in WORKERS:
        assert found.reaches(pod, Address("10.1.2.3"), 443)
        assert not found.reaches(pod, INTERNET, 443)
    for pod in JOBS:
        assert found.reaches(pod, Address("10.2.2.3"), 8443)
    assert not found.reaches(worker(SERVING), Address("10.2.2.3"), 8443)


def test_a_store_in_the_cluster_is_reached() -> None:
    peers = '[{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "s3"}}}]'
    arguments = (*ON, "--set", "networkPolicy.store.ports={7070}", "--set-json", f"networkPolicy.store.peers={peers}")
    for pod in WORKERS:
        assert network(*arguments).reaches(pod, Pod({"app": "versitygw"}, "s3"), 7070)
        assert not network(*arguments).reaches(pod, STRANGER, 7070)


def test_nobody_reaches_a_job() -> None:
    for pod in JOBS:
        for peer in (STRANGER, operator(*ON), INTERNET):
            assert not network(*ON).is_reached(pod, peer, SERVE_PORT)


def test_anybody_asks_models_on_their_two_ports() -> None:
    for peer in (STRANGER, INTERNET):
        for port in (SERVE_PORT, SERVE_GRPC_PORT):
            assert network(*ON).is_reached(worker(SERVING), peer, port)
        assert not network(*ON).is_reached(worker(SERVING), peer, 22)


def test_who_asks_models_can_be_named() -> None:
    peers = '[{"namespaceSelector": {"matchLabels": {"team": "a"}}}]'
    policies = network(*ON, "--set-json", f"networkPolicy.serving.from={peers}").policies
    found = Network(policies, {"shop": {"team": "a"}})
    assert found.is_reached(worker(SERVING), STRANGER, SERVE_PORT)
    assert not found.is_reached(worker(SERVING), Pod({"app": "web"}, "other"), SERVE_PORT)
    assert not found.is_reached(worker(SERVING), INTERNET, SERVE_PORT)


def test_metrics_at_a_port_of_their_own_are_for_whom_is_named() -> None:
    prometheus = Pod({"app": "prometheus"}, "monitoring")
    peers = '[{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]'
    found = network(*ON, "--set-json", f"networkPolicy.serving.metricsFrom={peers}")
    assert found.is_reached(worker(SERVING), prometheus, SERVE_HEALTH_PORT)
    assert not found.is_reached(worker(SERVING), STRANGER, SERVE_HEALTH_PORT)
    assert not network(*ON).is_reached(worker(SERVING), prometheus, SERVE_HEALTH_PORT)


def test_the_operator_is_scraped_and_asked_nothing_else() -> None:
    assert network(*ON).is_reached(operator(*ON), STRANGER, PORT)
    assert not network(*ON).is_reached(operator(*ON), STRANGER, 443)


def test_more_egress_is_for_whom_it_is_given() -> None:
    found = network(*rendering.values_of("full"))
    full = operator(*rendering.values_of("full"))
    pods = [worker(EXPORT, "models"), worker(SERVING, "models")]
    for pod, own in zip([full, *pods], ("10.0.0.2", "10.0.0.3", "10.0.0.4"), strict=True):
        reached = [ip for ip in ("10.0.0.2", "10.0.0.3", "10.0.0.4") if found.reaches(pod, Address(ip), 3128)]
        assert reached == [own]


def test_policies_are_where_worker_accounts_are() -> None:
    def namespaces(case: str, *kinds: str) -> set[Any]:
        items = rendering.installed(rendering.objects(*rendering.values_of(case), *ON))
        found = rendering.of_kind(items, *kinds)
        return {
            each["metadata"]["namespace"]
            for each in found
            if each["metadata"]["labels"]["app.kubernetes.io/component"] == "worker"
        }

    for case in ("default", "scoped", "full"):
        assert namespaces(case, "NetworkPolicy") == namespaces(case, "ServiceAccount")


def test_other_pods_are_left_alone() -> None:
    assert network(*ON).reaches(Pod({"app": "other"}, HERE), INTERNET, 25)
    assert network(*ON).is_reached(Pod({"app": "other"}, HERE), INTERNET, 25)


def test_helm_test_isolates_no_pod_in_a_namespace_without_policies_of_the_chart() -> None:
    items = rendering.objects(*ON, "--set", "test.namespace=team-x")
    (test,) = rendering.of_kind(items, "Pod")
    policies = Network(rendering.of_kind(items, "NetworkPolicy"))
    pod = worker(EXPORT, "team-x")
    mine = Pod({**pod.labels, "torchscript.dev/model": test["metadata"]["name"]}, "team-x")
    assert policies.reaches(mine, DNS, 53, "UDP")
    assert policies.reaches(mine, INTERNET, 443)


def test_helm_test_reaches_its_model_and_its_job_reaches_it() -> None:
    arguments = (*ON, "--set-json", 'networkPolicy.serving.from=[{"podSelector": {"matchLabels": {"app": "gateway"}}}]')
    items = rendering.objects(*arguments)
    (found,) = rendering.of_kind(items, "Pod")
    test = Pod(found["metadata"]["labels"], HERE)
    (hub,) = found["spec"]["containers"][0]["ports"]
    policies = Network(rendering.of_kind(items, "NetworkPolicy"))

    def of_the_test(component: str) -> Pod:
        pod = worker(component)
        return Pod({**pod.labels, "torchscript.dev/model": found["metadata"]["name"]}, HERE)

    assert policies.reaches(of_the_test(EXPORT), test, hub["containerPort"])
    assert policies.is_reached(test, of_the_test(EXPORT), hub["containerPort"])
    assert policies.is_reached(of_the_test(SERVING), test, SERVE_PORT)
    assert not policies.reaches(worker(EXPORT), test, hub["containerPort"])
    assert not policies.is_reached(worker(SERVING), test, SERVE_PORT)
    (service,) = [each for each in rendering.of_kind(items, "Service") if rendering.hooked(each, "test")]
    assert service["spec"]["selector"].items() <= test.labels.items()
    assert service["spec"]["ports"][0]["targetPort"] == hub["name"]
