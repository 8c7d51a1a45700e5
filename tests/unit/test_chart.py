"""What the chart renders to: objects, permissions, pod security, settings."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import yaml

from tests.golden.chart import rendering
from torchscript_operator.api import crd
from torchscript_operator.controller.health import PORT
from torchscript_operator.controller.settings import PATH_VARIABLE, CaBundle, Proxy, Settings

PERMISSIONS = {
    ("torchscript.dev", "torchscriptmodels"): {"get", "list", "watch", "patch"},
    ("torchscript.dev", "torchscriptmodels/status"): {"patch"},
    ("torchscript.dev", "torchscriptmodels/finalizers"): {"update"},
    ("batch", "jobs"): {"get", "list", "watch", "create", "delete"},
    ("apps", "deployments"): {"get", "list", "watch", "create", "patch", "delete"},
    ("", "services"): {"get", "list", "watch", "create", "patch", "delete"},
    ("autoscaling", "horizontalpodautoscalers"): {"get", "list", "watch", "create", "patch", "delete"},
    ("policy", "poddisruptionbudgets"): {"get", "list", "watch", "create", "patch", "delete"},
    ("", "pods"): {"get", "list", "watch"},
    ("", "events"): {"create", "list"},
}
"""All that the operator's code asks of the API server."""


def pod_specs(items: tuple[rendering.Json, ...]) -> list[rendering.Json]:
    templates = [item["spec"]["template"] for item in items if "template" in item.get("spec", {})]
    return [item["spec"] for item in [*templates, *rendering.of_kind(items, "Pod")]]


def deployment(items: tuple[rendering.Json, ...]) -> rendering.Json:
    (found,) = rendering.of_kind(items, "Deployment")
    return found


def roles_of_the_operator(items: tuple[rendering.Json, ...]) -> list[rendering.Json]:
    roles = rendering.of_kind(rendering.installed(items), "Role", "ClusterRole")
    return [
        each
        for each in roles
        if each["metadata"]["labels"]["app.kubernetes.io/component"] == "operator"
        and not each["metadata"]["name"].endswith("-leader-election")
    ]


def permissions(role: rendering.Json) -> dict[tuple[str, str], set[str]]:
    return {
        (group, resource): set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


@pytest.mark.parametrize("name", rendering.CASES)
def test_lint_finds_nothing(name: str) -> None:
    done = rendering.helm("lint", "--strict", "--quiet", str(rendering.CHART), *rendering.values_of(name))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout
    assert "ERROR" not in done.stdout


@pytest.mark.parametrize("name", rendering.CASES)
def test_objects_are_those_of_the_snapshot(name: str) -> None:
    path = rendering.GOLDEN / f"{name}.yaml"
    seen = rendering.snapshot(rendering.case(name))
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.write_text(seen)
    assert seen == path.read_text(), "where the change is wanted, run with UPDATE_GOLDEN=1 and look at the difference"


@pytest.mark.parametrize("name", rendering.CASES)
def test_settings_are_such_as_the_operator_reads(name: str) -> None:
    Settings.model_validate(rendering.settings_of(rendering.case(name)))


def test_default_settings_are_the_operators_own() -> None:
    settings = Settings.model_validate(rendering.settings_of(rendering.case("default")))
    for field in ("workers", "resync_seconds", "job_history_seconds", "log_level", "cluster_domain", "artifact_store"):
        assert getattr(settings, field) == Settings.model_fields[field].default, field
    assert settings.worker_image == "ghcr.io/torchscript-operator/worker:0.1.0"
    assert settings.worker_service_account.namespaces == (rendering.NAMESPACE,)


def test_full_settings_arrive() -> None:
    settings = Settings.model_validate(rendering.settings_of(rendering.case("full")))
    store = settings.artifact_store
    assert store is not None
    assert store.uri == "s3://artifacts/torchscript"
    assert store.credentials_secret is not None
    assert store.credentials_secret.name == "s3-credentials"
    assert settings.worker_image.startswith("mirror.example.com:5000/all/worker@sha256:2")
    assert settings.image_pull_policy == "Never"
    assert settings.image_pull_secrets == ("registry", "parents", "grandparents")
    assert settings.worker_service_account.name == "exporter"
    assert settings.worker_service_account.namespaces == ("models", "staging")
    assert settings.priority_class_name == "low"
    assert settings.job_priority_class_name == "lowest"
    assert settings.hugging_face_endpoint == "https://hub.example.com"
    assert settings.ca_bundle == CaBundle(config_map="company-ca", key="ca-bundle.crt")
    assert settings.proxy == Proxy(
        http="http://proxy.example.com:3128", https="http://proxy.example.com:3129", excluded=(".svc", "10.0.0.0/8")
    )
    assert settings.workers == 2
    assert settings.job_history_seconds == 1209600
    compiler = settings.defaults("torchscript")
    assert compiler.active_deadline_seconds == 604800
    assert compiler.backoff_limit == 0
    # YAML numbers arrive as quantities that Kubernetes reads.
    assert compiler.job.resources.requests == {"cpu": "0.5", "memory": "4294967296"}
    assert compiler.job.resources.limits["cpu"] == "4"
    assert compiler.serving.tolerations[0].toleration_seconds == 30


def test_volume_as_the_store_arrives() -> None:
    settings = Settings.model_validate(rendering.settings_of(rendering.case("scoped")))
    assert settings.artifact_store is not None
    assert settings.artifact_store.persistent_volume_claim is not None
    assert settings.artifact_store.persistent_volume_claim.path == "torchscript"
    assert settings.watch_namespaces == ("team-a", "team-b")


def test_no_worker_account_leaves_the_operators_default() -> None:
    settings = Settings.model_validate(rendering.settings_of(rendering.case("no-crds")))
    assert settings.worker_service_account.name == "default"
    assert settings.worker_service_account.namespaces == ()


@pytest.mark.parametrize("name", rendering.CASES)
def test_pods_pass_the_restricted_profile(name: str) -> None:
    specs = pod_specs(rendering.case(name))
    assert specs
    for spec in specs:
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 65532
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert all(volume.keys() <= {"name", "configMap", "emptyDir"} for volume in spec["volumes"])
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert not any("hostPort" in port for port in container.get("ports", ()))
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


def test_pod_starts_what_the_image_reads() -> None:
    (container,) = deployment(rendering.case("default"))["spec"]["template"]["spec"]["containers"]
    (mount,) = [item for item in container["volumeMounts"] if item["name"] == "settings"]
    assert {"name": PATH_VARIABLE, "value": f"{mount['mountPath']}/settings.yaml"} in container["env"]
    assert container["ports"] == [{"name": "http", "containerPort": PORT, "protocol": "TCP"}]
    probes = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert probes == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}


def test_there_is_never_a_second_operator() -> None:
    spec = deployment(rendering.case("default"))["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}


def test_another_setting_makes_another_pod() -> None:
    def annotations(*arguments: str) -> Any:
        return deployment(rendering.objects(*arguments))["spec"]["template"]["metadata"]["annotations"]

    assert annotations("--set", "logLevel=DEBUG") != annotations()
    assert annotations("--set", "crds.keep=false") == annotations()


@pytest.mark.parametrize("name", rendering.CASES)
def test_selector_finds_the_pod_and_nothing_else_is_in_it(name: str) -> None:
    items = rendering.case(name)
    spec = deployment(items)["spec"]
    labels = spec["template"]["metadata"]["labels"]
    selectors = [
        spec["selector"]["matchLabels"],
        *(each["spec"]["selector"] for each in rendering.of_kind(rendering.installed(items), "Service")),
        *(each["spec"]["selector"]["matchLabels"] for each in rendering.of_kind(items, "PodDisruptionBudget")),
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()
        # Labels that change with a release have no place in a selector, which cannot change.
        assert selector.keys() == {
            "app.kubernetes.io/name",
            "app.kubernetes.io/instance",
            "app.kubernetes.io/component",
        }


@pytest.mark.parametrize("name", rendering.CASES)
def test_objects_carry_the_recommended_labels(name: str) -> None:
    recommended = {f"app.kubernetes.io/{each}" for each in ("name", "instance", "version", "part-of", "managed-by")}
    for item in rendering.case(name):
        assert recommended <= item["metadata"]["labels"].keys(), item["metadata"]["name"]
        assert item["metadata"]["labels"]["app.kubernetes.io/part-of"] == "torchscript-operator"


def test_common_labels_are_on_every_object_and_on_the_pod() -> None:
    items = rendering.case("full")
    assert all(item["metadata"]["labels"]["team"] == "platform" for item in items)
    assert deployment(items)["spec"]["template"]["metadata"]["labels"]["team"] == "platform"


@pytest.mark.parametrize("name", ["default", "full"])
def test_a_cluster_role_grants_what_the_code_uses(name: str) -> None:
    items = rendering.case(name)
    (role,) = roles_of_the_operator(items)
    assert role["kind"] == "ClusterRole"
    assert permissions(role) == PERMISSIONS
    # Beside it there is only what operators take turns by.
    others = rendering.of_kind(rendering.installed(items), "Role", "RoleBinding")
    assert all(each["metadata"]["name"].endswith("-leader-election") for each in others)


def test_watched_namespaces_have_a_role_each_and_there_is_no_cluster_role() -> None:
    items = rendering.case("scoped")
    assert not rendering.of_kind(items, "ClusterRole", "ClusterRoleBinding")
    roles = roles_of_the_operator(items)
    assert [role["metadata"]["namespace"] for role in roles] == ["team-a", "team-b"]
    assert all(permissions(role) == PERMISSIONS for role in roles)
    bindings = rendering.of_kind(rendering.installed(items), "RoleBinding")
    assert [binding["metadata"]["namespace"] for binding in bindings] == ["team-a", "team-b"]


@pytest.mark.parametrize("name", rendering.CASES)
def test_no_permission_is_a_wildcard_or_about_secrets(name: str) -> None:
    for role in rendering.of_kind(rendering.case(name), "Role", "ClusterRole"):
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert "secrets" not in rule["resources"]
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])


@pytest.mark.parametrize("name", ["default", "scoped", "full"])
def test_only_the_operator_is_bound_to_its_role(name: str) -> None:
    items = rendering.installed(rendering.case(name))
    account = deployment(items)["spec"]["template"]["spec"]["serviceAccountName"]
    roles = {each["metadata"]["name"] for each in rendering.of_kind(items, "Role", "ClusterRole")}
    for binding in rendering.of_kind(items, "RoleBinding", "ClusterRoleBinding"):
        assert binding["roleRef"]["name"] == binding["metadata"]["name"]
        assert binding["roleRef"]["name"] in roles
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": rendering.NAMESPACE}]


@pytest.mark.parametrize("name", ["default", "scoped", "full"])
def test_worker_accounts_are_where_the_settings_say_and_give_no_token(name: str) -> None:
    items = rendering.case(name)
    said = Settings.model_validate(rendering.settings_of(items)).worker_service_account
    accounts = [each for each in rendering.of_kind(items, "ServiceAccount") if each["metadata"]["name"] == said.name]
    assert {each["metadata"]["namespace"] for each in accounts} == set(said.namespaces)
    assert all(each["automountServiceAccountToken"] is False for each in accounts)


def test_worker_accounts_are_in_the_releases_and_in_all_watched_namespaces() -> None:
    said = Settings.model_validate(rendering.settings_of(rendering.case("scoped"))).worker_service_account
    assert said.namespaces == (rendering.NAMESPACE, "team-a", "team-b")


def test_the_release_namespace_may_be_watched_too() -> None:
    items = rendering.installed(rendering.objects("--set", f"watchNamespaces={{{rendering.NAMESPACE}}}"))
    accounts = rendering.of_kind(items, "ServiceAccount")
    assert len({each["metadata"]["name"] for each in accounts}) == len(accounts) == 2


def test_who_may_view_or_edit_a_namespace_may_do_so_with_its_models() -> None:
    items = rendering.installed(rendering.case("default"))
    roles = {each["metadata"]["name"].rpartition("-")[2]: each for each in rendering.of_kind(items, "ClusterRole")}
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    into = {
        name: {label.removeprefix(prefix) for label in role["metadata"]["labels"] if label.startswith(prefix)}
        for name, role in roles.items()
    }
    assert into["view"] == {"view", "edit", "admin"}
    assert into["edit"] == {"edit", "admin"}
    reads = {verb for verbs in permissions(roles["view"]).values() for verb in verbs}
    assert reads == {"get", "list", "watch"}
    writes = permissions(roles["edit"])
    assert writes[("torchscript.dev", "torchscriptmodels")] == {
        "create",
        "update",
        "patch",
        "delete",
        "deletecollection",
    }
    assert ("torchscript.dev", "torchscriptmodels/status") not in writes


def test_one_operator_never_blocks_a_drain() -> None:
    (found,) = rendering.of_kind(rendering.case("default"), "PodDisruptionBudget")
    assert found["spec"]["maxUnavailable"] == 1
    assert "minAvailable" not in found["spec"]
    assert found["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [("maxUnavailable=50%", "maxUnavailable", "50%"), ("minAvailable=1", "minAvailable", 1)],
)
def test_a_budget_is_a_number_or_a_share(given: str, field: str, value: object) -> None:
    items = rendering.objects("--set", f"podDisruptionBudget.{given}")
    (found,) = rendering.of_kind(items, "PodDisruptionBudget")
    assert found["spec"][field] == value
    assert len({"maxUnavailable", "minAvailable"} & found["spec"].keys()) == 1


def test_what_serving_pods_need_stays_as_long_as_models_do() -> None:
    def kept(*arguments: str) -> set[str]:
        items = rendering.installed(rendering.objects("--set", "networkPolicy.enabled=true", *arguments))
        keep = ("helm.sh/resource-policy", "keep")
        found = [each for each in items if keep in each["metadata"].get("annotations", {}).items()]
        return {f"{each['kind']} {each['metadata']['name']}" for each in found}

    name = "release-torchscript-operator"
    assert kept() == {
        "CustomResourceDefinition torchscriptmodels.torchscript.dev",
        f"ServiceAccount {name}-worker",
        f"NetworkPolicy {name}-jobs",
        f"NetworkPolicy {name}-serving",
    }
    assert kept("--set", "crds.keep=false") == set()


def test_crd_is_the_generated_one_and_kept() -> None:
    (found,) = rendering.of_kind(rendering.case("default"), "CustomResourceDefinition")
    assert found["spec"] == yaml.safe_load(crd.render())["spec"]
    assert found["metadata"]["annotations"] == {
        "helm.sh/resource-policy": "keep",
        "argocd.argoproj.io/sync-options": "Prune=false",
    }


def test_crd_is_not_kept_when_so_chosen_and_absent_when_switched_off() -> None:
    (found,) = rendering.of_kind(rendering.case("full"), "CustomResourceDefinition")
    assert "annotations" not in found["metadata"]
    assert not rendering.of_kind(rendering.case("no-crds"), "CustomResourceDefinition")


def test_generated_files_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "charts/generate.py", "--check"],
        cwd=rendering.ROOT,
        env={**os.environ, "PYTHONPATH": "operator"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def notes(*arguments: str) -> str:
    done = rendering.helm(
        "install",
        rendering.RELEASE,
        str(rendering.CHART),
        "--namespace",
        "n",
        "--dry-run=client",
        "--hide-secret",
        *arguments,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("NOTES:")[2]


def test_notes_warn_when_there_is_no_store() -> None:
    assert "WARNING: artifactStore is not set" in notes()


def test_notes_name_what_a_models_namespace_must_have() -> None:
    said = notes(*rendering.values_of("full"))
    assert "WARNING: artifactStore" not in said
    assert "s3-credentials must exist in every namespace" in said
    assert "exporter in models, staging" in said
    assert "ConfigMap company-ca must exist in every namespace" in said
    assert "Secret proxy must exist in every namespace" in notes("--set", "worker.proxy.secretName=proxy")


def test_notes_say_what_an_uninstall_leaves_and_how_to_remove_it() -> None:
    said = notes()
    assert "kubectl delete torchscriptmodels --all --all-namespaces" in said
    assert "kubectl delete crd torchscriptmodels.torchscript.dev" in said
    assert "helm test release --namespace n --logs --timeout 900s" in said
    scoped = notes("--set", "watchNamespaces={a,b}")
    for namespace in ("a", "b"):
        assert f"kubectl delete torchscriptmodels --all --namespace {namespace}\n" in scoped
    assert "deletes the CRD, and with it every model" in notes("--set", "crds.keep=false")


def test_notes_give_a_model_that_the_api_takes() -> None:
    from torchscript_operator.api.v1alpha1 import TorchScriptModelSpec

    lines = notes().splitlines()
    start = next(index for index, line in enumerate(lines) if "apiVersion:" in line)
    end = next(index for index, line in enumerate(lines) if line.startswith("3."))
    model = yaml.safe_load("\n".join(lines[start:end]).replace("YOUR-BUCKET", "your-bucket"))
    TorchScriptModelSpec.model_validate(model["spec"])


def test_a_spread_constraint_without_a_selector_is_about_the_operators_pods() -> None:
    spec = deployment(rendering.case("full"))["spec"]
    (constraint,) = spec["template"]["spec"]["topologySpreadConstraints"]
    assert constraint["labelSelector"] == spec["selector"]
    own = '[{"maxSkew": 1, "topologyKey": "zone", "labelSelector": {"matchLabels": {"a": "b"}}}]'
    spec = deployment(rendering.objects("--set-json", f"topologySpreadConstraints={own}"))["spec"]
    (constraint,) = spec["template"]["spec"]["topologySpreadConstraints"]
    assert constraint["labelSelector"] == {"matchLabels": {"a": "b"}}
