"""The HTTP server of a port: uvicorn with our bounds, and without its signals and its log."""

import contextlib
import logging
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from torchscript_operator.serve.access import Tls
from torchscript_operator.serve.connection import Bounds, bounded
from torchscript_operator.serve.state import State

LOGGER = logging.getLogger(__name__)
KEEP_ALIVE_SECONDS = 75
"""Longer than load balancers keep idle connections, so that it is they who close them."""
BACKLOG = 2048
"""Connections that the kernel holds while the event loop is busy."""
LOGGER_LEVEL = "ERROR"
"""uvicorn's lines about starts and connections say nothing that ours do not, and strangers could fill the log."""


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: a pod drains in an order of its own."""

    def __init__(self, config: uvicorn.Config, label: str) -> None:
        """label: the log's field with the address."""
        super().__init__(config)
        self._label = label

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where: the port may have been left to the kernel."""
        await super().startup(sockets)
        for server in self.servers:
            for listener in server.sockets:
                host, port = listener.getsockname()[:2]
                scheme = "https" if self.config.is_ssl else "http"
                LOGGER.info("listening", extra={self._label: f"{scheme}://{host}:{port}"})

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


def http_server(label: str, app: ASGIApp, port: int, state: State, tls: Tls | None = None) -> Server:
    """A server that is not started yet. label: the log's field with its address; tls: None for plain text."""
    settings = state.settings
    logging.getLogger("uvicorn").setLevel(LOGGER_LEVEL)
    bounds = Bounds(
        connections=settings.connections,
        head_bytes=settings.head_bytes,
        head_seconds=settings.head_seconds,
        write_seconds=settings.write_seconds,
        metrics=state.metrics,
    )
    return Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=port,
            loop="uvloop",
            http=bounded(bounds),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=int(settings.drain_seconds),
            ssl_context_factory=None if tls is None else lambda _config, _default: tls.context,
        ),
        label,
    )
