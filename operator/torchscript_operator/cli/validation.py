"""A TorchScriptModel checked without an API server, by the API's own types and rules, in sentences for people."""

import difflib
import json
from collections.abc import Mapping
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from torchscript_operator.api.v1alpha1 import API_VERSION, KIND, TorchScriptModelSpec
from torchscript_operator.cli import rules
from torchscript_operator.cli.documents import Document, Path
from torchscript_operator.cli.errors import CliError
from torchscript_operator.cli.rules import Problem
from torchscript_operator.controller.model import Model

TOP_LEVEL = ("apiVersion", "kind", "metadata", "spec", "status")
TOO_SHORT = "must have at least"
SHOWN_CHARACTERS = 60
"""Of a wrong value, in a message."""


def to_model(document: Document) -> Model:
    """The model of a document, as the controller sees it. CliError with every problem, each with its line."""
    body = _without_nulls(document.value)
    found = _problems(body)
    if found:
        lines = "\n".join(
            f"{document.name}:{document.line(problem.path)}: {_sentence(problem)}"
            for problem in sorted(found, key=lambda problem: document.line(problem.path))
        )
        raise CliError(lines)
    metadata = body["metadata"]
    identity = {"namespace": metadata.get("namespace", "default"), "uid": "", "generation": 1}
    return Model.parse({"metadata": {**metadata, **identity}, "spec": body["spec"]})


def _problems(body: Any) -> list[Problem]:
    """Types first, as the API server does; the rules judge only what has the right types."""
    found = _of_frame(body)
    if found:
        return found
    spec = body["spec"]
    try:
        # Strict, and by the API's names only: the API server turns no text into a number and knows no snake_case.
        parsed = TorchScriptModelSpec.model_validate_json(
            json.dumps(spec, default=str), strict=True, by_alias=True, by_name=False
        )
    except ValidationError as error:
        return _distinct([_of_type(details, spec) for details in error.errors(include_url=False)])
    filled = parsed.model_dump(mode="json", by_alias=True, exclude_none=True)
    return rules.check({"metadata": body["metadata"], "spec": filled})


def _distinct(found: list[Problem]) -> list[Problem]:
    """One problem for each value: a list is not called too short because its items are wrong."""
    first = {problem.path: problem for problem in reversed(found)}
    paths = list(first)
    return [
        problem
        for path, problem in reversed(first.items())
        if not (problem.message.startswith(TOO_SHORT) and any(other[: len(path)] == path != other for other in paths))
    ]


def _of_frame(body: Any) -> list[Problem]:
    if not isinstance(body, dict):
        return [Problem((), f"must be an object of kind {KIND}")]
    found = [Problem((name,), _unknown(name, TOP_LEVEL)) for name in body if name not in TOP_LEVEL]
    if body.get("apiVersion") != API_VERSION:
        found.append(Problem(("apiVersion",), f"must be {API_VERSION}"))
    metadata = body.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        found.append(Problem(("metadata", "name"), "is required: add a name, in quotes if it looks like a number"))
    if not isinstance(body.get("spec"), dict):
        found.append(Problem(("spec",), "is required: add spec with source and task"))
    return found


def _of_type(details: ErrorDetails, spec: Any) -> Problem:
    path, value = _path(details["loc"], spec)
    kind, context = details["type"], details.get("ctx", {})
    shown = _shown(value)
    at = rules.schema_at(path) or {}
    if at.get("x-kubernetes-int-or-string"):
        return Problem(path, f"must be a whole number or a quantity such as 500m or 4Gi in quotes, not {shown}")
    described = at.get("description", "").rstrip(".")
    message = {
        "missing": "is required: add it" + (f" ({described})" if described else ""),
        "extra_forbidden": _unknown(str(path[-1]), _fields(path[:-1])),
        "literal_error": f"must be {context.get('expected')}, not {shown}",
        "string_type": f"must be text, not {shown}" + ("" if isinstance(value, dict | list) else ": put it in quotes"),
        "int_type": f"must be a whole number, not {shown}" + _unquote(value),
        "bool_type": f"must be true or false, not {shown}" + _unquote(value),
        "model_type": f"must be an object with fields, not {shown}",
        "model_attributes_type": f"must be an object with fields, not {shown}",
        "dict_type": f"must be an object with fields, not {shown}",
        "tuple_type": f"must be a list, not {shown}: begin each item with a hyphen",
        "too_short": f"{TOO_SHORT} {context.get('min_length')} items",
        "too_long": f"must have at most {context.get('max_length')} items",
        "string_pattern_mismatch": f"{shown} does not match {context.get('pattern')}"
        + (f" ({described})" if described else ""),
    }.get(kind)
    return Problem(path, message or f"{_lower(details['msg'])}, not {shown}")


def _path(location: tuple[int | str, ...], spec: Any) -> tuple[Path, Any]:
    """The path in the document: what pydantic adds for the branches of a union is in no document."""
    path: Path = ("spec",)
    value = spec
    for index, step in enumerate(location):
        inside = (isinstance(value, dict) and step in value) or (
            isinstance(value, list) and isinstance(step, int) and step < len(value)
        )
        if not inside:
            # The last step of what is missing is no part of the document either, but of the API.
            if index == len(location) - 1 and rules.schema_at((*path, step)) is not None:
                return (*path, step), None
            return path, value
        value = cast("Any", value)[step]
        path = (*path, step)
    return path, value


def _fields(path: Path) -> tuple[str, ...]:
    return tuple((rules.schema_at(path) or {}).get("properties", {}))


def _unknown(name: str, known: tuple[str, ...]) -> str:
    folded = {field.lower(): field for field in known}
    near = difflib.get_close_matches(name.lower().replace("_", ""), folded, 1)
    if near:
        return f"there is no such field: did you mean {folded[near[0]]}?"
    return f"there is no such field: take it away (fields here: {', '.join(known)})"


def _unquote(value: Any) -> str:
    return (
        ": take away the quotes" if isinstance(value, str) and (value.isdigit() or value in {"true", "false"}) else ""
    )


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def _lower(message: str) -> str:
    """Pydantic's own sentence as a predicate."""
    for subject in ("Input should ", "String should ", "Value should "):
        if message.startswith(subject):
            return f"must {message.removeprefix(subject)}"
    return message[:1].lower() + message[1:]


def _sentence(problem: Problem) -> str:
    """`spec.targets[0].name: …`; rules name their field themselves."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in problem.path).lstrip(".")
    named = not text or problem.message.startswith(("spec.", "metadata."))
    message = problem.message if named else f"{text}: {problem.message}"
    return message if message.endswith("?") else f"{message}."


def _without_nulls(value: Any) -> Any:
    """The API server takes null for absent."""
    if isinstance(value, dict):
        return {str(key): _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
