"""The CustomResourceDefinition, made from the pydantic types: `python -m torchscript_operator.api.crd > crds/…yaml`."""

import sys
from typing import Any

import yaml

from torchscript_operator.api.v1alpha1 import (
    CATEGORY,
    GROUP,
    KIND,
    PLURAL,
    SHORT_NAME,
    SINGULAR,
    VERSION,
    TorchScriptModelSpec,
    TorchScriptModelStatus,
)
from torchscript_operator.api.v1alpha1.base import VALIDATIONS, rule

MAXIMUM_NAME_LENGTH = 40
"""Longest model name in characters: child names add a target or a stage and a hash, and end at 63."""

VERBATIM = frozenset({"enum", "required", VALIDATIONS})
"""Keywords whose values are no schemas."""

COLUMNS: tuple[dict[str, Any], ...] = (
    {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'},
    {"name": "Reason", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].reason'},
    {"name": "Parity", "type": "string", "jsonPath": '.status.conditions[?(@.type=="ParityVerified")].status'},
    {
        "name": "Served",
        "type": "string",
        "description": "Digests that answer requests.",
        "jsonPath": ".status.serving.targets[*].active.artifact.digest",
        "priority": 1,
    },
    {"name": "Replicas", "type": "integer", "jsonPath": ".status.serving.readyReplicas"},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
)


def _optional(schema: dict[str, Any]) -> dict[str, Any]:
    """An optional field without its null: absent and null are one in Kubernetes."""
    rest = {key: value for key, value in schema.items() if key not in {"anyOf", "default"}}
    if schema.get("default") is not None:
        rest["default"] = schema["default"]
    if rest.get("x-kubernetes-int-or-string"):
        return rest
    choices = [choice for choice in schema["anyOf"] if choice.get("type") != "null"]
    if len(choices) != 1:
        msg = f"a structural schema has one type, not {schema['anyOf']}"
        raise ValueError(msg)
    return {**choices[0], **rest}


def _without_nulls(value: Any) -> Any:
    """A default as the API server takes it."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _keyword(key: str, value: Any, definitions: dict[str, Any]) -> Any:
    if key == "properties":
        return {name: structural(item, definitions) for name, item in value.items()}
    if key == "default":
        return _without_nulls(value)
    return value if key in VERBATIM else structural(value, definitions)


def structural(schema: Any, definitions: dict[str, Any]) -> Any:
    """Turn pydantic's JSON Schema into a structural schema: references inlined, optional fields without null.

    Raises ValueError for a field of several types.
    """
    if isinstance(schema, list):
        return [structural(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        target = definitions[schema["$ref"].rpartition("/")[2]]
        return structural({**target, **{key: value for key, value in schema.items() if key != "$ref"}}, definitions)
    if "anyOf" in schema:
        return structural(_optional(schema), definitions)
    result: dict[str, Any] = {
        key: _keyword(key, value, definitions)
        for key, value in schema.items()
        if key != "title" and not (key == "additionalProperties" and isinstance(value, bool))
    }
    if "description" in result:
        result["description"] = " ".join(result["description"].split())
    return result


def schema_of(model: type[TorchScriptModelSpec | TorchScriptModelStatus]) -> dict[str, Any]:
    """The structural schema of one of the two halves of the resource."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    definitions = schema.pop("$defs", {})
    result: dict[str, Any] = structural(schema, definitions)
    return result


def build() -> dict[str, Any]:
    """The whole CustomResourceDefinition."""
    schema: dict[str, Any] = {
        "type": "object",
        "description": "A Transformers model that is compiled to TorchScript, proven against eager, and served.",
        "required": ["spec"],
        VALIDATIONS: [
            rule(
                f"self.metadata.name.size() <= {MAXIMUM_NAME_LENGTH}"
                " && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
                "metadata.name must be at most 40 lower-case letters, digits and hyphens, and start with a letter:"
                " it names the model's Service",
            ),
            rule(
                "self.spec.targets.all(target, self.metadata.name.size() + target.name.size() <= 62)",
                "metadata.name and a target's name together must not exceed 62 characters",
            ),
        ],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": schema_of(TorchScriptModelSpec),
            "status": schema_of(TorchScriptModelStatus),
        },
    }
    # kstatus calls an object without conditions current; until the operator has spoken, it is not.
    schema["properties"]["status"]["default"] = {
        "conditions": [
            {
                "type": "Ready",
                "status": "Unknown",
                "reason": "NotReconciled",
                "message": "The operator has not seen this model yet.",
                "lastTransitionTime": "1970-01-01T00:00:00Z",
            }
        ]
    }
    targets = schema["properties"]["spec"]["properties"]["targets"]
    targets |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": SINGULAR,
                "shortNames": [SHORT_NAME],
                "categories": [CATEGORY],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": list(COLUMNS),
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.serving.replicas",
                            "statusReplicasPath": ".status.serving.replicas",
                            "labelSelectorPath": ".status.serving.selector",
                        },
                    },
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


class _Dumper(yaml.SafeDumper):
    """Quotes strings that other YAML parsers take for numbers: 1e-4 is a string to PyYAML and a float to Go."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 -- the signature is PyYAML's
        """Write repeated parts out: people and simple parsers read no anchors."""
        return True


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    try:
        float(text)
    except ValueError:
        return dumper.represent_str(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'")


_Dumper.add_representer(str, _represent)


def render() -> str:
    """The definition as YAML, with a line that says where it comes from."""
    return "# Generated from operator/torchscript_operator/api by `make generate`; do not edit.\n" + yaml.dump(
        build(), Dumper=_Dumper, sort_keys=False, width=120
    )


if __name__ == "__main__":
    sys.stdout.write(render())
