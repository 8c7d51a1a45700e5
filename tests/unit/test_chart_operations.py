"""What the chart renders for several operators, and for whoever watches them."""

import re
from collections.abc import Iterator

import promql_parser
import pytest
from prometheus_client import REGISTRY

from tests.golden.chart import rendering
from tests.golden.chart.rendering import Json
from tests.unit.world import LEAST, World
from torchscript_operator.controller import release
from torchscript_operator.controller.census import Census
from torchscript_operator.controller.settings import LeaderElection, Settings

SHARED = ("--set", "replicas=2")


def settings(*arguments: str) -> Settings:
    return Settings.model_validate(rendering.settings_of(rendering.objects(*arguments)))


def operator(*arguments: str) -> rendering.Json:
    (found,) = rendering.of_kind(rendering.objects(*arguments), "Deployment")
    spec: rendering.Json = found["spec"]
    return spec


def lease_roles(*arguments: str) -> list[rendering.Json]:
    roles = rendering.of_kind(rendering.objects(*arguments), "Role")
    return [role for role in roles if role["metadata"]["name"].endswith("-leader-election")]


@pytest.mark.parametrize(
    ("arguments", "enabled"),
    [
        ((), False),
        (SHARED, True),
        (("--set", "leaderElection.enabled=true"), True),
        (("--set", "replicas=1,leaderElection.enabled=false"), False),
    ],
)
def test_operators_take_turns_where_there_may_be_several(arguments: tuple[str, ...], enabled: bool) -> None:
    assert settings(*arguments).leader_election.enabled is enabled
    assert len(lease_roles(*arguments)) == enabled
    # Without turns a new operator must not start before the old one has ended.
    assert operator(*arguments)["strategy"]["type"] == ("RollingUpdate" if enabled else "Recreate")


def test_terms_of_the_lease_are_the_operators_own_and_its_name_the_releases() -> None:
    found = settings(*SHARED).leader_election
    assert found == LeaderElection(enabled=True, name=f"{rendering.RELEASE}-torchscript-operator")
    given = settings(*SHARED, "--set", "leaderElection.leaseDurationSeconds=60").leader_election
    assert given.lease_duration_seconds == 60


@pytest.mark.parametrize("scope", [(), ("--set", "watchNamespaces={team-a}")])
def test_leases_are_granted_in_the_releases_namespace_alone_and_by_name(scope: tuple[str, ...]) -> None:
    (role,) = lease_roles(*SHARED, *scope)
    assert role["metadata"]["namespace"] == rendering.NAMESPACE
    assert role["rules"] == [
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": [settings(*SHARED, *scope).leader_election.name],
            "verbs": ["get", "update"],
        },
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
    ]
    bindings = rendering.of_kind(rendering.objects(*SHARED, *scope), "RoleBinding")
    (binding,) = [each for each in bindings if each["roleRef"]["name"] == role["metadata"]["name"]]
    assert binding["metadata"]["namespace"] == rendering.NAMESPACE
    assert binding["subjects"][0]["name"] == operator(*SHARED, *scope)["template"]["spec"]["serviceAccountName"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("replicas=2,leaderElection.enabled=false", "more than one operator needs leaderElection.enabled"),
        ("leaderElection.retrySeconds=10", "retrySeconds must be less than renewDeadlineSeconds"),
        ("leaderElection.renewDeadlineSeconds=15", "and that less than leaseDurationSeconds"),
    ],
)
def test_values_that_cannot_work_are_refused(given: str, words: str) -> None:
    assert words in rendering.refusal("--set", given)


@pytest.mark.parametrize("values", [(), rendering.values_of("full")])
def test_uninstall_ends_the_operator_before_it_releases_models(values: tuple[str, ...]) -> None:
    items = rendering.objects(*values)
    (operators,) = rendering.of_kind(items, "Deployment")
    hooks = [each for each in rendering.of_kind(items, "Job") if each["metadata"]["name"].endswith("-uninstall")]
    (hook,) = hooks
    template = hook["spec"]["template"]
    (container,) = template["spec"]["containers"]
    name = f"{operators['metadata']['namespace']}/{operators['metadata']['name']}"
    assert container["command"][-1] == f"--stop={name}"
    grace = operators["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert hook["spec"]["activeDeadlineSeconds"] > grace + release.MARGIN_SECONDS
    # Else it would wait for itself.
    assert not operators["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()


WATCHED = ("--set", "metrics.serviceMonitor.enabled=true,metrics.prometheusRule.enabled=true")


def rules(*arguments: str) -> list[rendering.Json]:
    (found,) = rendering.of_kind(rendering.objects(*WATCHED, *arguments), "PrometheusRule")
    (group,) = found["spec"]["groups"]
    alerts: list[rendering.Json] = group["rules"]
    return alerts


def selectors(text: str) -> list[promql_parser.VectorSelector]:
    """All series that an expression asks for."""

    def walk(node: object) -> Iterator[promql_parser.VectorSelector]:
        if isinstance(node, promql_parser.VectorSelector):
            yield node
        for name in ("expr", "lhs", "rhs", "selector", "vector_selector", "param", "vs"):
            if hasattr(node, name):
                yield from walk(getattr(node, name))
        for argument in getattr(node, "args", None) or ():
            yield from walk(argument)

    return list(walk(promql_parser.parse(text)))


def exposed() -> set[str]:
    """Names of all series that the operator has."""
    families = [*REGISTRY.collect(), *Census().collect()]
    return {f"{family.name}{suffix}" for family in families for suffix in ("", "_total", "_bucket", "_sum", "_count")}


def test_nothing_of_the_prometheus_operator_is_installed_unasked() -> None:
    assert not rendering.of_kind(rendering.objects(), "ServiceMonitor", "PodMonitor", "PrometheusRule")


PODS_WATCHED = ("--set", "metrics.podMonitor.enabled=true")


@pytest.mark.parametrize(
    ("guards", "port"),
    [
        ({}, "http"),
        ({"access": {"tokenSecret": {"name": "clients", "key": "tokens"}}}, "health"),
        ({"tls": {"secretName": "certificate"}}, "health"),
    ],
    ids=["open", "token", "tls"],
)
def test_each_serving_pod_is_scraped_at_the_one_port_that_answers_prometheus(guards: Json, port: str) -> None:
    (monitor,) = rendering.of_kind(rendering.objects(*PODS_WATCHED), "PodMonitor")
    template = serving_pod(guards)
    labels = template["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    # As Prometheus names them: what a label's name may not hold is an underscore.
    known = {f"__meta_kubernetes_pod_label_{re.sub(r'[^a-zA-Z0-9_]', '_', key)}": text for key, text in labels.items()}
    ports = {each["name"] for container in template["spec"]["containers"] for each in container["ports"]}
    scraped = [
        endpoint["port"]
        for endpoint in monitor["spec"]["podMetricsEndpoints"]
        if endpoint["port"] in ports
        and not any(
            each["action"] == "drop" and re.fullmatch(each["regex"], known.get(each["sourceLabels"][0], ""))
            for each in endpoint.get("relabelings", ())
        )
    ]
    assert scraped == [port]


def serving_pod(guards: Json) -> Json:
    """The template of a serving pod as the operator makes it."""
    world = World({**LEAST, "serving": guards})
    world.serves("a")
    template: Json = world.deployments["minilm-cpu"]["spec"]["template"]
    return template


def test_serving_pods_are_scraped_where_models_are_looked_after() -> None:
    def where(*arguments: str) -> Json:
        (monitor,) = rendering.of_kind(rendering.objects(*PODS_WATCHED, *arguments), "PodMonitor")
        found: Json = monitor["spec"]["namespaceSelector"]
        return found

    assert where() == {"any": True}
    assert where("--set", "watchNamespaces={a,b}") == {"matchNames": ["a", "b"]}


def test_every_alert_asks_for_series_that_the_operator_has_and_of_this_release_alone() -> None:
    known = exposed()
    for rule in rules():
        found = selectors(rule["expr"])
        assert found, rule["alert"]
        for each in found:
            assert each.name in known, (rule["alert"], each.name)
            matched = {matcher.name: matcher.value for matcher in each.matchers.matchers}
            assert matched["job"] == f"{rendering.RELEASE}-torchscript-operator-metrics"
            assert matched["namespace"] == rendering.NAMESPACE


def test_alerts_scrape_what_the_service_monitor_names() -> None:
    items = rendering.objects(*WATCHED)
    (monitor,) = rendering.of_kind(items, "ServiceMonitor")
    (service,) = [
        each
        for each in rendering.of_kind(items, "Service")
        if monitor["spec"]["selector"]["matchLabels"].items() <= each["metadata"]["labels"].items()
    ]
    # The Prometheus operator names a job after its Service.
    assert service["metadata"]["name"] == f"{rendering.RELEASE}-torchscript-operator-metrics"
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_every_alert_has_a_runbook_a_severity_and_a_wait() -> None:
    headings = re.findall(r"^## (\w+)$", (rendering.ROOT / "docs/runbooks.md").read_text(), re.MULTILINE)
    assert [rule["alert"] for rule in rules()] == headings
    for rule in rules():
        assert rule["annotations"]["runbook_url"].endswith(f"/docs/runbooks.md#{rule['alert'].lower()}")
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert re.fullmatch(r"\d+m", rule["for"])


def test_missed_looks_are_counted_from_the_settings() -> None:
    def limit(*arguments: str) -> str:
        (rule,) = [each for each in rules(*arguments) if each["alert"] == "TorchScriptOperatorResyncMissed"]
        return str(rule["expr"]).rpartition("> ")[2]

    assert (limit(), limit("--set", "resyncSeconds=60")) == ("1800", "180")


def test_labels_choose_the_prometheus() -> None:
    given = "metrics.serviceMonitor.labels.release=prom,metrics.prometheusRule.labels.release=prom"
    for each in rendering.of_kind(rendering.objects(*WATCHED, "--set", given), "ServiceMonitor", "PrometheusRule"):
        assert each["metadata"]["labels"]["release"] == "prom"


def test_service_monitor_without_a_service_is_refused() -> None:
    said = rendering.refusal(*WATCHED, "--set", "metrics.service.enabled=false")
    assert "there is nothing to scrape" in said
