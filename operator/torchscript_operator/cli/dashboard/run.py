"""Starting the page's server, and ending it with Ctrl-C."""

import contextlib
import os
import secrets
import socket
import sys
import threading
import webbrowser
from types import FrameType
from urllib.parse import quote

import uvicorn
from rich.console import Console
from rich.markup import escape

from torchscript_operator.cli.cluster.access import Cluster
from torchscript_operator.cli.dashboard.app import Dashboard
from torchscript_operator.cli.dashboard.feed import Feed
from torchscript_operator.cli.dashboard.guard import Guard
from torchscript_operator.cli.errors import CliError
from torchscript_operator.cli.reports import Wish

ADDRESS = "127.0.0.1"
"""No other machine reaches it; there is no option to change that."""
TOKEN_BYTES = 24


class _Server(uvicorn.Server):
    """Lets pages go at once when it is asked to end."""

    def __init__(self, config: uvicorn.Config, feed: Feed) -> None:
        super().__init__(config)
        self._feed = feed

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._feed.stop()
        super().handle_exit(sig, frame)


def run(cluster: Cluster, model: str | None, port: int, wish: Wish, console: Console, *, browse: bool) -> None:
    """Serve the page until Ctrl-C or SIGTERM. CliError for a port that is taken."""
    listener = _listen(port)
    with contextlib.closing(listener):
        feed = Feed(cluster)
        token, ticket = secrets.token_urlsafe(TOKEN_BYTES), secrets.token_urlsafe(TOKEN_BYTES)
        root = f"http://{ADDRESS}:{listener.getsockname()[1]}"
        place = f"#/{quote(cluster.namespace or '')}/{quote(model)}" if model else ""
        app = Guard(Dashboard(feed, wish).app(), token, ticket if browse else None)
        feed.start()
        console.print(f"The models of {escape(cluster.context)}: {root}/{token}/{place}")
        console.print(
            "[dim]Only this machine reaches it. Whoever has the address sees what you may see. Ctrl-C ends.[/]"
        )
        if browse and _has_screen():
            # A thread, since some browsers keep whoever has started them.
            threading.Thread(target=webbrowser.open, args=(f"{root}/{ticket}{place}",), daemon=True).start()
        if "SSH_CONNECTION" in os.environ:
            port = listener.getsockname()[1]
            console.print(f"[dim]From your own machine: ssh -L {port}:{ADDRESS}:{port} and the name of this one.[/]")
        config = uvicorn.Config(
            app, log_level="critical", access_log=False, lifespan="off", timeout_graceful_shutdown=2
        )
        try:
            # uvicorn raises the signal again once it has ended.
            with contextlib.suppress(KeyboardInterrupt):
                _Server(config, feed).run([listener])
        finally:
            feed.stop()


def _has_screen() -> bool:
    """Whether a browser has somewhere to show itself; one in a terminal cannot show this page."""
    return sys.platform != "linux" or any(name in os.environ for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"))


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((ADDRESS, port))
        # Who comes before the server accepts waits for it.
        listener.listen()
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        message = f"Port {port} of this machine cannot be had: {reason}."
        raise CliError(message, 1, "Choose another with --port; 0 takes a free one.") from error
    return listener
