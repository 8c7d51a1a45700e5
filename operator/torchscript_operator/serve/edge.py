"""The outermost ASGI layer: request ids, access log, request metrics, and closing connections while draining."""

import logging
import re
import time
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from torchscript_operator.serve.access import Tokens
from torchscript_operator.serve.errors import SERVER_ERROR, unauthenticated
from torchscript_operator.serve.exchange import STARTED, json_response
from torchscript_operator.serve.metrics import OTHER_ROUTE, PROBES
from torchscript_operator.serve.state import State

LOGGER = logging.getLogger(__name__)
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
"""A client's X-Request-Id that is passed on; anything else could forge log lines and is replaced."""
OPEN = frozenset({"/v2/health/live", "/v2/health/ready"})
"""Paths that need no token: the kubelet has none."""
CLIENT_GONE = 499
"""Logged when the client went away before its answer; never sent."""


class Edge:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, state: State, routes: dict[object, str], tokens: Tokens | None) -> None:
        """routes: endpoint to its path template, the metrics' label. tokens: None lets everybody in."""
        self._app = app
        self._state = state
        self._routes = routes
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        scope[STARTED] = started
        request_id = _request_id(scope)
        status = CLIENT_GONE

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
                if self._state.draining:
                    # Clients with pooled connections open their next one to another pod.
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            app = self._app if self._allowed(scope) else _refuse
            await app(scope, receive, send_on)
        except Exception:  # logged with its stack; Starlette has sent its 500 already
            LOGGER.exception("a request failed", extra={"request_id": request_id.decode()})
        finally:
            self._record(scope, status, time.monotonic() - started, request_id)

    def _allowed(self, scope: Scope) -> bool:
        if self._tokens is None or scope["path"] in OPEN:
            return True
        return self._tokens.allow(next((value for name, value in scope["headers"] if name == b"authorization"), b""))

    def _record(self, scope: Scope, status: int, seconds: float, request_id: bytes) -> None:
        route = self._routes.get(scope.get("endpoint"), OTHER_ROUTE)
        metrics = self._state.metrics
        metrics.requests_of(route, status).inc()
        metrics.seconds_of(route).observe(seconds)
        level = logging.INFO if self._state.settings.access_log else logging.DEBUG
        if status >= SERVER_ERROR and self._state.ready:
            level = logging.WARNING
        if not LOGGER.isEnabledFor(level):
            return
        if scope["path"].startswith(PROBES) and not self._state.settings.log_probes:
            return
        LOGGER.log(
            level,
            "request",
            extra={
                "request_id": request_id.decode(),
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "duration_ms": round(seconds * 1000, 3),
            },
        )


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    error = unauthenticated()
    response = json_response(error.body(scope["path"]), error.status, error.headers)
    await response(scope, receive, send)


def _request_id(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            return bytes(value)
    return uuid.uuid4().hex.encode()
