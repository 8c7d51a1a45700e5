"""The OpenAPI document, made from the very models that validate requests, and a page that shows it without network."""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from torchscript_operator import __version__

JSON = "application/json"
OCTETS = "application/octet-stream"
TEXT = "text/plain"
HTML = "text/html"
SCHEMAS = "#/components/schemas/{model}"
"""Where a document's references point to."""
REASONS = {
    200: "The answer.",
    400: "The request is wrong; the message says what.",
    401: "No bearer token of this server.",
    404: "Another model or version.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    415: "The body is compressed.",
    429: "The queue is full; Retry-After says when to ask again.",
    500: "A fault of the server.",
    503: "The model is not ready, or the request's time ran out.",
}
"""What a status means, on every path."""
LIMITS = (408, 413, 415, 429)
"""Statuses of requests with a body."""


@dataclass(frozen=True)
class Operation:
    """What a path does, as far as a client can see."""

    summary: str
    tag: str
    answer: type[BaseModel] | None = None
    """None: whatever `content` says."""
    error: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    statuses: Sequence[int] = ()
    """Beside 200."""
    content: str = JSON
    """Content type of the answer."""
    binary: bool = False
    """Body and answer may be JSON with tensors' bytes behind it."""
    unready: type[BaseModel] | None = None
    """What 503 holds, where that is no error."""
    open: bool = False
    """Needs no token."""


def document(name: str, version: str, operations: Iterable[tuple[str, str, Operation]], *, secured: bool) -> Any:
    """The document of the server of one model. operations: method, path, what it does. secured: tokens are needed."""
    found = list(operations)
    given = [model for _, _, one in found for model in (one.answer, one.error, one.body, one.unready)]
    models = {model for model in given if model is not None}
    inputs = {one.body for _, _, one in found if one.body is not None}
    _, definitions = models_json_schema(
        [
            (model, "validation" if model in inputs else "serialization")
            for model in sorted(models, key=lambda model: model.__name__)
        ],
        ref_template=SCHEMAS,
    )
    paths: dict[str, dict[str, Any]] = {}
    for method, path, one in found:
        paths.setdefault(path, {})[method.lower()] = _operation(method, path, one, name, version, secured=secured)
    components: dict[str, Any] = {"schemas": definitions.get("$defs", {})}
    if secured:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"torchscript-operator: {name}",
            "version": __version__,
            "description": "A proven TorchScript artifact, by the Open Inference Protocol and OpenAI's embeddings API.",
        },
        "paths": paths,
        "components": components,
    }


def _operation(method: str, path: str, one: Operation, name: str, version: str, *, secured: bool) -> Any:
    locked = secured and not one.open
    found: dict[str, Any] = {
        "summary": one.summary,
        "operationId": f"{method.lower()}_{path.strip('/').translate(str.maketrans('/-.', '___', '{}')) or 'root'}",
        "tags": [one.tag],
        "responses": {
            str(status): _response(status, one)
            for status in sorted({200, *one.statuses, *(LIMITS if one.body else ()), *((401,) if locked else ())})
        },
    }
    values = {"name": name, "version": version}
    parameters = [
        {"name": key, "in": "path", "required": True, "schema": {"type": "string", "enum": [value]}}
        for key, value in values.items()
        if f"{{{key}}}" in path
    ]
    if one.binary:
        parameters.append(
            {
                "name": "Inference-Header-Content-Length",
                "in": "header",
                "required": False,
                "description": "Length in bytes of the JSON, when tensors' bytes follow it.",
                "schema": {"type": "integer", "minimum": 0},
            }
        )
    if parameters:
        found["parameters"] = parameters
    if one.body is not None:
        content: dict[str, Any] = {JSON: {"schema": {"$ref": SCHEMAS.format(model=one.body.__name__)}}}
        if one.binary:
            content[OCTETS] = {"schema": {"type": "string", "format": "binary"}}
        found["requestBody"] = {"required": True, "content": content}
    if locked:
        found["security"] = [{"token": []}]
    return found


def _response(status: int, one: Operation) -> Any:
    model = {200: one.answer, 503: one.unready or one.error}.get(status, one.error)
    schema: dict[str, Any] = {"$ref": SCHEMAS.format(model=model.__name__)} if model is not None else {}
    kind = one.content if status == 200 else JSON  # noqa: PLR2004
    content: dict[str, Any] = {kind: {"schema": schema}}
    if one.binary and status == 200:  # noqa: PLR2004
        content[OCTETS] = {"schema": {"type": "string", "format": "binary"}}
    return {"description": REASONS[status], "content": content}


STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
h1{font-size:1.6rem}
h2{font-size:1.2rem;margin-top:2.5rem}
details{border:1px solid #ddd;border-radius:6px;margin:.5rem 0;padding:.4rem .8rem}
summary{cursor:pointer}
code,pre{font:14px/1.4 ui-monospace,monospace}
b.m{display:inline-block;width:3.5rem}
table{border-collapse:collapse;width:100%}
td,th{border-bottom:1px solid #eee;text-align:left;padding:.25rem .5rem;vertical-align:top}
"""


def page(described: Any) -> str:
    """The document as one HTML page with no script and nothing to fetch."""
    info = described["info"]
    tags: dict[str, list[str]] = {}
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            tags.setdefault(operation["tags"][0], []).append(_details(method, path, operation))
    sections = [f"<h2>{_text(tag)}</h2>{''.join(items)}" for tag, items in tags.items()]
    schemas = [
        f'<details id="{_text(name)}"><summary><code>{_text(name)}</code></summary>'
        f"<p>{_text(schema.get('description', ''))}</p>{_fields(schema)}</details>"
        for name, schema in described["components"]["schemas"].items()
    ]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_text(info["title"])}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
        f"<h1>{_text(info['title'])}</h1><p>{_text(info['description'])} Version {_text(info['version'])}. "
        'The same for programs: <a href="openapi.json">openapi.json</a>.</p>'
        f"{''.join(sections)}<h2>Objects</h2>{''.join(schemas)}</html>"
    )


def _details(method: str, path: str, operation: Any) -> str:
    rows = "".join(
        f"<tr><td>{_text(status)}<td>{_text(response['description'])}<td>"
        + ", ".join(f"{_text(kind)} {_link(media['schema'])}" for kind, media in response["content"].items())
        for status, response in operation["responses"].items()
    )
    body = operation.get("requestBody", {}).get("content", {})
    sent = ", ".join(f"{_text(kind)} {_link(media['schema'])}" for kind, media in body.items())
    values = "".join(
        f"<p><code>{_text(one['name'])}</code> ({_text(one['in'])}): "
        f"{_text(', '.join(one['schema'].get('enum', [])) or one.get('description', ''))}</p>"
        for one in operation.get("parameters", [])
    )
    return (
        f'<details><summary><b class="m">{_text(method.upper())}</b> <code>{_text(path)}</code> '
        f"{_text(operation['summary'])}</summary>{values}{f'<p>Body: {sent}</p>' if sent else ''}"
        f"<table><tr><th>Status<th>Meaning<th>Content{rows}</table></details>"
    )


def _fields(schema: Any) -> str:
    required = set(schema.get("required", []))
    rows = "".join(
        f"<tr><td><code>{_text(name)}</code>{'' if name in required else ' (optional)'}<td>{_link(field)}"
        f"<td>{_text(field.get('description', ''))}"
        for name, field in schema.get("properties", {}).items()
    )
    return f"<table><tr><th>Field<th>Type<th>Meaning{rows}</table>" if rows else ""


def _link(schema: Any) -> str:
    """A type in words, with links to the page's objects."""
    if "$ref" in schema:
        name = _text(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(map(_link, schema["anyOf"]))
    if schema.get("type") == "array":
        return f"list of {_link(schema.get('items', {}))}"
    if "enum" in schema or "const" in schema:
        return " or ".join(_text(repr(value)) for value in schema.get("enum", [schema.get("const")]))
    return _text(schema.get("type", "any"))


def _text(value: object) -> str:
    return html.escape(str(value))
