"""What the API server itself makes of the CRD: what it takes, what it refuses and how it says so, and what it shows."""

from typing import Any

import pytest
import yaml

from tests.cluster.controlplane import ControlPlane
from tests.cluster.kubectl import KubectlError
from tests.integration.harness import ROOT, Api, Models, Refused
from tests.reader import Reader

S3 = {"s3": {"uri": "s3://models/minilm"}}
HUB = {"huggingFace": {"repository": "a/b"}}
TARGET = {"name": "cpu"}

VALID: dict[str, dict[str, Any]] = {
    "least": {},
    "hub": {"source": {"huggingFace": {"repository": "sentence-transformers/all-MiniLM-L6-v2", "revision": "v1"}}},
    "hub without owner": {"source": {"huggingFace": {"repository": "gpt2"}}},
    "volume": {"source": {"persistentVolumeClaim": {"claimName": "models", "path": "a/b"}}},
    "root of a volume": {"source": {"persistentVolumeClaim": {"claimName": "models"}}},
    "bucket without prefix": {"source": {"s3": {"uri": "s3://models"}}},
    "several targets": {"targets": [{"name": "one"}, {"name": "two"}], "serving": {"targets": ["two"]}},
    "nothing served": {"serving": {"targets": []}},
    "no replicas": {"serving": {"replicas": 0}},
    "scientific tolerance": {"parity": {"absoluteTolerance": "1.5e-05", "minimumCosineSimilarity": "1.0"}},
    "integer quantity": {"serving": {"resources": {"limits": {"cpu": 2, "memory": "1.5Gi"}}}},
    "deletion of artifacts": {"artifact": {"uri": "s3://models", "deletionPolicy": "Delete"}},
    "autoscaling beside replicas": {"serving": {"replicas": 2, "autoscaling": {"maxReplicas": 3}}},
    "no history": {"revisionHistoryLimit": 0},
    "artifact volume": {"artifact": {"persistentVolumeClaim": {"claimName": "artifacts", "path": "a"}}},
    "affinity": {"targets": [{"name": "cpu", "job": {"affinity": {"nodeAffinity": {}}}}]},
    "compiler of inf1": {"targets": [{"name": "inf1", "compiler": "neuron", "compilerArguments": ["--fast-math"]}]},
    "searched precision": {"targets": [{"name": "cpu", "precision": "auto"}]},
    "access": {"serving": {"access": {"tokenSecret": {"name": "clients", "key": "tokens"}}}},
    "certificate": {"serving": {"tls": {"secretName": "minilm-tls"}}},
    "clients' certificates": {
        "serving": {"tls": {"secretName": "minilm-tls", "clientAuthority": {"name": "clients", "key": "ca.crt"}}}
    },
    "traces": {"serving": {"tracing": {"endpoint": "http://collector:4318", "samplingRatio": "0.05"}}},
    "samples": {"inputs": {"samples": {"configMap": {"name": "samples", "key": "texts"}}}},
}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no source": ({"source": {}}, "spec.source takes exactly one of huggingFace, s3 and persistentVolumeClaim"),
    "two sources": ({"source": {**S3, **HUB}}, "spec.source takes exactly one of huggingFace, s3 and persistent"),
    "bad URI": ({"source": {"s3": {"uri": "http://models"}}}, "spec.source.s3.uri"),
    "bad bucket": ({"source": {"s3": {"uri": "s3://No_Bucket/x"}}}, "spec.source.s3.uri"),
    "bad repository": ({"source": {"huggingFace": {"repository": "a/b/c"}}}, "spec.source.huggingFace.repository"),
    "bad endpoint": ({"source": {"s3": {"uri": "s3://models", "endpoint": "minio:9000"}}}, "spec.source.s3.endpoint"),
    "parent folder": (
        {"source": {"persistentVolumeClaim": {"claimName": "c", "path": "a/../b"}}},
        "spec.source.persistentVolumeClaim.path must not contain '..'",
    ),
    "absolute path": (
        {"source": {"persistentVolumeClaim": {"claimName": "c", "path": "/a"}}},
        "spec.source.persistentVolumeClaim.path",
    ),
    "unknown task": ({"task": "poetry"}, 'Unsupported value: "poetry"'),
    "empty shape list": ({"inputs": {"shapes": []}}, "spec.inputs.shapes"),
    "shape of nothing": ({"inputs": {"shapes": [{"batch": 0, "sequence": 8}]}}, "spec.inputs.shapes[0].batch"),
    "samples of both kinds": (
        {"inputs": {"samples": {"texts": ["a"], "configMap": {"name": "c", "key": "k"}}}},
        "spec.inputs.samples takes exactly one of texts and configMap",
    ),
    "tolerance in words": ({"parity": {"absoluteTolerance": "tiny"}}, "spec.parity.absoluteTolerance"),
    "negative tolerance": ({"parity": {"relativeTolerance": "-1e-4"}}, "spec.parity.relativeTolerance"),
    "tolerance as a number": ({"parity": {"absoluteTolerance": 0.001}}, "spec.parity.absoluteTolerance"),
    "cosine above one": ({"parity": {"minimumCosineSimilarity": "1.5"}}, "spec.parity.minimumCosineSimilarity"),
    "artifact of both kinds": (
        {"artifact": {"uri": "s3://models", "persistentVolumeClaim": {"claimName": "c"}}},
        "spec.artifact takes exactly one of uri and persistentVolumeClaim",
    ),
    "artifact of no kind": ({"artifact": {}}, "spec.artifact takes exactly one of uri and persistentVolumeClaim"),
    "endpoint of a volume": (
        {"artifact": {"persistentVolumeClaim": {"claimName": "c"}, "endpoint": "http://s3"}},
        "spec.artifact.endpoint, region and credentialsSecret go with uri",
    ),
    "parent folder of artifacts": (
        {"artifact": {"persistentVolumeClaim": {"claimName": "c", "path": "../x"}}},
        "spec.artifact.persistentVolumeClaim.path must not contain '..'",
    ),
    "access without a token": ({"serving": {"access": {}}}, "spec.serving.access.tokenSecret"),
    "token without a key": (
        {"serving": {"access": {"tokenSecret": {"name": "clients"}}}},
        "spec.serving.access.tokenSecret.key",
    ),
    "TLS without a certificate": (
        {"serving": {"tls": {"clientAuthority": {"name": "c", "key": "ca.crt"}}}},
        "spec.serving.tls.secretName",
    ),
    "Secret in capitals": ({"serving": {"tls": {"secretName": "TLS"}}}, "spec.serving.tls.secretName"),
    "traces to no URL": ({"serving": {"tracing": {"endpoint": "collector:4318"}}}, "spec.serving.tracing.endpoint"),
    "traces of more than all": (
        {"serving": {"tracing": {"endpoint": "http://c:4318", "samplingRatio": "1.5"}}},
        "spec.serving.tracing.samplingRatio",
    ),
    "no target": ({"targets": []}, "spec.targets"),
    "same target twice": ({"targets": [TARGET, TARGET]}, 'spec.targets[1]: Duplicate value: {"name":"cpu"}'),
    "long target": ({"targets": [{"name": "t" * 21}]}, "spec.targets[0].name"),
    "target in capitals": ({"targets": [{"name": "CPU"}]}, "spec.targets[0].name"),
    "unknown compiler": ({"targets": [{"name": "gpu", "compiler": "cuda"}]}, 'Unsupported value: "cuda"'),
    "precision of another compiler": (
        {"targets": [{"name": "inf1", "compiler": "neuron", "precision": "int8"}]},
        "precisions int8 and auto go with the compiler torchscript",
    ),
    "unknown precision": ({"targets": [{"name": "cpu", "precision": "float8"}]}, 'Unsupported value: "float8"'),
    "arguments without a compiler": (
        {"targets": [{"name": "cpu", "compilerArguments": ["-O3"]}]},
        "compilerArguments go with neuron and neuronx; torch.jit.trace takes none",
    ),
    "verification of a search": (
        {"targets": [{"name": "cpu", "precision": "auto", "verify": {}}]},
        "verify goes with precisions float32 and bfloat16",
    ),
    "more replicas at the least than at the most": (
        {"serving": {"autoscaling": {"minReplicas": 3, "maxReplicas": 2}}},
        "spec.serving.autoscaling.minReplicas must not exceed maxReplicas",
    ),
    "autoscaling without a most": ({"serving": {"autoscaling": {}}}, "spec.serving.autoscaling.maxReplicas"),
    "long history": ({"revisionHistoryLimit": 21}, "spec.revisionHistoryLimit"),
    "served target that is none": (
        {"serving": {"targets": ["gpu"]}},
        "spec.serving.targets names a target that spec.targets does not have",
    ),
    "negative replicas": ({"serving": {"replicas": -1}}, "spec.serving.replicas"),
    "bad quantity": (
        {"serving": {"resources": {"limits": {"memory": "lots"}}}},
        "spec.serving.resources.limits.memory",
    ),
    "short deadline": ({"serving": {"progressDeadlineSeconds": 1}}, "spec.serving.progressDeadlineSeconds"),
    "image with a blank": ({"serving": {"image": "a b"}}, "spec.serving.image"),
}


@pytest.mark.parametrize("case", VALID)
def test_spec_is_taken(models: Models, case: str) -> None:
    models.create(**VALID[case])


@pytest.mark.parametrize("case", REFUSED)
def test_spec_is_refused_with_a_message_for_people(models: Models, case: str) -> None:
    spec, message = REFUSED[case]
    with pytest.raises(Refused) as caught:
        models.create(**spec)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["m" * 41, "1st", "a.b"])
def test_name_that_children_could_not_bear_is_refused(models: Models, name: str) -> None:
    with pytest.raises(Refused, match=r"metadata\.name must be at most 40"):
        models.create(name)


def test_longest_name_and_target_are_taken(models: Models) -> None:
    models.create("m" * 40, targets=[{"name": "t" * 20}])


def test_unknown_field_is_refused_by_strict_clients(plane: ControlPlane, namespace: str) -> None:
    body = {
        "apiVersion": "torchscript.dev/v1alpha1",
        "kind": "TorchScriptModel",
        "metadata": {"name": "minilm"},
        "spec": {"source": S3, "task": "feature-extraction", "servng": {"replicas": 2}},
    }
    with pytest.raises(KubectlError, match=r'unknown field "spec\.servng"'):
        plane.kubectl.run(
            "create", "--validate=strict", f"--namespace={namespace}", "--filename=-", stdin=yaml.safe_dump(body)
        )


def test_defaults_are_filled_in(models: Models) -> None:
    spec = models.create()["spec"]
    (target,) = spec["targets"]
    assert target.items() >= {"name": "cpu", "compiler": "torchscript", "precision": "float32", "job": {}}.items()
    assert spec["inputs"]["shapes"] == [{"batch": 1, "sequence": 128}, {"batch": 8, "sequence": 128}]
    assert spec["parity"]["policy"] == "Enforce"
    assert spec["serving"]["replicas"] == 1
    assert spec["suspend"] is False


def test_model_is_not_current_before_the_operator_has_spoken(models: Models) -> None:
    (found,) = models.create()["status"]["conditions"]
    assert (found["type"], found["status"]) == ("Ready", "Unknown")


def test_definition_is_structural_and_names_are_accepted(api: Api) -> None:
    found = api("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/torchscriptmodels.torchscript.dev")
    states = {item["type"]: item["status"] for item in found["status"]["conditions"]}
    assert states["NamesAccepted"] == "True"
    assert states["Established"] == "True"
    assert states.get("NonStructuralSchema") != "True"


@pytest.mark.parametrize("word", ["tsm", "torchscriptmodel", "torchscriptmodels", "torchscript"])
def test_kubectl_knows_every_name(plane: ControlPlane, models: Models, word: str) -> None:
    models.create()
    assert "minilm" in plane.kubectl.run("get", word, f"--namespace={models.namespace}")


def test_kubectl_shows_the_columns(plane: ControlPlane, models: Models) -> None:
    models.create()
    header, row = plane.kubectl.run("get", "tsm", f"--namespace={models.namespace}").splitlines()
    assert header.split() == ["NAME", "READY", "REASON", "PARITY", "REPLICAS", "AGE"]
    name, ready, reason, *_ = row.split()
    assert (name, ready in {"Unknown", "False"}, bool(reason)) == ("minilm", True, True)


def test_kubectl_scales(plane: ControlPlane, models: Models) -> None:
    models.create()
    plane.kubectl.run("scale", "tsm/minilm", "--replicas=3", f"--namespace={models.namespace}")
    assert models.get()["spec"]["serving"]["replicas"] == 3


def test_kubectl_explains_a_field(plane: ControlPlane, reader: Reader) -> None:
    assert "FIELD: spec" in reader.types("kubectl explain tsm.spec")
    assert "Enforce: an artifact that fails is never served" in plane.kubectl.run("explain", "tsm.spec.parity.policy")


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_example_is_taken(plane: ControlPlane, namespace: str, path: Any) -> None:
    plane.kubectl.run("create", "--validate=strict", f"--namespace={namespace}", f"--filename={path}")
