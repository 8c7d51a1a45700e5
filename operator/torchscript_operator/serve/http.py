"""The routes: a table of contents."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from torchscript_operator.serve import inference, metrics, openai, openapi, predict
from torchscript_operator.serve.access import Tokens
from torchscript_operator.serve.edge import CLIENT_GONE, Edge
from torchscript_operator.serve.errors import ApiError
from torchscript_operator.serve.exchange import json_response
from torchscript_operator.serve.openapi import Operation
from torchscript_operator.serve.state import State
from torchscript_operator.serve.tasks.base import TextTask

Handler = Callable[[State, Request], Awaitable[Response]]
"""Parses, calls, returns."""


async def live(state: State, _request: Request) -> Response:
    """GET /v2/health/live: 500 when requests can no longer be computed and only a restart helps."""
    complaint = state.model.engine.complaint() if state.model else None
    if complaint is None:
        return json_response({"live": True})
    return json_response({"live": False, "error": complaint}, 500)


async def ready(state: State, _request: Request) -> Response:
    """GET /v2/health/ready: 503 with the stage until the model is proven on this hardware, and while draining."""
    if state.ready:
        return json_response({"ready": True})
    return json_response({"ready": False, "stage": state.stage}, 503)


async def scrape(state: State, _request: Request) -> Response:
    """GET /metrics."""
    if state.model is not None:
        rows, tokens = state.model.engine.waiting
        state.metrics.queue_rows.set(rows)
        state.metrics.queue_tokens.set(tokens)
    return Response(state.metrics.expose(), headers={"content-type": metrics.CONTENT_TYPE})


class Live(BaseModel):
    """Whether requests can be computed at all."""

    live: bool
    error: str | None = None


class Ready(BaseModel):
    """Whether requests may come."""

    ready: bool
    stage: str | None = None


async def described(state: State, _request: Request) -> Response:
    """GET /openapi.json."""
    return Response(_made(state, "json", lambda: orjson.dumps(_document(state))), media_type=openapi.JSON)


async def docs(state: State, _request: Request) -> Response:
    """GET /docs."""
    policy = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
    page = _made(state, "html", lambda: openapi.page(_document(state)).encode())
    return Response(page, headers=policy, media_type=openapi.HTML)


OIP, OPENAI, HUGGING_FACE, OPERATION = "Open Inference Protocol", "OpenAI", "Hugging Face", "Operation"
"""Groups of the OpenAPI document."""
COMPUTES = (400, 500, 503)
"""Statuses of what computes, beside those of every body."""
METADATA = Operation(
    "What the model takes and gives", OIP, inference.ModelMetadata, inference.InferenceError, None, (404, 503)
)
READINESS = Operation(
    "Whether the model may be asked",
    OIP,
    inference.ModelReady,
    inference.InferenceError,
    None,
    (404, 503),
    unready=inference.ModelReady,
)
INFERENCE = Operation(
    "Outputs for tensors or texts",
    OIP,
    inference.InferenceResponse,
    inference.InferenceError,
    inference.InferenceRequest,
    (404, *COMPUTES),
    binary=True,
)
EMBEDDINGS = Operation(
    "Vectors of texts", OPENAI, openai.EmbeddingResponse, openai.OpenAIError, openai.EmbeddingRequest, (404, *COMPUTES)
)
PREDICTION = Operation(
    "What Transformers' pipeline of the task answers",
    HUGGING_FACE,
    error=inference.InferenceError,
    body=predict.PredictRequest,
    statuses=COMPUTES,
)
VERSION = "/v2/models/{name}/versions/{version}"
ROUTES: tuple[tuple[str, str, Handler, Operation], ...] = (
    ("GET", "/v2", inference.server, Operation("The server", OIP, inference.ServerMetadata)),
    ("GET", "/v2/health/live", live, Operation("Liveness", OIP, Live, Live, None, (500,), open=True)),
    ("GET", "/v2/health/ready", ready, Operation("Readiness", OIP, Ready, Ready, None, (503,), open=True)),
    ("GET", "/v2/models/{name}", inference.model_metadata, METADATA),
    ("GET", "/v2/models/{name}/ready", inference.model_ready, READINESS),
    ("POST", "/v2/models/{name}/infer", inference.infer, INFERENCE),
    ("GET", VERSION, inference.model_metadata, METADATA),
    ("GET", f"{VERSION}/ready", inference.model_ready, READINESS),
    ("POST", f"{VERSION}/infer", inference.infer, INFERENCE),
    ("GET", "/v1/models", openai.models, Operation("The model in a list", OPENAI, openai.ModelList)),
    (
        "GET",
        "/v1/models/{name}",
        openai.model,
        Operation("The model", OPENAI, openai.ModelCard, openai.OpenAIError, None, (404,)),
    ),
    ("POST", "/v1/embeddings", openai.embeddings, EMBEDDINGS),
    ("POST", "/predict", predict.predict, PREDICTION),
    ("GET", "/metrics", scrape, Operation("Prometheus metrics", OPERATION, content=openapi.TEXT)),
    ("GET", "/openapi.json", described, Operation("This document", OPERATION)),
    ("GET", "/docs", docs, Operation("This document for people", OPERATION, content=openapi.HTML)),
)
"""Method, path, handler, and what the OpenAPI document says of it."""
HEALTH = ("/v2/health/live", "/v2/health/ready", "/metrics")
"""Paths of the health port."""


def application(state: State, tokens: Tokens | None = None) -> ASGIApp:
    """The ASGI application of one process. tokens: of which every request must bear one; None lets everybody in."""
    state.secured = tokens is not None
    return _application(state, ROUTES, tokens)


def health(state: State) -> ASGIApp:
    """What the health port answers."""
    return _application(state, [route for route in ROUTES if route[1] in HEALTH], None)


def _made(state: State, kind: str, make: Callable[[], bytes]) -> bytes:
    """Made once, and once more when the model is there: some 10 ms in which nobody else is served."""
    key = (kind, state.model is not None)
    if key not in state.documents:
        state.documents[key] = make()
    return state.documents[key]


def _document(state: State) -> Any:
    operations = [(method, path, operation) for method, path, _, operation in ROUTES]
    document = openapi.document(state.name, state.version, operations, secured=state.secured)
    document["components"]["schemas"]["EmbeddingRequest"]["properties"]["model"]["enum"] = [state.name]
    if state.model is not None and isinstance(state.model.task, TextTask):
        parameters = state.model.task.options.model_json_schema(ref_template=openapi.SCHEMAS)
        document["components"]["schemas"] |= parameters.pop("$defs", {})
        document["components"]["schemas"]["PredictRequest"]["properties"]["parameters"] = {
            "anyOf": [parameters, {"type": "null"}]
        }
    return document


def _application(state: State, served: Sequence[tuple[str, str, Handler, Operation]], tokens: Tokens | None) -> ASGIApp:
    labels: dict[object, str] = {}
    routes = []
    # What computes first: Starlette tries the routes one after the other.
    for method, path, handler, _ in sorted(served, key=lambda route: route[0] != "POST"):
        endpoint = _endpoint(state, handler)
        labels[endpoint] = path
        routes.append(Route(path, endpoint, methods=[method]))
    app = Starlette(
        routes=routes,
        exception_handlers={
            ApiError: _api_error,
            HTTPException: _http_error,
            ClientDisconnect: _client_gone,
            Exception: _our_fault,
        },
    )
    app.router.redirect_slashes = False
    edge = Edge(app, state, labels, tokens)
    return edge if state.tracing is None else state.tracing.http(edge, labels)


def _endpoint(state: State, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return await handler(state, request)

    return endpoint


def _respond(request: Request, error: ApiError) -> Response:
    return json_response(error.body(request.url.path), error.status, error.headers)


async def _api_error(request: Request, error: Exception) -> Response:
    return _respond(request, error if isinstance(error, ApiError) else ApiError(500, "internal error"))


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    messages = {404: "there is no such path", 405: "the path does not take this method"}
    return _respond(request, ApiError(status, messages.get(status, "the request cannot be served")))


async def _client_gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


async def _our_fault(request: Request, _error: Exception) -> Response:
    return _respond(request, ApiError(500, "internal error", code="internal_error"))
