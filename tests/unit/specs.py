"""Valid specs made up by Hypothesis from the CRD's own schema: whatever the API server would accept."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from torchscript_operator.api.v1alpha1.spec import TorchScriptModelSpec
from torchscript_operator.cli import rules

Json = dict[str, Any]
Path = tuple[str, ...]
MOST_ITEMS = 2
"""In a list; more of them show nothing new."""
MOST_CHARACTERS = 20
ASCII = st.characters(min_codepoint=32, max_codepoint=126)
QUANTITIES: st.SearchStrategy[Any] = st.sampled_from([1, 2, "500m", "1Gi", "2Gi", "0.5", "1e3"])
RESOURCES = st.sampled_from(["cpu", "memory", "ephemeral-storage"])
LABELS = st.dictionaries(
    st.sampled_from(["zone", "example.com/pool", "kubernetes.io/arch"]), st.sampled_from(["a", "b-1", ""]), max_size=2
)
TOLERATIONS: st.SearchStrategy[Any] = st.lists(
    st.sampled_from(
        [
            {"operator": "Exists"},
            {"key": "dedicated", "operator": "Equal", "value": "ml", "effect": "NoSchedule"},
            {"key": "dedicated", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30},
        ]
    ),
    max_size=MOST_ITEMS,
)
AFFINITIES = st.sampled_from(
    [
        {},
        {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]
                }
            }
        },
    ]
)
CPU_METRIC = {
    "type": "Resource",
    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}},
}
METRICS = st.lists(st.just(CPU_METRIC), max_size=1)
GIVEN: dict[str, st.SearchStrategy[Any]] = {
    "nodeSelector": LABELS,
    "tolerations": TOLERATIONS,
    "affinity": AFFINITIES,
    "metrics": METRICS,
}
"""What Kubernetes itself has to accept in a pod or an autoscaler; a schema alone would let nonsense through."""
ONE_OF: dict[Path, tuple[tuple[str, ...], ...]] = {
    ("source",): (("huggingFace",), ("s3",), ("persistentVolumeClaim",)),
    ("inputs", "samples"): (("texts",), ("configMap",)),
    ("artifact",): (
        ("uri", "endpoint", "region", "credentialsSecret", "deletionPolicy"),
        ("persistentVolumeClaim", "deletionPolicy"),
    ),
}
"""Fields that exclude each other: the first of each group has to be there, the rest may."""


def _text(schema: Json) -> st.SearchStrategy[str]:
    least, most = schema.get("minLength", 0), schema.get("maxLength", MOST_CHARACTERS)
    if "pattern" not in schema:
        return st.text(ASCII, min_size=least, max_size=min(most, MOST_CHARACTERS))
    found = st.from_regex(re.compile(schema["pattern"].replace("\\S", "[a-z0-9.-]"), re.ASCII), fullmatch=True)
    return found.filter(lambda text: least <= len(text) <= most and ".." not in text and "\n" not in text)


def _object(schema: Json, path: Path) -> st.SearchStrategy[Json]:
    properties = schema.get("properties")
    if properties is None:
        return st.dictionaries(RESOURCES, of(schema["additionalProperties"], path), max_size=MOST_ITEMS)
    made = {name: of(item, (*path, name)) for name, item in properties.items()}
    groups = ONE_OF.get(path)
    if groups is None:
        required = set(schema.get("required", ()))
        return st.fixed_dictionaries(
            {name: made[name] for name in made if name in required},
            optional={name: made[name] for name in made if name not in required},
        )
    return st.one_of(
        *(
            st.fixed_dictionaries({first: made[first]}, optional={name: made[name] for name in rest})
            for first, *rest in groups
        )
    )


def of(schema: Json, path: Path = ()) -> st.SearchStrategy[Any]:
    """Values that a structural schema takes."""
    if path and path[-1] in GIVEN:
        return GIVEN[path[-1]]
    if schema.get("x-kubernetes-int-or-string"):
        return QUANTITIES
    return st.sampled_from(schema["enum"]) if "enum" in schema else _of_type(schema, path)


def _of_type(schema: Json, path: Path) -> st.SearchStrategy[Any]:
    match schema["type"]:
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(schema["minimum"], schema["maximum"])
        case "string":
            return _text(schema)
        case "array":
            most = min(schema["maxItems"], MOST_ITEMS)
            return st.lists(of(schema["items"], (*path, "[]")), min_size=schema.get("minItems", 0), max_size=most)
        case _:
            return _object(schema, path)


def agreed(spec: Json) -> Json:
    """The same, where fields that rule each other out are brought into line."""
    spec = copy.deepcopy(spec)
    targets = {target["name"]: target for target in spec.get("targets", [])}
    for target in targets.values():
        if target.get("compiler", "torchscript") == "torchscript":
            target.pop("compilerArguments", None)
        elif target.get("precision") in {"int8", "auto"}:
            target["precision"] = "bfloat16"
        if target.get("precision") in {"int8", "auto"}:
            target.pop("verify", None)
    if targets:
        spec["targets"] = list(targets.values())
    serving = spec.get("serving", {})
    if "targets" in serving:
        names = list(targets or {"cpu": None})
        serving["targets"] = list(dict.fromkeys(names[len(name) % len(names)] for name in serving["targets"]))
    scaling = serving.get("autoscaling", {})
    if scaling.get("minReplicas", 1) > scaling.get("maxReplicas", 1000):
        scaling["maxReplicas"] = scaling["minReplicas"]
    return spec


def filled(spec: Json) -> Json:
    """With its defaults, as the API server stores it. Raises pydantic.ValidationError."""
    parsed = TorchScriptModelSpec.model_validate_json(json.dumps(spec), strict=True, by_alias=True, by_name=False)
    return parsed.model_dump(mode="json", by_alias=True, exclude_none=True)


def is_valid(spec: Json) -> bool:
    """Whether the API server would take it."""
    return not rules.check({"metadata": {"name": "minilm", "namespace": "ml"}, "spec": filled(spec)})


SCHEMA: Json = rules.schema()["properties"]["spec"]


@st.composite
def specs(draw: st.DrawFn) -> Json:
    """Any spec that the API server takes."""
    spec = agreed(draw(of(SCHEMA)))
    assume(is_valid(spec))
    return spec


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values that hold no other."""
    items = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    return [leaf for key, item in items for leaf in leaves(item, (*path, key))] or [path]


def changed(before: Json, after: Json) -> set[Path]:
    """Paths of what differs between two specs with their defaults, indices of lists left out."""

    def at(value: Any, path: tuple[Any, ...]) -> Any:
        for step in path:
            inside = isinstance(value, dict) or (
                isinstance(value, list) and isinstance(step, int) and step < len(value)
            )
            value = (value.get(step) if isinstance(value, dict) else value[step]) if inside else None
        return value

    one, other = filled(before), filled(after)
    paths = {*leaves(one), *leaves(other)}
    return {tuple(step for step in path if isinstance(step, str)) for path in paths if at(one, path) != at(other, path)}


@st.composite
def edits(draw: st.DrawFn) -> tuple[Json, Json]:
    """A spec, and the same with one part taken from another."""
    before, other = draw(specs()), draw(specs())
    part = draw(st.sampled_from(leaves(other)))[: draw(st.integers(1, 4))]
    after = copy.deepcopy(before)
    target, source = after, other
    for step in part[:-1]:
        source = source[step]
        if isinstance(target, list):
            assume(step < len(target))
            target = target[step]
        else:
            target = target.setdefault(step, copy.deepcopy(source))
    last = part[-1]
    if isinstance(target, list):
        target[last : last + 1] = [copy.deepcopy(source[last])]
    else:
        target[last] = copy.deepcopy(source[last])
    exclusive = ONE_OF.get(tuple(step for step in part[:-1] if isinstance(step, str)))
    if exclusive and isinstance(target, dict):
        kept = next((group for group in exclusive if last in group), ())
        for name in [name for name in target if name not in kept]:
            del target[name]
    after = agreed(after)
    assume(is_valid(after) and filled(before) != filled(after))
    return before, after
