"""examples/gitops/kustomize, built by the real kustomize: names, images, replicas and lists follow overlays."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.cluster.paths import binary
from torchscript_operator.api import crd
from torchscript_operator.api.v1alpha1 import API_VERSION, KIND, TorchScriptModelSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

Json = dict[str, Any]
FOLDER = Path(__file__).resolve().parents[2] / "examples/gitops/kustomize"
SCHEMA = crd.schema_of(TorchScriptModelSpec)


def build(folder: Path) -> list[Json]:
    done = subprocess.run(
        [str(binary("kubectl")), "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def models(built: list[Json]) -> dict[str, Json]:
    return {body["metadata"]["name"]: body for body in built if body["kind"] == KIND}


def walk(schema: Json, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Json]]:
    """Every field of the spec; a list's items are at `[]`."""
    for name, field in schema.get("properties", {}).items():
        yield (*path, name), field
        yield from walk(field, (*path, name))
    if "items" in schema:
        yield from walk(schema["items"], (*path, "[]"))


OWN_NAMES = {("targets", "[]", "name")}
"""Names that are no other object's."""


def kind_of(path: tuple[str, ...]) -> str:
    """Kind of the object that a field names; a KeyError for a new one that nobody has thought of."""
    field = path[-2] if path[-1] == "name" else path[-1]
    if "secret" in field.lower():
        return "Secret"
    return {"configMap": "ConfigMap", "clientAuthority": "Secret", "claimName": "PersistentVolumeClaim"}[field]


def referring() -> list[tuple[tuple[str, ...], str]]:
    """Paths of all names of other objects in the schema, and these objects' kinds."""
    named = [path for path, _ in walk(SCHEMA) if path[-1] == "name" or path[-1].endswith("Name")]
    return [(path, kind_of(path)) for path in named if path not in OWN_NAMES]


IMAGES = [path for path, _ in walk(SCHEMA) if path[-1] == "image"]
LISTS = [
    path
    for path, field in walk(crd.build()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"])
    if field.get("x-kubernetes-list-type") == "map"
]


def holding(path: tuple[str, ...], value: Any) -> Any:
    """A spec with nothing but one field."""
    if not path:
        return value
    rest = holding(path[1:], value)
    return [{"name": "cpu", **rest}] if path[0] == "[]" else {path[0]: rest}


def at(body: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        body = body[0] if key == "[]" else body[key]
    return body


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder beside the components."""
    for component in ("torchscript", "torchscript-lists"):
        shutil.copytree(FOLDER / component, tmp_path / component)
    (tmp_path / "site").mkdir()
    return tmp_path / "site"


def write(site: Path, resources: list[Json], **fields: Any) -> None:
    (site / "resources.yaml").write_text(yaml.safe_dump_all(resources))
    body = {"resources": ["resources.yaml"], "components": ["../torchscript"], **fields}
    (site / "kustomization.yaml").write_text(yaml.safe_dump(body))


def model(name: str, spec: Json) -> Json:
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}


def test_schema_has_the_fields_that_the_component_is_for() -> None:
    assert {kind for _, kind in referring()} == {"Secret", "ConfigMap", "PersistentVolumeClaim"}
    assert len(IMAGES) > 1
    assert LISTS == [("targets",)]


def test_every_name_in_a_model_follows_the_renamed_object(site: Path) -> None:
    paths = referring()
    kinds = sorted({kind for _, kind in paths})
    others = [{"apiVersion": "v1", "kind": kind, "metadata": {"name": "thing"}} for kind in kinds]
    given = [model(f"m{place}", holding(path, "thing")) for place, (path, _) in enumerate(paths)]
    write(site, [*others, *given], namePrefix="team-")
    built = models(build(site))
    assert {path: at(built[f"team-m{place}"]["spec"], path) for place, (path, _) in enumerate(paths)} == {
        path: "team-thing" for path, _ in paths
    }


def test_every_image_in_a_model_follows_the_images_of_a_kustomization(site: Path) -> None:
    given = [model(f"m{place}", holding(path, "worker:1")) for place, path in enumerate(IMAGES)]
    write(site, given, images=[{"name": "worker", "newName": "registry.example.com/worker", "newTag": "2"}])
    built = models(build(site))
    found = {at(built[f"m{place}"]["spec"], path) for place, path in enumerate(IMAGES)}
    assert found == {"registry.example.com/worker:2"}


def test_what_points_at_a_models_service_follows_the_model(site: Path) -> None:
    backend = {"service": {"name": "minilm", "port": {"number": 80}}}
    paths = [{"path": "/", "pathType": "Prefix", "backend": backend}]
    ingress = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "models"},
        "spec": {"defaultBackend": backend, "rules": [{"http": {"paths": paths}}]},
    }
    route = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "models"},
        "spec": {"rules": [{"backendRefs": [{"name": "minilm", "port": 80}]}]},
    }
    scaler = {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": "models"},
        "spec": {"scaleTargetRef": {"apiVersion": API_VERSION, "kind": KIND, "name": "minilm"}},
    }
    write(site, [model("minilm", {}), ingress, route, scaler], nameSuffix="-blue")
    built = {body["kind"]: body["spec"] for body in build(site)}
    assert built["Ingress"]["defaultBackend"]["service"]["name"] == "minilm-blue"
    assert built["Ingress"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"] == "minilm-blue"
    assert built["HTTPRoute"]["rules"][0]["backendRefs"][0]["name"] == "minilm-blue"
    assert built["ScaledObject"]["scaleTargetRef"]["name"] == "minilm-blue"


def test_patch_changes_targets_by_their_name(site: Path) -> None:
    spec = {"targets": [{"name": "cpu", "precision": "auto"}, {"name": "inf1", "compiler": "neuron"}]}
    patch = yaml.safe_dump(model("minilm", {"targets": [{"name": "cpu", "precision": "int8"}]}))
    write(site, [model("minilm", spec)], patches=[{"patch": patch}], components=["../torchscript-lists"])
    assert models(build(site))["minilm"]["spec"]["targets"] == [
        {"name": "cpu", "precision": "int8"},
        {"name": "inf1", "compiler": "neuron"},
    ]


def test_other_kinds_are_patched_as_without_the_component(site: Path) -> None:
    containers = [{"name": "a", "image": "a:1", "args": ["x"]}, {"name": "b", "image": "b:1"}]
    deployment: Json = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}}
    patch = {**deployment, "spec": {"template": {"spec": {"containers": [{"name": "a", "image": "a:2"}]}}}}
    given = {**deployment, "spec": {"template": {"spec": {"containers": containers}}}}
    write(site, [given], patches=[{"patch": yaml.safe_dump(patch)}])
    (built,) = build(site)
    found = {item["name"]: item for item in built["spec"]["template"]["spec"]["containers"]}
    assert found == {"a": {"name": "a", "image": "a:2", "args": ["x"]}, "b": {"name": "b", "image": "b:1"}}


@pytest.mark.parametrize("overlay", ["staging", "production"])
def test_overlay_is_a_valid_model_of_a_pinned_commit_image_and_samples(overlay: str) -> None:
    built = build(FOLDER / "overlays" / overlay)
    body = models(built)["minilm"]
    spec = TorchScriptModelSpec.model_validate(body["spec"])
    assert spec.source.hugging_face is not None
    assert len(spec.source.hugging_face.revision) == 40
    assert all("@sha256:" in (target.job.image or "") for target in spec.targets if target.compiler == "torchscript")
    (samples,) = [item["metadata"]["name"] for item in built if item["kind"] == "ConfigMap"]
    assert spec.inputs.samples is not None
    assert spec.inputs.samples.config_map is not None
    assert spec.inputs.samples.config_map.name == samples != "samples"
    assert {item["metadata"]["namespace"] for item in built} == {f"models-{overlay}"}


def test_production_adds_a_target_and_replicas_to_what_staging_proved() -> None:
    staging, production = (
        models(build(FOLDER / "overlays" / name))["minilm"]["spec"] for name in ("staging", "production")
    )
    assert [target["name"] for target in staging["targets"]] == ["cpu"]
    assert [target["name"] for target in production["targets"]] == ["cpu", "inf1"]
    assert production["serving"]["replicas"] == 3


def test_promotion_is_a_copy_of_one_file(tmp_path: Path) -> None:
    site = shutil.copytree(FOLDER, tmp_path / "kustomize")
    before = models(build(site / "overlays/production"))["minilm"]["spec"]
    shutil.copy(site / "overlays/staging/revision.yaml", site / "overlays/production/revision.yaml")
    after = models(build(site / "overlays/production"))["minilm"]["spec"]
    proven = models(build(site / "overlays/staging"))["minilm"]["spec"]["source"]
    assert before["source"] != after["source"] == proven
    assert {**before, "source": None} == {**after, "source": None}
