"""The chart's own RBAC is enough, and no more than that."""

import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.controlplane import ControlPlane
from tests.integration.conftest import SETTINGS, install_rights
from tests.integration.forked import Forked
from tests.integration.harness import OTHER, Api, Json, Models, Operator, audit, eventually, now
from tests.integration.spaces import RBAC, Spaces, make_namespace

APPLIED = {
    "deployments": "/apis/apps/v1",
    "services": "/api/v1",
    "horizontalpodautoscalers": "/apis/autoscaling/v2",
    "poddisruptionbudgets": "/apis/policy/v1",
}
BEHIND_CALLS = {("create", plural) for plural in APPLIED} | {("update", "torchscriptmodels/finalizers")}
"""Rights that no call bears the name of: the API server asks for them behind other calls, as is shown below."""


def use_everything(models: Models) -> None:
    """Everything that the operator does: create, apply, heal, delete, tell."""
    store = {"uri": "s3://artifacts/models", "deletionPolicy": "Delete"}
    models.create("minilm", serving={"autoscaling": {"maxReplicas": 3}}, artifact=store)
    models.serves("a")
    models.edit(serving={"autoscaling": None})
    models.edit(source=OTHER)
    old = models.awaits_job()["metadata"]["name"]
    models.edit(source={"s3": {"uri": "s3://models/third"}})
    models.awaits_job(but=old)
    models.edit(serving={"targets": []})
    eventually(lambda: models.deployment() is None, "no Deployment")
    eventually(lambda: models.service() is None, "no Service")
    usurped = models.create("usurped") and models.awaits_job(model="usurped")
    models.delete("usurped")
    path = models.path("jobs", usurped["metadata"]["name"], "/apis/batch/v1")
    models.api("DELETE", path, {"propagationPolicy": "Background"})
    models.strangers_job(usurped["metadata"]["name"])
    models.create("usurped")
    models.awaits("Stalled", "True", "ChildRejected", name="usurped")
    models.create("waiting")
    models.job_status(models.awaits_job(model="waiting"), {"startTime": now()})


def refused(plane: ControlPlane, user: str) -> list[str]:
    return [
        f"{event['verb']} {event['requestURI']}"
        for event in audit(plane, user)
        if event["responseStatus"]["code"] in {401, 403} and "quota" not in event["responseStatus"].get("message", "")
    ]


def granted(rules: list[Json]) -> set[tuple[str, str]]:
    return {(verb, resource) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}


def used(plane: ControlPlane, user: str) -> set[tuple[str, str]]:
    found = set()
    for event in audit(plane, user, stages=("ResponseStarted", "ResponseComplete")):
        about = event.get("objectRef", {})
        resource = about.get("resource", "")
        found.add((event["verb"], f"{resource}/{about['subresource']}" if "subresource" in about else resource))
    return found


@pytest.fixture
def role(rights: tuple[Path, str], spaces: Spaces, models: Models) -> Json:  # noqa: ARG001 -- it is what they are given by
    """What the operator may do in the test's namespace."""
    kind = "roles" if spaces.listed else "clusterroles"
    path = f"{RBAC}/namespaces/{models.namespace}/{kind}" if spaces.listed else f"{RBAC}/{kind}"
    return models.api("GET", f"{path}/tsm-torchscript-operator")


@pytest.mark.cluster_wide("the same is shown of a scoped operator below")
@pytest.mark.usefixtures("operator")
def test_nothing_is_refused_and_nothing_is_granted_in_vain(
    plane: ControlPlane, rights: tuple[Path, str], role: Json, models: Models
) -> None:
    # What operators of other tests were refused before the API server had taken in their new roles is not meant.
    before = len(refused(plane, rights[1]))
    use_everything(models)
    eventually(lambda: ("list", "events") in used(plane, rights[1]), "a look for events about a Job without a pod")
    assert refused(plane, rights[1])[before:] == []
    assert granted(role["rules"]) - used(plane, rights[1]) <= BEHIND_CALLS, "granted and never used"


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(("verb", "resource"), sorted(BEHIND_CALLS))
def test_right_that_no_call_is_named_after_is_needed_all_the_same(
    plane: ControlPlane, rights: tuple[Path, str], role: Json, models: Models, tmp_path: Path, verb: str, resource: str
) -> None:
    name = f"less-{models.namespace}"
    account, home = {"name": name, "namespace": models.namespace}, models.namespace
    rules = [
        {**rule, "resources": [each], "verbs": kept}
        for rule in role["rules"]
        for each in rule["resources"]
        if (kept := [it for it in rule["verbs"] if (it, each) != (verb, resource)])
    ]
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    made = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account},
        {"apiVersion": f"{reference['apiGroup']}/v1", "kind": "Role", "metadata": account, "rules": rules},
        {
            "apiVersion": f"{reference['apiGroup']}/v1",
            "kind": "RoleBinding",
            "metadata": account,
            "roleRef": reference,
            "subjects": [{"kind": "ServiceAccount", **account}],
        },
    ]
    plane.kubectl.run("apply", "--server-side", "--filename=-", stdin=yaml.safe_dump_all(made))
    token = plane.kubectl.run("create", "token", name, f"--namespace={home}").strip()
    config = yaml.safe_load(rights[0].read_text())
    config["users"][0]["user"] = {"token": token}
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump({**SETTINGS, "watchNamespaces": [home]}))
    operator = Forked(tmp_path / "kubeconfig", settings, tmp_path / "operator.log")
    operator.start()
    try:
        models.create(serving={"autoscaling": {"maxReplicas": 3}})
        if verb == "create":
            models.export_ends("a")
        told = models.awaits("Stalled", "True", "ChildRejected")["message"]
    finally:
        operator.stop()
    assert "blockOwnerDeletion" in told if verb == "update" else f'cannot create resource "{resource}"' in told


def test_role_has_no_wildcard_and_no_secrets(role: Json) -> None:
    text = yaml.safe_dump(role["rules"])
    assert "*" not in text
    assert "secrets" not in text
    assert "configmaps" not in text


@pytest.fixture
def scoped(plane: ControlPlane, api: Api, only_operator: Operator, tmp_path: Path) -> Any:
    """A namespace, and an operator that has rights in it alone."""
    if only_operator.alive:
        only_operator.kill(signal.SIGTERM)
    name = make_namespace(api, "scoped")
    values = ("--set", f"watchNamespaces={{{name}}}", "--set", "nameOverride=scoped")
    kubeconfig, user = install_rights(plane, tmp_path, *values)
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump({**SETTINGS, "watchNamespaces": [name]}))
    operator = Operator(kubeconfig, settings, tmp_path / "operator.log")
    operator.start()
    yield Models(api, name), user
    operator.kill(signal.SIGTERM)


def test_scoped_operator_needs_only_a_role_in_its_namespace_and_all_of_that(
    plane: ControlPlane, scoped: tuple[Models, str]
) -> None:
    models, user = scoped
    # As of a model that an operator of the whole cluster has looked after before.
    path = models.path("torchscriptmodels", "before")
    models.create("before", suspend=True)
    models.api.merge(path, {"metadata": {"finalizers": ["torchscript.dev/artifacts"]}})
    eventually(lambda: "finalizers" not in models.get("before")["metadata"], "no finalizer")
    use_everything(models)
    assert "Remove them by hand" in models.get()["status"]["deletionPolicyMessage"]
    eventually(lambda: ("list", "events") in used(plane, user), "a look for events about a Job without a pod")
    assert refused(plane, user) == []
    role = models.api("GET", models.path("roles", "tsm-scoped", RBAC))
    assert granted(role["rules"]) - used(plane, user) <= BEHIND_CALLS, "granted and never used"
