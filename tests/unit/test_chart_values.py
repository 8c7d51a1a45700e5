"""What the chart refuses, and in which words."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from tests.golden.chart import rendering


def schemas(schema: Any) -> Any:
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        for item in schema.values():
            yield from schemas(item)
    elif isinstance(schema, list):
        for item in schema:
            yield from schemas(item)


@pytest.mark.parametrize(
    ("argument", "where", "words"),
    [
        ("artefactStore.uri=s3://bucket/prefix", "", "additional properties 'artefactStore' not allowed"),
        ("worker.image.tags=x", "/worker/image", "additional properties 'tags' not allowed"),
        ("compilers.neurone.backoffLimit=1", "/compilers", "additional properties 'neurone' not allowed"),
        ("compilers.neuron.instanceTypes={m6i.large}", "/compilers/neuron/instanceTypes/0", "does not match pattern"),
        (
            "compilers.torchscript.job.image=x",
            "/compilers/torchscript/job",
            "additional properties 'image' not allowed",
        ),
        ("crds.enabled=perhaps", "/crds/enabled", "got string, want boolean"),
        ("watchNamespaces=team-a", "/watchNamespaces", "got string, want array"),
        ("concurrentReconciles=many", "/concurrentReconciles", "got string, want integer"),
        ("concurrentReconciles=0", "/concurrentReconciles", "minimum: got 0, want 1"),
        ("logLevel=TRACE", "/logLevel", "value must be one of 'DEBUG', 'INFO', 'WARNING', 'ERROR'"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy", "value must be one of 'Always', 'IfNotPresent', 'Never'"),
        ("image.digest=sha256:12", "/image/digest", "does not match pattern"),
        ("worker.image.tag=1.0", "/worker/image/tag", "got number, want string"),
        ("artifactStore.uri=https://bucket", "/artifactStore/uri", "does not match pattern"),
        ("artifactStore.endpoint=host:9000", "/artifactStore/endpoint", "does not match pattern"),
        ("resources.limits.memory=1GB", "/resources/limits/memory", "does not match pattern"),
        ("trust={RemoteCode,Everything}", "/trust/1", "value must be one of 'RemoteCode', 'PickleWeights'"),
        ("worker.proxy.https=http://user:word@proxy:3128", "/worker/proxy/https", "does not match pattern"),
        ("huggingFace.endpoint=hub.example.com", "/huggingFace/endpoint", "does not match pattern"),
        ("global.imageRegistry=https://registry", "/global/imageRegistry", "does not match pattern"),
        ("networkPolicy.store.cidrs={10.0.0.1}", "/networkPolicy/store/cidrs/0", "does not match pattern"),
        ("networkPolicy.serving.from[0].pod=x", "/networkPolicy/serving/from/0", "additional properties 'pod'"),
        ("podDisruptionBudget.maxUnavailable=all", "/podDisruptionBudget/maxUnavailable", "does not match pattern"),
        ("watchNamespaces={a,a}", "/watchNamespaces", "items at 0 and 1 are equal"),
    ],
)
def test_schema_names_the_value_and_what_is_wrong_with_it(argument: str, where: str, words: str) -> None:
    # --set-json for the one value that --set would make a string of.
    flag = ("--set-json", argument) if argument.endswith("tag=1.0") else ("--set", argument)
    said = rendering.refusal(*flag)
    assert f"at '{where}': " in said
    assert words in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("artifactStore.uri=s3://bucket/prefix", "artifactStore.persistentVolumeClaim.claimName=claim"),
            "artifactStore: give uri or persistentVolumeClaim.claimName, not both",
        ),
        (
            ("artifactStore.endpoint=http://host",),
            "artifactStore: endpoint, region and credentialsSecret.name go with uri, which is empty",
        ),
        (("artifactStore.persistentVolumeClaim.path=x",), "path goes with persistentVolumeClaim.claimName"),
        (
            ("artifactStore.persistentVolumeClaim.claimName=x", "artifactStore.persistentVolumeClaim.path=../y"),
            "path must not contain '..'",
        ),
        (
            ("worker.proxy.secretName=proxy", "worker.proxy.https=http://proxy:3128"),
            "worker.proxy: give secretName or the URLs, not both",
        ),
        (("worker.serviceAccount.name=default",), "set create to false to use it"),
        (("serviceAccount.name=same", "worker.serviceAccount.name=same"), "must not share the operator's account same"),
        (
            ("worker.serviceAccount.create=false", "worker.serviceAccount.namespaces={a}"),
            "namespaces goes with create or with a name",
        ),
        (("extraEnv[0].name=TSM_SETTINGS",), "extraEnv: TSM_SETTINGS is set twice, or by the chart itself"),
        (("extraEnv[0].name=A", "extraEnv[1].name=A"), "extraEnv: A is set twice"),
    ],
)
def test_values_that_do_not_go_together_are_refused(arguments: tuple[str, ...], words: str) -> None:
    said = rendering.refusal(*(part for each in arguments for part in ("--set", each)))
    assert words in said


def test_schema_is_strict_everywhere() -> None:
    free = {
        "global",
        "valueFrom",
        "affinity",
        "topologySpreadConstraints",
        "podSelector",
        "namespaceSelector",
        "egress",
        "test.artifact",
    }
    schema = json.loads((rendering.CHART / "values.schema.json").read_text())
    loose = [each for each in schemas(schema) if "additionalProperties" not in each]
    assert len(loose) == len(free)
    assert all("not read" in each["description"] or "Kubernetes checks it" in each["description"] for each in loose)


def test_schema_knows_every_value() -> None:
    schema = json.loads((rendering.CHART / "values.schema.json").read_text())

    def walk(value: Any, described: Any, path: str) -> None:
        if "$ref" in described:
            described = schema["definitions"][described["$ref"].rpartition("/")[2]]
        assert "type" in described, path
        if isinstance(value, dict) and "properties" in described:
            assert value.keys() <= described["properties"].keys(), path
            for key, item in value.items():
                walk(item, described["properties"][key], f"{path}.{key}")

    walk(yaml.safe_load((rendering.CHART / "values.yaml").read_text()), schema, "")


def test_full_case_sets_every_value_differently() -> None:
    default = yaml.safe_load((rendering.CHART / "values.yaml").read_text())
    full = yaml.safe_load((rendering.GOLDEN / "full.values.yaml").read_text())
    elsewhere = {
        "watchNamespaces",  # the scoped case
        "artifactStore.persistentVolumeClaim",  # the scoped case
        "image.tag",  # a digest makes it irrelevant
        "rbac",  # the no-crds case
        "worker.proxy.secretName",  # the scoped case
    }

    def same(one: Any, other: Any, path: str) -> list[str]:
        if isinstance(one, dict) and one and path not in elsewhere:
            given = other or {}
            return [found for key in one for found in same(one[key], given.get(key), f"{path}.{key}".lstrip("."))]
        return [path] if other is None or one == other else []

    assert set(same(default, full, "")) - set(switches()) == elsewhere


def switches() -> dict[str, bool]:
    """Every value that is on or off, by path."""

    def walk(value: Any, path: str) -> Any:
        if isinstance(value, dict):
            for key, item in value.items():
                yield from walk(item, f"{path}.{key}".lstrip("."))
        elif isinstance(value, bool):
            yield path, value

    return dict(walk(yaml.safe_load((rendering.CHART / "values.yaml").read_text()), ""))


@pytest.mark.parametrize("switch", switches())
def test_every_switch_is_on_in_one_snapshot_and_off_in_another(switch: str) -> None:
    seen = set()
    for case in rendering.CASES:
        path = rendering.GOLDEN / f"{case}.values.yaml"
        value: Any = yaml.safe_load(path.read_text()) if path.exists() else {}
        for key in switch.split("."):
            value = value.get(key, {}) if isinstance(value, dict) else {}
        seen.add(value if isinstance(value, bool) else switches()[switch])
    assert seen == {True, False}


def test_as_a_part_of_another_chart_global_values_are_let_through() -> None:
    rendering.objects("--set", "global.anything=here")


def test_a_removed_default_limit_stays_away() -> None:
    items = rendering.objects("--set-json", "compilers.torchscript.job.resources.limits=null")
    compiler = rendering.settings_of(items)["compilers"]["torchscript"]
    assert compiler["job"]["resources"] == {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {}}


def test_long_release_names_stay_within_their_limit() -> None:
    done = rendering.helm("template", "r" * 53, str(rendering.CHART), "--set", "crds.enabled=false")
    assert done.returncode == 0, done.stderr
    names = [item["metadata"]["name"] for item in yaml.safe_load_all(done.stdout) if item]
    assert max(map(len, names)) <= 63


def test_every_value_is_explained_in_the_readme() -> None:
    rows = re.findall(
        r"^\| (\S+) \| \S+ \| .* \| (\S.*) \|$", (rendering.CHART / "README.md").read_text(), re.MULTILINE
    )
    explained = {key for key, _ in rows}

    def leaves(value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, dict) and value:
            for key, item in value.items():
                yield from leaves(item, (*path, key))
        else:
            yield path

    for leaf in leaves(yaml.safe_load((rendering.CHART / "values.yaml").read_text()), ()):
        paths = {".".join(leaf[:depth]) for depth in range(1, len(leaf) + 1)}
        assert paths & explained, ".".join(leaf)
