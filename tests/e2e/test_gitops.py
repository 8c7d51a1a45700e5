"""Flux's own controllers keep a namespace's models as a Git repository says: added, refused, failed, reverted, removed.

The tests follow one repository in their order; each leaves it as it found it, but for the first and the last.
"""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

from tests.cluster import flux, network, paths
from tests.cluster.git_server import served_repository
from tests.e2e import site as sites
from tests.e2e.conftest import EXPORT_SECONDS, Models
from tests.e2e.reference import TOLERANCE, ask, eager

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cluster.git_server import Repository
    from tests.cluster.s3 import S3

Json = dict[str, Any]
NAMESPACE = "e2e-gitops"
EXAMPLES = sites.ROOT / "examples/gitops/flux"
FILE = "production/minilm.yaml"
OPERATOR = f"system:serviceaccount:{sites.SYSTEM_NAMESPACE}:{sites.RELEASE}"
WRITES = frozenset({"create", "update", "patch", "delete"})
CHILDREN = ("deployments", "services", "jobs")


def manifest(change: Callable[[Json], None] | None = None) -> str:
    """examples/minilm.yaml, changed."""
    body: Json = yaml.safe_load((sites.ROOT / "examples/minilm.yaml").read_text())
    if change is not None:
        change(body)
    return yaml.safe_dump(body)


def unknown_source(body: Json) -> None:
    body["spec"]["source"]["s3"]["uri"] = f"s3://{sites.SOURCE_BUCKET}/nothing-here"


def two_sources(body: Json) -> None:
    body["spec"]["source"]["huggingFace"] = {"repository": "sentence-transformers/all-MiniLM-L6-v2"}


def condition(body: Json, kind: str) -> Json:
    found: Json = next((item for item in body["status"].get("conditions", []) if item["type"] == kind), {})
    return found


class Flow:
    """A repository, the Kustomization that follows it, and the models that come of it."""

    def __init__(self, models: Models, repository: Repository) -> None:
        self.models, self.repository, self.kubectl = models, repository, models.kubectl

    def apply(self, example: str) -> None:
        """An example of ours, with this repository's address and this namespace."""
        bodies = list(yaml.safe_load_all((EXAMPLES / example).read_text()))
        for body in bodies:
            if body["kind"] == "GitRepository":
                body["spec"]["url"] = self.repository.url
            else:
                body["spec"]["targetNamespace"] = NAMESPACE
            for check in body["spec"].get("healthChecks", []):
                check["namespace"] = NAMESPACE
        # As its owner would: a field that the example no longer has goes.
        flags = ("--server-side", "--force-conflicts", "--field-manager=test", "--filename=-")
        self.kubectl.run("apply", *flags, stdin=yaml.safe_dump_all(bodies))

    def kustomization(self) -> Json:
        found: Json = self.kubectl.get("kustomization", "models", f"--namespace={flux.NAMESPACE}")
        return found

    def sync(self, kind: str) -> str:
        """Ask a controller to look now, as a forge's webhook does; returns the request's mark."""
        mark = f"test-{time.monotonic_ns()}"
        annotation = f"reconcile.fluxcd.io/requestedAt={mark}"
        self.kubectl.run("annotate", kind, "models", f"--namespace={flux.NAMESPACE}", annotation, "--overwrite")
        return mark

    def push(self, message: str, text: str | None) -> str:
        """Commit the model's file and let Flux see it."""
        revision = self.repository.commit(message, {FILE: text})
        self.sync("gitrepository")
        return revision

    def ended(self, revision: str, status: str) -> Json:
        """Wait until a commit was carried out, well or badly."""

        def look() -> Json | None:
            body = self.kustomization()
            ready = condition(body, "Ready")
            tried = str(body["status"].get("lastAttemptedRevision", "")).endswith(revision)
            seen = ready.get("observedGeneration") == body["metadata"]["generation"]
            return body if tried and seen and ready.get("status") == status else None

        found: Json = self.models.until(look, f"Kustomization Ready={status} at {revision}: {self.kustomization()}")
        return found

    def looked_again(self) -> Json:
        """Let kustomize-controller compare the cluster with the repository once more."""
        mark = self.sync("kustomization")

        def look() -> Json | None:
            body = self.kustomization()
            ready = condition(body, "Ready")
            seen = ready.get("observedGeneration") == body["metadata"]["generation"]
            done = body["status"].get("lastHandledReconcileAt") == mark
            return body if done and seen and ready["status"] in {"True", "False"} else None

        found: Json = self.models.until(look, "another look of kustomize-controller")
        return found

    def answer(self) -> Any:
        service = self.kubectl.get("service", "minilm", f"--namespace={NAMESPACE}")
        return ask(f"http://{service['spec']['clusterIP']}", "minilm")

    def model(self) -> Json:
        found = self.models.get("minilm")
        assert found is not None
        return found

    def versions(self) -> dict[str, str]:
        """Of the model, status included, and of its children's specs, whose status is the cluster's own."""
        found = {"model": self.model()["metadata"]["resourceVersion"]}
        for kind in CHILDREN:
            for item in self.models.children(kind, "minilm"):
                metadata = item["metadata"]
                found[f"{kind}/{metadata['name']}"] = str(metadata.get("generation", metadata["resourceVersion"]))
        return found


@pytest.fixture(scope="module")
def flow(site: sites.Site, s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flow]:
    """Flux installed, following a new repository without models."""
    site.kubectl.run("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=90s")
    sites.provide_namespace(site, NAMESPACE, s3)
    with (
        flux.installed_flux(site.kubeconfig),
        served_repository(tmp_path_factory.mktemp("git"), network.NODE_ADDRESS) as repository,
    ):
        yield Flow(Models(site, NAMESPACE), repository)
        everything = ("kustomizations,gitrepositories", "--all", f"--namespace={flux.NAMESPACE}")
        site.kubectl.run("delete", *everything, "--timeout=60s")
    site.kubectl.run("delete", "namespace", NAMESPACE, "--wait=false")


@contextmanager
def nothing_written(namespace: str, users: tuple[str, ...]) -> Iterator[None]:
    """No user has written to models or their children in the meantime; dry runs are no writes."""
    log = paths.audit_log()
    start = log.stat().st_size
    yield
    with log.open() as lines:
        assert log.stat().st_size >= start, "the log was begun anew in the meantime"
        lines.seek(start)
        events = [json.loads(line) for line in lines]
    about = [(event, event.get("objectRef", {})) for event in events]
    there = [event for event, what in about if what.get("namespace") == namespace and what["resource"] != "events"]
    tried = [event for event in there if event["user"]["username"] in users and event["verb"] in WRITES]
    assert tried, "Flux compares by dry runs: without one the log tells nothing"
    written = [f"{event['verb']} {event['requestURI']}" for event in tried if "dryRun=All" not in event["requestURI"]]
    assert written == []


def test_added_model_makes_the_kustomization_ready_when_it_is(flow: Flow) -> None:
    revision = flow.repository.commit(
        "Add minilm", {FILE: manifest(), "production/kustomization.yaml": "resources: [minilm.yaml]\n"}
    )
    flow.apply("models.yaml")
    flow.models.until(lambda: flow.models.get("minilm"), "the model")
    waiting = flow.models.until(lambda: condition(flow.kustomization(), "Reconciling"), "a reconciling Kustomization")
    assert waiting["status"] == "True"
    assert condition(flow.kustomization(), "Ready")["status"] != "True"
    body = flow.ended(revision, "True")
    model = flow.model()
    assert condition(model, "Ready")["status"] == "True"
    assert condition(body, "Ready")["lastTransitionTime"] >= condition(model, "Reconciling")["lastTransitionTime"]
    assert condition(body, "Healthy")["status"] == "True"
    np.testing.assert_allclose(flow.answer(), eager(sites.model_folder()), atol=TOLERANCE)


def test_nothing_is_written_once_all_is_as_the_repository_says(flow: Flow) -> None:
    before = flow.versions()
    with nothing_written(NAMESPACE, (flux.ACCOUNT, OPERATOR)):
        body = flow.looked_again()
    assert condition(body, "Ready")["status"] == "True"
    assert flow.versions() == before


def test_no_field_of_a_model_has_two_managers(flow: Flow) -> None:
    def fields(tree: Json, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
        leaves = {(*path, key) for key, value in tree.items() if not value and key != "."}
        return leaves.union(*(fields(value, (*path, key)) for key, value in tree.items()))

    listed = json.loads(
        flow.kubectl.run("get", "tsm", "minilm", f"--namespace={NAMESPACE}", "--show-managed-fields", "--output=json")
    )["metadata"]["managedFields"]
    owned = {entry["manager"]: fields(entry["fieldsV1"]) for entry in listed}
    assert owned.keys() == {"kustomize-controller", "torchscript-operator"}
    assert all(path[0] == "f:status" for path in owned["torchscript-operator"])
    assert owned["kustomize-controller"].isdisjoint(owned["torchscript-operator"])


def test_children_carry_nothing_that_flux_prunes_by(flow: Flow) -> None:
    assert "kustomize.toolkit.fluxcd.io/name" in flow.model()["metadata"]["labels"]
    children = [item for kind in CHILDREN for item in flow.models.children(kind, "minilm")]
    assert len(children) > 2
    assert not any("fluxcd" in json.dumps(item["metadata"]) for item in children)


def test_refused_model_fails_the_kustomization_with_our_message_and_leaves_the_old_one(flow: Flow) -> None:
    with nothing_written(NAMESPACE, (flux.ACCOUNT, OPERATOR)):
        body = flow.ended(flow.push("Give it two sources", manifest(two_sources)), "False")
    ready = condition(body, "Ready")
    assert "spec.source takes exactly one of huggingFace, s3 and persistentVolumeClaim" in ready["message"]
    np.testing.assert_allclose(flow.answer(), eager(sites.model_folder()), atol=TOLERANCE)
    revision = flow.repository.revert()
    flow.sync("gitrepository")
    flow.ended(revision, "True")


def test_failed_model_fails_the_kustomization_while_the_old_one_serves_and_a_revert_recovers(flow: Flow) -> None:
    served = flow.model()["status"]["serving"]["targets"][0]["active"]["artifact"]["digest"]
    body = flow.ended(flow.push("Name another source", manifest(unknown_source)), "False")
    ready = condition(body, "Ready")
    assert ready["reason"] == "HealthCheckFailed"
    assert f"TorchScriptModel/{NAMESPACE}/minilm status: 'Failed'" in ready["message"]
    stalled = condition(flow.model(), "Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "SourceNotFound")
    assert "nothing-here" in stalled["message"]
    np.testing.assert_allclose(flow.answer(), eager(sites.model_folder()), atol=TOLERANCE)
    flow.apply("models-strict.yaml")
    assert condition(flow.looked_again(), "Ready")["reason"] == "HealthCheckFailed"
    revision = flow.repository.revert()
    flow.sync("gitrepository")
    flow.ended(revision, "True")
    assert condition(flow.model(), "Stalled")["status"] == "False"
    assert flow.model()["status"]["serving"]["targets"][0]["active"]["artifact"]["digest"] == served
    np.testing.assert_allclose(flow.answer(), eager(sites.model_folder()), atol=TOLERANCE)


def test_removed_model_is_deleted_with_its_children(flow: Flow) -> None:
    revision = flow.repository.commit("Remove minilm", {FILE: None, "production/kustomization.yaml": "resources: []\n"})
    # Its strict variant waits for a model by name.
    flow.apply("models.yaml")
    flow.sync("gitrepository")
    flow.ended(revision, "True")
    gone = lambda: not (flow.models.get("minilm") or any(flow.models.children(kind, "minilm") for kind in CHILDREN))  # noqa: E731
    flow.models.until(gone, "no model and no children", EXPORT_SECONDS)
