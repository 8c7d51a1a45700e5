"""The part of the CRD that only the API server checks, checked here: CEL rules, unique list keys, quantities."""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cel_expr_python import cel

from torchscript_operator.api import crd
from torchscript_operator.api.v1alpha1.base import VALIDATIONS
from torchscript_operator.cli.documents import Path

Json = Any
"""A value as JSON knows it."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a file."""

    path: Path
    message: str
    """What is wrong and what to do, without the path."""


@functools.cache
def schema() -> dict[str, Any]:
    """The schema that the API server holds objects against."""
    version = crd.build()["spec"]["versions"][0]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return found


def schema_at(path: Path) -> dict[str, Any] | None:
    """The schema of the value at a path, None where the API has no such field."""
    found: dict[str, Any] | None = schema()
    for step in path:
        if found is None:
            return None
        additional = found.get("additionalProperties")
        found = found.get("items") if isinstance(step, int) else found.get("properties", {}).get(step, additional)
    return found


def check(value: Json) -> list[Problem]:
    """What the rules refuse of a whole object; its types have to be right already, and its defaults filled in."""
    return list(_check(value, schema(), ()))


def _check(value: Json, at: dict[str, Any], path: Path) -> Iterator[Problem]:
    for rule in at.get(VALIDATIONS, ()):
        if (found := _refusal(rule, value)) is not None:
            yield Problem(path, found)
    if isinstance(value, dict):
        for name, item in value.items():
            inner = at.get("properties", {}).get(name, at.get("additionalProperties"))
            if isinstance(inner, dict) and name != "status":
                yield from _check(item, inner, (*path, name))
    elif isinstance(value, list):
        yield from _repeated(value, at, path)
        for index, item in enumerate(value):
            yield from _check(item, at.get("items", {}), (*path, index))
    elif at.get("x-kubernetes-int-or-string") and not re.search(at.get("pattern", ""), str(value)):
        yield Problem(path, f"{value!r} is no quantity such as 500m, 2 or 4Gi")


def _refusal(rule: dict[str, str], value: Json) -> str | None:
    result = _program(rule["rule"]).eval(data={"self": value})
    if result.type() == cel.Type.ERROR:
        return f"{rule['message']} (the rule cannot be evaluated: {result.value()})"
    return None if result.value() is True else rule["message"]


@functools.cache
def _program(expression: str) -> cel.Expression:
    return _environment().compile(expression)


@functools.cache
def _environment() -> cel.Env:
    return cel.NewEnv(variables={"self": cel.Type.DYN})


def _repeated(items: list[Json], at: dict[str, Any], path: Path) -> Iterator[Problem]:
    keys = at.get("x-kubernetes-list-map-keys", ())
    seen: dict[tuple[Any, ...], int] = {}
    for index, item in enumerate(items if keys else ()):
        identity = tuple(item.get(key) for key in keys)
        if identity in seen:
            named = ", ".join(f"{key} {value!r}" for key, value in zip(keys, identity, strict=True))
            yield Problem((*path, index), f"has the same {named} as the item {seen[identity]} before it: rename one")
        seen.setdefault(identity, index)
