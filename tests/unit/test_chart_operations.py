"""What the chart renders for several operators, and for whoever watches them."""

import pytest

from tests.golden.chart import rendering
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
