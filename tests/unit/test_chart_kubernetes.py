"""Every object that the chart or the operator makes is one that Kubernetes 1.33 to 1.36 knows, field by field."""

from __future__ import annotations

import subprocess

import pytest

from tests.cluster import paths, schemas
from tests.golden.chart import rendering

CHILDREN = sorted(
    path
    for path in (rendering.GOLDEN.parent / "controller").glob("*/*.yaml")
    if path.name not in {"model.yaml", "settings.yaml"}
)
"""What the operator makes of models: recorded, and compared with what it makes in tests of their own."""


FOREIGN = ("ServiceMonitor", "PodMonitor", "PrometheusRule")
"""Kinds of the Prometheus operator, which are no part of Kubernetes."""


def kubeconform(release: str, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    location = f"{schemas.folder(release)}/{schemas.LOCATION}"
    command = [str(paths.binary("kubeconform")), "-strict", "-summary", "-schema-location", location, *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("release", schemas.RELEASES)
@pytest.mark.parametrize("case", rendering.CASES)
def test_objects_of_the_chart_are_known(release: str, case: str) -> None:
    done = rendering.template(*rendering.values_of(case))
    checked = kubeconform(release, "-skip", ",".join(FOREIGN), "-", text=done.stdout)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"Skipped: {len(rendering.of_kind(rendering.case(case), *FOREIGN))}" in checked.stdout
    assert f"{len(rendering.case(case))} resources found" in checked.stdout


@pytest.mark.parametrize("release", schemas.RELEASES)
def test_what_the_operator_makes_is_known(release: str) -> None:
    checked = kubeconform(release, *map(str, CHILDREN))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "Skipped: 0" in checked.stdout


@pytest.mark.parametrize("release", schemas.RELEASES)
@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("maxUnavailable: 1", "maxUnavailible: 1"),
        ("automountServiceAccountToken: false", "automountServiceAccountToken: no1"),
    ],
)
def test_a_misspelt_field_and_a_wrong_type_are_found(release: str, text: str, changed: str) -> None:
    rendered = rendering.template().stdout
    assert text in rendered
    assert kubeconform(release, "-", text=rendered.replace(text, changed)).returncode != 0


def test_an_unknown_release_has_no_schemas() -> None:
    with pytest.raises(KeyError):
        schemas.folder("v1.2.3")


def test_schemas_are_whole_and_strict() -> None:
    document = {
        "definitions": {
            "io.k8s.api.x.v1.A": {
                "type": "object",
                "properties": {"b": {"$ref": "#/definitions/io.k8s.api.x.v1.B"}},
                "x-kubernetes-group-version-kind": [{"group": "x.k8s.io", "kind": "A", "version": "v1"}],
            },
            "io.k8s.api.x.v1.B": {
                "type": "object",
                "properties": {"a": {"$ref": "#/definitions/io.k8s.api.x.v1.A"}, "$ref": {"type": "string"}},
            },
            "io.k8s.api.x.v1.Unused": {"type": "string"},
        }
    }
    (name, schema), *others = schemas.schemas(document).items()
    assert (name, others) == ("a-x-v1", [])
    assert schema["definitions"].keys() == {"io.k8s.api.x.v1.A", "io.k8s.api.x.v1.B"}
    assert all(each["additionalProperties"] is False for each in schema["definitions"].values())
