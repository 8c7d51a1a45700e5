"""The CustomResourceDefinition that the types generate. What the API server makes of it is in tests/integration."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from torchscript_operator.api import crd

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "crds/torchscriptmodels.yaml"
MAXIMUM_BYTES = 262_144
"""kubectl apply keeps a whole object in one annotation of at most this size."""


def schemas(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema with its path."""
    yield path, value
    for name, item in value.get("properties", {}).items():
        yield from schemas(item, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(value.get(key), dict):
            yield from schemas(value[key], f"{path}[]")


def root() -> dict[str, Any]:
    (version,) = crd.build()["spec"]["versions"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return schema


EVERY = dict(schemas(root()))
SPEC = {path: schema for path, schema in EVERY.items() if path.startswith(".spec")}


def test_file_is_what_the_types_generate() -> None:
    assert FILE.read_text() == crd.render(), "run `make generate`"


def test_file_is_small_enough_for_kubectl_apply() -> None:
    assert len(FILE.read_bytes()) < MAXIMUM_BYTES


def test_file_has_no_anchors() -> None:
    assert "&id" not in FILE.read_text()


def test_numbers_in_quotes_stay_strings_for_every_parser() -> None:
    assert yaml.dump(["1e-4", "text"], Dumper=crd._Dumper) == "- '1e-4'\n- text\n"


def test_file_reads_back_as_it_was_built() -> None:
    assert yaml.safe_load(FILE.read_text()) == crd.build()


def test_every_schema_is_structural() -> None:
    foreign = {"$ref", "anyOf", "title", "nullable"}
    assert [path for path, schema in EVERY.items() if foreign & schema.keys()] == []
    untyped = [path for path, schema in EVERY.items() if "type" not in schema]
    assert [path for path in untyped if "x-kubernetes-int-or-string" not in EVERY[path]] == []


def test_lists_of_the_spec_are_bounded() -> None:
    lists = {path: schema for path, schema in SPEC.items() if schema.get("type") == "array"}
    assert [path for path, schema in lists.items() if "maxItems" not in schema] == []


def test_strings_of_the_spec_are_bounded() -> None:
    texts = {path: schema for path, schema in SPEC.items() if schema.get("type") == "string" and "enum" not in schema}
    assert [path for path, schema in texts.items() if "maxLength" not in schema] == []


def test_api_has_no_floats() -> None:
    assert [path for path, schema in EVERY.items() if schema.get("type") == "number"] == []


def test_rules_say_something_in_one_style() -> None:
    for rule in [rule for schema in EVERY.values() for rule in schema.get("x-kubernetes-validations", [])]:
        assert len(rule["message"]) > 20
        assert not rule["message"].endswith(".")


def test_conditions_are_a_map_by_type() -> None:
    found = EVERY[".status.conditions"]
    assert found["x-kubernetes-list-map-keys"] == ["type"]


def test_field_of_several_types_is_refused() -> None:
    with pytest.raises(ValueError, match="one type"):
        crd.structural({"anyOf": [{"type": "string"}, {"type": "integer"}]}, {})
