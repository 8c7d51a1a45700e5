"""The routes: a table of contents."""

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from torchscript_operator.serve import inference, metrics, openai
from torchscript_operator.serve.edge import CLIENT_GONE, Edge
from torchscript_operator.serve.errors import ApiError
from torchscript_operator.serve.exchange import json_response
from torchscript_operator.serve.state import State

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


ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/v2", inference.server),
    ("GET", "/v2/health/live", live),
    ("GET", "/v2/health/ready", ready),
    ("GET", "/v2/models/{name}", inference.model_metadata),
    ("GET", "/v2/models/{name}/ready", inference.model_ready),
    ("POST", "/v2/models/{name}/infer", inference.infer),
    ("GET", "/v2/models/{name}/versions/{version}", inference.model_metadata),
    ("GET", "/v2/models/{name}/versions/{version}/ready", inference.model_ready),
    ("POST", "/v2/models/{name}/versions/{version}/infer", inference.infer),
    ("GET", "/v1/models", openai.models),
    ("GET", "/v1/models/{name}", openai.model),
    ("POST", "/v1/embeddings", openai.embeddings),
    ("GET", "/metrics", scrape),
)
"""Method, path, handler."""


def application(state: State) -> ASGIApp:
    """The ASGI application of one process."""
    labels: dict[object, str] = {}
    routes = []
    for method, path, handler in ROUTES:
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
    return Edge(app, state, labels)


def _endpoint(state: State, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return await handler(state, request)

    return endpoint


def _respond(request: Request, error: ApiError) -> Response:
    body = error.openai() if request.url.path.startswith("/v1/") else error.inference()
    return json_response(body, error.status, error.headers)


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
