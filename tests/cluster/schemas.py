"""JSON schemas of Kubernetes' own objects, one folder per release, for kubeconform: a check needs no network.

They are made of the OpenAPI document in Kubernetes' own source, a Go module like everything else here, and kept outside
the checkout.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.cluster import binaries

Json = dict[str, Any]

RELEASES = {
    "v1.33.13": "h1:bmH31xUdSzeA5vk0wZAK9MZp11mdLuzUSeKk0qN3hPQ=",
    "v1.34.4": "h1:Yy6R4QB8C9kJPp25GFqEvX5XQwY5qzKeqD0Xx6oAcmk=",
    "v1.35.4": "h1:o/8dBC/pHVpYoGV4OAIytAlNPZbdYVTXJHoYvXC4qzM=",
    "v1.36.3": "h1:qDQdoMiluAE2Eab6Fa52YV+WjiGz9mZFFoagEA6cI+o=",
}
"""The newest patch of each minor release that is served, and the checksum of its module."""

MODULE = "k8s.io/kubernetes"
DOCUMENT = "api/openapi-spec/swagger.json"
LOCATION = "{{.ResourceKind}}{{.KindSuffix}}.json"
"""kubeconform's name of a schema's file inside a folder."""
TWO_TYPES = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": ["string", "integer"]},
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": ["string", "number"]},
}
"""What the document, whose format knows only one type, calls a string."""
REFERENCE = "#/definitions/"


def cache() -> Path:
    """Outside the checkout."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "torchscript-operator" / "schemas"


def folder(release: str) -> Path:
    """The folder of a release's schemas, made when it is not there (two seconds). BuildError, or KeyError."""
    checksum = RELEASES[release]
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    target = cache() / f"{release}-{recipe}"
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            scratch = Path(tempfile.mkdtemp(prefix=f".{release}-", dir=cache()))
            try:
                for name, schema in schemas(_document(release, checksum, scratch / "modules")).items():
                    (scratch / f"{name}.json").write_text(json.dumps(schema))
                shutil.rmtree(scratch / "modules")
                scratch.rename(target)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return target


def _document(release: str, checksum: str, modules: Path) -> Json:
    """Fetch the OpenAPI document; the module goes to a cache of its own, as it is big and read once."""
    environment = os.environ | {"GOMODCACHE": str(modules), "GOFLAGS": "-modcacherw"}
    command = [binaries.go(), "mod", "download", "-json", f"{MODULE}@{release}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout or "{}")
    if done.returncode or found.get("Sum") != checksum:
        msg = f"{MODULE} {release}: {found.get('Error') or done.stderr or found.get('Sum') + ' is another checksum'}"
        raise binaries.BuildError(msg)
    document: Json = json.loads((Path(found["Dir"]) / DOCUMENT).read_text())
    return document


def schemas(document: Json) -> dict[str, Json]:
    """kubeconform's name of a kind, such as `deployment-apps-v1`, to its strict schema."""
    definitions = {name: _strict(name, schema) for name, schema in document["definitions"].items()}
    found: dict[str, Json] = {}
    for name, schema in definitions.items():
        kinds = schema.get("x-kubernetes-group-version-kind", [])
        if len(kinds) == 1:  # DeleteOptions and the like are in every group, and in no file
            (kind,) = kinds
            used = sorted(_closure(name, definitions))
            parts = [kind["kind"], *kind["group"].split(".")[:1], kind["version"]]
            found["-".join(filter(None, parts)).lower()] = {
                "$ref": f"{REFERENCE}{name}",
                "definitions": {each: definitions[each] for each in used},
            }
    return found


def _strict(name: str, schema: Json) -> Json:
    """A definition that refuses unknown fields, as the API server does with fieldValidation=Strict."""
    if name in TWO_TYPES:
        return TWO_TYPES[name]
    if "properties" in schema and "additionalProperties" not in schema:
        return {**schema, "additionalProperties": False}
    return schema


def _closure(name: str, definitions: dict[str, Json]) -> set[str]:
    """A definition and all that it is made of."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        here = waiting.pop()
        if here not in seen:
            seen.add(here)
            waiting += _references(definitions[here])
    return seen


def _references(value: object) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"].removeprefix(REFERENCE)] if isinstance(value.get("$ref"), str) else []
        return own + [name for item in value.values() for name in _references(item)]
    if isinstance(value, list):
        return [name for item in value for name in _references(item)]
    return []
