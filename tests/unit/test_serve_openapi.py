"""The OpenAPI document: accurate, as a fuzzer that reads it finds, and shown on a page that needs no network."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.unit.serving import Live, live, serving
from torchscript_operator.serve.http import ROUTES

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
COMPUTING = [
    ("POST", "/v1/embeddings"),
    ("POST", "/predict"),
    ("POST", "/v2/models/{name}/infer"),
    ("POST", "/v2/models/{name}/versions/{version}/infer"),
]
REACHED = {"/v1/embeddings": {200, 400}, "/predict": {400}}
"""Statuses without which the fuzzer has seen too little; tensors that fit are left to the fuzzer of binary data."""


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live(request_bytes=100_000) as found:
        yield found


@pytest.mark.parametrize(("method", "path"), [route[:2] for route in ROUTES])
def test_a_fuzzer_finds_no_fault_and_nothing_undocumented(server: Live, method: str, path: str) -> None:
    operation = schemathesis.openapi.from_url(f"{server.url}/openapi.json")[path][method]
    strategy = operation.as_strategy()
    seen: set[int] = set()
    if (method, path) in COMPUTING:
        negative = operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)
        strategy = st.one_of(strategy, negative)

    @settings(
        max_examples=60 if (method, path) in COMPUTING else 5,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def attack(case: Any) -> None:
        seen.add(case.call_and_validate(checks=CHECKS).status_code)

    attack()
    assert seen >= REACHED.get(path, set())
    assert server.state.model is not None
    assert server.state.model.engine.complaint() is None
    assert server.state.buffered_bytes == 0


async def test_the_document_names_every_route_and_says_what_validates_it() -> None:
    async with serving() as (client, _):
        document = (await client.get("/openapi.json")).json()
    found = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert found == {route[:2] for route in ROUTES}
    schema = document["components"]["schemas"]["EmbeddingRequest"]
    assert schema["required"] == ["model", "input"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["dimensions"]["description"].startswith("Must be the model's own width")
    assert "securitySchemes" not in document["components"]


async def test_with_a_token_the_document_says_so(tmp_path: Any) -> None:
    (tmp_path / "token").write_text("t")
    async with serving(token_file=str(tmp_path / "token")) as (client, _):
        document = (await client.get("/openapi.json", headers={"Authorization": "Bearer t"})).json()
    paths = document["paths"]
    assert document["components"]["securitySchemes"] == {"token": {"type": "http", "scheme": "bearer"}}
    assert paths["/v1/embeddings"]["post"]["security"] == [{"token": []}]
    assert "401" in paths["/v1/embeddings"]["post"]["responses"]
    assert "security" not in paths["/v2/health/live"]["get"]


class Page(HTMLParser):
    """What a page would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.identifiers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag in {"script", "link", "img", "iframe"} or "src" in values:
            self.fetched.append(tag)
        if tag == "a":
            self.links.append(values["href"])
        if "id" in values:
            self.identifiers.append(values["id"])


async def test_the_page_shows_every_route_and_fetches_nothing() -> None:
    async with serving() as (client, _):
        response = await client.get("/docs")
    assert response.headers["content-type"].startswith("text/html")
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    page = Page()
    page.feed(response.text)
    assert page.fetched == []
    for _, path, *_ in ROUTES:
        assert f"<code>{path}</code>" in response.text
    assert {link.removeprefix("#") for link in page.links if link.startswith("#")} <= set(page.identifiers)
    assert not re.search(r"https?://", response.text)
