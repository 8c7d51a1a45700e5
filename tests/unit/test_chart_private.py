"""The chart in a private network: where images come from, and what is passed on to worker pods."""

from __future__ import annotations

from typing import Any

import pytest

from tests.golden.chart import rendering
from torchscript_operator.controller.settings import Settings


def images(*arguments: str) -> set[str]:
    """All images that an installation can lead to."""
    items = rendering.objects(*arguments)
    settings = Settings.model_validate(rendering.settings_of(items))
    specs = [each["spec"]["template"]["spec"] for each in rendering.of_kind(items, "Deployment")]
    specs += [each["spec"] for each in rendering.of_kind(items, "Pod")]
    found = {container["image"] for spec in specs for container in spec["containers"]}
    return found | {settings.worker_image} | {each.image for each in settings.compilers.values() if each.image}


def registry(*values: str) -> tuple[str, ...]:
    return tuple(part for value in values for part in ("--set", value))


def test_one_value_moves_every_image() -> None:
    moved = images(*registry("global.imageRegistry=mirror.example.com:5000/all"))
    names = {"operator", "worker", "neuron", "neuronx"}
    assert moved == {f"mirror.example.com:5000/all/torchscript-operator/{name}:0.1.0" for name in names}


@pytest.mark.parametrize(
    ("repository", "moved"),
    [
        ("ghcr.io/a/b", "mirror/a/b"),
        ("localhost/a/b", "mirror/a/b"),
        ("registry:5000/b", "mirror/b"),
        ("a/b", "mirror/a/b"),
        ("b", "mirror/b"),
    ],
)
def test_only_a_registry_is_replaced(repository: str, moved: str) -> None:
    found = images(*registry("global.imageRegistry=mirror", f"image.repository={repository}"))
    assert f"{moved}:0.1.0" in found


def test_pull_secrets_of_a_parent_chart_are_used_too() -> None:
    secrets = '{"imagePullSecrets": [{"name": "own"}], "global": {"imagePullSecrets": ["parents", {"name": "own"}]}}'
    given = [f"{key}={value}" for key, value in _parts(secrets)]
    items = rendering.objects(*(part for value in given for part in ("--set-json", value)))
    assert rendering.settings_of(items)["imagePullSecrets"] == ["own", "parents"]
    for kind in ("Deployment", "Pod"):
        (found,) = rendering.of_kind(items, kind)
        spec = found["spec"]["template"]["spec"] if kind == "Deployment" else found["spec"]
        assert spec["imagePullSecrets"] == [{"name": "own"}, {"name": "parents"}]


def _parts(text: str) -> Any:
    import json

    return [(key, json.dumps(value)) for key, value in json.loads(text).items()]


def settings(*values: str) -> Settings:
    return Settings.model_validate(rendering.settings_of(rendering.objects(*registry(*values))))


def test_nothing_is_passed_on_that_is_not_given() -> None:
    found = settings()
    assert (found.proxy, found.ca_bundle, found.hugging_face_endpoint, found.job_priority_class_name) == (None,) * 4


def test_a_proxy_leaves_out_the_cluster_and_what_gives_identities() -> None:
    found = settings("worker.proxy.https=http://proxy:3128").proxy
    assert found is not None
    assert found.https == "http://proxy:3128"
    assert found.http is None
    assert {".svc", ".cluster.local", "localhost", "169.254.170.2", "169.254.170.23"} <= set(found.excluded)


def test_a_secret_with_a_proxy_is_passed_on_by_name() -> None:
    found = Settings.model_validate(rendering.settings_of(rendering.case("scoped"))).proxy
    assert found is not None
    assert (found.secret, found.https, found.http) == ("proxy", None, None)


def test_a_bundle_has_the_usual_key() -> None:
    found = settings("worker.caBundle.configMap.name=company-ca").ca_bundle
    assert found is not None
    assert (found.config_map, found.key) == ("company-ca", "ca.crt")
