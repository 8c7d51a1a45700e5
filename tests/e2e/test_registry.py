"""`make demo CONTEXT=… IMAGE_REPOSITORY=…`: a cluster that somebody has already, whose nodes pull from a registry.

The embedded cluster is that, by a kubeconfig of another name. The operator and the S3 server run from the registry's
images meanwhile, so that this file is the last of the cluster's by its name, and puts both back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.cluster import binaries
from tests.cluster.image_store import push_archive, run
from tests.cluster.registry import served_registry
from tests.cluster.rollout import obstacles, rolled_out
from tests.cluster.s3 import deploy_s3, s3_archive
from tests.e2e import demo
from tests.e2e import site as sites
from tests.e2e.reference import eager
from tests.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cluster.registry import Registry
    from tests.cluster.s3 import S3
    from tests.e2e.conftest import Models

Json = dict[str, Any]
MADE_FROM = (".venv", "build", "images", "operator", "pyproject.toml", "tests")
"""What `make demo` needs of the repository, beside what every reader has."""
TOKEN = "of-this-test-only"  # noqa: S105 -- it is
PASSWORDS = "somebody:$2b$04$jvLFDLY45EpqqKlfo0JN/.VIAY5u6rLo1kRFSTipWqDTjOjDZv3a6\n"
"""TOKEN by bcrypt."""


@pytest.fixture
def reader(site: sites.Site, tmp_path: Path) -> Reader:
    """Whose kubeconfig has the cluster as my-context, and another one as the current context."""
    config = yaml.safe_load(site.kubeconfig.read_text())
    context = config["contexts"][0]["context"]
    config["clusters"].append({"name": "gone", "cluster": {"server": "https://127.0.0.1:9"}})
    config["contexts"] = [
        {"name": "my-context", "context": context | {"namespace": "elsewhere"}},
        {"name": "gone", "context": context | {"cluster": "gone"}},
    ]
    config["current-context"] = "gone"
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    (tmp_path / "tmp").mkdir()
    cache = binaries.cache().parents[1]
    made = Reader(tmp_path, KUBECONFIG=kubeconfig, XDG_CACHE_HOME=cache, TMPDIR=tmp_path / "tmp")
    for name in MADE_FROM:
        (made.folder / name).symlink_to(sites.ROOT / name)
    return made


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with served_registry(tmp_path / "registry") as served:
        yield served


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Registry]:
    """A registry that wants to know who asks."""
    with served_registry(tmp_path / "guarded", PASSWORDS) as served:
        yield served


@pytest.fixture
def lent(site: sites.Site, s3: S3) -> Iterator[sites.Site]:
    """The cluster without a demo in it; operator and S3 server are the embedded ones again in the end."""
    assert s3.access_key
    remove = ("delete", "namespace", demo.NAMESPACE, "--ignore-not-found")
    site.kubectl.run(*remove, "--timeout=90s")
    yield site
    site.kubectl.run(*remove, "--wait=false")
    sites.install(site)
    sites.provide_s3(site)


def running_images(site: sites.Site, namespace: str) -> list[str]:
    """What the kubelet says that the namespace's containers were made from: a registry's name and a digest."""
    pods: list[Json] = site.kubectl.get("pods", f"--namespace={namespace}")["items"]
    staying = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    return [status["imageID"] for pod in staying for status in pod["status"]["containerStatuses"]]


def test_demo_runs_on_a_cluster_that_is_there_from_images_that_its_node_pulls(
    lent: sites.Site, registry: Registry, reader: Reader, tmp_path: Path
) -> None:
    repository = f"{registry.address}/team"
    reader.swaps["registry.example/team"] = repository
    said = reader.types("make demo CONTEXT=my-context IMAGE_REPOSITORY=registry.example/team")
    first, second = eager(sites.model_folder(), demo.SENTENCES)
    assert f"cosine similarity {first @ second:.4f}" in said
    assert "parity     Passed" in said

    for namespace, kinds in (
        (sites.SYSTEM_NAMESPACE, {"operator"}),
        (sites.S3_NAMESPACE, {"versitygw"}),
        (demo.NAMESPACE, {"worker"}),
    ):
        found = running_images(lent, namespace)
        assert {image.partition("@sha256:")[0] for image in found} == {f"{repository}/{kind}" for kind in kinds}
    pulled = registry.asked("containerd/")
    assert {path.split("/")[3] for path in pulled if "/manifests/" in path} == {"operator", "worker", "versitygw"}
    # A copy of the user's credentials is not left behind.
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ("nowhere", "error: your kubeconfig has no context 'nowhere'"),
        ("gone", "error: the cluster of context 'gone' does not answer as it should"),
    ],
)
def test_demo_without_such_a_cluster_says_so_before_anything_is_built(
    reader: Reader, context: str, message: str
) -> None:
    reader.swaps["my-context"] = context
    said = reader.types("make demo CONTEXT=my-context IMAGE_REPOSITORY=registry.example/team", code=2)
    assert message in said
    assert "image" not in said.partition("error:")[0]


def test_demo_leaves_a_namespace_of_somebody_else_as_it_is(site: sites.Site, reader: Reader) -> None:
    site.kubectl.run("label", "namespace", sites.S3_NAMESPACE, f"{sites.MARK}-")
    try:
        said = reader.types("make demo CONTEXT=my-context IMAGE_REPOSITORY=registry.example/team", code=2)
    finally:
        sites.restricted(site, sites.S3_NAMESPACE)
    assert "error: namespace 's3' is there already, and not of this demo" in said


def test_registry_that_refuses_the_push_is_told_with_what_to_do(
    site: sites.Site, guarded: Registry, reader: Reader
) -> None:
    assert site.kubeconfig
    reader.swaps["registry.example/team"] = f"{guarded.address}/team"
    said = reader.types("make demo CONTEXT=my-context IMAGE_REPOSITORY=registry.example/team", code=2)
    assert f"error: {guarded.address} did not take {guarded.address}/team/versitygw:" in said
    assert f"skopeo login {guarded.address}" in said


def test_image_that_the_node_may_not_pull_is_told_at_once(
    models: Models, guarded: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    login(guarded)
    image = push_archive(s3_archive(), f"{guarded.address}/team")
    with pytest.raises(RuntimeError, match=f"The node cannot pull {image}: .*(401|authoriz)"):
        deploy_s3(models.site.kubeconfig, image=image, namespace=models.namespace)


def login(registry: Registry) -> None:
    """As somebody who may push."""
    run(["skopeo", "login", "--tls-verify=false", "--username=somebody", f"--password={TOKEN}", registry.address])


def test_pod_that_the_namespace_does_not_admit_is_told(models: Models) -> None:
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "root", "namespace": models.namespace},
        "spec": {
            "selector": {"matchLabels": {"app": "root"}},
            "template": {
                "metadata": {"labels": {"app": "root"}},
                "spec": {"containers": [{"name": "root", "image": "localhost/busybox:debian"}]},
            },
        },
    }
    models.kubectl.run("apply", "--server-side", "--filename=-", stdin=yaml.safe_dump(deployment))
    refusal = 'violates PodSecurity "restricted'
    look = lambda: [text for _, text in obstacles(models.kubectl, models.namespace) if refusal in text]  # noqa: E731
    models.until(look, "a refused pod", 60)
    with pytest.raises(RuntimeError, match=refusal):
        rolled_out(models.kubectl, "root", models.namespace, 0)
